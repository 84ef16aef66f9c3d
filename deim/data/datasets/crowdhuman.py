"""CrowdHuman format (arXiv 1805.00123): one line of JSON per image."""

import functools
import json
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from tqdm import tqdm

from deim.data.datasets.registration import register_dataset, require_file
from deim.data.datasets.validation import DatasetContent, Problem, is_box, require_inside_folder
from deim.data.image import image_size
from deim.errors import DatasetError

BOXES = {"full": "fbox", "visible": "vbox", "head": "hbox"}


def crowdhuman_dataset(
    names: str, annotation_file: str, image_root: str, box: str = "full", max_invalid_records: int = 0
) -> list[dict]:
    """Read an ``annotation_{train,val}.odgt`` file, with the single class "person".

    Annotations that are marked as ignored, or have a tag other than "person", get ``iscrowd=1``.

    Args:
        names: name to register the dataset under (detectron2's argument ``names``).
        annotation_file: the ``.odgt`` file.
        image_root: folder that contains ``<ID>.jpg``.
        box: "full" (whole person, may extend beyond the image), "visible" or "head".
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed. For malformed records, the message names file and line.
    """
    if box not in BOXES:
        raise DatasetError(f"dataset {names!r}: box={box!r} is not valid; choose one of {', '.join(BOXES)}")
    read = functools.partial(read_crowdhuman, annotation_file, image_root, box)
    return register_dataset(names, f"{annotation_file}, {image_root}, {box} boxes", read, max_invalid_records)


def read_crowdhuman(annotation_file: str, image_root: str, box: str) -> DatasetContent:
    """Read the file; see :func:`crowdhuman_dataset`."""
    require_file(Path(annotation_file))
    content = DatasetContent([], ["person"], [])
    # An undecodable byte becomes U+FFFD, so it affects only the record of its line. str.splitlines would also split inside
    # JSON strings, at characters such as U+2028.
    lines = Path(annotation_file).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(tqdm(lines, f"reading {annotation_file}", delay=2, mininterval=2, unit="image"), 1):
        if not text.strip():
            continue
        try:
            content.records.append(_record(json.loads(text), number, annotation_file, image_root, box))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DatasetError) as error:
            message = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            content.problems.append(Problem(f"{annotation_file}:{number}", message, True))
    return content


def _record(image: dict, line: int, annotation_file: str, image_root: str, box: str) -> dict:
    file_name = str(Path(image_root) / f"{image['ID']}.jpg")
    require_inside_folder(file_name, image_root, annotation_file)
    height, width = image_size(file_name)
    return {
        "file_name": file_name,
        "height": height,
        "width": width,
        "image_id": line,
        "annotation_file": annotation_file,
        "annotations": [
            {
                "bbox": _require_box(person[BOXES[box]]),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "iscrowd": int(person["tag"] != "person" or _is_ignored(person, box)),
                "line": line,
            }
            for person in image["gtboxes"]
        ],
    }


def _require_box(value: Any) -> list:
    if not is_box(value):
        raise ValueError(f"the box {value!r} is not a list of 4 numbers")
    return value


def _is_ignored(person: dict, box: str) -> bool:
    attributes = person.get("head_attr" if box == "head" else "extra") or {}
    return bool(attributes.get("ignore", 0))
