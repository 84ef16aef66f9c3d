"""What a GPU was told to do once, told again by a single launch instead of hundreds."""

from collections.abc import Callable

import torch
from torch import Tensor

from deim.layers.tracing import remembered_values_in_use

Function = Callable[[Tensor], tuple[Tensor, ...]]
# Other threads go on to pin memory and to copy meanwhile.
CAPTURE_MODE = "thread_local"


def warm_up(run: Callable[[], object]) -> None:
    """What is to be recorded must have run before: kernels are compiled and chosen then, and what is kept for a size is
    made. As torch has it, aside from the stream that others use."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)


class Recording:
    """A call of a function, for tensors like the one that it was recorded with."""

    @torch.inference_mode()
    def __init__(self, function: Function, example: Tensor):
        self.given = example.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(example.device):
            warm_up(lambda: function(self.given))
            with (
                remembered_values_in_use() as self.used,
                torch.cuda.graph(self.graph, capture_error_mode=CAPTURE_MODE),
            ):
                self.found = function(self.given)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.given.copy_(x)
        self.graph.replay()
        return tuple(value.clone() for value in self.found)  # the next call writes into the same memory


def kind_of(x: Tensor) -> tuple:
    """What a recording is for: equal for tensors that one made with either serves. The device's autocast is part of it."""
    device = x.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return x.shape, x.stride(), x.dtype, precision


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
        kind = kind_of(x)
        if kind not in self.recordings:
            if len(self.recordings) == self.most:
                del self.recordings[next(iter(self.recordings))]
            self.recordings[kind] = Recording(self.function, x)
        return self.recordings[kind](x)
