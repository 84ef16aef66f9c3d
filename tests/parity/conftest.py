"""Set float64 as the default dtype for comparisons of gradients and of values after a ReLU, a sort or a top-k.

In float32, rounding, which differs between CPUs, sometimes moves a value across zero or swaps two tokens with nearly
equal scores. Gradients then differ in the fourth digit.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
