"""What a GPU was told to do once, told again by a single launch instead of hundreds."""

from collections.abc import Callable

import torch
from torch import Tensor

from deim.layers.tracing import remembered_values_in_use

# Calls before a recording, in which kernels are compiled and chosen, and what is kept for a size is made.
_WARM_UP = 3
Function = Callable[[Tensor], tuple[Tensor, ...]]


class Recording:
    """A call of a function, for tensors like the one that it was recorded with."""

    @torch.inference_mode()
    def __init__(self, function: Function, example: Tensor):
        self.given = example.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(example.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    function(self.given)
            torch.cuda.current_stream().wait_stream(aside)
            with (
                remembered_values_in_use() as self.used,
                torch.cuda.graph(self.graph, capture_error_mode="thread_local"),
            ):
                self.found = function(self.given)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.given.copy_(x)
        self.graph.replay()
        return tuple(value.clone() for value in self.found)  # the next call writes into the same memory


class CudaGraphs:
    """A function without gradients on a GPU, recorded for every shape that it is given and replayed from then on.

    Args:
        function: does the same with all tensors of a shape, and waits for nothing that the GPU computes.
        most: shapes to keep, each of which takes the memory of a call; the one recorded first gives way.
    """

    def __init__(self, function: Function, most: int = 8):
        self.function, self.most = function, most
        self.recordings: dict[tuple, Recording] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        key = (x.shape, x.dtype, x.stride(), torch.is_autocast_enabled(x.device.type))
        if key not in self.recordings:
            if len(self.recordings) == self.most:
                del self.recordings[next(iter(self.recordings))]
            self.recordings[key] = Recording(self.function, x)
        return self.recordings[key](x)
