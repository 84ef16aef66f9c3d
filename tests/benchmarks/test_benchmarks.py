"""Benchmarks run, print their results and write them as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO as FastCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks import dataloader, evaluator, fidelity, official_code
from deim.errors import ConfigError
from deim.fallback import is_standalone
from deim.measurement import complexity
from tests.commands import tool


def test_dataloader_benchmark(shapes: Path) -> None:
    arguments = [f"--json-file={shapes}/annotations/instances_train.json", f"--image-root={shapes}/train"]
    process = tool("benchmark.py", "dataloader", *arguments, "--batches=1", "--image-cache=0.1")
    assert process.returncode == 0, process.stderr
    table = [[cell.strip() for cell in line.split("|")] for line in process.stdout.splitlines() if line.startswith("|")]
    rows = {(cells[1], cells[2]): cells for cells in table}
    for stage in ("mosaic + mixup", "single images"):
        for loader in ("deim", "deim, image cache"):
            assert float(rows[stage, loader][3]) > 1
            assert float(rows[stage, loader][5]) > 1


def test_invalid_peer_is_an_error(shapes: Path, tmp_path: Path) -> None:
    arguments = [f"--json-file={shapes}/annotations/instances_train.json", f"--image-root={shapes}/train"]
    process = tool("benchmark.py", "dataloader", *arguments, "--batches=1", f"--peer={tmp_path}")
    assert process.returncode == 2
    assert "is not a checkout of the official DEIM code" in process.stderr
    assert "Traceback" not in process.stderr
    assert tool("benchmark.py", "dataloader", "--image-root=x").returncode == 2


def test_only_annotated_images_are_measured(tmp_path: Path) -> None:
    json_file, image_root = dataloader.write_images(tmp_path, count=2)
    (tmp_path / "images" / "folder").mkdir()
    paths = dataloader.image_files(json_file, image_root)
    assert [path.name for path in paths] == ["000000.jpg", "000001.jpg"]
    assert min(dataloader.decode_rates(paths, seconds=0.01).values()) > 0


@pytest.mark.parametrize("measurement", ["latency", "attention"])
def test_unavailable_device_is_an_error(measurement: str) -> None:
    process = tool("benchmark.py", measurement, "--device=tpu")
    assert process.returncode == 2
    assert "device 'tpu' is not available" in process.stderr


def test_memory_benchmark() -> None:
    process = tool("benchmark.py", "memory", "--images=3000")
    assert process.returncode == 0, process.stderr
    assert "deim's arrays" in process.stdout


def test_criterion_benchmark() -> None:
    process = tool("benchmark.py", "criterion", "--rounds=1")
    if is_standalone("detrex"):
        assert process.returncode == 2
        assert "needs checkouts of detectron2 and detrex on PYTHONPATH" in process.stderr
    else:
        assert process.returncode == 0, process.stderr
        assert "| 4 x 20 " in process.stdout


@pytest.mark.parametrize(
    ("recipe", "path"),
    [
        ("deim_dfine/deim_dfine_n_coco", "deim_dfine/deim_hgnetv2_n_coco.yml"),
        ("dfine/dfine_x_coco", "deim_dfine/dfine_hgnetv2_x_coco.yml"),
        ("deim_rtdetrv2/deim_rtdetrv2_r50vd_m_60e_coco", "deim_rtdetrv2/deim_r50vd_m_60e_coco.yml"),
        ("rtdetrv2/rtdetrv2_r18vd_120e_coco", "deim_rtdetrv2/rtdetrv2_r18vd_120e_coco.yml"),
    ],
)
def test_official_config_path(recipe: str, path: str) -> None:
    assert official_code.config_path(recipe) == f"configs/{path}"


@pytest.mark.parametrize("recipe", ["deim_dfine/deim_dfine_n_shapes", "dn_detr/dn_detr_r50_50ep_coco"])
def test_recipe_without_official_config_is_an_error(recipe: str) -> None:
    with pytest.raises(ConfigError, match=f"has no config for {recipe}"):
        official_code.config_path(recipe)


def test_verify_requires_official_checkout(shapes: Path, tmp_path: Path) -> None:
    data = ["--json-file", f"{shapes}/annotations/instances_val.json", "--image-root", f"{shapes}/val"]
    process = tool("verify.py", "--peer", str(tmp_path), *data)
    assert process.returncode == 2
    assert "is not a checkout of the official DEIM code" in process.stderr


def test_load_samples(shapes: Path) -> None:
    annotations = f"{shapes}/annotations/instances_val.json"
    samples = fidelity.load_samples(annotations, f"{shapes}/val", size=96, count=2)
    assert [tuple(sample["image"].shape) for sample in samples] == [(3, 96, 96)] * 2
    pixels, targets = fidelity._official_batch(samples)
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert all(((target["boxes"] > 0) & (target["boxes"] < 1)).all() for target in targets)
    with pytest.raises(ConfigError, match="images with objects, 1000 are needed"):
        fidelity.load_samples(annotations, f"{shapes}/val", size=96, count=1000)


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        ("attention --rounds=1 --cases=1", {"case", "direction", "run", "min ms", "/ torch", "error"}),
        ("evaluator --images=20 --detections=10", {"evaluation", "s", "speedup", "AP"}),
        ("latency --recipe={recipe} --size=320 --rounds=1", {"recipe", "run", "min ms", "median ms"}),
        pytest.param(
            "export --recipe={recipe} --size=128 --rounds=1",
            {"recipe", "run", "min ms", "median ms"},
            marks=pytest.mark.long,
        ),
        ("kernels --recipe={recipe} --size=320 --images=1 --objects=2 --rounds=1", {"kernels", "ms", "share"}),
        ("model --recipe={recipe} --size 128 128", {"part", "M parameters", "M deployed", "GFLOPs"}),
        pytest.param(
            "train-step --recipe={recipe} --size=320 --images=1 --objects=2 --rounds=1 "
            "--with=train.activation_checkpointing=[backbone]",
            {"run", "step, ms", "forward, ms", "criterion, ms", "backward, ms", "update, ms", "memory, MiB"},
            marks=pytest.mark.long,
        ),
    ],
)
def test_results_are_printed_and_saved(command: str, columns: set[str], tmp_path: Path) -> None:
    arguments = command.format(recipe="deim_dfine/deim_dfine_n_shapes").split()
    process = tool("benchmark.py", *arguments, f"--json={tmp_path / 'kept.json'}")
    assert process.returncode == 0, process.stderr
    saved = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert saved["machine"]["GEMM GFLOP/s"] > 1
    for row in saved["rows"]:
        assert columns <= row.keys()
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert all(value >= 0 for value in numbers)
        assert any(value > 0 for value in numbers)
    assert all(column in process.stdout for column in columns)


@pytest.mark.parametrize(
    ("size", "millions", "giga", "fusions"),
    [("n", 4, 7, [(128, 40)]), ("s", 10, 25, [(256, 40), (256, 80)]), ("m", 19, 57, [(256, 40), (256, 80)])],
)
def test_parameters_and_flops_match_published_values(
    size: str, millions: int, giga: int, fusions: list[tuple[int, int]]
) -> None:
    """The official model upsamples a feature map before the convolution of a fusion block, this package afterwards.

    This saves three quarters of the operations of that convolution on the coarser map, at these widths and sides.
    """
    whole = complexity.count(f"dfine/dfine_{size}_coco", (640, 640))[0]
    assert whole["M parameters"] == pytest.approx(millions, abs=0.6)
    saved = sum(0.75 * width * 2 * width * side**2 for width, side in fusions) / 1e9
    assert round(whole["GFLOPs"] + 2 * saved) == giga


def test_number_of_random_detections() -> None:
    dataset = evaluator.random_dataset(3, 7)
    assert [len(evaluator.random_detections(dataset, count)) for count in (5, 7, 9)] == [15, 21, 27]


def test_evaluators_agree() -> None:
    dataset = evaluator.random_dataset(30, 5)
    detections = evaluator.random_detections(dataset, 20)
    _, pycocotools_metrics = evaluator.evaluate(dataset, [dict(detection) for detection in detections], COCO, COCOeval)
    _, faster_metrics = evaluator.evaluate(
        dataset, [dict(detection) for detection in detections], FastCOCO, COCOeval_faster
    )
    assert pycocotools_metrics[0] > 0.1
    assert np.abs(faster_metrics - pycocotools_metrics).max() < 1e-9
