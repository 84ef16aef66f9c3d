"""Comparisons of gradients, and of what lies behind a ReLU, a sort or a top-k, are made in float64.

In float32, the rounding of a processor moves a value across zero now and then, or swaps two tokens of nearly equal
score, and gradients differ in the fourth digit.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
