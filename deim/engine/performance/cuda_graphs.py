"""CUDA graphs for training: replay backbone and encoder with one launch per direction instead of about a thousand."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deim.errors import ConfigError
from deim.inference.cuda_graphs import CAPTURE_MODE, graph_key, warm_up
from deim.layers.autocast import autocast_without_cache
from deim.layers.tracing import collect_cached_tensors
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import HybridEncoder, LiteEncoder

logger = logging.getLogger("detectron2.deim")


class TrainingGraphs:
    """CUDA graphs of the forward and backward pass of backbone and encoder, for one shape of images.

    The graphs read the weights in place and therefore stay valid while the weights are trained.

    Args:
        detector: model whose backbone and encoder are captured.
        encode: function that runs backbone and encoder.
        images: example batch to capture with.
        pool: memory pool, shared with graphs that never run at the same time.
    """

    def __init__(self, detector: DEIMDetector, encode: Callable[[Tensor], list[Tensor]], images: Tensor, pool: Any):
        self.images = images.clone()
        parts = (detector.backbone, detector.encoder)
        self.parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
        warm_up(lambda: self._gradients(maps := encode(self.images), [torch.ones_like(tensor) for tensor in maps]))
        options: Any = {"pool": pool, "capture_error_mode": CAPTURE_MODE}
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with collect_cached_tensors() as self.cached_tensors, torch.cuda.graph(self.forward, **options):
            maps = encode(self.images)
        self.upstream = [torch.empty_like(tensor) for tensor in maps]
        with torch.cuda.graph(self.backward, **options):
            self.gradients = self._gradients(maps, self.upstream)
        self.maps = [tensor.detach() for tensor in maps]

    def _gradients(self, maps: list[Tensor], upstream: list[Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(maps, self.parameters, upstream, allow_unused=True)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return list(_Replay.apply(self, images, *self.parameters))


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: TrainingGraphs, images: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        ctx.graphs = graphs
        graphs.images.copy_(images)
        graphs.forward.replay()
        return tuple(tensor.detach() for tensor in graphs.maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        graphs: TrainingGraphs = ctx.graphs
        torch._foreach_copy_(graphs.upstream, list(upstream))
        graphs.backward.replay()
        return None, None, *(None if tensor is None else tensor.detach() for tensor in graphs.gradients)


class GraphedEncoder:
    """Replacement for :meth:`DEIMDetector.encode` that captures and replays CUDA graphs in training.

    Graphs are captured on the first batch of each image shape and precision. Normalization statistics and random
    numbers are the same as without graphs. All graphs share one memory pool, as steps never overlap.
    """

    def __init__(self, detector: DEIMDetector):
        self.detector, self.eager = detector, detector.encode
        self.graphs: dict[tuple, TrainingGraphs] = {}
        self.pool: Any = None

    def __call__(self, images: Tensor, padding: Tensor | None = None) -> Any:
        if padding is not None or not (self.detector.training and torch.is_grad_enabled()):
            return self.eager(images, padding)
        key = graph_key(images)
        if key not in self.graphs:
            self.graphs[key] = self._capture(images)
            logger.info(f"Captured CUDA graphs of backbone and encoder for batches of shape {tuple(images.shape)}")
        return self.graphs[key](images)

    def _capture(self, images: Tensor) -> TrainingGraphs:
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        buffers = {buffer: buffer.clone() for buffer in self.detector.buffers()}
        with (
            torch.cuda.device(images.device),
            torch.random.fork_rng(devices=[images.device]),
            # Weights cast earlier would be reused: the cast would not be part of the graph.
            autocast_without_cache("cuda"),
        ):
            graphs = TrainingGraphs(self.detector, self.eager, images, self.pool)
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
        return graphs


def capture_training_graphs(model: nn.Module) -> None:
    """Replay a detector's backbone and encoder as CUDA graphs in training, in place.

    Raises:
        ConfigError: if the model is not a DEIMDetector with a HybridEncoder or a LiteEncoder, or is not on a GPU.
    """
    if not isinstance(model, DEIMDetector) or not isinstance(model.encoder, HybridEncoder | LiteEncoder):
        raise ConfigError(
            "train.cuda_graphs requires a detector with a HybridEncoder or a LiteEncoder, such as D-FINE, DEIMv2 or RT-DETR"
        )
    if model.device.type != "cuda":
        raise ConfigError(f"train.cuda_graphs requires a GPU, but the model is on {model.device}")
    model.encode = GraphedEncoder(model)  # type: ignore[method-assign]
