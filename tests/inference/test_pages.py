"""The Python examples of the pages on prediction and export run, in a folder with files of the names used there."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from deim.inference.export.export import export
from deim.inference.export.options import ExportOptions
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def working_directory(
    checkpoint: Path, checkpoint_with_heads: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(photos, folder / "photos")
    shutil.copy(photos / "3.png", folder / "street.jpg")
    content = torch.load(checkpoint)
    content["deim"]["classes"][0] = "person"
    for run in ("deim_dfine_s_coco", "deim_dfine_s_coco_data"):
        (folder / "output" / run).mkdir(parents=True)
        torch.save(content, folder / "output" / run / "model_best.pth")
    keypoints_run = folder / "output" / "deimv2_hgnetv2_atto_keypoints_shapes"
    keypoints_run.mkdir()
    shutil.copy(checkpoint_with_heads, keypoints_run / "model_best.pth")
    (folder / "datasets" / "deim_shapes" / "val").mkdir(parents=True)
    shutil.copy(photos / "3.png", folder / "datasets" / "deim_shapes" / "val" / "000003.jpg")
    export(str(checkpoint), None, str(folder / "deim_dfine_s.onnx"), ExportOptions(size=(640, 640)))
    return folder


@pytest.mark.parametrize("page", ["docs/predict.md", "docs/export.md"])
def test_python_examples_run(page: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(working_directory)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
    if page == "docs/predict.md":
        assert (working_directory / "found.png").is_file()
        assert (working_directory / "people.png").is_file()
