"""What annotation tools write is recognized by what lies there, and read as the same objects."""

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import LazyCall
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from deim.cli import main
from deim.data.datasets import image_files
from deim.data.datasets.discovery import discover
from deim.data.datasets.found import Discovered, Split
from deim.data.datasets.to_coco import write_coco
from deim.data.records import annotation_arrays, boxes_of
from deim.errors import DatasetError
from tests.data import layouts
from tests.data.layouts import LAYOUTS, as_json, coco, image, images, text
from tests.data.test_datasets import CLASSES, OBJECTS, as_tensors


def read(split: Split | None, **more: Any) -> list[dict]:
    assert split is not None
    return split.read(names=f"{split.arguments}{more}", **split.arguments, **more)


def objects(records: list[dict], classes: Any) -> dict[str, list]:
    """Classes and rounded boxes of each image, by the number in its name."""
    return {
        Path(record["file_name"]).stem[-1]: [
            (classes[one["category_id"]], np.round(box, 3).tolist())
            for one, box in zip(record["annotations"], boxes_of(record["annotations"]), strict=True)
        ]
        for record in records
    }


def expected(count: int = 3) -> dict[str, list]:
    return {str(i): [(CLASSES[label], box) for label, box in OBJECTS[i]] for i in range(count)}


def boxes(found: Discovered) -> list:
    """Classes and boxes of the first image to train on."""
    records = read(found.train)
    return next(iter(objects(records, found.classes).values()))


@pytest.mark.parametrize("tool", LAYOUTS)
def test_what_a_tool_exports_is_read_as_it_is(tool: str, tmp_path: Path) -> None:
    write, kind, has_test, empty = LAYOUTS[tool]
    write(tmp_path)
    found = discover(str(tmp_path))
    assert (found.format, list(found.classes)) == (kind, list(CLASSES))
    assert objects(read(found.train), found.classes) == expected(2 + empty)
    assert (found.test is not None) == has_test
    if has_test:
        assert objects(read(found.test), found.classes)["0"] == expected()["0"]


@pytest.mark.parametrize("tool", LAYOUTS)
def test_any_format_becomes_coco_and_is_read_again(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / tmp_path.name  # datasets are registered by the name of their folder
    LAYOUTS[tool][0](data)
    options = ["--data", str(data), "--output", str(tmp_path / "check"), "--skip-images", "--images", "0"]
    # Drawing takes most of the time, and is tested elsewhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deim.data.report.draw_statistics", lambda *args: None)
        patch.setattr("deim.data.report.draw_objects", lambda *args: None)
        assert main(["check-data", *options, "--to-coco", str(tmp_path / "coco")]) == 0
    said = capsys.readouterr().out
    assert LAYOUTS[tool][1] in said
    root = said.rsplit("--image-root ", 1)[1].strip()
    again, before = discover(str(tmp_path / "coco"), root), discover(str(data))
    assert again.format == "COCO"
    assert list(again.classes) == list(before.classes)
    for split in ("train", "test") if before.test else ("train",):
        records = [read(getattr(one, split)) for one in (again, before)]
        assert objects(records[0], CLASSES) == objects(records[1], CLASSES)


@pytest.mark.parametrize(
    ("written", "on_disk"), [("images/", ""), ("images\\3ab1c2d4-", ""), ("/data/upload/1/3ab1c2d4-", "3ab1c2d4-")]
)
def test_names_of_uploads_have_a_prefix_or_not(written: str, on_disk: str, tmp_path: Path) -> None:
    layouts.label_studio_coco(tmp_path, written, on_disk)
    found = discover(str(tmp_path))
    assert objects(read(found.train), found.classes) == expected()


def test_many_images_of_a_folder_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to find all of them grows with their number, not with its square."""
    for number in range(200):
        (tmp_path / f"{number}.jpg").touch()
    looked_at, listed = [], []
    listdir, is_image = os.listdir, image_files.is_image
    monkeypatch.setattr(image_files, "is_image", lambda path: looked_at.append(path) or is_image(path))
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    files = image_files.ImageFiles(tmp_path)
    for number in range(200):
        assert files.find_stem(str(number)) == files.find(f"{number}.jpg") == tmp_path / f"{number}.jpg"
    assert len(listed) == 1
    assert len(looked_at) <= 400


def test_guesses_are_notes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "detectron2.deim")
    layouts.roboflow_coco(tmp_path / "a")
    assert any("ignoring the category 'pets'" in note for note in discover(str(tmp_path / "a")).notes)
    layouts.roboflow_yolo(tmp_path / "b")
    assert any("for ../train/images" in note for note in discover(str(tmp_path / "b")).notes)
    layouts.labelimg_voc(tmp_path / "c")
    found = discover(str(tmp_path / "c"))
    assert any("0-based pixel coordinates" in note for note in found.notes)
    read(found.train)
    assert "1 images in " in caplog.text
    assert "have no XML file and are left out" in caplog.text
    layouts.cvat_yolo(tmp_path / "d")
    read(discover(str(tmp_path / "d")).train)
    assert "3 image paths differ from those in " in caplog.text


def test_a_parent_category_with_objects_is_a_class(tmp_path: Path) -> None:
    layouts.roboflow_coco(tmp_path)
    path = tmp_path / "valid" / "_annotations.coco.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["category_id"] = 0
    as_json(path, content)
    assert list(discover(str(tmp_path)).classes) == ["pets", *CLASSES]


@pytest.mark.parametrize(
    ("splits", "chosen", "note"),
    [
        (("train", "valid", "test"), ("train", "valid"), "unused splits: test"),
        (("training", "dev"), ("training", "dev"), None),
        (("train", "test"), ("train", "test"), "evaluating on the split 'test'"),
        (("trainval",), ("trainval", None), None),
        (("default",), ("default", None), None),
        (("Train", "Validation"), ("Train", "Validation"), None),
    ],
)
def test_splits_are_found_by_their_names(splits: tuple, chosen: tuple, note: str | None, tmp_path: Path) -> None:
    for split in splits:
        images(tmp_path / "images" / split)
        coco(tmp_path / "annotations" / f"instances_{split}.json")
    found = discover(str(tmp_path))
    files = [None if one is None else Path(one.arguments["json_file"]).stem for one in (found.train, found.test)]
    assert files == [name and f"instances_{name}" for name in chosen]
    assert all(note is None or note in " ".join(found.notes) for _ in (0,))


def test_a_coco_file_by_its_path(tmp_path: Path) -> None:
    images(tmp_path / "elsewhere")
    file = tmp_path / "data" / "my_training.json"
    coco(file)
    with pytest.raises(DatasetError, match="set the image folder by --image-root"):
        discover(str(file))
    found = discover(str(file), str(tmp_path / "elsewhere"))
    assert objects(read(found.train), found.classes) == expected()
    assert found.test is None
    coco(file.with_name("my_val.json"))
    found = discover(str(file), str(tmp_path / "elsewhere"))
    assert found.test is not None
    assert any("using my_val.json next to my_training.json for validation" in note for note in found.notes)
    shutil.move(tmp_path / "elsewhere", tmp_path / "data" / "photos")
    assert boxes(discover(str(file))) == expected()["0"]


MASK = np.zeros((60, 100), bool)
MASK[20:40, 10:50] = True


def compressed() -> dict:
    from pycocotools import mask

    encoded = mask.encode(np.asfortranarray(MASK.astype(np.uint8)))
    return {"size": [60, 100], "counts": encoded["counts"].decode()}


@pytest.mark.parametrize("kind", ["polygon", "runs", "compressed"])
def test_a_box_that_is_missing_is_that_of_the_mask(kind: str, tmp_path: Path) -> None:
    counts = np.flatnonzero(np.diff(np.concatenate([[0], MASK.T.reshape(-1).astype(int), [0]])))
    runs = np.diff(np.concatenate([[0], counts, [6000]])).tolist()
    segmentation = {
        "polygon": [[10, 20, 50, 20, 50, 40, 10, 40]],
        "runs": {"size": [60, 100], "counts": runs},
        "compressed": compressed(),
    }[kind]
    images(tmp_path / "images")
    coco(tmp_path / "train.json", segmentation=segmentation)
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        del annotation["bbox"]
    as_json(tmp_path / "train.json", content)
    assert boxes(discover(str(tmp_path))) == [("cat", [10, 20, 50, 40]), ("dog", [10, 20, 50, 40])]


@pytest.mark.parametrize(
    "segmentation",
    [{"size": [0, 0], "counts": []}, {"size": [60, 100], "counts": [5]}, {"size": 3, "counts": "x"}, [[1, 2]], 5],
)
def test_a_mask_that_is_malformed_is_told(segmentation: object, tmp_path: Path) -> None:
    images(tmp_path / "images")
    coco(tmp_path / "train.json", segmentation=segmentation, bbox=[])
    with pytest.raises(DatasetError, match=r"train\.json, 0\.jpg, annotation 1: the "):
        read(discover(str(tmp_path)).train)


def test_other_ways_to_write_coco(tmp_path: Path) -> None:
    """Ids as text, backslashes, no sizes, a byte order mark, crowds."""
    images(tmp_path / "images" / "a")
    coco(tmp_path / "train.json", [f"a\\{i}.jpg" for i in range(3)])
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    for entry in content["images"]:
        del entry["width"], entry["height"]
    for annotation in content["annotations"]:
        annotation["category_id"] = str(annotation["category_id"])
    content["annotations"][1]["iscrowd"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content), encoding="utf-8-sig")
    found = discover(str(tmp_path))
    records = read(found.train)
    assert objects(records, found.classes) == expected()
    assert [a["iscrowd"] for a in records[0]["annotations"]] == [0, 1]
    assert (records[0]["height"], records[0]["width"]) == (60, 100)


@pytest.mark.parametrize(
    "tool", ["CVAT, COCO 1.0", "LabelImg, Pascal VOC", "CVAT, YOLO 1.1", "CVAT, CVAT for images 1.1"]
)
def test_names_in_latin_1(tool: str, tmp_path: Path) -> None:
    LAYOUTS[tool][0](tmp_path)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".json", ".xml", ".names"):
            path.write_bytes(path.read_text(encoding="utf-8").replace("cat", "kätzchen").encode("latin-1"))
    if tool == "CVAT, COCO 1.0":
        path = tmp_path / "annotations" / "instances_default.json"
        path.write_bytes(path.read_bytes().replace(b"k\xe4tzchenegor", b"categor"))
    found = discover(str(tmp_path))
    assert sorted(found.classes) == ["dog", "kätzchen"]
    assert boxes(found)[0] == ("kätzchen", expected()["0"][0][1])


def test_a_split_with_some_of_the_classes(tmp_path: Path) -> None:
    images(tmp_path / "images")
    coco(tmp_path / "train.json")
    coco(tmp_path / "val.json", categories=({"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}))
    content = json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))
    content["categories"] = content["categories"][:1]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 7]
    as_json(tmp_path / "val.json", content)
    found = discover(str(tmp_path))
    assert list(found.classes) == list(CLASSES)
    assert objects(read(found.test), found.classes)["1"] == expected()["1"]


@pytest.mark.parametrize(
    "tool", ["CVAT, COCO 1.0", "CVAT, CVAT for images 1.1", "CVAT, YOLO 1.1", "Supervisely", "VIA, CSV"]
)
def test_images_that_do_not_exist_are_counted(tool: str, tmp_path: Path) -> None:
    LAYOUTS[tool][0](tmp_path)
    for path in [*tmp_path.rglob("0.jpg"), *tmp_path.rglob("2.jpg")]:
        path.unlink()
    with pytest.raises(DatasetError, match=r"(?s)2 of 3 images do not exist.*0\.jpg.*2\.jpg") as told:
        read(discover(str(tmp_path)).train)
    assert len(str(told.value).splitlines()) <= 8
    found = discover(str(tmp_path))
    records = found.train.read(names=str(tmp_path), **found.train.arguments, max_invalid_records=2)
    assert objects(records, found.classes) == {"1": expected()["1"]}


def test_a_name_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    images(tmp_path / "data" / "images", ["1.jpg", "2.jpg"])
    image(tmp_path / "secret" / "0.jpg")
    names = ["../../secret/0.jpg", "1.jpg", "2.jpg"]
    coco(tmp_path / "data" / "train.json", names)
    with pytest.raises(DatasetError, match="1 of 3 images do not exist"):
        read(discover(str(tmp_path / "data")).train)
    (tmp_path / "data" / "train.json").unlink()
    layouts.yolo_labels(tmp_path / "data" / "labels")
    text(tmp_path / "data" / "train.txt", str(tmp_path / "secret" / "0.jpg"), "../secret/0.jpg", "images/1.jpg")
    text(tmp_path / "data" / "data.yaml", "names: [cat, dog]", "train: train.txt")
    with pytest.raises(DatasetError, match="2 of 3 images do not exist"):
        read(discover(str(tmp_path / "data")).train)


YOLO_LINES = {
    "a track": ("", "0 0.3 0.5 0.4 0.3333333 17"),
    "a pose": ("kpt_shape: [2, 3]", "0 0.3 0.5 0.4 0.3333333 0.1 0.1 2 0.9 0.9 1"),
    "a polygon": ("", "0 0.1 0.3333333 0.5 0.3333333 0.5 0.6666667"),
    "corners": ("", "0 0.1 0.3333333 0.5 0.3333333 0.5 0.6666667 0.1 0.6666667"),
}


@pytest.mark.parametrize("kind", YOLO_LINES)
def test_lines_of_yolo(kind: str, tmp_path: Path) -> None:
    setting, line = YOLO_LINES[kind]
    images(tmp_path / "images", ["0.jpg"])
    text(tmp_path / "labels" / "0.txt", line)
    text(tmp_path / "data.yaml", "names: {0: cat}", "train: images", setting)
    ((name, box),) = boxes(discover(str(tmp_path)))
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
def test_settings_of_yolo(lines: tuple, tmp_path: Path) -> None:
    images(tmp_path / "images" / "a", ["0.jpg", "1.jpg"])
    images(tmp_path / "images" / "b", ["2.jpg"])
    layouts.yolo_labels(tmp_path / "labels" / "a")
    text(tmp_path / "data.yaml", *lines)
    found = discover(str(tmp_path))
    assert objects(read(found.train), found.classes) == expected()


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    layouts.yolo_without_yaml(tmp_path)
    (tmp_path / "classes.txt").unlink()
    found = discover(str(tmp_path))
    assert list(found.classes) == ["0", "1"]
    assert any("using the class numbers in the labels as names of 2 classes" in note for note in found.notes)
    text(tmp_path / "data.yaml", "nc: 3", "train: images/train", "val: images/val")
    found = discover(str(tmp_path))
    assert list(found.classes) == ["0", "1", "2"]
    assert any("no names; using class numbers as class names" in note for note in found.notes)


def test_shapes_of_cvat(tmp_path: Path) -> None:
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
    found = discover(str(tmp_path))
    assert list(found.classes) == list(CLASSES)
    assert boxes(found) == [
        ("cat", [10, 20, 50, 40]),
        ("dog", [10, 20, 50, 40]),
        ("cat", [30, 20, 70, 40]),
        ("dog", [31, 5, 33, 7]),
    ]


def test_outlines_do_not_disturb_the_evaluation(tmp_path: Path) -> None:
    """Detections that are the boxes of polygons and masks get an AP of 100."""
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
        found, classes = annotation_arrays(record)
        exact = Instances((60, 100), pred_boxes=Boxes(found), pred_classes=classes, scores=np.ones(len(found)))
        evaluator.process([record], [{"instances": as_tensors(exact)}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_outlines_are_kept_in_coco(tmp_path: Path) -> None:
    layouts.labelme(tmp_path)
    pixels, picture, _ = layouts.bitmap(10, 20)
    content = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    corners = [[10, 20], [50, 20], [30, 40]]
    content["shapes"] = [
        {"label": "cat", "points": corners, "shape_type": "polygon"},
        {"label": "dog", "points": [[5, 6], [24, 15]], "shape_type": "mask", "mask": picture},
    ]
    as_json(tmp_path / "0.json", content)
    split = discover(str(tmp_path)).train
    node = LazyCall(split.read)(names=str(tmp_path), **split.arguments)
    (file,), root = write_coco({"train": node}, tmp_path / "coco" / "mine.json")
    assert root == tmp_path
    api = COCO(str(file))
    first, second = api.loadAnns(api.getAnnIds(imgIds=[1]))
    assert first["segmentation"] == [[float(value) for corner in corners for value in corner]]
    assert first["area"] == 40 * 20 / 2
    whole = np.zeros((60, 100), bool)
    whole[6:16, 5:25] = pixels
    assert (api.annToMask(second) == whole).all()
    with pytest.raises(DatasetError, match=r"mine\.json is a single file for several splits \(train, val\)"):
        write_coco({"train": node, "val": node}, file)


def test_subsets_of_a_project_of_cvat(tmp_path: Path) -> None:
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
    found = discover(str(tmp_path))
    assert set(objects(read(found.train), found.classes)) == {"0", "2"}
    assert set(objects(read(found.test), found.classes)) == {"1"}
    assert "Validation" in read(found.test)[0]["file_name"]


def test_shapes_of_labelme(tmp_path: Path) -> None:
    layouts.labelme(tmp_path)
    _, picture, _ = layouts.bitmap(10, 20)
    content = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    content["imagePath"] = "..\\somewhere\\0.jpg"
    content["shapes"] = [
        {"label": "cat", "points": [[10, 20], [50, 20], [30, 40]], "shape_type": "polygon"},
        {"label": "dog", "points": [[50, 30], [50, 40]], "shape_type": "circle"},
        {"label": "dog", "points": [[5, 6], [24, 15]], "shape_type": "mask", "mask": picture},
        {"label": "nose", "points": [[5, 6]], "shape_type": "point"},
    ]
    as_json(tmp_path / "0.json", content)
    found = discover(str(tmp_path))
    assert list(found.classes) == list(CLASSES)
    assert boxes(found) == [("cat", [10, 20, 50, 40]), ("dog", [40, 20, 60, 40]), ("dog", [8, 8, 22, 14])]


def test_figures_of_supervisely_and_its_splits(tmp_path: Path) -> None:
    layouts.supervisely(tmp_path)
    shutil.copytree(tmp_path / "ds0", tmp_path / "val")
    (tmp_path / "ds0").rename(tmp_path / "train")
    pixels, _, data = layouts.bitmap(10, 20)
    assert pixels.any()
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
    as_json(path, content)
    found = discover(str(tmp_path))
    assert boxes(found) == [("cat", [10, 20, 50, 40]), ("dog", [33, 7, 47, 13])]
    assert objects(read(found.test), found.classes) == expected()


def test_shapes_of_via(tmp_path: Path) -> None:
    layouts.via_json(tmp_path)
    path = tmp_path / "via_export_json.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    chosen = {"region_attributes": {"type": {"cat": True, "dog": False}}}
    content["0.jpg825"]["regions"] = {
        "0": {
            "shape_attributes": {"name": "polygon", "all_points_x": [10, 50, 30], "all_points_y": [20, 20, 40]},
            **chosen,
        },
        "1": {"shape_attributes": {"name": "circle", "cx": 50, "cy": 30, "r": 10}, **chosen},
        "2": {"shape_attributes": {"name": "ellipse", "cx": 50, "cy": 30, "rx": 20, "ry": 10}, **chosen},
        "3": {"shape_attributes": {"name": "point", "cx": 50, "cy": 30}, **chosen},
    }
    as_json(path, content)
    found = discover(str(tmp_path))
    assert any("using the region attribute 'type' as the class" in note for note in found.notes)
    assert boxes(found) == [("cat", [10, 20, 50, 40]), ("cat", [40, 20, 60, 40]), ("cat", [30, 20, 70, 40])]


def test_groups_of_open_images_and_images_that_were_not_downloaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "detectron2.deim")
    layouts.open_images(tmp_path)
    path = tmp_path / "train-annotations-bbox.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].replace(",0,0,0,0,0", ",0,0,1,0,0")
    text(path, *lines)
    (tmp_path / "images" / "train" / "1.jpg").unlink()
    records = read(discover(str(tmp_path)).train)
    assert [[a["iscrowd"] for a in record["annotations"]] for record in records] == [[1, 0]]
    assert "1 of 2 images of" in caplog.text


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("of_dicts", [True, False])
def test_parquet_of_hugging_face(named: bool, of_dicts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    images(tmp_path)
    found_there = [
        [{"bbox": [x, y, x2 - x, y2 - y], "category": label} for label, (x, y, x2, y2) in one] for one in OBJECTS
    ]
    if not of_dicts:
        found_there = [{key: [one[key] for one in row] for key in ("bbox", "category")} for row in found_there]
    columns = {
        "image": [{"bytes": (tmp_path / f"{i}.jpg").read_bytes(), "path": f"{i}.jpg"} for i in range(3)],
        "width": [100] * 3,
        "height": [60] * 3,
        "objects": found_there,
    }
    label = {"names": list(CLASSES), "_type": "ClassLabel"} if named else {"dtype": "int64", "_type": "Value"}
    features = {"objects": {"bbox": {"_type": "List"}, "category": {"feature": label, "_type": "List"}}}
    table = arrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "hf" / "data").mkdir(parents=True)
    parquet.write_table(table, tmp_path / "hf" / "data" / "train-00000-of-00001.parquet")
    parquet.write_table(table, tmp_path / "hf" / "data" / "test-00000-of-00001.parquet")
    found = discover(str(tmp_path / "hf"))
    assert list(found.classes) == (list(CLASSES) if named else ["0", "1"])
    assert found.test is not None
    records = read(found.train)
    assert objects(records, CLASSES) == expected()
    assert Path(records[0]["file_name"]).read_bytes() == (tmp_path / "0.jpg").read_bytes()
    assert all(str(tmp_path / "cache") in record["file_name"] for record in records)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DatasetError, match=r"pip install 'deim\[parquet\]'"):
        discover(str(tmp_path))


def test_of_several_formats_the_first_is_read_and_told(tmp_path: Path) -> None:
    layouts.roboflow_yolo(tmp_path)
    layouts.roboflow_coco(tmp_path)
    found = discover(str(tmp_path))
    assert found.format == "YOLO"
    assert not any("YOLO labels" in note for note in found.notes), "they are those of data.yaml"
    assert any(
        "reading the YOLO annotations (data.yaml); ignoring COCO (_annotations.coco.json)" in note
        for note in found.notes
    )


def test_what_is_there_is_told_where_nothing_is_known(tmp_path: Path) -> None:
    for number in range(4):
        text(tmp_path / f"{number}.log", "x")
    text(tmp_path / "mine.json", "[]")
    (tmp_path / "stuff").mkdir()
    with pytest.raises(
        DatasetError,
        match=r"(?s)Found: stuff/, 4 x \.log, 1 x \.json \(mine\.json\)\. Supported formats:.*VIA: .*Parquet: ",
    ):
        discover(str(tmp_path))


def test_problems_are_allowed_where_there_is_no_split_for_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = tmp_path / tmp_path.name
    layouts.cvat_images(data)
    (data / "images" / "2.jpg").unlink()
    options = ["check-data", "--data", str(data), "--output", str(tmp_path / "check"), "--skip-images"]
    assert main(options) == 1
    assert "1 problems, 1 of them must be fixed" in capsys.readouterr().out
    assert main([*options, "dataloader.train.dataset.max_invalid_records=1"]) == 0


def test_check_data_needs_no_config_and_takes_overrides(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / tmp_path.name
    layouts.roboflow_voc(data)
    (data / "train" / "2.jpg").unlink()
    options = ["check-data", "--data", str(data), "--output", str(tmp_path / "check")]
    assert main(options) == 1
    said = capsys.readouterr().out
    assert "Pascal VOC, 2 classes" in said
    assert "note: assuming 0-based pixel coordinates" in said
    assert "1 problems, 1 of them must be fixed" in said
    assert main([*options, "+dataloader.train.dataset.max_invalid_records=1"]) == 0


def test_a_folder_that_holds_one_data_set_stands_for_it(tmp_path: Path) -> None:
    """As archives do that unpack into a folder of their name, and checkouts of repositories."""
    layouts.label_studio_voc(tmp_path / "project")
    (tmp_path / "scripts").mkdir()
    found = discover(str(tmp_path))
    assert found.format == "Pascal VOC"
    assert "using the dataset in project/" in found.notes
    assert objects(read(found.train), found.classes) == objects(
        read(discover(str(tmp_path / "project")).train), found.classes
    )
    layouts.labelme(tmp_path / "second")
    with pytest.raises(DatasetError, match="contains several datasets, project/, second/; pass one of them"):
        discover(str(tmp_path))


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    layouts.labelme(tmp_path / "project")
    archive = shutil.make_archive(str(tmp_path / "project"), "zip", tmp_path / "project")
    with pytest.raises(DatasetError, match=r"project\.zip is an archive; unpack it and pass the extracted folder"):
        discover(archive)


def test_labels_of_yolo_are_not_another_format(tmp_path: Path) -> None:
    layouts.cvat_ultralytics(tmp_path)
    assert not [note for note in discover(str(tmp_path)).notes if "; ignoring" in note]
