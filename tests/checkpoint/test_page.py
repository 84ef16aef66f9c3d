"""The commands of docs/checkpoints.md print the documented output, with random weights."""

from pathlib import Path

import pytest
import torch
from transformers import DFineForObjectDetection

from deim.conversion import convert
from tests.checkpoint.test_formats import detector, to_external_layout
from tests.commands import tool
from tests.conftest import ROOT
from tests.test_docs import commands

PAGE = ROOT / "docs" / "checkpoints.md"
# output file of each command -> what the command prints about its source
EXPECTED_OUTPUT = {
    "deim_dfine_n.pth": "recipe deim_dfine/deim_dfine_n_coco, 80 classes",
    "dfine_n.pth": "format transformers' D-FINE, 3,",
    "deformable_detr_r50.pth": "format detrex's Deformable DETR, 40,",
    "for_deim.pth": "format native, 3,",
    "for_detrex.pth": "recipe deformable_detr/deformable_detr_r50_50ep_coco",
    "for_transformers": "recipe dfine/dfine_n_coco",
    "hgnetv2_b0.pth": 'is the backbone HGNetV2(name="B0", learnable_affine=True)',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the page uses."""
    path = tmp_path_factory.mktemp("page")
    for name, recipe, to in (
        ("deim_dfine_hgnetv2_n_coco.pth", "deim_dfine/deim_dfine_n_coco", "deim"),
        ("converted_deformable_detr_r50.pth", "deformable_detr/deformable_detr_r50_50ep_coco", "detrex"),
        ("dfine_n_official.pth", "dfine/dfine_n_coco", "dfine"),
    ):
        torch.save({"model": to_external_layout(detector(recipe), recipe, to)[0]}, path / name)
    convert(str(path / "dfine_n_official.pth"), str(path / "dfine_nano_coco"), to="hf")
    weights = torch.load(path / "dfine_n_official.pth", weights_only=True)["model"]
    backbone = {n.removeprefix("backbone."): v for n, v in weights.items() if n.startswith("backbone.")}
    torch.save(backbone, path / "PPHGNetV2_B0_stage1.pth")
    return path


def test_conversion_examples_of_the_docs(folder: Path) -> None:
    outputs = {}
    for words in commands(PAGE):
        if words[0] == "tools/convert_checkpoint.py":
            result = tool("convert_checkpoint.py", *words[1:], cwd=folder)
            assert result.returncode == 0, result.stderr
            outputs[words[2]] = result.stdout
    assert outputs.keys() == EXPECTED_OUTPUT.keys()
    for out, expected in EXPECTED_OUTPUT.items():
        assert expected in outputs[out], outputs[out]
    official, back = (
        torch.load(folder / n, weights_only=True)["model"] for n in ("deim_dfine_hgnetv2_n_coco.pth", "for_deim.pth")
    )
    assert official.keys() == back.keys()
    assert all(torch.equal(back[name], value) for name, value in official.items())
    _, report = DFineForObjectDetection.from_pretrained(folder / "for_transformers", output_loading_info=True)
    assert not any(report.values()), report
