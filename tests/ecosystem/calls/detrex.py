"""detrex: boxes, EMA, writers, timm backbones."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import contextlib
import sys
import types
from typing import Any
from unittest import mock

import torch
from detectron2.utils.events import EventStorage
from detrex.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from detrex.modeling import ema
from detrex.modeling.backbone import TimmBackbone
from omegaconf import OmegaConf
from torch import nn

from tests.ecosystem.calls import messages


def make_model(value: float = 1.0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(value)
    return model


def values(model: nn.Module) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def make_state(value: float = 2.0) -> ema.EMAState:
    return ema.EMAState.FromModel(make_model(value))


def make_cfg(**changes: Any) -> Any:
    return OmegaConf.create({"train": {"model_ema": {"enabled": True, "decay": 0.5, "device": "cpu"} | changes}})


def build_ema(**changes: Any) -> tuple:
    """Add EMA to a model.

    Returns:
        the result of ``may_build_model_ema``, the log messages, the names of the checkpointables, whether the model has
        an ``ema_state``, and whether every checkpointable is that state.
    """
    model, cfg = make_model(), make_cfg(**changes)
    with messages("detrex.modeling.ema") as lines:
        returned = ema.may_build_model_ema(cfg, model)
    added = ema.may_get_ema_checkpointer(cfg, model)
    return (
        returned,
        lines,
        list(added),
        hasattr(model, "ema_state"),
        all(state is model.ema_state for state in added.values()),
    )


def build_ema_twice() -> None:
    model = make_model()
    ema.may_build_model_ema(make_cfg(), model)
    ema.may_build_model_ema(make_cfg(), model)


def model_with_state(value: float = 2.0) -> nn.Module:
    model = make_model()
    model.ema_state = make_state(value)
    return model


def values_within_context(model: nn.Module, *args: Any, fails: bool = False) -> list:
    """Return the values of a model within the context and, unless ``fails``, after it.

    detrex does not restore the model after an exception; the bundled subset does.
    """
    snapshots = []
    with contextlib.suppress(RuntimeError), ema.apply_model_ema_and_restore(model, *args) as former:
        snapshots += [values(model), type(former).__name__, former.state["0.weight"]]
        if fails:
            raise RuntimeError
    return [*snapshots, values(model)] if not fails else snapshots


def apply_ema(model: nn.Module, **options: Any) -> tuple:
    former = ema.apply_model_ema(model, **options)
    return former and former.state, values(model)


def state_after_model_change() -> tuple:
    """Change a model after its state was created.

    Returns:
        the weight in the state, whether ``state_dict`` returns the dict of the state itself, and whether the weight
        requires gradients.
    """
    model = make_model()
    state = ema.EMAState.FromModel(model)
    model[0].weight.data.fill_(9)
    return state.state["0.weight"], state.state_dict() is state.state, state.state["0.weight"].requires_grad


def load_state(content: dict, *args: Any) -> tuple:
    state = make_state()
    returned = state.load_state_dict(content, *args)
    return list(returned.missing_keys), list(returned.unexpected_keys), state.state


def wandb_calls(*rounds: tuple, window_size: int = 20, params: Any = None, **options: Any) -> list:
    """Return the calls that a W&B run receives."""
    calls: list = []

    class Run:
        def log(self, *args: Any, **kwargs: Any) -> None:
            calls.append(("log", args, kwargs))

        def finish(self) -> None:
            calls.append(("finish",))

    def init(**kwargs: Any) -> Run:
        calls.append(("init", kwargs))
        return Run()

    fake = types.ModuleType("wandb")
    fake.init, fake.Image = init, None
    cfg = OmegaConf.create(
        {"a": 1, "b": "${a}", "train": {"wandb": {"params": {"project": "p"} if params is None else params}}}
    )
    events = _events()
    with (
        mock.patch.dict(sys.modules, wandb=fake),
        mock.patch.object(events, "wandb", fake, create=True),
        EventStorage() as storage,
    ):
        writer = events.WandbWriter(cfg, window_size, **options)
        for scalars in rounds:
            for iteration, name, value in scalars:
                storage.iter = iteration
                storage.put_scalar(name, value)
            writer.write()
        writer.close()
    return calls


def _events() -> Any:
    from detrex.utils import WandbWriter

    return sys.modules[WandbWriter.__module__]


class Features(nn.Module):
    """A stand-in for a timm network."""

    def __init__(self, out_indices: tuple, has_feature_info: bool = True):
        super().__init__()
        self.indices = out_indices
        if has_feature_info:
            self.feature_info = self

    def channels(self) -> list:
        return [10 * index for index in self.indices]

    def reduction(self) -> list:
        return [2**index for index in self.indices]

    @property
    def out_indices(self) -> tuple:
        return self.indices

    def forward(self, x: torch.Tensor) -> list:
        return [x + index for index in self.indices]


def timm_backbone(fails: str = "", has_feature_info: bool = True, name: str = "net", **options: Any) -> tuple:
    """Return the arguments passed to timm, the output shapes of the backbone, and its features."""
    arguments: list = []

    def create_model(*args: Any, **kwargs: Any) -> nn.Module:
        kwargs |= {"model_name": args[0]} if args else {}
        arguments.append(sorted(kwargs.items(), key=str))
        if fails:
            raise RuntimeError(fails)
        return Features(kwargs["out_indices"], has_feature_info)

    fake = types.ModuleType("timm")
    fake.create_model = create_model
    module = sys.modules[TimmBackbone.__module__]
    with mock.patch.dict(sys.modules, timm=fake), mock.patch.object(module, "timm", fake, create=True):
        backbone = TimmBackbone(name, **options)
    shapes = sorted(backbone.output_shape().items()) if has_feature_info else None
    return arguments, shapes, backbone(torch.zeros(1)), backbone.size_divisibility


BOXES = (
    "torch.tensor([5.0, 6, 2, 4])",
    "torch.tensor([[5.0, 6, 2, 4], [0, 0, 0, 0], [1, 1, -2, 3]])",
    "torch.rand(2, 3, 4)",
    "torch.zeros(0, 4)",
    "torch.tensor([[1, 2, 3, 5]])",
    "torch.rand(2, 4).half()",
    "torch.rand(2, 4).double()",
    "torch.zeros(2, 5)",
    "torch.zeros(2, 3)",
    "torch.zeros(())",
    "torch.tensor([float('nan'), 1, 2, 3])",
    "[1, 2, 3, 4]",
)

CALLS = [
    *(f"{function}({boxes})" for boxes in BOXES for function in ("box_cxcywh_to_xyxy", "box_xyxy_to_cxcywh")),
    "box_cxcywh_to_xyxy(bbox=torch.ones(4))",
    "make_state().state",
    "ema.EMAState.FromModel(make_model(), 'cpu').state",
    "ema.EMAState().state, ema.EMAState().device, bool(ema.EMAState().has_inited())",
    "make_state().device, bool(make_state().has_inited())",
    "make_state().clear().state, type(make_state().to('cpu')).__name__",
    "make_state().to(torch.float64).state",
    "state_after_model_change()",
    "repr(make_state()), repr(ema.EMAState())",
    "[name for name, _ in make_state().get_model_state_iterator(make_model())]",
    "make_state().apply_to(make_model())",
    "ema.EMAState().apply_to(make_model())",
    "make_state().apply_to(nn.Linear(3, 3))",
    "load_state({'x': torch.ones(1)})",
    "load_state({'x': torch.ones(1)}, False)",
    "load_state({})",
    "build_ema()",
    "build_ema(enabled=False)",
    "build_ema_twice()",
    "ema.may_build_model_ema(OmegaConf.create({'train': {}}), make_model())",
    "ema.get_model_ema_state(make_model())",
    "ema.get_model_ema_state(model_with_state()).state",
    "apply_ema(model_with_state())",
    "apply_ema(model_with_state(), save_current=True)",
    "apply_ema(make_model(), state=make_state(5.0))",
    "apply_ema(model_with_state(), state=ema.EMAState())",
    "apply_ema(make_model())",
    "values_within_context(model_with_state())",
    "values_within_context(make_model(), make_state(7.0))",
    "values_within_context(model_with_state(), fails=True)",
    "values_within_context(make_model())",
    "wandb_calls(((0, 'a', 4.0), (1, 'a', 2.0), (1, 'b', 1.0)))",
    "wandb_calls(((0, 'a', 4.0),), ((1, 'a', 2.0),), (), window_size=1)",
    "wandb_calls(((3, 'a', 4.0), (5, 'b', 1.0)), ((4, 'a', 1.0),))",
    "wandb_calls(params={'project': 'q', 'name': 'r'})",
    "wandb_calls(params={'nothing': None})",
    "timm_backbone()",
    "timm_backbone(out_indices=(1, 3))",
    "timm_backbone(out_indices=[0])",
    "timm_backbone(features_only=False, pretrained=True, checkpoint_path='x', in_channels=4, norm_layer=nn.BatchNorm2d)",
    "timm_backbone(pretrained='file')",
    "timm_backbone(checkpoint_path='x')",
    "timm_backbone(fails='no feature_info here')",
    "timm_backbone(fails='unexpected norm_layer')",
    "timm_backbone(has_feature_info=False)",
]  # fmt: skip
