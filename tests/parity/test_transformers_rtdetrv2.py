"""Hugging Face ``transformers``' RT-DETRv2 predicts what ours does, from the folders that the one writes for the other,
in every size."""

from pathlib import Path

import pytest
import torch
from transformers import RTDetrV2ForObjectDetection

from tests.conftest import long_but_for
from tests.models import recipe
from tests.parity.transformers_weights import assert_folders_agree

CASES = {
    f"{size} bilinear": (size, "bilinear")
    for size in ("r18vd_120e", "r34vd_120e", "r50vd_m_7x", "r50vd_6x", "r101vd_6x")
}
CASES["r18vd_120e nearest"] = "r18vd_120e", "nearest"


@pytest.mark.parametrize(
    "case", long_but_for(["r18vd_120e nearest", "r34vd_120e bilinear", "r50vd_m_7x bilinear"], CASES)
)
@torch.no_grad()
def test_folders_go_both_ways(case: str, tmp_path: Path) -> None:
    size, sampling = CASES[case]
    # Every token becomes a query: which of two tokens of equal score is the last to be selected
    # would depend on rounding. Square, as their discrete sampling takes one side for both.
    side = 128
    tokens = sum((side // stride) ** 2 for stride in (8, 16, 32))
    config = recipe(
        f"rtdetrv2_{size}_coco",
        f"model.decoder.queries.num_queries={tokens}",
        f"model.decoder.layer.sampling={sampling}",
    )
    assert_folders_agree(config, RTDetrV2ForObjectDetection, (side, side), tmp_path)
