"""User errors produce one clear message."""

import json
from pathlib import Path

import pytest
import torch

from tests.commands import RECIPE, data_overrides, tool, train_net
from tests.conftest import ROOT


def expect_error(done) -> str:
    """Assert that a run failed with status 2, one message and no traceback, and return the message."""
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    # The real detectron2 and detrex may print deprecation warnings before the message.
    _, separator, message = done.stderr.partition("error: ")
    assert separator
    return message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.max_itr=5"], "unknown key 'train.max_itr'"),
        (["modle.num_classes=5"], "unknown key 'modle.num_classes'"),
        (["train.max_iter"], "write key=value"),
        (["train.max_iter=[1,"], "cannot be applied"),
        (["dataloader.train.dataset.image_root=/nowhere"], "image folder /nowhere does not exist"),
        (["dataloader.train.dataset.json_file=/nowhere.json"], "annotation file /nowhere.json does not exist"),
        (["dataloader.test.dataset.json_file=/nowhere.json"], "annotation file /nowhere.json does not exist"),
        (["model.num_classes=80"], "set model.num_classes=6"),
        (["train.init_checkpoint=/nowhere.pth"], "train.init_checkpoint=/nowhere.pth does not exist"),
        (["--eval-only"], "no weights to evaluate"),
        (["train.amp.enabled=true", "train.amp.dtype=float7"], "float7"),
        (["train.accumulation_steps=0"], "accumulation_steps must be at least 1"),
        (["--num-gpus=0"], "--num-gpus must be at least 1"),
        (["schedule.flat_epochs=999"], "do not fit"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_settings(shapes: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    assert message in expect_error(train_net(shapes, tmp_path, *overrides))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nowhere.py", "config file nowhere.py does not exist"),
        ("README.md", "config file README.md cannot be loaded"),
        ("configs/common/train.py", "config file configs/common/train.py is not a complete recipe"),
        ("", "no config given"),
    ],
)
def test_wrong_config_files(path: str, expected: str) -> None:
    assert expect_error(tool("train_net.py", "--config-file", path)).startswith(expected)


def test_invalid_config_file_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("from .missing import model\n")
    assert "missing.py does not exist" in expect_error(tool("train_net.py", "--config-file", str(broken)))
    broken.write_text("train = dict(\n")
    assert "syntax error" in expect_error(tool("train_net.py", "--config-file", str(broken)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not in COCO format"),
        ({"images": [], "annotations": [], "categories": []}, "no entries in categories and images"),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "no entries in images"),
        (
            {
                "images": [{"id": 1, "file_name": "000000.jpg", "height": 96, "width": 96}],
                "annotations": [],
                "categories": [{"id": 1, "name": "a"}],
            },
            "images but no annotations",
        ),
        (
            {
                "images": [{"id": 1, "file_name": "000000.jpg", "height": 96, "width": 96}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [1, 1, 5, 5], "iscrowd": 0}],
                "categories": [{"id": 1, "name": "a"}],
            },
            "category_id",
        ),
    ],
    ids=["truncated", "list", "no categories", "no images", "no annotations", "unknown category"],
)
def test_wrong_annotation_files(shapes: Path, tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    done = train_net(shapes, tmp_path / "out", f"dataloader.train.dataset.json_file={path}")
    text = expect_error(done)
    assert message in text
    assert str(path) in text


def test_error_names_the_unreadable_image(shapes: Path, tmp_path: Path) -> None:
    for image in (shapes / "train").iterdir():
        (tmp_path / image.name).write_bytes(image.read_bytes()[:100])
    done = train_net(shapes, tmp_path / "out", f"dataloader.train.dataset.image_root={tmp_path}", "train.max_iter=1")
    assert f"cannot read image {tmp_path}" in expect_error(done)


def test_checkpoints_that_do_not_fit(shapes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"model": {"weight": torch.zeros(3)}}, other)
    for name, expected in (("other.pth", "does not fit the model"), ("text.pth", "cannot be read as a checkpoint")):
        for flags in ([], ["--eval-only"]):
            done = train_net(shapes, tmp_path / "out", *flags, f"train.init_checkpoint={tmp_path / name}")
            message = expect_error(done)
            assert expected in message
            assert name in message


@pytest.mark.usefixtures("several_processes")
def test_error_with_several_ranks(shapes: Path, tmp_path: Path) -> None:
    done = train_net(shapes, tmp_path, "--num-gpus=2", "--dist-url=auto", "model.num_classes=80")
    assert "set model.num_classes=6" in done.stderr
    assert done.returncode == 2


def test_errors_of_other_tools(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}\n")
    assert "does not exist" in expect_error(tool("plot_metrics.py", "/nowhere.json", str(tmp_path / "a.png")))
    assert "no total_loss" in expect_error(tool("plot_metrics.py", f"{tmp_path}/metrics.json", str(tmp_path / "a.png")))
    done = tool(
        "draw_predictions.py", "--config-file", RECIPE, "--output", str(tmp_path / "a.png"), *data_overrides(shapes)
    )
    assert "no weights to evaluate" in expect_error(done)


def test_recipe_exists() -> None:
    assert (ROOT / RECIPE).is_file()
