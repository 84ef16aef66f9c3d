"""Small datasets in the folder layouts of annotation tools.

Each writer gets a folder and writes the objects of ``tests.data.test_datasets``.
"""

import base64
import csv
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.data.test_datasets import CLASSES, OBJECTS

WIDTH, HEIGHT = 100, 60


def write_image(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".png": "PNG"}[path.suffix.lower()]
    Image.new("RGB", (WIDTH, HEIGHT), (40 * number, 90, 120)).save(path, kind)


def write_images(folder: Path, names: Sequence[str] = ("0.jpg", "1.jpg", "2.jpg")) -> None:
    for number, name in enumerate(names):
        write_image(folder / name, number)


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_coco_file(
    path: Path,
    names: Sequence[str] = ("0.jpg", "1.jpg", "2.jpg"),
    categories: Sequence[dict] = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}),
    **changes: object,
) -> None:
    """Write a COCO file; ``changes`` apply to every annotation."""
    ids = {category["name"]: category["id"] for category in categories}
    content = {
        "images": [{"id": i + 1, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)],
        "annotations": [
            {
                "id": 10 * i + j + 1,
                "image_id": i + 1,
                "category_id": ids[CLASSES[label]],
                "bbox": [x, y, x2 - x, y2 - y],
                "area": (x2 - x) * (y2 - y),
                "iscrowd": 0,
                "segmentation": [],
            }
            | changes
            for i, objects in enumerate(OBJECTS)
            for j, (label, (x, y, x2, y2)) in enumerate(objects)
        ],
        "categories": list(categories),
    }
    write_json(path, content)


def yolo_lines(number: int) -> list[str]:
    lines = []
    for label, (x, y, x2, y2) in OBJECTS[number]:
        box = ((x + x2) / 2 / WIDTH, (y + y2) / 2 / HEIGHT, (x2 - x) / WIDTH, (y2 - y) / HEIGHT)
        lines.append(" ".join(map(str, (label, *box))))
    return lines


def yolo_labels(folder: Path, names: Sequence[str] = ("0.txt", "1.txt")) -> None:
    for number, name in enumerate(names):
        write_lines(folder / name, *yolo_lines(number))


def voc_xml(path: Path, number: int, filename: str) -> None:
    """Write an XML file with 0-based pixel coordinates, as annotation tools do."""
    lines = ["<annotation>", f"<filename>{filename}</filename>"]
    lines.append(f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>")
    for label, (x, y, x2, y2) in OBJECTS[number]:
        box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        lines.append(f"<object><name>{CLASSES[label]}</name><bndbox>{box}</bndbox></object>")
    write_lines(path, *lines, "</annotation>")


def cvat_coco(root: Path) -> None:
    write_coco_file(root / "annotations/instances_default.json")
    write_images(root / "images/default")


def cvat_yolo(root: Path) -> None:
    write_lines(
        root / "obj.data", "classes = 2", "train = data/train.txt", "names = data/obj.names", "backup = backup/"
    )
    write_lines(root / "obj.names", *CLASSES)
    write_lines(root / "train.txt", *(f"data/obj_train_data/{i}.jpg" for i in range(3)))
    write_images(root / "obj_train_data")
    yolo_labels(root / "obj_train_data", ("0.txt", "1.txt"))


def cvat_ultralytics(root: Path) -> None:
    write_lines(root / "data.yaml", "names:", "  0: cat", "  1: dog", "path: .", "train: train.txt")
    write_lines(root / "train.txt", *(f"data/images/train/{i}.jpg" for i in range(3)))
    write_images(root / "images/train")
    yolo_labels(root / "labels/train")


def cvat_voc(root: Path) -> None:
    write_images(root / "JPEGImages")
    for number in range(2):
        voc_xml(root / f"Annotations/{number}.xml", number, f"{number}.jpg")
    write_lines(root / "ImageSets/Main/default.txt", "0", "1", "2")
    write_lines(root / "labelmap.txt", "# label:color_rgb:parts:actions", "background::::", "cat::::", "dog::::")


def cvat_images(root: Path) -> None:
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>", "<meta><job><labels>"]
    lines += [f"<label><name>{name}</name><type>any</type></label>" for name in CLASSES]
    lines += ["<label><name>shore</name><type>polyline</type></label>", "</labels></job></meta>"]
    for number, objects in enumerate(OBJECTS):
        lines.append(f'<image id="{number}" name="{number}.jpg" width="{WIDTH}" height="{HEIGHT}">')
        for label, (x, y, x2, y2) in objects:
            edges = f'xtl="{x}.00" ytl="{y}.00" xbr="{x2}.00" ybr="{y2}.00"'
            lines.append(f'<box label="{CLASSES[label]}" source="manual" occluded="0" {edges} z_order="0"></box>')
        lines.append("</image>")
    write_lines(root / "annotations.xml", *lines, "</annotations>")
    write_images(root / "images")


def label_studio_coco(root: Path, json_prefix: str = "images\\", disk_prefix: str = "3ab1c2d4-") -> None:
    """Write the dataset; the two prefixes precede the names of the images in the JSON file and on the disk."""
    write_coco_file(
        root / "result.json",
        [f"{json_prefix}{i}.jpg" for i in range(3)],
        ({"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}),
    )
    write_images(root / "images", [f"{disk_prefix}{i}.jpg" for i in range(3)])


def label_studio_yolo(root: Path) -> None:
    write_lines(root / "classes.txt", *CLASSES)
    write_json(
        root / "notes.json", {"categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)], "info": {}}
    )
    write_images(root / "images", [f"3ab1c2d4-{i}.jpg" for i in range(3)])
    yolo_labels(root / "labels", ["3ab1c2d4-0.txt", "3ab1c2d4-1.txt"])


def label_studio_voc(root: Path) -> None:
    write_images(root / "images", ["3ab1c2d4-0.jpg", "3ab1c2d4-1.jpg"])
    for number in range(2):
        voc_xml(root / f"Annotations/3ab1c2d4-{number}.xml", number, f"3ab1c2d4-{number}.jpg")


ROBOFLOW_CATEGORIES = (
    {"id": 0, "name": "pets", "supercategory": "none"},
    {"id": 1, "name": "cat", "supercategory": "pets"},
    {"id": 2, "name": "dog", "supercategory": "pets"},
)


def roboflow_coco(root: Path) -> None:
    for split in ("train", "valid", "test"):
        write_coco_file(root / split / "_annotations.coco.json", categories=ROBOFLOW_CATEGORIES)
        write_images(root / split)


def roboflow_yolo(root: Path) -> None:
    lines = (f"{key}: ../{split}/images" for key, split in (("train", "train"), ("val", "valid"), ("test", "test")))
    write_lines(root / "data.yaml", *lines, "", "nc: 2", "names: ['cat', 'dog']")
    for split in ("train", "valid", "test"):
        write_images(root / split / "images")
        yolo_labels(root / split / "labels")


def roboflow_voc(root: Path) -> None:
    for split in ("train", "valid", "test"):
        write_images(root / split)
        for number in range(3):
            voc_xml(root / split / f"{number}.xml", number, f"{number}.jpg")


def labelimg_voc(root: Path) -> None:
    write_images(root, ["0.JPG", "1.jpg", "2.jpg"])
    for number in range(2):
        voc_xml(root / f"{number}.xml", number, f"{number}.jpg")


def folders_of_images_and_annots(root: Path) -> None:
    (root / "annots").mkdir(parents=True)
    write_images(root / "images")
    for number in range(2):
        voc_xml(root / "annots" / f"{number}.xml", number, f"{number}.jpg")


def labelimg_yolo(root: Path) -> None:
    write_lines(root / "classes.txt", *CLASSES)
    write_images(root)
    yolo_labels(root, ("0.TXT", "1.txt"))


def labelme(root: Path) -> None:
    write_images(root)
    for number, objects in enumerate(OBJECTS):
        shapes = [
            {
                "label": CLASSES[label],
                "points": [box[2:], box[:2]],
                "shape_type": "rectangle",
                "group_id": 1,
                "flags": {},
            }
            for label, box in objects
        ]
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{number}.jpg", "imageData": None}
        write_json(root / f"{number}.json", content | {"imageHeight": HEIGHT, "imageWidth": WIDTH})


def supervisely(root: Path) -> None:
    classes = [{"title": name, "shape": "any", "color": "#FF0000"} for name in CLASSES]
    write_json(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    write_images(root / "ds0/img")
    for number, objects in enumerate(OBJECTS):
        shapes = [
            {
                "classTitle": CLASSES[label],
                "geometryType": "rectangle",
                "points": {"exterior": [box[:2], [box[2] - 1, box[3] - 1]], "interior": []},
            }
            for label, box in objects
        ]
        content = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": shapes}
        write_json(root / f"ds0/ann/{number}.jpg.json", content)


def _via_regions(number: int) -> list[dict]:
    return [
        {
            "shape_attributes": {"name": "rect", "x": x, "y": y, "width": x2 - x, "height": y2 - y},
            "region_attributes": {"quality": "good", "type": CLASSES[label]},
        }
        for label, (x, y, x2, y2) in OBJECTS[number]
    ]


def via_json(root: Path) -> None:
    write_images(root)
    entries = {
        f"{i}.jpg825": {"filename": f"{i}.jpg", "size": 825, "regions": _via_regions(i), "file_attributes": {}}
        for i in range(3)
    }
    write_json(root / "via_export_json.json", entries)


def via_project(root: Path) -> None:
    via_json(root)
    entries = json.loads((root / "via_export_json.json").read_text(encoding="utf-8"))
    (root / "via_export_json.json").unlink()
    write_json(root / "via_project.json", {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}})


def via_csv(root: Path) -> None:
    write_images(root)
    header = ["filename", "file_size", "file_attributes", "region_count", "region_id"]
    with (root / "via_export_csv.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*header, "region_shape_attributes", "region_attributes"])
        for number in range(3):
            regions = _via_regions(number)
            start = [f"{number}.jpg", 825, "{}", len(regions)]
            for index, region in enumerate(regions):
                rows.writerow([*start, index, *(json.dumps(value) for value in region.values())])
            if not regions:
                rows.writerow([*start, 0, "{}", "{}"])


def open_images(root: Path) -> None:
    write_images(root / "images/train")
    write_images(root / "images/validation")
    codes = ("/m/01yrx", "/m/0bt9lr")
    write_lines(
        root / "class-descriptions-boxable.csv", *(f"{code},{name}" for code, name in zip(codes, CLASSES, strict=True))
    )
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    rows = [
        f"{number},xclick,{codes[label]},1,{x / WIDTH},{x2 / WIDTH},{y / HEIGHT},{y2 / HEIGHT},0,0,0,0,0"
        for number, objects in enumerate(OBJECTS)
        for label, (x, y, x2, y2) in objects
    ]
    for split in ("train", "validation"):
        write_lines(root / f"{split}-annotations-bbox.csv", header, *rows)


def yolo_without_yaml(root: Path) -> None:
    write_lines(root / "classes.txt", *CLASSES)
    for split in ("train", "val"):
        write_images(root / "images" / split)
        yolo_labels(root / "labels" / split)


def yolo_autosplit(root: Path) -> None:
    write_lines(root / "classes.txt", *CLASSES)
    write_images(root / "images")
    yolo_labels(root / "labels")
    write_lines(root / "autosplit_train.txt", "./images/0.jpg", "./images/1.jpg", "./images/2.jpg")
    write_lines(root / "autosplit_val.txt", "./images/0.jpg")


def one_json_beside_images(root: Path) -> None:
    write_coco_file(root / "labels_my-project.json")
    write_images(root / "images")


def bitmap(height: int, width: int) -> tuple[np.ndarray, str, str]:
    """Return a mask (height, width) with an empty border, and its text in files of labelme and of Supervisely.

    labelme writes a PNG as base64, Supervisely a compressed PNG as base64.
    """
    pixels = np.zeros((height, width), np.uint8)
    pixels[2:-2, 3:-3] = 255
    png = cv2.imencode(".png", pixels)[1].tobytes()
    return pixels > 0, base64.b64encode(png).decode(), base64.b64encode(zlib.compress(png)).decode()


# {tool: (writer, name of the detected format, whether there is an evaluation split, number of images without objects)}
LAYOUTS: dict[str, tuple[Callable[[Path], None], str, bool, int]] = {
    "CVAT, COCO 1.0": (cvat_coco, "COCO", False, 1),
    "CVAT, YOLO 1.1": (cvat_yolo, "YOLO (Darknet)", False, 1),
    "CVAT, Ultralytics": (cvat_ultralytics, "YOLO", False, 1),
    "CVAT, Pascal VOC 1.1": (cvat_voc, "Pascal VOC", False, 1),
    "CVAT, CVAT for images 1.1": (cvat_images, "CVAT for images", False, 1),
    "Label Studio, COCO": (label_studio_coco, "COCO", False, 1),
    "Label Studio, YOLO": (label_studio_yolo, "YOLO labels", False, 1),
    "Label Studio, Pascal VOC": (label_studio_voc, "Pascal VOC", False, 0),
    "Roboflow, COCO": (roboflow_coco, "COCO", True, 1),
    "Roboflow, YOLO": (roboflow_yolo, "YOLO", True, 1),
    "Roboflow, Pascal VOC": (roboflow_voc, "Pascal VOC", True, 1),
    "LabelImg, Pascal VOC": (labelimg_voc, "Pascal VOC", False, 0),
    "images and annots": (folders_of_images_and_annots, "Pascal VOC", False, 0),
    "LabelImg, YOLO": (labelimg_yolo, "YOLO labels", False, 1),
    "labelme": (labelme, "labelme", False, 1),
    "Supervisely": (supervisely, "Supervisely", False, 1),
    "VIA, JSON": (via_json, "VIA", False, 1),
    "VIA, project": (via_project, "VIA", False, 1),
    "VIA, CSV": (via_csv, "VIA", False, 1),
    "Open Images": (open_images, "Open Images", True, 0),
    "YOLO without data.yaml": (yolo_without_yaml, "YOLO labels", True, 1),
    "YOLO, autosplit": (yolo_autosplit, "YOLO labels", True, 1),
    "one JSON beside images": (one_json_beside_images, "COCO", False, 1),
}
