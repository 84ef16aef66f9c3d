"""D-FINE agrees with D-FINE of Hugging Face ``transformers`` in every size, with checkpoint folders converted in both
directions."""

from pathlib import Path

import pytest
import torch
from transformers import DFineForObjectDetection

from tests.conftest import long_except
from tests.models import recipe
from tests.parity.transformers_weights import assert_folders_agree


@pytest.mark.parametrize("size", long_except("nsm", "nsmlx"))
@torch.no_grad()
def test_transformers_folders_convert_both_ways(size: str, tmp_path: Path) -> None:
    # Use every token as a query, since rounding decides which of two tokens with equal scores is selected.
    height, width = 128, 160
    tokens = sum(height // stride * width // stride for stride in ((16, 32) if size == "n" else (8, 16, 32)))
    config = recipe(f"dfine_{size}_coco", f"model.decoder.queries.num_queries={tokens}")
    assert_folders_agree(config, DFineForObjectDetection, (height, width), tmp_path)
