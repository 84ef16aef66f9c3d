"""Demo page. The test in a real browser needs one to be installed: see CONTRIBUTING."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

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


@pytest.mark.skipif(
    "DEIM_TEST_BROWSER" not in os.environ, reason="needs gradio, selenium and Chromium: DEIM_TEST_BROWSER=1"
)
def test_browser_shows_boxes_and_slider_filters_them(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    content = torch.load(checkpoint)
    for name, value in content["model"].items():
        if "score_head" in name and name.endswith("bias"):
            value += 8  # all scores are close to 1
    torch.save(content, tmp_path / "certain.pth")
    port = free_port()
    command = [sys.executable, "tools/demo.py", str(tmp_path / "certain.pth"), "--port", str(port), "--device", "cpu"]
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
        wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(
            str(photos / "3.png")
        )
        wait.until(lambda page: re.match(r"[1-9]\d* detections in", page.find_element(By.ID, "summary").text))
        browser.save_screenshot(str(tmp_path / "page.png"))
        slider = browser.find_element(By.CSS_SELECTOR, "input[type=number]")
        browser.execute_script(
            "arguments[0].value = 1; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
            "arguments[0].dispatchEvent(new Event('change', {bubbles: true}));",
            slider,
        )
        wait.until(lambda page: page.find_element(By.ID, "summary").text.startswith("0 detections"))
    finally:
        if browser is not None:
            browser.quit()
        server.terminate()
        server.wait(timeout=30)


def wait_for_server(address: str, server: subprocess.Popen) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")
