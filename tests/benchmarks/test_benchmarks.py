"""Benchmarks run, print their results and write them as JSON."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detrex.layers import box_cxcywh_to_xyxy
from faster_coco_eval import COCO as FastCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks import dataloader, evaluator, fidelity, official_code, training
from benchmarks.augmentation import AUGMENTATIONS, recipe_augmentation
from deim.config import build, load_config
from deim.config.files import available
from deim.errors import ConfigError
from deim.fallback import is_standalone
from deim.measurement import complexity
from tests.commands import tool


@pytest.mark.long
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
    assert "is not a checkout of the official DEIM, DEIMv2 or EdgeCrafter code" in process.stderr
    assert "Traceback" not in process.stderr


def test_image_root_without_json_file_is_an_error() -> None:
    process = tool("benchmark.py", "dataloader", "--image-root=x")
    assert process.returncode == 2
    assert "give both --json-file and --image-root, or neither" in process.stderr


def test_only_annotated_images_are_measured(tmp_path: Path) -> None:
    json_file, image_root = dataloader.write_images(tmp_path, count=2)
    (tmp_path / "images" / "folder").mkdir()
    paths = dataloader.image_files(json_file, image_root)
    assert [path.name for path in paths] == ["000000.jpg", "000001.jpg"]
    assert min(dataloader.decode_rates(paths, seconds=0.01).values()) > 0


@pytest.mark.parametrize(
    ("recipe", "field"), [("ecseg/ecseg_s_coco", "gt_masks"), ("ecpose/ecpose_s_coco", "gt_keypoints")]
)
def test_images_are_annotated_for_the_recipe(recipe: str, field: str, tmp_path: Path) -> None:
    options = {"masks": field == "gt_masks", "keypoints": field == "gt_keypoints"}
    json_file, image_root = dataloader.write_images(tmp_path, count=2, **options)
    (epoch, _) = dataloader.stage_epochs(recipe).values()
    batch = next(dataloader.our_batches(recipe, json_file, image_root, epoch, batch_size=2, num_workers=0))
    assert [sample["image"].shape for sample in batch] == [(3, 640, 640)] * 2
    shapes = {sample["instances"].get(field).tensor.shape[1:] for sample in batch}
    assert shapes == {(640, 640) if field == "gt_masks" else (17, 3)}


@pytest.mark.parametrize(("recipe", "size"), [("ecseg/ecseg_s_coco", 64), ("ecpose/ecpose_s_coco", 64)])
def test_random_batches_have_masks_or_keypoints(recipe: str, size: int) -> None:
    _, targets = training.random_batch(recipe, images=2, objects=3, size=size)
    for target in targets:
        boxes = box_cxcywh_to_xyxy(target["boxes"])
        if "masks" in target:
            assert target["masks"].shape == (3, size, size)
            rows, columns = (target["masks"].any(dim=dim).nonzero(as_tuple=True) for dim in (2, 1))
            assert (boxes[rows[0], 1] * size <= rows[1] + 1).all()
            assert (boxes[columns[0], 2] * size >= columns[1]).all()
            continue
        points, visibility = target["keypoints"].split((2, 1), dim=-1)
        assert set(visibility.unique().tolist()) == {0, 1}
        is_inside = (points >= boxes[:, None, :2] - 1e-6) & (points <= boxes[:, None, 2:] + 1e-6)
        assert (is_inside | (visibility == 0)).all()
        official = official_code.official_target(target)["keypoints"]
        assert official.shape == (3, 17 * 3)
        torch.testing.assert_close(official[:, :34], points.flatten(1))
        torch.testing.assert_close(official[:, 34:], visibility.flatten(1))


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


@pytest.fixture(params=[code.name for code in official_code.OFFICIAL_CODES])
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Name of an official code, and a folder with the configs of one recipe of each size in its repository."""
    configs = {
        "DEIM": ["deim_dfine/deim_hgnetv2_s_coco.yml", "deim_rtdetrv2/rtdetrv2_r18vd_120e_coco.yml"],
        "DEIMv2": [
            "deim_dfine/deim_hgnetv2_s_coco.yml",
            "deimv2/deimv2_dinov3_s_coco.yml",
            "deimv2/deimv2_hgnetv2_atto_coco.yml",
        ],
        "EdgeCrafter": ["ecdet/ecdet_s.yml", "ecdet/ecdet_x.yml"],
        "EdgeCrafter/ecpose": ["ecpose/ecpose_s_coco.yml", "ecpose/ecpose_m_coco.yml"],
    }
    for config in configs[request.param]:
        path = tmp_path / "configs" / config
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return request.param, tmp_path


def test_checkout_is_recognized(checkout: tuple[str, Path]) -> None:
    name, folder = checkout
    assert official_code.recognize_checkout(str(folder)).name == name
    recipes = {
        "DEIM": ["deim_dfine/deim_dfine_s_coco", "rtdetrv2/rtdetrv2_r18vd_120e_coco"],
        "DEIMv2": ["deimv2/deimv2_dinov3_s_coco", "deimv2/deimv2_hgnetv2_atto_coco"],
        "EdgeCrafter": ["ecdet/ecdet_s_coco", "ecdet/ecdet_x_coco"],
        "EdgeCrafter/ecpose": ["ecpose/ecpose_m_coco", "ecpose/ecpose_s_coco"],
    }
    assert official_code.official_recipes(str(folder)) == recipes[name]


@pytest.mark.parametrize(
    ("recipe", "path"),
    [
        ("deim_dfine/deim_dfine_n_coco", "deim_dfine/deim_hgnetv2_n_coco.yml"),
        ("dfine/dfine_x_coco", "deim_dfine/dfine_hgnetv2_x_coco.yml"),
        ("deim_rtdetrv2/deim_rtdetrv2_r50vd_m_60e_coco", "deim_rtdetrv2/deim_r50vd_m_60e_coco.yml"),
        ("rtdetrv2/rtdetrv2_r18vd_120e_coco", "deim_rtdetrv2/rtdetrv2_r18vd_120e_coco.yml"),
        ("deimv2/deimv2_dinov3_x_coco", "deimv2/deimv2_dinov3_x_coco.yml"),
        ("deimv2/deimv2_hgnetv2_femto_coco", "deimv2/deimv2_hgnetv2_femto_coco.yml"),
        ("ecdet/ecdet_l_coco", "ecdet/ecdet_l.yml"),
        ("ecpose/ecpose_l_coco", "ecpose/ecpose_l_coco.yml"),
    ],
)
def test_official_config_path(recipe: str, path: str, tmp_path: Path) -> None:
    code = next(code for code in official_code.OFFICIAL_CODES if recipe.partition("/")[0] in code.configs)
    for file in (code.marker, f"configs/{path}"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert official_code.config_path(str(tmp_path), recipe) == tmp_path / "configs" / path


@pytest.mark.parametrize("recipe", ["deim_dfine/deim_dfine_n_shapes", "dn_detr/dn_detr_r50_50ep_coco"])
def test_recipe_without_official_config_is_an_error(recipe: str, checkout: tuple[str, Path]) -> None:
    name, folder = checkout
    with pytest.raises(ConfigError, match=f"the official {name} code has no config for {recipe}$"):
        official_code.config_path(str(folder), recipe)


def test_recipe_of_the_other_official_code_is_an_error(checkout: tuple[str, Path], shapes: Path) -> None:
    name, folder = checkout
    recipe, other = {
        "DEIM": ("deimv2/deimv2_dinov3_s_coco", "DEIMv2"),
        "DEIMv2": ("deim_dfine/deim_dfine_s_coco", "DEIM"),
        "EdgeCrafter": ("ecpose/ecpose_s_coco", "EdgeCrafter/ecpose"),
        "EdgeCrafter/ecpose": ("deimv2/deimv2_dinov3_s_coco", "DEIMv2"),
    }[name]
    data = ["--json-file", f"{shapes}/annotations/instances_val.json", "--image-root", f"{shapes}/val"]
    process = tool("verify.py", "--peer", str(folder), *data, "--recipes", recipe)
    assert process.returncode == 2
    assert f"the official {name} code has no config for {recipe}: use a checkout of {other}" in process.stderr
    assert "Traceback" not in process.stderr


def test_incomplete_checkout_is_an_error(tmp_path: Path) -> None:
    marker = tmp_path / "configs/deimv2/deimv2_dinov3_s_coco.yml"
    marker.parent.mkdir(parents=True)
    marker.touch()
    with pytest.raises(ConfigError, match="does not contain configs/deimv2/deimv2_hgnetv2_n_coco"):
        official_code.config_path(str(tmp_path), "deimv2/deimv2_hgnetv2_n_coco")


@pytest.mark.parametrize("code", official_code.OFFICIAL_CODES, ids=lambda code: code.name)
def test_every_recipe_of_an_official_system_has_a_config(code: official_code.OfficialCode) -> None:
    recipes = [
        name
        for name in available()
        if name.partition("/")[0] in code.configs and name.endswith("_coco") and "_masks_" not in name
    ]
    assert len(recipes) == {"DEIM": 20, "DEIMv2": 12, "EdgeCrafter": 8, "EdgeCrafter/ecpose": 4}[code.name]
    paths = {code.config_path(recipe) for recipe in recipes}
    assert None not in paths
    assert len(paths) == len(recipes)


def test_poses_have_another_comparison(shapes: Path, tmp_path: Path) -> None:
    config = tmp_path / "configs/ecpose/ecpose_s_coco.yml"
    config.parent.mkdir(parents=True)
    config.touch()
    data = ["--json-file", f"{shapes}/annotations/instances_val.json", "--image-root", f"{shapes}/val"]
    process = tool("verify.py", "--peer", str(tmp_path), *data)
    assert process.returncode == 2
    assert f"run `python -m benchmarks.ecpose --peer {tmp_path}`" in process.stderr


def test_verify_requires_official_checkout(shapes: Path, tmp_path: Path) -> None:
    data = ["--json-file", f"{shapes}/annotations/instances_val.json", "--image-root", f"{shapes}/val"]
    process = tool("verify.py", "--peer", str(tmp_path), *data)
    assert process.returncode == 2
    assert "is not a checkout of the official DEIM, DEIMv2 or EdgeCrafter code" in process.stderr


def test_official_images_are_normalized() -> None:
    def config(*transforms: dict) -> SimpleNamespace:
        return SimpleNamespace(yaml_cfg={"train_dataloader": {"dataset": {"transforms": {"ops": list(transforms)}}}})

    pixels = torch.rand(2, 3, 4, 4)
    assert official_code.normalize_as_official(config({"type": "Resize"}), pixels) is pixels
    normalize = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    normalized = official_code.normalize_as_official(config({"type": "Resize"}, normalize), pixels)
    model = build(load_config("deimv2/deimv2_dinov3_s_coco", ["model.backbone.weights=null"]), "model")
    assert torch.allclose(normalized, model.normalize(pixels * 255), atol=1e-6)


def test_official_code_computes_in_the_default_dtype(double_precision: None) -> None:
    with official_code.in_default_dtype():
        assert torch.zeros(1, dtype=torch.float32).dtype == torch.float64
        assert torch.arange(3).float().dtype == torch.float64
    assert torch.arange(3).float().dtype == torch.float32


def test_augmentation_of_every_epoch() -> None:
    """The stages of DEIMv2-N: flips, Dense O2O with mixup and copy-blend, single images, flips."""
    epochs = recipe_augmentation(load_config("deimv2/deimv2_hgnetv2_n_coco"))
    assert len(epochs) == 160
    first, dense, single, last = (epochs[epoch] for epoch in (3, 4, 78, 148))
    assert first == last
    assert first.without_mosaic == {"RandomHorizontalFlip"}
    assert (first.mosaic_prob, first.mixup_prob, first.copy_blend_prob) == (0, 0, 0)
    assert (dense.mosaic_prob, dense.mixup_prob, dense.copy_blend_prob) == (0.5, 0.5, 0.4)
    assert dense.with_mosaic == {"RandomPhotometricDistort", "RandomHorizontalFlip"}
    assert single.without_mosaic == AUGMENTATIONS
    assert (single.mosaic_prob, single.mixup_prob, single.copy_blend_prob) == (0, 0, 0)
    assert {epoch.sides for epoch in epochs} == {(640,)}


def test_report_has_a_late_cost_only_for_deimv2() -> None:
    result = fidelity.Fidelity(
        outputs=1e-6,
        losses=1e-8,
        gradients=1e-6,
        thread_rounding=1e-6,
        late_losses=None,
        same_param_groups=False,
        augmentation_epochs=30,
        learning_rates=0.0,
        median_step=1e-7,
        max_step=1e-6,
    )
    table = fidelity.report({"recipe": result})
    assert "late cost" not in table
    assert "DIFFER" in table
    assert "30 epochs differ" in table
    assert "3e-08" in fidelity.report({"recipe": replace(result, late_losses=3e-8)})


def test_load_samples(shapes: Path) -> None:
    annotations = f"{shapes}/annotations/instances_val.json"
    samples = fidelity.load_samples(annotations, f"{shapes}/val", size=96, count=2)
    assert [tuple(sample["image"].shape) for sample in samples] == [(3, 96, 96)] * 2
    config = SimpleNamespace(yaml_cfg={"train_dataloader": {"dataset": {"transforms": {"ops": []}}}})
    pixels, targets = fidelity._official_batch(config, samples)
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
        pytest.param(
            "formats --recipe={recipe} --suffixes .pt2 .onnx --size=128 --rounds=1",
            {"recipe", "task", "run", "MiB", "found", "difference", "masks IoU", "reason"},
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
    process = tool("benchmark.py", *arguments, f"--json={tmp_path / 'results.json'}")
    assert process.returncode == 0, process.stderr
    saved = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert saved["machine"]["GEMM GFLOP/s"] > 1
    assert saved["rows"]
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
