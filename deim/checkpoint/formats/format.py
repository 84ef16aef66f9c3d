"""Description of a weight layout of another library."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deim.checkpoint.renaming import Rule, fill_template, from_native, match_template, matches_signature, to_native
from deim.errors import CheckpointError


def _always(model: nn.Module) -> bool:
    return True


def _no_constants(model: nn.Module, image_size: Sequence[int]) -> dict[str, Tensor]:
    return {}


def _no_placeholders(model: nn.Module) -> dict[str, Tensor]:
    return {}


def constant_rules(*rules: Rule) -> Callable[[int], Sequence[Rule]]:
    """Return a function that gives the same rules for any number of decoder layers."""
    return lambda num_layers: rules


@dataclass(frozen=True)
class Repeat:
    """A tensor that a file stores again under a second name.

    Args:
        copy, original: templates of the names in the file, as in :class:`Rule`.
        condition: function of a native model; True if its files have the copy.
        replaces_original: files have only the copy.
    """

    copy: str
    original: str
    condition: Callable[[nn.Module], bool] = _always
    replaces_original: bool = False


@dataclass(frozen=True)
class Format:
    """A weight layout that another library reads and writes.

    Args:
        name: value of ``--from`` and ``--to``.
        title: name in messages.
        systems: folders of ``projects/`` with the recipes that this format supports.
        signature: templates. In a file of this format, every template matches a tensor name. If several formats match, the
            first of :data:`FORMATS` is used.
        rules: function of the number of decoder layers that returns the rules.
        repeats: tensors that files store under two names, or under a name without a rule.
        supports: function of a native model from one of the ``systems``; True if the format can store it.
        store_shared_once: files store parameters that layers share only once, under the first name.
        constants: function of a native model and the (height, width) of images. It returns the tensors that files store
            beside the weights: buffers that follow from the model's shape and the image size.
        placeholders: function of a native model. It returns zeros for the tensors that files store and models do not use.
        constant_names: templates of the names of the constants and placeholders.
        classes: {number of scores: class names} of the published files, if the number does not identify them in all formats.
    """

    name: str
    title: str
    systems: tuple[str, ...]
    signature: tuple[str, ...]
    rules: Callable[[int], Sequence[Rule]]
    repeats: tuple[Repeat, ...] = ()
    supports: Callable[[nn.Module], bool] = _always
    store_shared_once: bool = False
    constants: Callable[[nn.Module, Sequence[int]], dict[str, Tensor]] = _no_constants
    placeholders: Callable[[nn.Module], dict[str, Tensor]] = _no_placeholders
    constant_names: tuple[str, ...] = ()
    classes: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def recognizes(self, names: Sequence[str]) -> bool:
        """Return True if a file with these tensor names has this format."""
        return matches_signature(self.signature, names)

    def to_native(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return weights under native names, and the names of unused tensors.

        Raises:
            CheckpointError: if a tensor that is stored twice differs from its copy.
        """
        weights_only = self._without_copies({n: v for n, v in weights.items() if not self._is_constant(n)})
        return to_native(weights_only, self.rules(num_decoder_layers(weights_only)))

    def from_native(
        self, weights: Mapping[str, Tensor], model: nn.Module, image_size: Sequence[int] = (640, 640)
    ) -> dict[str, Tensor]:
        """Return the content of a file of this format for a native model.

        Args:
            weights: weights under native names.
            model: model of the recipe; it may be on the meta device.
            image_size: (height, width) for which the official real-time detectors store anchors.

        Raises:
            CheckpointError: if the format cannot store some of the weights.
        """
        shared = shared_names(model)
        if self.store_shared_once:
            weights = {name: value for name, value in weights.items() if name not in shared}
        layers = num_decoder_layers(weights)
        result, unused = from_native(weights, self.rules(layers))
        unused = [name for name in unused if name not in shared]
        if unused:
            raise CheckpointError(
                f"{self.title} has no tensor for {len(unused)} weights, such as {', '.join(unused[:3])}"
            )
        for repeat in self.repeats:
            if repeat.condition(model):
                result = _with_copies(result, repeat)
        constants = self.constants(model, image_size) | self.placeholders(model)
        return result | {name: value for name, value in constants.items() if num_decoder_layers((name,)) <= layers}

    def check_constants(self, weights: Mapping[str, Tensor], model: nn.Module) -> None:
        """Check the constants of a file against those that follow from the model's shape.

        Constants that also depend on the image size, such as anchors, are not checked.

        Raises:
            CheckpointError: if a constant differs. The message names it.
        """
        of_other_size = self.constants(model, (320, 320))
        for name, value in self.constants(model, (640, 640)).items():
            stored = weights.get(name)
            if stored is None or of_other_size[name].shape != value.shape:
                continue
            if stored.shape == value.shape and not torch.allclose(stored.float(), value.float()):
                raise CheckpointError(
                    f"{name} is {_format_values(stored)} in the file, but {_format_values(value)} in this model"
                )

    def _is_constant(self, name: str) -> bool:
        return any(match_template(template, name) is not None for template in self.constant_names)

    def _without_copies(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        result = dict(weights)
        for repeat in self.repeats:
            for name in list(result):
                captured = match_template(repeat.copy, name)
                if captured is None:
                    continue
                original = fill_template(repeat.original, captured)
                if original in result and not torch.equal(result[original], result[name]):
                    raise CheckpointError(
                        f"{name} and {original} are one tensor in {self.title}, but differ in this file"
                    )
                result.setdefault(original, result[name])
                del result[name]
        return result


def _with_copies(weights: Mapping[str, Tensor], repeat: Repeat) -> dict[str, Tensor]:
    result = {}
    for name, value in weights.items():
        captured = match_template(repeat.original, name)
        if captured is None or not repeat.replaces_original:
            result[name] = value
        if captured is not None:
            result[fill_template(repeat.copy, captured)] = value
    return result


def num_decoder_layers(names: Iterable[str]) -> int:
    """Return the number of decoder layers, under any known naming."""
    numbers = (match_template("*decoder.layers.#.*", f".{name}") for name in names)
    return max((int(number[1]) + 1 for number in numbers if number is not None), default=0)


def shared_names(model: nn.Module) -> dict[str, str]:
    """Return {further name of a shared parameter: its first name}."""
    first: dict[int, str] = {}
    shared = {}
    for name, value in model.state_dict(keep_vars=True).items():
        original = first.setdefault(id(value), name)
        if original != name:
            shared[name] = original
    return shared


def with_batch_counters(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Add the batch counters of normalization layers that a model has and a file may lack."""
    counter, mean = "num_batches_tracked", "running_mean"
    names = [name for name in model.state_dict() if name.endswith(counter) and name not in weights]
    return {**weights, **{name: torch.tensor(0) for name in names if name.replace(counter, mean) in weights}}


def _format_values(value: Tensor) -> str:
    return str([round(number, 4) for number in value.flatten()[:12].tolist()])
