"""Benchmarks run and print what they measured."""

from pathlib import Path

from deim.fallback import is_standalone
from tests.test_train_net import tool


def test_the_loader_is_measured(shapes: Path) -> None:
    source = [f"--json-file={shapes}/annotations/instances_train.json", f"--image-root={shapes}/train"]
    done = tool("benchmark.py", "dataloader", *source, "--batches=1")
    assert done.returncode == 0, done.stderr
    rows = {
        cells[1].strip(): cells for cells in (line.split("|") for line in done.stdout.splitlines()) if len(cells) > 5
    }
    for stage in ("mosaic + mixup", "neither"):
        assert float(rows[stage][2]) > 1
        assert float(rows[stage][5]) > 1


def test_a_peer_that_is_none_is_refused(shapes: Path, tmp_path: Path) -> None:
    source = [f"--json-file={shapes}/annotations/instances_train.json", f"--image-root={shapes}/train"]
    done = tool("benchmark.py", "dataloader", *source, "--batches=1", f"--peer={tmp_path}")
    assert done.returncode == 2
    assert "is no checkout of the official DEIM code" in done.stderr
    assert "Traceback" not in done.stderr
    assert tool("benchmark.py", "dataloader", "--image-root=x").returncode == 2


def test_memory_is_measured() -> None:
    done = tool("benchmark.py", "memory", "--images=3000")
    assert done.returncode == 0, done.stderr
    assert "deim's arrays" in done.stdout


def test_losses_are_measured_beside_detrex() -> None:
    done = tool("benchmark.py", "criterion", "--rounds=1")
    if is_standalone("detrex"):
        assert done.returncode == 2
        assert "put checkouts of detectron2 and detrex on PYTHONPATH" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "| 4 x 20 " in done.stdout
