"""CUDA graphs for inference: replay a captured call with one launch instead of hundreds."""

from collections.abc import Callable

import torch
from torch import Tensor

from deim.layers.tracing import collect_cached_tensors

Function = Callable[[Tensor], tuple[Tensor, ...]]
# Other threads keep pinning memory and copying during the capture.
CAPTURE_MODE = "thread_local"


def warm_up(run: Callable[[], object]) -> None:
    """Run a function three times on a side stream before it is captured, as torch recommends.

    Kernels are then compiled and selected, and values cached per size exist.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)


class Recording:
    """CUDA graph of a function call, for tensors of the same kind as the example."""

    @torch.inference_mode()
    def __init__(self, function: Function, example: Tensor):
        self.given = example.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(example.device):
            warm_up(lambda: function(self.given))
            with (
                collect_cached_tensors() as self.used,
                torch.cuda.graph(self.graph, capture_error_mode=CAPTURE_MODE),
            ):
                self.found = function(self.given)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.given.copy_(x)
        self.graph.replay()
        return tuple(value.clone() for value in self.found)  # the next replay overwrites the graph's outputs


def kind_of(x: Tensor) -> tuple:
    """Return a key that is equal for tensors that can share a recording; includes the device's autocast dtype."""
    device = x.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return x.shape, x.stride(), x.dtype, precision


class CudaGraphs:
    """Function without gradients on a GPU, captured on the first call with each shape and replayed afterwards.

    Args:
        function: function whose work depends only on the shape, and that never synchronizes with the GPU.
        most: maximum number of shapes to keep, each of which holds the memory of a call; the oldest is dropped.
    """

    def __init__(self, function: Function, most: int = 8):
        self.function, self.most = function, most
        self.recordings: dict[tuple, Recording] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        kind = kind_of(x)
        if kind not in self.recordings:
            if len(self.recordings) == self.most:
                del self.recordings[next(iter(self.recordings))]
            self.recordings[kind] = Recording(self.function, x)
        return self.recordings[kind](x)
