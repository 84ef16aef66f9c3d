"""RT-DETRv2 agrees with RT-DETRv2 of Hugging Face ``transformers`` in every size, with checkpoint folders converted in
both directions."""

from pathlib import Path

import pytest
import torch
from transformers import RTDetrV2ForObjectDetection

from tests.conftest import long_except
from tests.models import recipe
from tests.parity.transformers_weights import assert_folders_agree

CASES = {
    f"{size} bilinear": (size, "bilinear")
    for size in ("r18vd_120e", "r34vd_120e", "r50vd_m_7x", "r50vd_6x", "r101vd_6x")
}
CASES["r18vd_120e nearest"] = "r18vd_120e", "nearest"


@pytest.mark.parametrize(
    "case", long_except(["r18vd_120e nearest", "r34vd_120e bilinear", "r50vd_m_7x bilinear"], CASES)
)
@torch.no_grad()
def test_transformers_folders_convert_both_ways(case: str, tmp_path: Path) -> None:
    size, sampling = CASES[case]
    # Use every token as a query, since rounding decides which of two tokens with equal scores is selected. Images are
    # square, since the discrete sampling of transformers uses one side for both dimensions.
    side = 128
    tokens = sum((side // stride) ** 2 for stride in (8, 16, 32))
    config = recipe(
        f"rtdetrv2_{size}_coco",
        f"model.decoder.queries.num_queries={tokens}",
        f"model.decoder.layer.sampling={sampling}",
    )
    assert_folders_agree(config, RTDetrV2ForObjectDetection, (side, side), tmp_path)
