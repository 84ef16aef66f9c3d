"""What there is to know of a foreign layout of weights."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deim.checkpoint.renaming import Rule, filled, has_names, matches, to_ours, to_theirs
from deim.errors import CheckpointError


def _always(model: nn.Module) -> bool:
    return True


def _nothing(model: nn.Module, image_size: Sequence[int]) -> dict[str, Tensor]:
    return {}


def fixed(*rules: Rule) -> Callable[[int], Sequence[Rule]]:
    """The same rules for a decoder of however many layers."""
    return lambda num_layers: rules


@dataclass(frozen=True)
class Repeat:
    """A tensor that a file holds again under a second name.

    Args:
        copy, original: templates, as in :class:`Rule`, of names there.
        when: whether files of such a model of ours have the copy.
        instead: files have only the copy.
    """

    copy: str
    original: str
    when: Callable[[nn.Module], bool] = _always
    instead: bool = False


@dataclass(frozen=True)
class Format:
    """A layout of weights that another library reads and writes.

    Args:
        name: how ``--from`` and ``--to`` call it.
        title: for people.
        systems: folders of ``projects/`` whose recipes it can hold.
        signature: templates; such a file has names like each of them, and no other has.
        rules: for a decoder of that many layers.
        repeats: tensors that are there twice.
        suits: whether a model of ours, of one of the systems, is written in it.
        once: files hold what several layers share once, under the first of its names.
        constants: what files hold beside weights, from a model of ours and the (height, width) of images:
            buffers that follow from its shape.
        constant_names: templates of their names.
    """

    name: str
    title: str
    systems: tuple[str, ...]
    signature: tuple[str, ...]
    rules: Callable[[int], Sequence[Rule]]
    repeats: tuple[Repeat, ...] = ()
    suits: Callable[[nn.Module], bool] = _always
    once: bool = False
    constants: Callable[[nn.Module, Sequence[int]], dict[str, Tensor]] = _nothing
    constant_names: tuple[str, ...] = ()

    def recognizes(self, names: Sequence[str]) -> bool:
        """Whether a file with tensors of these names is of this format."""
        return has_names(self.signature, names)

    def to_ours(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Weights under our names, and the names of tensors that have no place here.

        Raises:
            CheckpointError: a tensor that should be there twice differs from its copy.
        """
        own = self._without_copies({n: v for n, v in weights.items() if not self._is_constant(n)})
        return to_ours(own, self.rules(num_decoder_layers(own)))

    def to_theirs(
        self, weights: Mapping[str, Tensor], model: nn.Module, image_size: Sequence[int] = (640, 640)
    ) -> dict[str, Tensor]:
        """Weights of a model of ours under names there, with all that a file there holds.

        Args:
            model: of the recipe; it may be on the meta device.
            image_size: (height, width) for which the official real-time detectors keep anchors.

        Raises:
            CheckpointError: the format has no place for some of them.
        """
        shared = shared_names(model)
        if self.once:
            weights = {name: value for name, value in weights.items() if name not in shared}
        layers = num_decoder_layers(weights)
        result, left_over = to_theirs(weights, self.rules(layers))
        left_over = [name for name in left_over if name not in shared]
        if left_over:
            raise CheckpointError(
                f"{self.title} has no place for {len(left_over)} tensors, such as {', '.join(left_over[:3])}"
            )
        for repeat in self.repeats:
            if repeat.when(model):
                result = _with_copies(result, repeat)
        constants = self.constants(model, image_size)
        return result | {name: value for name, value in constants.items() if num_decoder_layers((name,)) <= layers}

    def check_constants(self, weights: Mapping[str, Tensor], model: nn.Module) -> None:
        """Raise where what follows from the model's shape is another there.

        Raises:
            CheckpointError: naming it.
        """
        for name, value in self.constants(model, (640, 640)).items():
            found = weights.get(name)
            if found is not None and found.shape == value.shape and not torch.allclose(found.float(), value.float()):
                raise CheckpointError(f"{name} is {_short(found)} in the file, where this model has {_short(value)}")

    def _is_constant(self, name: str) -> bool:
        return any(matches(template, name) is not None for template in self.constant_names)

    def _without_copies(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        result = dict(weights)
        for repeat in self.repeats:
            for name in list(result):
                captured = matches(repeat.copy, name)
                if captured is None:
                    continue
                original = filled(repeat.original, captured)
                if original in result and not torch.equal(result[original], result[name]):
                    raise CheckpointError(f"{name} and {original} are one tensor in {self.title}, but differ here")
                result.setdefault(original, result[name])
                del result[name]
        return result


def _with_copies(weights: Mapping[str, Tensor], repeat: Repeat) -> dict[str, Tensor]:
    result = {}
    for name, value in weights.items():
        captured = matches(repeat.original, name)
        if captured is None or not repeat.instead:
            result[name] = value
        if captured is not None:
            result[filled(repeat.copy, captured)] = value
    return result


def num_decoder_layers(names: Iterable[str]) -> int:
    """How many layers the decoder of a model has, by any of the names they have."""
    numbers = (matches("*decoder.layers.#.*", f".{name}") for name in names)
    return max((int(number[1]) + 1 for number in numbers if number is not None), default=0)


def shared_names(model: nn.Module) -> dict[str, str]:
    """Names under which parameters of a model are there again -> the names they had first."""
    first: dict[int, str] = {}
    again = {}
    for name, value in model.state_dict(keep_vars=True).items():
        original = first.setdefault(id(value), name)
        if original != name:
            again[name] = original
    return again


def with_counters(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights with the counters of batches that normalization has in a model, and a file may lack."""
    counter, mean = "num_batches_tracked", "running_mean"
    names = [name for name in model.state_dict() if name.endswith(counter) and name not in weights]
    return {**weights, **{name: torch.tensor(0) for name in names if name.replace(counter, mean) in weights}}


def _short(value: Tensor) -> str:
    return str([round(one, 4) for one in value.flatten()[:12].tolist()])
