"""The programs in docs/examples find the detections of the predictor. The C++ compiler and the browser are opt-in."""

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from deim import Predictor
from deim.data.datasets.shapes import CLASSES, draw_image
from deim.inference.export.export import export
from deim.inference.export.metadata import Metadata
from deim.inference.export.options import ExportOptions
from tests.conftest import ROOT
from tests.serving import serve

EXAMPLES = ROOT / "docs/examples"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image in the size of the model, so that its resize has no effect."""
    path = tmp_path_factory.mktemp("image") / "image.png"
    cv2.imwrite(str(path), draw_image(np.random.default_rng(0), (128, 128))[0])
    return path


def is_found(detections: Instances, label: int, score: float, box: Sequence[float], tolerance: float) -> bool:
    """Return whether the predictor found a detection.

    Args:
        tolerance: of the coordinates, in pixels.
    """
    same = (detections.pred_classes == label) & ((detections.scores - score).abs() < 1e-3)
    distances = (detections.pred_boxes.tensor - torch.tensor(box)).abs().amax(dim=1)
    return bool((distances[same] < tolerance).any())


@pytest.mark.skipif(
    "DEIM_TEST_CPP" not in os.environ,
    reason="needs cmake, a C++ compiler and libpng: DEIM_TEST_CPP=folder with include and lib of ONNX Runtime",
)
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_cpp_program(suffix: str, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    arguments = [f"-DONNXRUNTIME_ROOT={os.environ['DEIM_TEST_CPP']}"]
    if suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        arguments += ["-DWITH_OPENVINO=ON", f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}"]
    subprocess.run(["cmake", "-S", EXAMPLES / "cpp", "-B", tmp_path / "build", *arguments], check=True)
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True)
    model, photo = tmp_path / f"model{suffix}", photos / "3.png"
    export(str(checkpoint), None, str(model), ExportOptions())
    command = [tmp_path / "build/detect", model, photo]
    process = subprocess.run([*command, "0"], check=True, capture_output=True, text=True)
    rows = [[float(number) for number in line.split()] for line in process.stdout.splitlines()]
    (expected,) = Predictor(model, threshold=0.0, device="cpu").predict(photo)
    assert len(rows) == len(expected.scores) > 0
    assert all(is_found(expected, int(label), score, box, 0.5) for label, score, *box in rows)
    missing = subprocess.run([*command[:2], "missing.png"], check=False, capture_output=True, text=True)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "missing.png" in missing.stderr


@pytest.mark.skipif(
    "DEIM_TEST_BROWSER" not in os.environ, reason="needs npm, selenium and Chromium: DEIM_TEST_BROWSER=1"
)
def test_page(checkpoint: Path, image: Path, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    export(str(checkpoint), None, str(tmp_path / "model.onnx"), ExportOptions())
    export(str(checkpoint), None, str(tmp_path / "official.onnx"), ExportOptions(interface="official"))
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox"):
        options.add_argument(flag)
    handler: Any = functools.partial(SimpleHTTPRequestHandler, directory=install_page(tmp_path / "web"))
    with serve(handler) as port:
        browser = webdriver.Chrome(options=options)
        try:
            browser.get(f"http://127.0.0.1:{port}/index.html")
            wait = WebDriverWait(browser, 120)
            status = functools.partial(browser.find_element, "id", "status")
            browser.find_element("id", "model").send_keys(str(tmp_path / "official.onnx"))
            wait.until(lambda _: "export it with --interface deim" in status().text)
            browser.find_element("id", "model").send_keys(str(tmp_path / "model.onnx"))
            wait.until(lambda _: f"128 x 128 pixels, {len(CLASSES)} classes" in status().text)
            browser.execute_script("threshold.value = 0; threshold.oninput()")
            browser.find_element("id", "image").send_keys(str(image))
            wait.until(lambda _: status().text.endswith(" ms"))
            rows = [json.loads(line) for line in browser.find_element("id", "detections").text.splitlines()]
        finally:
            browser.quit()
    (expected,) = Predictor(tmp_path / "model.onnx", threshold=0.0, device="cpu").predict(image)
    assert len(rows) == len(expected.scores) > 0
    for row in rows:
        box = [128 * side for side in row["box"]]
        assert is_found(expected, CLASSES.index(row["label"]), row["score"], box, 0.01)


def install_page(folder: Path) -> Path:
    """Return a copy of the page with onnxruntime-web; it is downloaded unless the folder of the example has it."""
    shutil.copytree(EXAMPLES / "web", folder, ignore=shutil.ignore_patterns("node_modules"))
    if (EXAMPLES / "web/node_modules").is_dir():
        (folder / "node_modules").symlink_to((EXAMPLES / "web/node_modules").resolve())
    else:
        subprocess.run(["npm", "install", "--ignore-scripts"], cwd=folder, check=True)
    return folder


def test_page_finds_any_class_name() -> None:
    page = (EXAMPLES / "web/index.html").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"text\.match\(/(.*)/\)", page)
    names = ['a "quoted" name', "list], of", "中文", "back\\slash"]
    text = Metadata("0", names, (64, 96), False, "RGB", True, "float32").to_json()
    found = re.search(pattern, f"\0onnx\x12{text}\0")
    assert found is not None
    assert json.loads(found[1]) == names
    assert text.isascii(), "the page decodes bytes as Latin-1"


def test_page_and_its_documentation_have_the_same_version() -> None:
    version = json.loads((EXAMPLES / "web/package.json").read_text(encoding="utf-8"))["dependencies"]["onnxruntime-web"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version), "a version, no range"
    assert f"onnxruntime-web {version}" in (ROOT / "docs/examples.md").read_text(encoding="utf-8")
