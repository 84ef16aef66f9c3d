"""Demo page. The test in a real browser needs one to be installed: see CONTRIBUTING."""

import base64
import io
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deim import Predictor
from deim.errors import ConfigError
from deim.inference.demo import build_demo, detect
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, threshold=0.0, device="cpu")


def test_page_shows_detections(predictor: Predictor, photos: Path) -> None:
    detections = predictor(photos / "3.png")
    threshold = float(detections.scores.median())
    annotated, rows, summary = detect(predictor, detections.image, threshold, [])
    assert annotated.shape == detections.image.shape
    assert len(rows) == int((detections.scores >= threshold).sum())
    assert summary.startswith(f"{len(rows)} detections in ")
    name = detections.labels[0]
    assert {row[0] for row in detect(predictor, detections.image, threshold, [name])[1]} == {name}
    assert detect(predictor, None, 0.5, [])[:2] == (None, [])


def test_missing_gradio_is_an_error(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"pip install 'deim\[demo\]'"):
        build_demo(predictor)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


needs_browser = pytest.mark.skipif(
    "DEIM_TEST_BROWSER" not in os.environ, reason="needs gradio, selenium and Chromium: DEIM_TEST_BROWSER=1"
)


@needs_browser
def test_browser_shows_boxes_and_slider_filters_them(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    with open_page(write_certain_checkpoint(checkpoint, tmp_path), photos / "3.png") as (browser, wait):
        browser.save_screenshot(str(tmp_path / "page.png"))
        set_threshold(browser, 1)
        wait.until(lambda page: page.find_element("id", "summary").text.startswith("0 detections"))


@needs_browser
def test_browser_shows_masks_and_skeletons(checkpoint_with_heads: Path, photos: Path, tmp_path: Path) -> None:
    path = write_certain_checkpoint(checkpoint_with_heads, tmp_path)
    detections = Predictor(path, threshold=0.4, device="cpu")(photos / "3.png")
    expected = np.asarray(detections.draw()).astype(int)
    detections.remove("pred_masks")
    without_masks = np.asarray(detections.draw()).astype(int)
    detections.remove("pred_keypoints")
    boxes_only = np.asarray(detections.draw()).astype(int)
    with open_page(path, photos / "3.png") as (browser, _):
        browser.save_screenshot(str(tmp_path / "page.png"))
        shown = output_image(browser).astype(int)
    # The page compresses images.
    assert np.abs(shown - expected).mean() < 0.3 * np.abs(expected - without_masks).mean()
    is_skeleton = (without_masks != boxes_only).any(axis=2)
    assert np.abs(shown - expected)[is_skeleton].mean() < 0.5 * np.abs(expected - boxes_only)[is_skeleton].mean()


def write_certain_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """Write a copy of a checkpoint whose scores are all close to 1."""
    content = torch.load(checkpoint)
    for name, value in content["model"].items():
        if "score_head" in name and name.endswith("bias"):
            value += 8
    torch.save(content, folder / "certain.pth")
    return folder / "certain.pth"


@contextmanager
def open_page(checkpoint: Path, image: Path) -> Iterator[tuple[Any, Any]]:
    """Start the demo, open its page in a browser and upload an image; yield the browser and an object that waits."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    port = free_port()
    command = [sys.executable, "tools/demo.py", str(checkpoint), "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--window-size=1200,1000"):
        options.add_argument(flag)
    browser = None
    try:
        wait_for_server(f"http://127.0.0.1:{port}/", server)
        browser = webdriver.Chrome(options=options)
        browser.get(f"http://127.0.0.1:{port}/")
        wait = WebDriverWait(browser, 60)
        wait.until(lambda page: page.find_elements("css selector", "input[type=file]"))[0].send_keys(str(image))
        wait.until(lambda page: re.match(r"[1-9]\d* detections in", page.find_element("id", "summary").text))
        yield browser, wait
    finally:
        if browser is not None:
            browser.quit()
        server.terminate()
        server.wait(timeout=30)


def set_threshold(browser: Any, value: float) -> None:
    slider = browser.find_element("css selector", "input[type=number]")
    browser.execute_script(
        f"arguments[0].value = {value}; arguments[0].dispatchEvent(new Event('input', {{bubbles: true}}));"
        "arguments[0].dispatchEvent(new Event('change', {bubbles: true}));",
        slider,
    )


def output_image(browser: Any) -> np.ndarray:
    """Return the pixels (H, W, 3) of the image with the detections on the page."""
    url = browser.execute_script(
        "const image = document.querySelector('#detections img'), canvas = document.createElement('canvas');"
        "canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;"
        "canvas.getContext('2d').drawImage(image, 0, 0); return canvas.toDataURL('image/png');"
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def wait_for_server(address: str, server: subprocess.Popen) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")
