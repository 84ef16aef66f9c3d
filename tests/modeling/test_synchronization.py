"""The host waits for the device once per training step. The tests find operations that wait without needing a device.

tests/test_gpu.py counts the synchronizations on a GPU.
"""

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import long_except
from tests.models import FAMILIES, TASKS, batch, task_batch, task_model, tiny_model

# Operators whose result on the host, or whose shape, depends on values on the device.
_OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "repeat_interleave", "equal")
# They copy Python numbers to the device or from the device, and wait for the copy.
_FUNCTIONS = (Tensor.new_tensor, torch.as_tensor, Tensor.tolist)


def _caller() -> str:
    frames = [frame for frame in traceback.extract_stack() if "/deim/" in frame.filename.replace("\\", "/")]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "outside of deim"


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in _OPERATORS or by_mask:
            self.found.append(f"{name} in {_caller()}")
        return function(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _FUNCTIONS:
            self.found.append(f"{function.__name__} in {_caller()}")
        return function(*args, **(kwargs or {}))


def synchronizations(run: Callable[[], Any]) -> list[str]:
    """Return the operations during a call that wait for the device, and the places of their callers."""
    found: list[str] = []
    with _Functions(found), _Operators(found):
        run()
    return found


def _training_step(model: nn.Module, samples: list[dict]) -> Callable[[], Any]:
    model.train()
    return lambda: sum(model(samples).values()).backward()


@pytest.mark.parametrize("family", long_except(["dfine"], FAMILIES))
def test_boxes(family: str) -> None:
    step = _training_step(tiny_model(family=family), batch([3, 0, 1]))
    step()
    assert synchronizations(step) == []


@pytest.mark.parametrize("task", TASKS)
def test_masks_and_keypoints(task: str) -> None:
    step = _training_step(task_model(task), task_batch(task, [3, 0, 1]))
    step()
    assert synchronizations(step) == []


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x[0] > 0),
        lambda x: x[x > 0],
        lambda x: x.new_tensor([1.0]),
    ],
)
def test_operations_that_wait_are_found(operation: Callable[[Tensor], Any]) -> None:
    assert synchronizations(lambda: operation(torch.ones(3)))
