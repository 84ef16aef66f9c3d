"""The Python on the pages about predicting and exporting runs, with files of the names that it has."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from deim.inference.export import exporting
from deim.inference.export.onnx import ExportOptions
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def workplace(checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(photos, folder / "photos")
    shutil.copy(photos / "3.png", folder / "street.jpg")
    content = torch.load(checkpoint)
    content["deim"]["classes"][0] = "person"
    for run in ("deim_dfine_s_coco", "deim_dfine_s_coco_data"):
        (folder / "output" / run).mkdir(parents=True)
        torch.save(content, folder / "output" / run / "model_best.pth")
    exporting.export(str(checkpoint), None, str(folder / "deim_dfine_s.onnx"), ExportOptions(size=(640, 640)))
    return folder


@pytest.mark.parametrize("page", ["docs/predict.md", "docs/export.md"])
def test_python_on_the_page_runs(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
    if page == "docs/predict.md":
        assert (workplace / "found.png").is_file()
        assert (workplace / "people.png").is_file()
