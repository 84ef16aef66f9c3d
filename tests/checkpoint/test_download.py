"""Weights are downloaded once, completely, from every host that authors publish them on."""

import io
import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deim.checkpoint import download, pretrained
from deim.checkpoint.download import fetch, local_path, to_web_url
from deim.config import published
from deim.errors import CheckpointError
from deim.modeling import backbone
from tests.conftest import ROOT
from tests.web import File, Web, redirect

GITHUB = "https://github.com/Peterande/storage/releases/download/dfinev1.0/dfine_s_coco.pth"
HUGGING_FACE = "https://huggingface.co/someone/detector/resolve/main/model.pth"
DRIVE = "https://drive.google.com/file/d/1tB8gVJNrfb6dhFvoHJECKOF5VpkthhfC/view"

PUBLISHED_FILES = [
    (builder, file)
    for builder, description in pretrained.descriptions().items()
    if builder in backbone.__all__
    for file in description.files
]


def weights(size: int = 200_000) -> bytes:
    file = io.BytesIO()
    torch.save({"model": {"weight": torch.arange(size // 4, dtype=torch.float32)}}, file)
    return file.getvalue()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_RETRIES", 0)
    with Web().running() as web, redirect(web.port):
        yield web


@pytest.mark.parametrize("url", [GITHUB, HUGGING_FACE, DRIVE], ids=["GitHub", "Hugging Face", "Google Drive"])
def test_weights_are_downloaded_once(url: str, web: Web, tmp_path: Path) -> None:
    content, final = weights(), url
    if url != DRIVE:
        final = "https://storage.example.com/a-signed-address"
        web.files[url] = File(moved_to=final)
    web.files[final] = File(content)
    target = tmp_path / "kept" / "weights.pth"
    assert fetch(url, target).read_bytes() == content
    count = len(web.requests)
    fetch(url, target)
    assert len(web.requests) == count
    assert {path.name for path in target.parent.iterdir()} <= {"weights.pth", "weights.pth.lock"}


def test_downloads_are_stored_in_the_iopath_cache(web: Web, tmp_path: Path) -> None:
    web.files["https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/torchvision/R-50.pkl"] = File(weights())
    path = local_path("detectron2://ImageNetPretrained/torchvision/R-50.pkl?matching_heuristics=True")
    assert path == str(tmp_path / "cache" / "detectron2" / "ImageNetPretrained" / "torchvision" / "R-50.pkl")
    assert local_path("model.pth") == "model.pth"


def test_query_is_part_of_the_file_name_only_if_it_selects_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "fetch", lambda url, target: target)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for query in ("id=1", "id=2"):
        assert local_path(f"https://drive.google.com/uc?{query}") == str(tmp_path / f"uc?{query}")
    url = "https://huggingface.co/model.safetensors?download=true"
    assert local_path(url) == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_interrupted_download_is_resumed(has_ranges: bool, web: Web, tmp_path: Path) -> None:
    """If the server does not support ranges, the download starts again."""
    content = weights(2_000_000)
    web.files[GITHUB] = File(content, breaks_after=1_500_000, has_ranges=has_ranges)
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch(GITHUB, tmp_path / "weights.pth")
    assert not (tmp_path / "weights.pth").exists()
    assert fetch(GITHUB, tmp_path / "weights.pth").read_bytes() == content
    ranges = [headers["Range"] for _, headers in web.requests if "Range" in headers]
    assert ranges == [f"bytes={2**20}-"], "the complete blocks of 1 MiB are kept"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (File(b"<!DOCTYPE html><html>Please log in</html>"), "is a web page and not a weights file"),
        (File(b"some text" * 100), "is not a weights file"),
        (File(weights()[:-100] + b"\0" * 100), "is damaged"),
        (None, "the server responded with 404"),
    ],
    ids=["page", "text", "damaged", "nothing"],
)
def test_invalid_file_is_not_cached(file: File | None, reason: str, web: Web, tmp_path: Path) -> None:
    if file is not None:
        web.files[GITHUB] = file
    with pytest.raises(CheckpointError, match=reason) as error:
        fetch(GITHUB, tmp_path / "weights.pth")
    assert GITHUB in str(error.value)
    assert f"save it as {tmp_path / 'weights.pth'}" in str(error.value)
    assert not list(tmp_path.glob("weights.pth*[!k]"))  # except for the lock file


def test_error_without_a_network_explains_manual_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "_RETRIES", 0)
    with redirect(0), pytest.raises(CheckpointError) as error:
        pretrained.backbone_weights_path("imagenet", "HGNetV2", "B0")
    message = str(error.value)
    assert "PPHGNetV2_B0_stage1.pth cannot be downloaded: no connection to the server" in message
    assert f"save it as {tmp_path / 'deim' / 'PPHGNetV2_B0_stage1.pth'}" in message
    assert "model.backbone.weights=''" in message


def _fetch_concurrently(port: int, target: Path, barrier) -> None:
    with redirect(port):
        barrier.wait()
        assert fetch(GITHUB, target).stat().st_size > 1_000_000


def test_concurrent_processes_download_once(tmp_path: Path) -> None:
    with Web({GITHUB: File(weights(4_000_000))}).running() as web:
        context = multiprocessing.get_context("fork")
        barrier = context.Barrier(8)
        processes = [
            context.Process(target=_fetch_concurrently, args=(web.port, tmp_path / "weights.pth", barrier))
            for _ in range(8)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
    assert [process.exitcode for process in processes] == [0] * 8
    assert web.count(GITHUB) == 1


def test_dfine_weights_replace_unavailable_deim_weights(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    (relative,) = [
        published_file
        for published_file in published.published_for("dfine/dfine_s_coco")
        if published_file.data == "coco"
    ]
    web.files[relative.url] = File(weights())
    with caplog.at_level(logging.WARNING):
        assert published.initial_weights_path("deim_dfine/deim_dfine_s_coco", "coco") == str(relative.path)
    assert "Training starts from dfine/dfine_s_coco (D-FINE of the same size) instead" in caplog.text
    # For prediction, D-FINE does not replace DEIM: its predictions differ.
    with pytest.raises(CheckpointError, match=r"is hosted elsewhere: use the recipe dfine/dfine_s_coco"):
        published.weights_path("deim_dfine/deim_dfine_s_coco", "coco")
    with pytest.raises(CheckpointError, match=r"cannot be downloaded.* save it as "):
        published.initial_weights_path("deim_rtdetrv2/deim_rtdetrv2_r18vd_120e_coco", "coco")


def test_training_with_masks_starts_from_the_weights_for_boxes(web: Web) -> None:
    web.files[DRIVE] = File(weights())
    path = published.initial_weights_path("deim_dfine/deim_dfine_s_masks_coco", "coco")
    assert path == published.initial_weights_path("deim_dfine/deim_dfine_s_coco", "coco")
    # For prediction, the weights for boxes lack the masks.
    with pytest.raises(CheckpointError, match="no weights 'coco' are published for deim_dfine/deim_dfine_s_masks_coco"):
        published.weights_path("deim_dfine/deim_dfine_s_masks_coco", "coco")


def test_deim_weights_are_preferred_if_available(web: Web) -> None:
    web.files[DRIVE] = File(weights())
    for get_path in (published.initial_weights_path, published.weights_path):
        assert get_path("deim_dfine/deim_dfine_s_coco", "coco").endswith("deim_dfine_s_coco.pth")


@pytest.mark.parametrize(
    "published_file",
    [published_file for _, published_file in PUBLISHED_FILES],
    ids=[f"{builder}-{file.size}-{file.data}" for builder, file in PUBLISHED_FILES],
)
def test_pixel_statistics_follow_from_the_file_name(published_file: pretrained.PretrainedBackbone) -> None:
    assert pretrained.pixel_statistics_for(published_file.path.name, {}) == published_file.pixels
    assert published_file.url.startswith(("https://", "detectron2://"))


def test_unknown_backbone_weights_list_the_available_names() -> None:
    with pytest.raises(CheckpointError, match=r"'imagenet22k' are known for HGNetV2\('B0'\) \(known: imagenet\)"):
        pretrained.backbone_weights_path("imagenet22k", "HGNetV2", "B0")


def test_docs_list_all_pretrained_backbones() -> None:
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    for builder, published_file in PUBLISHED_FILES:
        pixels = "ImageNet" if published_file.pixels == pretrained.IMAGENET else "[0, 1]"
        file, url = published_file.path.name, to_web_url(published_file.url)
        assert f"| `{builder}` | {published_file.size} | `{published_file.data}` | [{file}]({url}) | {pixels} |" in page
