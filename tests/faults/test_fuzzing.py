"""Fuzzing of readers: for any file content, a reader returns a valid result or raises a DeimError that names the file.

``DEIM_FUZZING=2000`` runs 2000 random examples of each test; by default, the examples are few and fixed.
"""

import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deim.checkpoint.detectron2_pickle import read_detectron2_pickle
from deim.checkpoint.reading import read_checkpoint, read_weights
from deim.checkpoint.run_checkpointer import describe_damage
from deim.config import load_config
from deim.data.datasets.discovery import discover
from deim.data.image import image_size, read_image
from deim.data.instance_fields import InstanceFields
from deim.data.records import annotation_arrays
from deim.engine.hooks.metrics import truncate_metrics
from deim.errors import DatasetError, DeimError
from tests.commands import RECIPE
from tests.data.layouts import LAYOUTS
from tests.data.test_datasets import FORMATS
from tests.faults import test_bad_masks

EXAMPLES = int(os.environ.get("DEIM_FUZZING", "15"))
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="DEIM_FUZZING" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)

# (position as a fraction of the file, operation, bytes)
edit_lists = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["replace", "insert", "delete", "cut"]), st.binary(max_size=12)),
    min_size=1,
    max_size=6,
)


def outcome(action: Callable) -> object:
    """Return the result of an action, or the DeimError that it raises; other errors are raised."""
    try:
        return action()
    except DeimError as error:
        return error


def corrupt(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    for share, what, data in edits:
        position = int(share * len(content))
        if what == "cut":
            content = content[:position]
        elif what == "insert":
            content = content[:position] + data + content[position:]
        else:
            content = content[:position] + (data if what == "replace" else b"") + content[position + len(data) :]
    return content


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_image_files(kind: str, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / f"a.{kind.lower()}"
    pixels = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)
    valid = path.read_bytes()

    @fuzzed
    @given(edit_lists)
    def check(edits: list) -> None:
        path.write_bytes(corrupt(valid, edits))
        for read in (read_image, image_size):
            result = outcome(lambda read=read: read(str(path)))
            if isinstance(result, DeimError):
                assert str(path) in str(result)
            else:
                assert isinstance(result, tuple) or (result.dtype == np.uint8 and result.shape[2:] == (3,))

    check()


FILES = {
    "coco": "train.json",
    "voc": "Annotations/0.xml",
    "yolo": "labels/train/0.txt",
    "crowdhuman": "annotation_train.odgt",
}


def check_annotations(name: str, file: str, root: Path, content: st.SearchStrategy, change: Callable) -> None:
    read, write = FORMATS[name]
    source = write(root)
    path = root / file
    valid = path.read_bytes()

    @fuzzed
    @given(content)
    def check(value: object) -> None:
        path.write_bytes(change(valid, value))
        records = outcome(lambda: read(tempfile.mktemp(), **source))  # a new dataset name for each call
        if isinstance(records, DeimError):
            assert str(root) in str(records)
            return
        for record in records:
            boxes, classes = annotation_arrays(record)
            assert np.isfinite(boxes).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert len(boxes) == len(classes)

    check()


@pytest.mark.parametrize("name", FILES)
def test_corrupted_annotations(name: str, tmp_path: Path) -> None:
    check_annotations(name, FILES[name], tmp_path, edit_lists, corrupt)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=8,
)


def replace_json_value(valid: bytes, drawn: tuple[int, object]) -> bytes:
    """Replace or remove a value in the first line of JSON."""
    lines = valid.decode().splitlines()
    content = json.loads(lines[0])
    draw = random.Random(drawn[0])
    node = content
    while True:
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        inner = node[key]
        if draw.random() < 0.3 or not isinstance(inner, dict | list) or not inner:
            break
        node = inner
    if drawn[1] is None:
        del node[key]
    else:
        node[key] = drawn[1]
    return "\n".join([json.dumps(content), *lines[1:]]).encode()


other_values = st.tuples(st.integers(0, 10**9), json_values)
segmentations = st.lists(st.lists(st.floats(-200, 300), min_size=6, max_size=8), max_size=3) | st.fixed_dictionaries(
    {
        "size": st.just([60, 100]),
        "counts": st.lists(st.integers(0, 6000), max_size=5) | st.text("0123OPab`o", max_size=9),
    }
)


@pytest.mark.parametrize("name", ["coco", "crowdhuman"])
def test_replaced_json_values(name: str, tmp_path: Path) -> None:
    check_annotations(name, FILES[name], tmp_path, other_values, replace_json_value)


@pytest.mark.parametrize("reader", ["coco", "export"])
@pytest.mark.parametrize("field", ["masks", "keypoints"])
def test_masks_and_keypoints(field: str, reader: str, tmp_path: Path) -> None:
    """What a reader accepts, a mapper can use."""
    source = test_bad_masks.write(tmp_path)
    path = Path(source["json_file"])
    valid = path.read_bytes()
    is_masks = field == "masks"
    fields = InstanceFields(masks=is_masks, keypoints=not is_masks, keypoint_hflip_indices=[1, 0])

    @fuzzed
    @given(
        st.tuples(st.just(corrupt), edit_lists)
        | st.tuples(st.just(replace_json_value), other_values | st.tuples(st.integers(0, 10**9), segmentations))
    )
    def check(change: tuple[Callable, object]) -> None:
        path.write_bytes(change[0](valid, change[1]))
        records = outcome(lambda: test_bad_masks.read(tmp_path, reader, source, **{field: True}))
        if isinstance(records, DeimError):
            assert str(tmp_path) in str(records)
            return
        compact = fields.compact(records)
        for index, record in enumerate(records):
            shapes = fields.shapes(compact[index], (record["height"], record["width"]))
            assert len(shapes) == len(annotation_arrays(record)[0])
            is_kept = np.ones(len(shapes), bool)
            if is_masks:
                assert shapes.bitmasks(is_kept, (60, 100)).shape == (len(is_kept), 60, 100)
            else:
                assert np.isfinite(shapes.keypoints(is_kept, (60, 100))).all()

    check()


# {annotation tool and format: files that describe the dataset or an image}
EXPORTS = {
    "CVAT, COCO 1.0": ["annotations/instances_default.json"],
    "CVAT, YOLO 1.1": ["obj.data", "obj.names", "train.txt", "obj_train_data/0.txt"],
    "CVAT, Pascal VOC 1.1": ["labelmap.txt", "ImageSets/Main/default.txt"],
    "CVAT, CVAT for images 1.1": ["annotations.xml"],
    "Label Studio, COCO": ["result.json"],
    "LabelImg, Pascal VOC": ["0.xml"],
    "LabelImg, YOLO": ["classes.txt", "1.txt"],
    "Roboflow, COCO": ["train/_annotations.coco.json"],
    "Roboflow, YOLO": ["data.yaml"],
    "labelme": ["0.json"],
    "Supervisely": ["meta.json", "ds0/ann/0.jpg.json"],
    "VIA, JSON": ["via_export_json.json"],
    "VIA, CSV": ["via_export_csv.csv"],
    "Open Images": ["train-annotations-bbox.csv", "class-descriptions-boxable.csv"],
}


@pytest.mark.parametrize(("tool", "file"), [(tool, file) for tool, files in EXPORTS.items() for file in files])
def test_corrupted_exports_of_annotation_tools(tool: str, file: str, tmp_path: Path) -> None:
    """Change a file before the dataset is detected, and between detection and reading."""
    LAYOUTS[tool][0](tmp_path)
    path = tmp_path / file
    valid, before = path.read_bytes(), discover(str(tmp_path))
    is_json = path.suffix == ".json"

    @fuzzed
    @given(
        st.tuples(st.just(corrupt), edit_lists)
        | (st.tuples(st.just(replace_json_value), other_values) if is_json else st.nothing())
    )
    def check(change: tuple[Callable, object]) -> None:
        path.write_bytes(change[0](valid, change[1]))
        after = outcome(lambda: discover(str(tmp_path)))
        if isinstance(after, DeimError):
            assert str(tmp_path) in str(after)
        for dataset in (before, after):
            if isinstance(dataset, DeimError):
                continue
            records = outcome(lambda dataset=dataset: dataset.train.read(tempfile.mktemp(), **dataset.train.arguments))
            if isinstance(records, DeimError):
                assert str(tmp_path) in str(records)
                continue
            for record in records:
                boxes, classes = annotation_arrays(record)
                assert np.isfinite(boxes).all()
                assert (boxes[:, 2:] > boxes[:, :2]).all()
                assert len(boxes) == len(classes)

    check()


@pytest.mark.parametrize("tool", EXPORTS)
def test_truncated_exports_are_named_in_the_error(tool: str, tmp_path: Path) -> None:
    LAYOUTS[tool][0](tmp_path)
    path = tmp_path / EXPORTS[tool][-1]
    split = discover(str(tmp_path)).train
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    cut = outcome(lambda: split.read(tempfile.mktemp(), **split.arguments))
    if path.suffix in (".json", ".xml"):
        assert isinstance(cut, DatasetError)
        assert path.name in str(cut)


def test_corrupted_yolo_data_file(tmp_path: Path) -> None:
    check_annotations("yolo", "data.yaml", tmp_path, edit_lists, corrupt)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.pkl"])
def test_checkpoints(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    weights = {"backbone.weight": torch.arange(300.0), "head.bias": torch.ones(3)}
    if name == "a.safetensors":
        from safetensors.torch import save_file

        save_file(weights, path)
    elif name == "a.pkl":
        import pickle

        path.write_bytes(pickle.dumps({"model": {key: value.numpy() for key, value in weights.items()}}))
        assert set(read_detectron2_pickle(str(path))["model"]) == set(weights)
    else:
        torch.save({"model": weights, "iteration": 3}, path)
    valid = path.read_bytes()

    @fuzzed
    @given(edit_lists)
    def check(edits: list) -> None:
        path.write_bytes(corrupt(valid, edits))
        describe_damage(str(path))
        for read in (read_checkpoint, read_weights):
            result = outcome(lambda read=read: read(str(path)))
            assert not isinstance(result, DeimError) or str(path) in str(result)

    check()


@fuzzed
@given(st.text(max_size=12), st.sampled_from(["=", ":", ".", "", "=${", "=[", "+"]), st.text(max_size=12))
def test_overrides(key: str, between: str, value: str) -> None:
    for start in ("", "train.", "optimizer.lr", "model.decoder."):
        result = outcome(lambda start=start: load_config(RECIPE, [start + key + between + value]))
        assert str(result)


def test_truncated_metrics_files(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) + "\n" for i in range(5)]

    @fuzzed
    @given(st.integers(0, 180), st.integers(0, 6), st.binary(max_size=5))
    def check(position: int, iteration: int, more: bytes) -> None:
        content = "".join(lines).encode()
        path.write_bytes(content[:position] + more)
        truncate_metrics(str(path), iteration)
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)
        assert kept == lines[: len(kept)]
        whole_lines = position // len(lines[0])  # plus one, if the appended bytes complete a line
        assert min(iteration, whole_lines) <= len(kept) <= min(iteration, whole_lines + 1, 5)

    check()
