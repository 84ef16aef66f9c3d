"""CUDA graphs for inference: replay a captured call with one launch instead of hundreds."""

from collections.abc import Callable

import torch
from torch import Tensor

from deim.layers.tracing import collect_cached_tensors

Function = Callable[[Tensor], tuple[Tensor, ...]]
# Allows other threads to pin memory and copy during the capture; in the default mode their calls would make it fail.
CAPTURE_MODE = "thread_local"


def warm_up(run: Callable[[], object]) -> None:
    """Run a function three times on a side stream before it is captured, as torch recommends.

    After the warm-up, kernels are compiled and selected, and tensors that depend on the size only are cached.
    """
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side_stream)


class CapturedGraph:
    """CUDA graph of a function call, for tensors with the same :func:`graph_key` as the example."""

    @torch.inference_mode()
    def __init__(self, function: Function, example: Tensor):
        self.static_input = example.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(example.device):
            warm_up(lambda: function(self.static_input))
            with (
                collect_cached_tensors() as self.cached_values,
                torch.cuda.graph(self.graph, capture_error_mode=CAPTURE_MODE),
            ):
                self.static_outputs = function(self.static_input)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.static_input.copy_(x)
        self.graph.replay()
        return tuple(output.clone() for output in self.static_outputs)  # the next replay overwrites the graph's outputs


def graph_key(x: Tensor) -> tuple:
    """Return a key that is equal for tensors that can share a graph; includes the device's autocast dtype."""
    device = x.device.type
    autocast_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return x.shape, x.stride(), x.dtype, autocast_dtype


class CudaGraphs:
    """Function without gradients on a GPU, captured on the first call with each shape and replayed afterwards.

    Args:
        function: function whose work depends only on the shape, and that never synchronizes with the GPU.
        max_graphs: maximum number of shapes to keep, each of which holds the memory of a call; the oldest is dropped.
    """

    def __init__(self, function: Function, max_graphs: int = 8):
        self.function, self.max_graphs = function, max_graphs
        self.graphs: dict[tuple, CapturedGraph] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        key = graph_key(x)
        if key not in self.graphs:
            if len(self.graphs) == self.max_graphs:
                del self.graphs[next(iter(self.graphs))]
            self.graphs[key] = CapturedGraph(self.function, x)
        return self.graphs[key](x)
