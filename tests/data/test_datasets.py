"""Datasets of all formats give the same records; errors name the file and the line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from deim.data import coco_dataset, crowdhuman_dataset, voc_dataset, yolo_dataset
from deim.data.datasets import objects365
from deim.data.image import read_image
from deim.data.loader import build_train_loader
from deim.data.mapper import DetectionMapper
from deim.data.records import CompactRecords, annotation_arrays
from deim.errors import DatasetError
from deim.fallback import is_standalone
from tests.commands import tool
from tests.conftest import ROOT

CLASSES = ("cat", "dog")
# class and XYXY box of the objects in each of three images of 100 x 60 (width x height)
OBJECTS = [[(0, [10, 20, 50, 40]), (1, [0, 0, 100, 60])], [(1, [30, 5, 60, 45])], []]


def write_images(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (100, 60), (40 * number, 90, 120)).save(folder / f"{number}.jpg")


def write_voc(root: Path) -> dict:
    write_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n1  1\n2\n\n")
    for number, objects in enumerate(OBJECTS):
        lines = ["<annotation>", "<size><width>100</width><height>60</height><depth>3</depth></size>"]
        for label, (left, top, right, bottom) in objects:
            box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
            lines += ["<object>", f"<name>{CLASSES[label]}</name><difficult>{int(label == 1)}</difficult>"]
            lines += [f"<bndbox>{box}</bndbox>", "</object>"]
        (root / "Annotations" / f"{number}.xml").write_text("\n".join([*lines, "</annotation>"]))
    return {"root": str(root), "split": "train", "class_names": CLASSES}


def write_yolo(root: Path) -> dict:
    write_images(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames: {0: cat, 1: dog}\n")
    for number, objects in enumerate(OBJECTS[:2]):  # the image without objects has no label file
        lines = []
        for label, box in objects:
            left, top, right, bottom = np.array(box) / [100, 60, 100, 60]
            if number:
                lines.append(f"{label} {left} {top} {right} {top} {right} {bottom} {left} {bottom}")
            else:
                lines.append(f"{label} {(left + right) / 2} {(top + bottom) / 2} {right - left} {bottom - top}")
        (root / "labels" / "train" / f"{number}.txt").write_text("\n".join(lines) + "\n")
    return {"data_file": str(root / "data.yaml"), "split": "train"}


def write_crowdhuman(root: Path) -> dict:
    write_images(root / "Images")
    lines = []
    for number, objects in enumerate(OBJECTS):
        people = [
            {"tag": "person", "fbox": [x, y, x2 - x, y2 - y], "vbox": [0, 0, 5, 5], "hbox": [1, 1, 2, 2], "extra": {}}
            for _, (x, y, x2, y2) in objects
        ]
        people.append({"tag": "mask", "fbox": [0, 0, 9, 9], "extra": {"ignore": 1}})
        lines.append(json.dumps({"ID": str(number), "gtboxes": people}))
    (root / "annotation_train.odgt").write_text("\n".join(lines) + "\n")
    return {"annotation_file": str(root / "annotation_train.odgt"), "image_root": str(root / "Images")}


def write_coco(root: Path) -> dict:
    write_images(root / "images")
    content = {
        "images": [{"id": 7 + i, "file_name": f"{i}.jpg", "width": 100, "height": 60} for i in range(3)],
        "annotations": [
            {
                "id": 10 * i + j,
                "image_id": 7 + i,
                "category_id": [3, 9][label],
                "bbox": [x, y, x2 - x, y2 - y],
                "area": (x2 - x) * (y2 - y),
                "iscrowd": 0,
            }
            for i, objects in enumerate(OBJECTS)
            for j, (label, (x, y, x2, y2)) in enumerate(objects)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    (root / "train.json").write_text(json.dumps(content))
    return {"json_file": str(root / "train.json"), "image_root": str(root / "images")}


FORMATS: dict[str, tuple[Callable, Callable]] = {
    "coco": (coco_dataset, write_coco),
    "voc": (voc_dataset, write_voc),
    "yolo": (yolo_dataset, write_yolo),
    "crowdhuman": (crowdhuman_dataset, write_crowdhuman),
}


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_give_the_same_objects(name: str, tmp_path: Path) -> None:
    read, write = FORMATS[name]
    records = read(f"{tmp_path}_{name}", **write(tmp_path))
    assert len(records) == 3
    for record, objects in zip(records, OBJECTS, strict=True):
        boxes, classes = annotation_arrays(record)
        assert (record["height"], record["width"]) == (60, 100)
        assert read_image(record["file_name"], (60, 100)).shape == (60, 100, 3)
        np.testing.assert_allclose(boxes, np.array([box for _, box in objects]).reshape(-1, 4), atol=1e-4)
        assert classes.tolist() == [0 if name == "crowdhuman" else label for label, _ in objects]
    expected = ["person"] if name == "crowdhuman" else list(CLASSES)
    assert MetadataCatalog.get(f"{tmp_path}_{name}").thing_classes == expected


@pytest.mark.parametrize("name", ["voc", "yolo", "crowdhuman"])
def test_all_formats_can_be_evaluated(name: str, tmp_path: Path) -> None:
    """Detections equal to the ground truth have an AP of 100."""
    read, write = FORMATS[name]
    dataset = f"{tmp_path}_{name}_evaluated"
    records = read(dataset, **write(tmp_path))
    evaluator = COCOEvaluator(dataset, output_dir=str(tmp_path / "out"), allow_cached_coco=False)
    evaluator.reset()
    for record in records:
        boxes, classes = annotation_arrays(record)
        detections = Instances((60, 100), pred_boxes=Boxes(boxes), pred_classes=classes, scores=np.ones(len(boxes)))
        evaluator.process([record], [{"instances": as_tensors(detections)}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.skipif(not is_standalone("detectron2"), reason="the evaluator of the real detectron2 needs both")
@pytest.mark.parametrize("use_fast_impl", [True, False])
def test_annotations_without_area_are_evaluated_by_size(use_fast_impl: bool, tmp_path: Path) -> None:
    """Files written by scripts often lack ``area`` and ``iscrowd``."""
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 50, 50]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content), encoding="utf-8")
    Image.new("RGB", (100, 60)).save(tmp_path / "1.jpg")
    name = f"{tmp_path}_without_area"
    (record,) = coco_dataset(name, json_file=str(tmp_path / "val.json"), image_root=str(tmp_path))
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "out"), use_fast_impl=use_fast_impl)
    evaluator.reset()
    boxes, classes = annotation_arrays(record)
    detections = Instances((60, 100), pred_boxes=Boxes(boxes), pred_classes=classes, scores=np.ones(1))
    evaluator.process([record], [{"instances": as_tensors(detections)}])
    results = evaluator.evaluate()["bbox"]
    assert (results["AP"], results["APm"]) == pytest.approx((100, 100))
    assert np.isnan(results["APs"])


def as_tensors(detections: Instances) -> Instances:
    import torch

    return Instances(
        detections.image_size,
        pred_boxes=detections.pred_boxes,
        pred_classes=torch.as_tensor(detections.pred_classes),
        scores=torch.as_tensor(detections.scores),
    )


def test_difficult_objects_become_crowds(tmp_path: Path) -> None:
    source = write_voc(tmp_path)
    records = voc_dataset(f"{tmp_path}_test", **source, ignore_difficult=True)
    assert [a["iscrowd"] for a in records[0]["annotations"]] == [0, 1]
    assert annotation_arrays(records[0])[1].tolist() == [0]


def test_crowdhuman_box_types(tmp_path: Path) -> None:
    source = write_crowdhuman(tmp_path)
    lines = (tmp_path / "annotation_train.odgt").read_text(encoding="utf-8").splitlines()
    image_entries = [json.loads(line) for line in lines]
    for image in image_entries:
        image["gtboxes"] = [person for person in image["gtboxes"] if person["tag"] == "person"]
    (tmp_path / "annotation_train.odgt").write_text("\n".join(json.dumps(image) for image in image_entries))
    records = crowdhuman_dataset(f"{tmp_path}_visible", **source, box="visible")
    assert annotation_arrays(records[0])[0].tolist() == [[0, 0, 5, 5], [0, 0, 5, 5]]
    with pytest.raises(DatasetError, match="choose one of full, visible, head"):
        crowdhuman_dataset(f"{tmp_path}_feet", **source, box="feet")


def test_crowdhuman_record_with_a_line_separator_character(tmp_path: Path) -> None:
    """JSON strings may contain U+2028 and U+0085, at which str.splitlines splits."""
    source = write_crowdhuman(tmp_path)
    path = tmp_path / "annotation_train.odgt"
    records = crowdhuman_dataset(f"{tmp_path}_before", **source)
    entries = [
        json.loads(line) | {"note": "a\u2028b\u0085c"} for line in path.read_text(encoding="utf-8").split("\n") if line
    ]
    path.write_text("\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries), encoding="utf-8")
    assert crowdhuman_dataset(f"{tmp_path}_after", **source) == records


def expect_dataset_error(name: str, source: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        FORMATS[name.split()[0]][0](f"{source}_{name}", **source)


def test_voc_errors_name_file_and_line(tmp_path: Path) -> None:
    source = write_voc(tmp_path)
    path = tmp_path / "Annotations" / "1.xml"
    valid = path.read_text(encoding="utf-8")
    path.write_text(valid.replace("dog", "horse"))
    expect_dataset_error("voc", source, r"1\.xml:3: unknown class 'horse'; the classes are cat, dog")
    path.write_text(valid.replace("<xmax>60</xmax>", ""))
    expect_dataset_error("voc", source, r"1\.xml:3: bndbox needs the numbers ")
    path.write_text(valid.replace("<xmax>60", "<xmax>nan"))
    expect_dataset_error("voc", source, r"1\.xml:3: the box .* contains NaN/Inf")
    path.write_text(valid.replace("</annotation>", ""))
    expect_dataset_error("voc", source, r"1\.xml: .*line \d")
    path.unlink()
    expect_dataset_error("voc", source, r"1\.xml")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("")
    expect_dataset_error("voc", source, "has no images")
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    expect_dataset_error("voc", source, r"train\.txt does not exist")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "3 numbers follow the class"),
        ("cat 0.5 0.5 0.1 0.1", "is not a valid label"),
        ("0.5 0.5 0.5 0.1 0.1", "is not an integer"),
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of the 2 classes"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not one of the 2 classes"),
        ("0 nan 0.5 0.1 0.1", "contains NaN/Inf"),
        ("0 inf 0.5 0.1 0.1", "contains NaN/Inf"),
    ],
)
def test_yolo_errors_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    source = write_yolo(tmp_path)
    path = tmp_path / "labels" / "train" / "1.txt"
    path.write_text(path.read_text(encoding="utf-8") + "\n" + line + "\n")
    expect_dataset_error("yolo", source, r"1\.txt:3: .*" + message)


def test_data_yaml_errors(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    expect_dataset_error("yolo test", {**source, "split": "test"}, r"data\.yaml does not define 'test'")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: nowhere\n")
    expect_dataset_error("yolo", source, "nowhere does not exist")
    (tmp_path / "data.yaml").write_text("names: [cat\ntrain: x\n")
    expect_dataset_error("yolo", source, "is not valid YAML")


def test_yolo_image_list(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    (tmp_path / "list.txt").write_text("images/train/1.jpg\n\n./images/train/0.jpg\n")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: list.txt\n")
    records = yolo_dataset(f"{tmp_path}_list", **source)
    assert [Path(record["file_name"]).name for record in records] == ["1.jpg", "0.jpg"]
    assert len(records[1]["annotations"]) == 2


def test_crowdhuman_errors_name_file_and_line(tmp_path: Path) -> None:
    source = write_crowdhuman(tmp_path)
    path = tmp_path / "annotation_train.odgt"
    valid = path.read_text(encoding="utf-8")
    for line, message in (
        ("{", r"odgt:4: Expecting"),
        ('{"ID": "0"}', r"odgt:4: the key 'gtboxes' is missing"),
        ('{"ID": "9", "gtboxes": []}', r"odgt:4: cannot read image .*9\.jpg"),
        ('{"ID": "0", "gtboxes": [{"tag": "person"}]}', r"odgt:4: the key 'fbox' is missing"),
    ):
        path.write_text(valid + line + "\n")
        expect_dataset_error("crowdhuman", source, message)


def edit_coco_annotation(source: dict, **annotation: object) -> None:
    path = Path(source["json_file"])
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][2].update(annotation)
    path.write_text(json.dumps(content))


def test_coco_errors(tmp_path: Path) -> None:
    source = write_coco(tmp_path)
    edit_coco_annotation(source, bbox=[1, 2, float("nan"), 4])
    expect_dataset_error("coco", source, r"1\.jpg, object 1: the box .* contains NaN/Inf")
    edit_coco_annotation(source, bbox=[1, 2, 3, 4], category_id=4)
    expect_dataset_error(
        "coco", source, "1 annotations have a category_id that is missing in 'categories'; the first is id 10"
    )
    edit_coco_annotation(source, category_id=3)
    for path in Path(source["image_root"]).glob("*.jpg"):
        path.unlink()
    expect_dataset_error("coco", source | {"max_invalid_records": 9}, "has no images with annotations after")


@pytest.mark.parametrize("bbox", [[5, 5, 0, 9], [5, 5, -3, 9], [200, 5, 9, 9], [5, -20, 9, 9]])
def test_invisible_objects_are_dropped(tmp_path: Path, bbox: list) -> None:
    source = write_coco(tmp_path)
    edit_coco_annotation(source, bbox=bbox)
    records = coco_dataset(f"{tmp_path}_unseen", **source)
    assert [len(annotation_arrays(record)[0]) for record in records] == [2, 0, 0]


def test_boxes_are_clipped_and_crowds_dropped(tmp_path: Path) -> None:
    source = write_coco(tmp_path)
    edit_coco_annotation(source, bbox=[-10, 50, 500, 500])
    records = coco_dataset(f"{tmp_path}_clipped", **source)
    assert annotation_arrays(records[1])[0].tolist() == [[0, 50, 100, 60]]
    edit_coco_annotation(source, iscrowd=1)
    records = coco_dataset(f"{tmp_path}_clipped", **source)
    assert len(annotation_arrays(records[1])[0]) == 0


def test_compact_records_equal_the_records(tmp_path: Path) -> None:
    records = coco_dataset(f"{tmp_path}_compact", **write_coco(tmp_path))
    compact = CompactRecords(records)
    assert len(compact) == 3
    for record, packed in zip(records, (compact[i] for i in range(3)), strict=True):
        assert "annotations" not in packed
        assert packed["file_name"] == record["file_name"]
        for ours, expected in zip(annotation_arrays(packed), annotation_arrays(record), strict=True):
            assert ours.tolist() == expected.tolist()
            assert ours.dtype == expected.dtype


def test_dataset_name_refers_to_one_source(tmp_path: Path) -> None:
    source = write_voc(tmp_path / "a")
    voc_dataset(f"{tmp_path}_one", **source)
    with pytest.raises(DatasetError, match="choose another name"):
        voc_dataset(f"{tmp_path}_one", **write_voc(tmp_path / "b"))
    with pytest.raises(DatasetError, match="choose another name"):
        voc_dataset(f"{tmp_path}_one", **source | {"class_names": CLASSES[::-1]})


def test_unreadable_image_is_named_by_the_loader(tmp_path: Path) -> None:
    records = coco_dataset(f"{tmp_path}_broken", **write_coco(tmp_path))
    (tmp_path / "images" / "1.jpg").write_bytes(b"no image")
    loader = build_train_loader(
        records, mapper=DetectionMapper([], is_train=True), total_batch_size=3, num_workers=1, seed=0
    )
    with pytest.raises(DatasetError, match=r"1\.jpg"):
        next(iter(loader))


def write_objects365(root: Path) -> None:
    for split, count in (("train", 2), ("val", 4)):
        folder = root / split / "images" / "v1" / "patch0"
        folder.mkdir(parents=True)
        offset = 100 if split == "train" else 0
        images, annotations = [], []
        for number in range(offset, offset + count):
            width = 200 if number % 2 else 50
            Image.new("RGB", (width, 80)).save(folder / f"{number}.jpg")
            images.append({"id": number, "file_name": f"images/v1/patch0/{number}.jpg", "width": width, "height": 80})
            annotations.append(
                {"id": number % 100, "image_id": number, "category_id": 1, "bbox": [20, 8, 10, 40], "area": 400}
            )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
        (root / split / f"zhiyuan_objv2_{split}.json").write_text(json.dumps(content))
    (root / "train" / "images_from_val").mkdir()
    (root / "train" / "images_from_val" / "v1").symlink_to(root / "val" / "images" / "v1")


def test_objects365_split_and_resizing(tmp_path: Path) -> None:
    write_objects365(tmp_path)
    done = tool("prepare_objects365.py", str(tmp_path), "--val-images", "1", "--max-size", "100", "--workers", "1")
    assert done.returncode == 0, done.stderr
    train, val = (
        coco_dataset(
            f"{tmp_path}_{split}",
            str(tmp_path / split / f"new_zhiyuan_objv2_{split}_resized.json"),
            str(tmp_path / split),
        )
        for split in ("train", "val")
    )
    assert len(val) == 1
    assert sorted(record["image_id"] for record in train) == [1, 2, 3, 100, 101]
    for record in (*train, *val):
        read_image(record["file_name"], (record["height"], record["width"]))
        (box,) = annotation_arrays(record)[0].tolist()
        if record["image_id"] % 2:
            assert (record["height"], record["width"]) == (40, 100)
            assert box == [10, 4, 15, 24]
        else:
            assert (record["height"], record["width"]) == (80, 50)
            assert box == [20, 8, 30, 48]


def test_objects365_reports_skipped_images(tmp_path: Path) -> None:
    write_objects365(tmp_path)
    (tmp_path / "train" / "images" / "v1" / "patch0" / "101.jpg").unlink()
    annotations = tmp_path / "train" / "zhiyuan_objv2_train.json"
    (message,) = objects365.resize_images(annotations, tmp_path / "train", 100, 1)
    assert "101.jpg" in message
    with pytest.raises(DatasetError, match="cannot read"):
        objects365.move_validation_images(tmp_path / "nowhere")


RECIPES = {"voc": "deim_dfine_s_voc", "yolo": "deim_dfine_s_yolo", "crowdhuman": "deim_dfine_s_crowdhuman"}


@pytest.mark.parametrize("name", RECIPES)
def test_check_dataset_with_all_formats(tmp_path: Path, name: str) -> None:
    source = FORMATS[name][1](tmp_path)
    overrides = [
        f"dataloader.train.dataset.{key}={value if isinstance(value, str) else '[' + ','.join(value) + ']'}"
        for key, value in source.items()
    ]
    config = f"projects/deim_dfine/configs/{RECIPES[name]}.py"
    done = tool("check_dataset.py", "--config-file", config, "--output", str(tmp_path / "check"), *overrides)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "3, 1 without objects" in done.stdout
    assert "0 problems" in done.stdout
    for plot in ("classes.png", "images.png"):
        assert (tmp_path / "check" / plot).stat().st_size > 5000


def test_check_dataset_lists_all_problems(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    labels = tmp_path / "labels" / "train"
    (labels / "0.txt").write_text("0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n0 2.5 0.5 0.1 0.1\n")
    (labels / "1.txt").write_text("nothing\n")
    (tmp_path / "images" / "train" / "2.jpg").write_bytes((tmp_path / "images" / "train" / "2.jpg").read_bytes()[:-30])
    config = "projects/deim_dfine/configs/deim_dfine_s_yolo.py"
    overrides = [f"dataloader.train.dataset.data_file={source['data_file']}"]
    done = tool("check_dataset.py", "--config-file", config, "--output", str(tmp_path / "check"), *overrides)
    assert done.returncode == 1, done.stderr
    problems = (tmp_path / "check" / "problems.txt").read_text(encoding="utf-8")
    assert f"{labels}/0.txt:2: class 7 is not one of the 2 classes" in problems
    assert f"{labels}/0.txt:3: the box" in problems
    assert f"{labels}/1.txt:1: 'nothing' is not a valid label" in problems
    assert "2.jpg: cannot read image" in problems
    assert "4 problems, 3 of them must be fixed" in done.stdout


MEMORY_GROWTH_SCRIPT = """
from benchmarks.memory import memory_over_epoch, synthetic_records
from deim.data.records import CompactRecords

records = synthetic_records(20_000)
for dataset in (records, CompactRecords(records)):
    memory = memory_over_epoch(dataset)
    # Growth in the second half of the epoch: in the first, the worker also copies pages of Python itself.
    print(memory[-1] - memory[len(memory) // 2])
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_worker_memory_does_not_grow() -> None:
    # In a separate process: a page shared with the worker becomes private to the worker when the main process writes to
    # the page.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_GROWTH_SCRIPT], capture_output=True, text=True, check=True, cwd=ROOT
    )
    growing, steady = map(int, done.stdout.split())
    assert growing > 10 * 2**20, "records that are Python objects must show a growth"
    assert steady < 2**20
