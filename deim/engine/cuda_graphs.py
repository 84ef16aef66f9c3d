"""Training where all that comes before the decoder is replayed: a launch in each direction instead of a thousand."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deim.errors import ConfigError
from deim.inference.cuda_graphs import CAPTURE_MODE, kind_of, warm_up
from deim.layers.casting import casting_anew
from deim.layers.tracing import remembered_values_in_use
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import HybridEncoder

logger = logging.getLogger("detectron2.deim")


class Recording:
    """Backbone and encoder for images like those that it was recorded with, and their gradients.

    Weights are read where they are, so that it goes on to hold while they learn.

    Args:
        encode: carries them out.
        pool: memory for what passes by, shared with recordings that are never in use at the same time.
    """

    def __init__(self, detector: DEIMDetector, encode: Callable[[Tensor], list[Tensor]], images: Tensor, pool: Any):
        self.images = images.clone()
        parts = (detector.backbone, detector.encoder)
        self.parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
        warm_up(lambda: self._gradients(maps := encode(self.images), [torch.ones_like(one) for one in maps]))
        options: Any = {"pool": pool, "capture_error_mode": CAPTURE_MODE}
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with remembered_values_in_use() as self.used, torch.cuda.graph(self.forward, **options):
            maps = encode(self.images)
        self.upstream = [torch.empty_like(one) for one in maps]
        with torch.cuda.graph(self.backward, **options):
            self.gradients = self._gradients(maps, self.upstream)
        self.maps = [one.detach() for one in maps]

    def _gradients(self, maps: list[Tensor], upstream: list[Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(maps, self.parameters, upstream, allow_unused=True)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return list(_Replay.apply(self, images, *self.parameters))


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: Recording, images: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        ctx.recording = recording
        recording.images.copy_(images)
        recording.forward.replay()
        return tuple(one.detach() for one in recording.maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        recording: Recording = ctx.recording
        torch._foreach_copy_(recording.upstream, list(upstream))
        recording.backward.replay()
        return None, None, *(None if one is None else one.detach() for one in recording.gradients)


class ReplayedEncoding:
    """:meth:`DEIMDetector.encode` that is recorded in training for every shape of images and precision when it first comes,
    and replayed from then on.

    Statistics of normalization and random numbers are as without. All recordings share their memory: a step is over before
    the next one begins.
    """

    def __init__(self, detector: DEIMDetector):
        self.detector, self.eager = detector, detector.encode
        self.recordings: dict[tuple, Recording] = {}
        self.pool: Any = None

    def __call__(self, images: Tensor, padding: Tensor | None = None) -> Any:
        if padding is not None or not (self.detector.training and torch.is_grad_enabled()):
            return self.eager(images, padding)
        kind = kind_of(images)
        if kind not in self.recordings:
            self.recordings[kind] = self._record(images)
            logger.info(f"Recorded backbone and encoder for batches of {tuple(images.shape)}")
        return self.recordings[kind](images)

    def _record(self, images: Tensor) -> Recording:
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        buffers = {buffer: buffer.clone() for buffer in self.detector.buffers()}
        with (
            torch.cuda.device(images.device),
            torch.random.fork_rng(devices=[images.device]),
            # weights that were cast before would not be cast again by what is replayed
            casting_anew("cuda"),
        ):
            recording = Recording(self.detector, self.eager, images, self.pool)
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
        return recording


def record_features(model: nn.Module) -> None:
    """Let a detector's backbone and encoder be replayed in training, in place.

    Raises:
        ConfigError: it is none with a hybrid encoder, without padded images; or it is not on a GPU.
    """
    if not isinstance(model, DEIMDetector) or not isinstance(model.encoder, HybridEncoder):
        raise ConfigError("train.cuda_graphs is for detectors with a HybridEncoder, as D-FINE and RT-DETR have it")
    if model.device.type != "cuda":
        raise ConfigError(f"train.cuda_graphs needs a GPU, and the model is on {model.device}")
    model.encode = ReplayedEncoding(model)  # type: ignore[method-assign]
