"""Exports of annotation tools are detected and read as the same objects."""

import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import LazyCall
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig, OmegaConf
from pycocotools.coco import COCO

from deim.cli import main
from deim.data.dataset_statistics import check_dataset, find_image_problems
from deim.data.datasets import image_files
from deim.data.datasets.dataset_format import DiscoveredDataset, Split
from deim.data.datasets.discovery import discover
from deim.data.datasets.text import read_text
from deim.data.datasets.to_coco import write_coco
from deim.data.datasets.validation import DatasetContent, require_inside_folder
from deim.data.inspection import draw_training_batch
from deim.data.records import annotation_arrays, annotation_boxes
from deim.errors import ConfigError, DatasetError
from tests.data import layouts
from tests.data.layouts import LAYOUTS, write_coco_file, write_image, write_images, write_json, write_lines
from tests.data.test_datasets import CLASSES, OBJECTS, as_tensors


def read(split: Split | None, **more: Any) -> list[dict]:
    assert split is not None
    return split.read(names=f"{split.arguments}{more}", **split.arguments, **more)


def objects_by_image(records: list[dict], classes: Any) -> dict[str, list]:
    """Return the classes and rounded boxes of each image, by the number in its name."""
    return {
        Path(record["file_name"]).stem[-1]: [
            (classes[annotation["category_id"]], np.round(box, 3).tolist())
            for annotation, box in zip(record["annotations"], annotation_boxes(record["annotations"]), strict=True)
        ]
        for record in records
    }


def expected_objects(count: int = 3) -> dict[str, list]:
    return {str(i): [(CLASSES[label], box) for label, box in OBJECTS[i]] for i in range(count)}


def first_boxes(dataset: DiscoveredDataset) -> list:
    """Return the classes and boxes of the first training image."""
    records = read(dataset.train)
    return next(iter(objects_by_image(records, dataset.classes).values()))


@pytest.mark.parametrize("tool", LAYOUTS)
def test_exports_of_annotation_tools_are_read(tool: str, tmp_path: Path) -> None:
    write, kind, has_test, empty = LAYOUTS[tool]
    write(tmp_path)
    dataset = discover(str(tmp_path))
    assert (dataset.format, list(dataset.classes)) == (kind, list(CLASSES))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects(2 + empty)
    assert (dataset.test is not None) == has_test
    if has_test:
        assert objects_by_image(read(dataset.test), dataset.classes)["0"] == expected_objects()["0"]


@pytest.mark.parametrize("tool", LAYOUTS)
def test_conversion_to_coco_preserves_the_dataset(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / tmp_path.name  # datasets are registered by the name of their folder
    LAYOUTS[tool][0](data)
    options = ["--data", str(data), "--output", str(tmp_path / "check"), "--skip-images", "--images", "0"]
    # Drawing takes most of the time, and is tested elsewhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deim.data.dataset_statistics.draw_statistics", lambda *args: None)
        patch.setattr("deim.data.dataset_statistics.draw_objects", lambda *args, **options: None)
        assert main(["check-data", *options, "--to-coco", str(tmp_path / "coco")]) == 0
    output = capsys.readouterr().out
    assert f"{LAYOUTS[tool][1]}, 2 classes" in output
    root = output.rsplit("--image-root ", 1)[1].strip()
    converted, original = discover(str(tmp_path / "coco"), root), discover(str(data))
    assert converted.format == "COCO"
    assert list(converted.classes) == list(original.classes)
    for split in ("train", "test") if original.test else ("train",):
        records = [read(getattr(dataset, split)) for dataset in (converted, original)]
        assert objects_by_image(records[0], CLASSES) == objects_by_image(records[1], CLASSES)


@pytest.mark.parametrize(
    ("json_prefix", "disk_prefix"),
    [("images/", ""), ("images\\3ab1c2d4-", ""), ("/data/upload/1/3ab1c2d4-", "3ab1c2d4-")],
)
def test_label_studio_upload_prefixes(json_prefix: str, disk_prefix: str, tmp_path: Path) -> None:
    layouts.label_studio_coco(tmp_path, json_prefix, disk_prefix)
    dataset = discover(str(tmp_path))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects()


def test_image_folders_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lookup time grows linearly with the number of images."""
    for number in range(200):
        (tmp_path / f"{number}.jpg").touch()
    looked_at, listed = [], []
    listdir, is_image = os.listdir, image_files.is_image
    monkeypatch.setattr(image_files, "is_image", lambda path: looked_at.append(path) or is_image(path))
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    files = image_files.ImageFiles(tmp_path)
    for number in range(200):
        assert files.find_by_stem(str(number)) == files.find(f"{number}.jpg") == tmp_path / f"{number}.jpg"
    assert len(listed) == 1
    assert len(looked_at) <= 400


def test_assumptions_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "detectron2.deim")
    layouts.roboflow_coco(tmp_path / "a")
    assert any("ignoring the category 'pets'" in note for note in discover(str(tmp_path / "a")).notes)
    layouts.roboflow_yolo(tmp_path / "b")
    assert any("for ../train/images" in note for note in discover(str(tmp_path / "b")).notes)
    layouts.labelimg_voc(tmp_path / "c")
    dataset = discover(str(tmp_path / "c"))
    assert any("0-based pixel coordinates" in note for note in dataset.notes)
    read(dataset.train)
    assert "1 images in " in caplog.text
    assert "have no XML file and are left out" in caplog.text
    layouts.cvat_yolo(tmp_path / "d")
    read(discover(str(tmp_path / "d")).train)
    assert "3 image paths differ from those in " in caplog.text
    caplog.clear()
    layouts.labelimg_voc(tmp_path / "e")
    (tmp_path / "e" / "moved").mkdir()
    (tmp_path / "e" / "1.jpg").rename(tmp_path / "e" / "moved" / "1.jpg")
    read(discover(str(tmp_path / "e")).train)
    assert "1 image paths differ from those in " in caplog.text, "names without suffix"


def test_parent_category_with_objects_is_a_class(tmp_path: Path) -> None:
    layouts.roboflow_coco(tmp_path)
    path = tmp_path / "valid" / "_annotations.coco.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["category_id"] = 0
    write_json(path, content)
    assert list(discover(str(tmp_path)).classes) == ["pets", *CLASSES]


@pytest.mark.parametrize(
    ("splits", "selected", "note"),
    [
        (("train", "valid", "test"), ("train", "valid"), "unused splits: test"),
        (("training", "dev"), ("training", "dev"), None),
        (("train", "test"), ("train", "test"), "evaluating on the split 'test'"),
        (("trainval",), ("trainval", None), None),
        (("default",), ("default", None), None),
        (("Train", "Validation"), ("Train", "Validation"), None),
    ],
)
def test_splits_are_selected_by_name(splits: tuple, selected: tuple, note: str | None, tmp_path: Path) -> None:
    for split in splits:
        write_images(tmp_path / "images" / split)
        write_coco_file(tmp_path / "annotations" / f"instances_{split}.json")
    dataset = discover(str(tmp_path))
    files = [
        None if split is None else Path(split.arguments["json_file"]).stem for split in (dataset.train, dataset.test)
    ]
    assert files == [name and f"instances_{name}" for name in selected]
    notes = " ".join(dataset.notes)
    assert ("split" in notes) == (note is not None)
    assert note is None or note in notes
    assert len(set(dataset.notes)) == len(dataset.notes)


def test_coco_file_given_by_path(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere")
    file = tmp_path / "data" / "my_training.json"
    write_coco_file(file)
    with pytest.raises(DatasetError, match="set the image folder by --image-root"):
        discover(str(file))
    dataset = discover(str(file), str(tmp_path / "elsewhere"))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects()
    assert dataset.test is None
    write_coco_file(file.with_name("my_val.json"))
    dataset = discover(str(file), str(tmp_path / "elsewhere"))
    assert dataset.test is not None
    assert any("using my_val.json next to my_training.json for evaluation" in note for note in dataset.notes)
    shutil.move(tmp_path / "elsewhere", tmp_path / "data" / "photos")
    assert first_boxes(discover(str(file))) == expected_objects()["0"]


MASK = np.zeros((60, 100), bool)
MASK[20:40, 10:50] = True


def compressed_rle() -> dict:
    from pycocotools import mask

    encoded = mask.encode(np.asfortranarray(MASK.astype(np.uint8)))
    return {"size": [60, 100], "counts": encoded["counts"].decode()}


@pytest.mark.parametrize("kind", ["polygon", "runs", "compressed"])
def test_missing_box_is_computed_from_the_mask(kind: str, tmp_path: Path) -> None:
    counts = np.flatnonzero(np.diff(np.concatenate([[0], MASK.T.reshape(-1).astype(int), [0]])))
    runs = np.diff(np.concatenate([[0], counts, [6000]])).tolist()
    segmentation = {
        "polygon": [[10, 20, 50, 20, 50, 40, 10, 40]],
        "runs": {"size": [60, 100], "counts": runs},
        "compressed": compressed_rle(),
    }[kind]
    write_images(tmp_path / "images")
    write_coco_file(tmp_path / "train.json", segmentation=segmentation)
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        del annotation["bbox"]
    write_json(tmp_path / "train.json", content)
    assert first_boxes(discover(str(tmp_path))) == [("cat", [10, 20, 50, 40]), ("dog", [10, 20, 50, 40])]


@pytest.mark.parametrize(
    "segmentation",
    [{"size": [0, 0], "counts": []}, {"size": [60, 100], "counts": [5]}, {"size": 3, "counts": "x"}, [[1, 2]], 5],
)
def test_malformed_mask_is_an_error(segmentation: object, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_coco_file(tmp_path / "train.json", segmentation=segmentation, bbox=[])
    with pytest.raises(DatasetError, match=r"train\.json, 0\.jpg, annotation 1: the "):
        read(discover(str(tmp_path)).train)


def test_coco_variants(tmp_path: Path) -> None:
    """Test category ids as text, backslashes, missing sizes, a byte order mark and crowds."""
    write_images(tmp_path / "images" / "a")
    write_coco_file(tmp_path / "train.json", [f"a\\{i}.jpg" for i in range(3)])
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    for entry in content["images"]:
        del entry["width"], entry["height"]
    for annotation in content["annotations"]:
        annotation["category_id"] = str(annotation["category_id"])
    content["annotations"][1]["iscrowd"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content), encoding="utf-8-sig")
    dataset = discover(str(tmp_path))
    records = read(dataset.train)
    assert objects_by_image(records, dataset.classes) == expected_objects()
    assert [a["iscrowd"] for a in records[0]["annotations"]] == [0, 1]
    assert (records[0]["height"], records[0]["width"]) == (60, 100)


@pytest.mark.parametrize(
    "tool", ["CVAT, COCO 1.0", "LabelImg, Pascal VOC", "CVAT, YOLO 1.1", "CVAT, CVAT for images 1.1"]
)
def test_class_names_in_latin_1(tool: str, tmp_path: Path) -> None:
    LAYOUTS[tool][0](tmp_path)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".json", ".xml", ".names"):
            path.write_bytes(path.read_text(encoding="utf-8").replace("cat", "kätzchen").encode("latin-1"))
    if tool == "CVAT, COCO 1.0":  # restore the keys "categories" and "category_id"
        path = tmp_path / "annotations" / "instances_default.json"
        path.write_bytes(path.read_bytes().replace(b"k\xe4tzchenegor", b"categor"))
    dataset = discover(str(tmp_path))
    assert sorted(dataset.classes) == ["dog", "kätzchen"]
    assert first_boxes(dataset)[0] == ("kätzchen", expected_objects()["0"][0][1])


@pytest.mark.parametrize(
    ("entries", "change"),
    [
        ("annotations", lambda entry: entry.update(segmentation=[[1, 2, 3, 4]])),
        ("annotations", lambda entry: entry.update(segmentation=[1, 2, 3, 4, 5, 6])),
        ("annotations", lambda entry: entry.update(image_id=str(entry["image_id"]))),
        ("images", lambda entry: entry.update(width=str(entry["width"]))),
    ],
)
def test_coco_entries_that_detectron2_does_not_read(entries: str, change: Callable, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_coco_file(tmp_path / "train.json")
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    for entry in content[entries]:
        change(entry)
    write_json(tmp_path / "train.json", content)
    dataset = discover(str(tmp_path))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects()


def test_coco_image_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "images")
    write_coco_file(tmp_path / "train.json")
    original = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))

    def discover_with_ids(*ids: object) -> DiscoveredDataset:
        images = [entry | {"id": image_id} for entry, image_id in zip(original["images"], ids, strict=True)]
        write_json(tmp_path / "train.json", original | {"images": images})
        return discover(str(tmp_path))

    with pytest.raises(DatasetError, match=r"entry 2 of 'images': duplicate id 1"):
        read(discover_with_ids(1, 1, 3).train)
    # No image gets the number of another one; annotations of unlisted images are counted one by one.
    records = read(discover_with_ids("1", "2", "x").train)
    assert len({record["image_id"] for record in records}) == 3
    original["annotations"] += [dict(annotation, image_id=77) for annotation in original["annotations"][:2]]
    read(discover_with_ids("1", "2", "y").train)
    assert "2 objects are left out" in caplog.text


def test_classes_are_in_the_order_of_the_training_split(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_coco_file(tmp_path / "annotations.json")
    write_coco_file(tmp_path / "val.json", categories=({"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}))
    assert list(discover(str(tmp_path)).classes) == list(CLASSES)


def test_split_with_some_of_the_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_coco_file(tmp_path / "train.json")
    write_coco_file(tmp_path / "val.json", categories=({"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}))
    content = json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))
    content["categories"] = content["categories"][:1]
    content["annotations"] = [annotation for annotation in content["annotations"] if annotation["category_id"] == 7]
    write_json(tmp_path / "val.json", content)
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == list(CLASSES)
    assert objects_by_image(read(dataset.test), dataset.classes)["1"] == expected_objects()["1"]


@pytest.mark.parametrize(
    "tool", ["CVAT, COCO 1.0", "CVAT, CVAT for images 1.1", "CVAT, YOLO 1.1", "Supervisely", "VIA, CSV"]
)
def test_missing_images_are_counted(tool: str, tmp_path: Path) -> None:
    LAYOUTS[tool][0](tmp_path)
    for path in [*tmp_path.rglob("0.jpg"), *tmp_path.rglob("2.jpg")]:
        path.unlink()
    with pytest.raises(DatasetError, match=r"(?s)2 of 3 images do not exist.*0\.jpg.*2\.jpg") as raised:
        read(discover(str(tmp_path)).train)
    assert len(str(raised.value).splitlines()) <= 8
    dataset = discover(str(tmp_path))
    records = dataset.train.read(names=str(tmp_path), **dataset.train.arguments, max_invalid_records=2)
    assert objects_by_image(records, dataset.classes) == {"1": expected_objects()["1"]}


def test_paths_outside_of_the_folder_are_rejected(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "images", ["1.jpg", "2.jpg"])
    write_image(tmp_path / "secret" / "0.jpg")
    names = ["../../secret/0.jpg", "1.jpg", "2.jpg"]
    write_coco_file(tmp_path / "data" / "train.json", names)
    with pytest.raises(DatasetError, match="1 of 3 images do not exist"):
        read(discover(str(tmp_path / "data")).train)
    (tmp_path / "data" / "train.json").unlink()
    layouts.yolo_labels(tmp_path / "data" / "labels")
    write_lines(tmp_path / "data" / "train.txt", str(tmp_path / "secret" / "0.jpg"), "../secret/0.jpg", "images/1.jpg")
    write_lines(tmp_path / "data" / "data.yaml", "names: [cat, dog]", "train: train.txt")
    with pytest.raises(DatasetError, match="2 of 3 images do not exist"):
        read(discover(str(tmp_path / "data")).train)


YOLO_LINES = {
    "a track": ("", "0 0.3 0.5 0.4 0.3333333 17"),
    "a pose": ("kpt_shape: [2, 3]", "0 0.3 0.5 0.4 0.3333333 0.1 0.1 2 0.9 0.9 1"),
    "a polygon": ("", "0 0.1 0.3333333 0.5 0.3333333 0.5 0.6666667"),
    "corners": ("", "0 0.1 0.3333333 0.5 0.3333333 0.5 0.6666667 0.1 0.6666667"),
}


@pytest.mark.parametrize("kind", YOLO_LINES)
def test_yolo_line_formats(kind: str, tmp_path: Path) -> None:
    setting, line = YOLO_LINES[kind]
    write_images(tmp_path / "images", ["0.jpg"])
    write_lines(tmp_path / "labels" / "0.txt", line)
    write_lines(tmp_path / "data.yaml", "names: {0: cat}", "train: images", setting)
    ((name, box),) = first_boxes(discover(str(tmp_path)))
    assert name == "cat"
    np.testing.assert_allclose(box, [10, 20, 50, 40], atol=1e-3)


@pytest.mark.parametrize(
    "lines",
    [
        ("train: [images/a, images/b]", "names: ['cat', 'dog']"),
        ("train: images\\", "names: {'0': cat, '1': dog}"),
        ("path: /home/someone/data", "train: /home/someone/data/images", "names: [cat, dog]"),
    ],
)
def test_yolo_data_yaml_variants(lines: tuple, tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "a", ["0.jpg", "1.jpg"])
    write_images(tmp_path / "images" / "b", ["2.jpg"])
    layouts.yolo_labels(tmp_path / "labels" / "a")
    write_lines(tmp_path / "data.yaml", *lines)
    dataset = discover(str(tmp_path))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects()


def test_unnamed_classes_are_numbered(tmp_path: Path) -> None:
    layouts.yolo_without_yaml(tmp_path)
    (tmp_path / "classes.txt").unlink()
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == ["0", "1"]
    assert any("using the class numbers in the labels as names of 2 classes" in note for note in dataset.notes)
    write_lines(tmp_path / "data.yaml", "nc: 3", "train: images/train", "val: images/val")
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == ["0", "1", "2"]
    assert any(
        "using class numbers as class names; data.yaml contains no other names" in note for note in dataset.notes
    )


def test_cvat_shapes(tmp_path: Path) -> None:
    layouts.cvat_images(tmp_path)
    shapes = (
        '<box label="cat" xtl="20" ytl="10" xbr="40" ybr="50" rotation="90"/>'
        '<polygon label="dog" points="10.00,20.00;50.00,20.00;30.00,40.00"/>'
        '<ellipse label="cat" cx="50" cy="30" rx="20" ry="10"/>'
        '<mask label="dog" rle="2, 1, 1, 2" left="30" top="5" width="3" height="2"/>'
        '<polyline label="shore" points="0,0;5,5"/><points label="dog" points="1,1"/>'
    )
    path = tmp_path / "annotations.xml"
    content = path.read_text(encoding="utf-8").split("<image ")
    content[1] = content[1].split(">")[0] + ">" + shapes + "</image>"
    path.write_text("<image ".join(content), encoding="utf-8")
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == list(CLASSES)
    assert first_boxes(dataset) == [
        ("cat", [10, 20, 50, 40]),
        ("dog", [10, 20, 50, 40]),
        ("cat", [30, 20, 70, 40]),
        ("dog", [31, 5, 33, 7]),
    ]


def test_segmentations_do_not_change_the_box_ap(tmp_path: Path) -> None:
    """Detections equal to the boxes of polygons and masks have an AP of 100."""
    layouts.cvat_images(tmp_path)
    path = tmp_path / "annotations.xml"
    shapes = (
        '<polygon label="dog" points="10.00,20.00;50.00,20.00;30.00,40.00"/>'
        f'<mask label="cat" rle="{", ".join(["10"] * 40)}" left="30" top="5" width="20" height="20"/>'
    )
    content = path.read_text(encoding="utf-8").replace('height="60">', f'height="60">{shapes}')
    path.write_text(content, encoding="utf-8")
    split = discover(str(tmp_path)).train
    records = split.read(names=str(tmp_path), **split.arguments)
    assert sum("segmentation" in a for record in records for a in record["annotations"]) == 6
    evaluator = COCOEvaluator(str(tmp_path), output_dir=str(tmp_path / "out"), allow_cached_coco=False)
    evaluator.reset()
    for record in records:
        gt_boxes, classes = annotation_arrays(record)
        exact = Instances((60, 100), pred_boxes=Boxes(gt_boxes), pred_classes=classes, scores=np.ones(len(gt_boxes)))
        evaluator.process([record], [{"instances": as_tensors(exact)}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_conversion_to_coco_replaces_no_file(tmp_path: Path) -> None:
    layouts.labelme(tmp_path / "data")
    split = discover(str(tmp_path / "data")).train
    node = LazyCall(split.read)(names=str(tmp_path), **split.arguments)
    (tmp_path / "instances_train.json").write_text("original")
    with pytest.raises(DatasetError, match=r"instances_train\.json exists, and may be an original"):
        write_coco({"val": node, "train": node}, tmp_path)
    assert (tmp_path / "instances_train.json").read_text() == "original"
    assert not (tmp_path / "instances_val.json").exists()


def test_segmentations_are_written_to_coco(tmp_path: Path) -> None:
    layouts.labelme(tmp_path)
    pixels, mask_png, _ = layouts.bitmap(10, 20)
    content = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    corners = [[10, 20], [50, 20], [30, 40]]
    content["shapes"] = [
        {"label": "cat", "points": corners, "shape_type": "polygon"},
        {"label": "dog", "points": [[5, 6], [24, 15]], "shape_type": "mask", "mask": mask_png},
    ]
    write_json(tmp_path / "0.json", content)
    split = discover(str(tmp_path)).train
    node = LazyCall(split.read)(names=str(tmp_path), **split.arguments)
    (file,), root = write_coco({"train": node}, tmp_path / "coco" / "mine.json")
    assert root == tmp_path
    api = COCO(str(file))
    first, second = api.loadAnns(api.getAnnIds(imgIds=[1]))
    assert first["segmentation"] == [[float(value) for corner in corners for value in corner]]
    assert first["area"] == 40 * 20 / 2
    expected_mask = np.zeros((60, 100), bool)
    expected_mask[6:16, 5:25] = pixels
    assert (api.annToMask(second) == expected_mask).all()
    assert second["area"] == expected_mask.sum()
    with pytest.raises(DatasetError, match=r"mine\.json is a single file for several splits \(train, val\)"):
        write_coco({"train": node, "val": node}, file)


def test_cvat_subsets(tmp_path: Path) -> None:
    layouts.cvat_images(tmp_path)
    path = tmp_path / "annotations.xml"
    for name in ("Train", "Validation"):
        shutil.copytree(tmp_path / "images", tmp_path / name)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    for name in ("Train", "Validation"):
        shutil.move(tmp_path / name, tmp_path / "images" / name)
    content = path.read_text(encoding="utf-8")
    content = content.replace('name="0.jpg"', 'name="0.jpg" subset="Train"').replace(
        'name="1.jpg"', 'name="1.jpg" subset="Validation"'
    )
    path.write_text(content.replace('name="2.jpg"', 'name="2.jpg" subset="Train"'), encoding="utf-8")
    dataset = discover(str(tmp_path))
    assert set(objects_by_image(read(dataset.train), dataset.classes)) == {"0", "2"}
    assert set(objects_by_image(read(dataset.test), dataset.classes)) == {"1"}
    assert "Validation" in read(dataset.test)[0]["file_name"]


def test_labelme_shapes(tmp_path: Path) -> None:
    layouts.labelme(tmp_path)
    _, mask_png, _ = layouts.bitmap(10, 20)
    content = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    content["imagePath"] = "..\\somewhere\\0.jpg"
    content["shapes"] = [
        {"label": "cat", "points": [[10, 20], [50, 20], [30, 40]], "shape_type": "polygon"},
        {"label": "dog", "points": [[50, 30], [50, 40]], "shape_type": "circle"},
        {"label": "dog", "points": [[5, 6], [24, 15]], "shape_type": "mask", "mask": mask_png},
        {"label": "nose", "points": [[5, 6]], "shape_type": "point"},
    ]
    write_json(tmp_path / "0.json", content)
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == list(CLASSES)
    assert first_boxes(dataset) == [("cat", [10, 20, 50, 40]), ("dog", [40, 20, 60, 40]), ("dog", [8, 8, 22, 14])]


def test_supervisely_shapes_and_splits(tmp_path: Path) -> None:
    layouts.supervisely(tmp_path)
    shutil.copytree(tmp_path / "ds0", tmp_path / "val")
    (tmp_path / "ds0").rename(tmp_path / "train")
    _, _, data = layouts.bitmap(10, 20)
    path = tmp_path / "train" / "ann" / "0.jpg.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["objects"] = [
        {
            "classTitle": "cat",
            "geometryType": "polygon",
            "points": {"exterior": [[10, 20], [50, 20], [30, 40]], "interior": []},
        },
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [30, 5]}},
        {"classTitle": "dog", "geometryType": "point", "points": {"exterior": [[1, 1]], "interior": []}},
    ]
    write_json(path, content)
    dataset = discover(str(tmp_path))
    assert first_boxes(dataset) == [("cat", [10, 20, 50, 40]), ("dog", [33, 7, 47, 13])]
    assert objects_by_image(read(dataset.test), dataset.classes) == expected_objects()


def test_via_shapes(tmp_path: Path) -> None:
    layouts.via_json(tmp_path)
    path = tmp_path / "via_export_json.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    selected = {"region_attributes": {"type": {"cat": True, "dog": False}}}
    content["0.jpg825"]["regions"] = {
        "0": {
            "shape_attributes": {"name": "polygon", "all_points_x": [10, 50, 30], "all_points_y": [20, 20, 40]},
            **selected,
        },
        "1": {"shape_attributes": {"name": "circle", "cx": 50, "cy": 30, "r": 10}, **selected},
        "2": {"shape_attributes": {"name": "ellipse", "cx": 50, "cy": 30, "rx": 20, "ry": 10}, **selected},
        "3": {"shape_attributes": {"name": "point", "cx": 50, "cy": 30}, **selected},
    }
    write_json(path, content)
    dataset = discover(str(tmp_path))
    assert any("using the region attribute 'type' as the class" in note for note in dataset.notes)
    assert first_boxes(dataset) == [("cat", [10, 20, 50, 40]), ("cat", [40, 20, 60, 40]), ("cat", [30, 20, 70, 40])]


def test_open_images_groups_and_missing_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "detectron2.deim")
    layouts.open_images(tmp_path)
    path = tmp_path / "train-annotations-bbox.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].replace(",0,0,0,0,0", ",0,0,1,0,0")
    write_lines(path, *lines)
    (tmp_path / "images" / "train" / "1.jpg").unlink()
    records = read(discover(str(tmp_path)).train)
    assert [[a["iscrowd"] for a in record["annotations"]] for record in records] == [[1, 0]]
    assert "1 of 2 images of" in caplog.text


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("as_dicts", [True, False])
def test_hugging_face_parquet(named: bool, as_dicts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path)
    objects_of_rows = [
        [{"bbox": [x, y, x2 - x, y2 - y], "category": label} for label, (x, y, x2, y2) in entry] for entry in OBJECTS
    ]
    if not as_dicts:
        objects_of_rows = [
            {key: [entry[key] for entry in row] for key in ("bbox", "category")} for row in objects_of_rows
        ]
    columns = {
        "image": [{"bytes": (tmp_path / f"{i}.jpg").read_bytes(), "path": f"{i}.jpg"} for i in range(3)],
        "width": [100] * 3,
        "height": [60] * 3,
        "objects": objects_of_rows,
    }
    label = {"names": list(CLASSES), "_type": "ClassLabel"} if named else {"dtype": "int64", "_type": "Value"}
    features = {"objects": {"bbox": {"_type": "List"}, "category": {"feature": label, "_type": "List"}}}
    table = arrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "hf" / "data").mkdir(parents=True)
    parquet.write_table(table, tmp_path / "hf" / "data" / "train-00000-of-00001.parquet")
    parquet.write_table(table, tmp_path / "hf" / "data" / "test-00000-of-00001.parquet")
    dataset = discover(str(tmp_path / "hf"))
    assert list(dataset.classes) == (list(CLASSES) if named else ["0", "1"])
    assert dataset.test is not None
    records = read(dataset.train)
    assert objects_by_image(records, CLASSES) == expected_objects()
    assert Path(records[0]["file_name"]).read_bytes() == (tmp_path / "0.jpg").read_bytes()
    assert all(str(tmp_path / "cache") in record["file_name"] for record in records)


def test_parquet_row_without_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image of the same row in another file must not be used instead."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path)
    images = [{"bytes": (tmp_path / f"{i}.jpg").read_bytes(), "path": f"{i}.jpg"} for i in range(3)]
    objects = [[{"bbox": [10, 10, 20, 20], "category": 0}] for _ in range(3)]
    (tmp_path / "hf").mkdir()
    for split, contents in (("test", images), ("train", [images[0], {"bytes": None, "path": "1.jpg"}, images[2]])):
        table = arrow.table({"image": contents, "objects": objects})
        parquet.write_table(table, tmp_path / "hf" / f"{split}-00000-of-00001.parquet")
    dataset = discover(str(tmp_path / "hf"))
    assert dataset.test is not None
    assert len(read(dataset.test)) == 3
    with pytest.raises(DatasetError, match=r"train-00000-of-00001.parquet, row 1: the row contains no image"):
        read(dataset.train)


def test_images_of_other_entries_are_not_used(tmp_path: Path) -> None:
    """Frame numbers repeat in every folder, and one folder is missing."""
    for camera in ("cam1", "cam2"):
        write_images(tmp_path / "images" / camera, ["0.jpg", "1.jpg"])
    images = [
        {"id": number, "file_name": f"{camera}/{frame}.jpg", "width": 100, "height": 60}
        for number, (camera, frame) in enumerate(itertools.product(("cam1", "cam2"), range(2)))
    ]
    annotations = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": [10, 10, 20, 20]} for image in images
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    write_json(tmp_path / "train.json", content)
    assert len(read(discover(str(tmp_path)).train)) == 4
    shutil.rmtree(tmp_path / "images" / "cam1")
    with pytest.raises(DatasetError, match=r"2 .*(?s:.*)the image 'cam1/0.jpg' does not exist"):
        read(discover(str(tmp_path)).train)


def test_yolo_folder_with_lists_of_the_splits(tmp_path: Path) -> None:
    layouts.yolo_autosplit(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"autosplit_{split}.txt").rename(tmp_path / f"{split}.txt")
    dataset = discover(str(tmp_path))
    assert dataset.test is not None
    assert (len(read(dataset.train)), len(read(dataset.test))) == (3, 1)


def test_another_encoding_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "classes.txt").write_bytes("行人\n".encode("gbk"))
    read_text(tmp_path / "classes.txt")
    assert "classes.txt is not valid UTF-8, and is read as Latin-1" in caplog.text


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DatasetError, match=r"pip install 'deim\[parquet\]'"):
        discover(str(tmp_path))


def test_first_of_several_formats_is_read(tmp_path: Path) -> None:
    layouts.roboflow_yolo(tmp_path)
    layouts.roboflow_coco(tmp_path)
    dataset = discover(str(tmp_path))
    assert dataset.format == "YOLO"
    assert not any("YOLO labels" in note for note in dataset.notes), "the YOLO labels are those of data.yaml"
    assert any(
        "reading the YOLO annotations (data.yaml); ignoring COCO (_annotations.coco.json)" in note
        for note in dataset.notes
    )


def test_error_for_unknown_format_lists_the_folder_contents(tmp_path: Path) -> None:
    for number in range(4):
        write_lines(tmp_path / f"{number}.log", "x")
    write_lines(tmp_path / "mine.json", "[]")
    (tmp_path / "stuff").mkdir()
    with pytest.raises(
        DatasetError,
        match=r"(?s)Found: stuff/, 4 x \.log, 1 x \.json \(mine\.json\)\. Supported formats:.*VIA: .*Parquet: ",
    ):
        discover(str(tmp_path))


def test_problems_can_be_allowed_with_a_holdout_split(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / tmp_path.name
    layouts.cvat_images(data)
    (data / "images" / "2.jpg").unlink()
    options = ["check-data", "--data", str(data), "--output", str(tmp_path / "check"), "--skip-images"]
    assert main(options) == 1
    assert "1 problems, 1 of them must be fixed" in capsys.readouterr().out
    assert main([*options, "dataloader.train.dataset.max_invalid_records=1"]) == 0


def test_check_data_without_any_readable_image(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert not check_dataset(coco_node(tmp_path), str(tmp_path / "check"), decode=True, images=4)
    assert "3 problems, 3 of them must be fixed" in capsys.readouterr().out


def test_check_data_lists_an_unreadable_sample_image(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_images(tmp_path / "images")
    (tmp_path / "images" / "1.jpg").write_bytes(b"no image")
    assert not check_dataset(coco_node(tmp_path), str(tmp_path / "check"), decode=False, images=4)
    assert "1.jpg: cannot read image" in capsys.readouterr().out


def test_check_data_finds_small_differences_of_the_size(tmp_path: Path) -> None:
    write_image(tmp_path / "0.jpg", 0)
    record = {"file_name": str(tmp_path / "0.jpg"), "width": layouts.WIDTH, "height": layouts.HEIGHT}
    assert not list(find_image_problems([record]))
    assert len(list(find_image_problems([{**record, "height": layouts.HEIGHT - 3}]))) == 1


def test_view_data_needs_a_batch(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="number of batches must be at least 1, got 0"):
        draw_training_batch(OmegaConf.create(), epoch=0, output=str(tmp_path / "a.png"), batches=0, images=1)


def test_check_data_accepts_records_without_annotations(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_image(tmp_path / "0.jpg", 0)
    content = DatasetContent([{"file_name": str(tmp_path / "0.jpg")}], ("cat",), [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deim.data.dataset_statistics.read_content", lambda dataset: content)
        assert check_dataset({"names": "unlabeled"}, str(tmp_path / "check"), decode=True, images=1)
    assert "1, 1 without objects" in capsys.readouterr().out


def coco_node(root: Path) -> DictConfig:
    write_coco_file(root / "a.json")
    (root / "images").mkdir(exist_ok=True)
    return OmegaConf.create(
        {
            "_target_": "deim.data.coco_dataset",
            "names": root.name,
            "json_file": str(root / "a.json"),
            "image_root": str(root / "images"),
        }
    )


def test_check_data_needs_no_config_and_takes_overrides(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / tmp_path.name
    layouts.roboflow_voc(data)
    (data / "train" / "2.jpg").unlink()
    options = ["check-data", "--data", str(data), "--output", str(tmp_path / "check")]
    assert main(options) == 1
    output = capsys.readouterr().out
    assert "Pascal VOC, 2 classes" in output
    assert "note: assuming 0-based pixel coordinates" in output
    assert "1 problems, 1 of them must be fixed" in output
    assert main([*options, "+dataloader.train.dataset.max_invalid_records=1"]) == 0


def test_single_dataset_in_a_subfolder_is_used(tmp_path: Path) -> None:
    """Archives unpack into a folder of their own name."""
    layouts.label_studio_voc(tmp_path / "project")
    (tmp_path / "scripts").mkdir()
    dataset = discover(str(tmp_path))
    assert dataset.format == "Pascal VOC"
    assert "using the dataset in project/" in dataset.notes
    assert objects_by_image(read(dataset.train), dataset.classes) == objects_by_image(
        read(discover(str(tmp_path / "project")).train), dataset.classes
    )
    layouts.labelme(tmp_path / "second")
    with pytest.raises(DatasetError, match="contains several datasets, project/, second/; pass one of them"):
        discover(str(tmp_path))


def test_archive_is_an_error(tmp_path: Path) -> None:
    layouts.labelme(tmp_path / "project")
    archive = shutil.make_archive(str(tmp_path / "project"), "zip", tmp_path / "project")
    with pytest.raises(DatasetError, match=r"project\.zip is an archive; unpack it and pass the extracted folder"):
        discover(archive)


def test_yolo_labels_are_not_detected_as_another_format(tmp_path: Path) -> None:
    layouts.cvat_ultralytics(tmp_path)
    assert not [note for note in discover(str(tmp_path)).notes if "; ignoring" in note]


def test_files_of_other_formats_with_usual_names(tmp_path: Path) -> None:
    layouts.via_json(tmp_path / "via")
    next((tmp_path / "via").glob("*.json")).rename(tmp_path / "via" / "train.json")
    assert discover(str(tmp_path / "via")).format == "VIA"
    layouts.cvat_coco(tmp_path / "coco")
    write_lines(tmp_path / "coco" / "iris.data", "5.1,3.5")
    assert discover(str(tmp_path / "coco")).format == "COCO"
    layouts.labelimg_voc(tmp_path / "Main")
    assert list(discover(str(tmp_path / "Main")).classes) == list(CLASSES)


def test_via_attributes_without_value_are_skipped(tmp_path: Path) -> None:
    layouts.via_json(tmp_path)
    path = tmp_path / "via_export_json.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for entry in content.values():
        for region in entry["regions"]:
            region["region_attributes"] = {"note": "", **region["region_attributes"]}
    write_json(path, content)
    dataset = discover(str(tmp_path))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects()


def test_via_csv_field_that_is_too_long(tmp_path: Path) -> None:
    write_lines(tmp_path / "via.csv", "filename,region_shape_attributes,region_attributes", "x" * 200_000 + ",{},{}")
    with pytest.raises(DatasetError, match=r"via\.csv:2: field larger than field limit"):
        discover(str(tmp_path))


def test_several_files_of_a_split_are_noted(tmp_path: Path) -> None:
    layouts.cvat_images(tmp_path)
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text(encoding="utf-8").replace("<image ", '<image subset="train" '), encoding="utf-8")
    shutil.copy(path, tmp_path / "other.xml")
    dataset = discover(str(tmp_path))
    assert dataset.train.arguments["annotation_file"] == str(path)
    assert "several files for the split 'train'; ignoring other.xml" in dataset.notes


def test_voc_image_lists_with_an_image_folder(tmp_path: Path) -> None:
    layouts.cvat_voc(tmp_path)
    with pytest.raises(DatasetError, match="its images are in JPEGImages; remove --image-root"):
        discover(str(tmp_path), str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_voc_object_in_a_comment(encoding: str, tmp_path: Path) -> None:
    layouts.labelimg_voc(tmp_path)
    path = max(tmp_path.rglob("*.xml"))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</annotation>", "<!-- <object></object> --></annotation>"), encoding=encoding)
    dataset = discover(str(tmp_path))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects(2)


def test_voc_object_without_a_name(tmp_path: Path) -> None:
    layouts.labelimg_voc(tmp_path)
    for path in tmp_path.rglob("*.xml"):
        path.write_text(path.read_text(encoding="utf-8").replace("<name>cat</name>", ""), encoding="utf-8")
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == ["dog"]
    with pytest.raises(DatasetError, match="unknown class ''; the classes are dog"):
        read(dataset.train)


def test_class_names_in_a_file_of_any_name(tmp_path: Path) -> None:
    layouts.yolo_without_yaml(tmp_path)
    (tmp_path / "classes.txt").rename(tmp_path / "animals.names")
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == list(CLASSES)
    assert any("class names are read from" in note and "animals.names" in note for note in dataset.notes)
    write_lines(tmp_path / "other.names", "horse", "sheep")
    assert list(discover(str(tmp_path)).classes) == ["0", "1"]


def test_yolo_folders_named_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    layouts.yolo_labels(tmp_path / "images")
    write_lines(tmp_path / "images" / "classes.txt", *CLASSES)
    dataset = discover(str(tmp_path / "images"))
    assert objects_by_image(read(dataset.train), dataset.classes) == expected_objects()
    write_images(tmp_path / "my_images" / "train" / "images")
    layouts.yolo_labels(tmp_path / "my_images" / "train" / "labels")
    write_lines(tmp_path / "my_images" / "train" / "labels" / "classes.txt", *CLASSES)
    assert list(discover(str(tmp_path / "my_images")).classes) == list(CLASSES)


def test_ambiguous_image_names(tmp_path: Path) -> None:
    layouts.cvat_images(tmp_path)
    for folder in ("a", "b"):
        shutil.copytree(tmp_path / "images", tmp_path / "images" / folder, ignore=lambda *_: ("a", "b"))
    for path in (tmp_path / "images").glob("*.jpg"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"several images in .* match the image '0\.jpg'; add its folder"):
        read(discover(str(tmp_path)).train)


def test_urls_of_label_studio_local_files(tmp_path: Path) -> None:
    write_image(tmp_path / "my dir" / "a b.jpg")
    url = "/data/local-files/?d=my%20dir/a%20b.jpg"
    assert image_files.ImageFiles(tmp_path).find(url) == tmp_path / "my dir" / "a b.jpg"


def test_folder_with_a_longer_name_is_outside() -> None:
    require_inside_folder("/data/train/0.jpg", "/data/train", "train.json")
    with pytest.raises(DatasetError, match="outside of /data/train"):
        require_inside_folder("/data/train2/0.jpg", "/data/train", "train.json")
