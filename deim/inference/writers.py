"""Writers of detections: images with boxes, COCO JSON, CSV, YOLO text files."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from deim.errors import ConfigError
from deim.inference.detections import Detections, default_category_ids


class DetectionWriter(Protocol):
    """Writer of the detections in many images."""

    def add(self, detections: Detections, name: str) -> None:
        """Add the detections in one image; ``name`` is its file name without directory and suffix, made unique."""

    def close(self) -> None:
        """Write everything not yet written."""


class ImageWriter:
    """Writer of ``images/<name>.jpg``: images with boxes."""

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "images"
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, detections: Detections, name: str) -> None:
        detections.draw().save(self.folder / f"{name}.jpg", quality=92)

    def close(self) -> None:
        pass


class CocoWriter:
    """Writer of ``coco.json``: a COCO dataset with scored annotations, which are valid COCO results."""

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.path, self.ids = folder / "coco.json", default_category_ids(class_names)
        categories = [{"id": number, "name": name} for number, name in zip(self.ids, class_names, strict=True)]
        self.content: dict[str, list[dict]] = {"images": [], "categories": categories, "annotations": []}
        self._used_ids: set[int] = set()

    def add(self, detections: Detections, name: str) -> None:
        height, width = detections.image_size
        # As in COCO's own files, where the image id is the number in the file name. Other images, and those whose
        # number is taken, get the next free id.
        image_id = int(name) if name.isdigit() else len(self.content["images"]) + 1
        while image_id in self._used_ids:
            image_id += 1
        self._used_ids.add(image_id)
        self.content["images"].append(
            {"id": image_id, "file_name": Path(detections.file_name or name).name, "height": height, "width": width}
        )
        for result in detections.to_coco(image_id, self.ids):
            box = result["bbox"]
            number = len(self.content["annotations"]) + 1
            self.content["annotations"].append({"id": number, **result, "area": box[2] * box[3], "iscrowd": 0})

    def close(self) -> None:
        self.path.write_text(json.dumps(self.content), encoding="utf-8")


class CsvWriter:
    """Writer of ``detections.csv``: one line per detection, boxes in pixels."""

    COLUMNS = ("file", "class", "score", "left", "top", "right", "bottom")

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.file = (folder / "detections.csv").open("w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file)
        self.writer.writerow(self.COLUMNS)

    def add(self, detections: Detections, name: str) -> None:
        rows = zip(detections.labels, detections.scores.tolist(), detections.boxes.tolist(), strict=True)
        for label, score, box in rows:
            self.writer.writerow(
                [detections.file_name or name, label, f"{score:.4f}", *(f"{coordinate:.1f}" for coordinate in box)]
            )

    def close(self) -> None:
        self.file.close()


class YoloWriter:
    """Writer of ``labels/<name>.txt``: class, center and size relative to the image, score; and ``classes.txt``."""

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "labels"
        self.folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")

    def add(self, detections: Detections, name: str) -> None:
        height, width = detections.image_size
        lines = []
        for label, score, box in zip(
            detections.pred_classes.tolist(), detections.scores.tolist(), detections.boxes.tolist(), strict=True
        ):
            left, top, right, bottom = box
            center = (left + right) / 2 / width, (top + bottom) / 2 / height
            sides = (right - left) / width, (bottom - top) / height
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in (*center, *sides, score))]))
        (self.folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def close(self) -> None:
        pass


# Output formats of ``deim predict --save``.
WRITERS: dict[str, Callable[[Path, Sequence[str]], DetectionWriter]] = {
    "images": ImageWriter,
    "coco": CocoWriter,
    "csv": CsvWriter,
    "yolo": YoloWriter,
}


def open_writers(formats: Sequence[str], folder: str | Path, class_names: Sequence[str]) -> list[DetectionWriter]:
    """Open the writers of the given formats, which are keys of :data:`WRITERS`.

    Raises:
        ConfigError: if the directory is not writable.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return [WRITERS[name](Path(folder), class_names) for name in formats]
    except OSError as error:
        raise ConfigError(f"{folder} is not writable: {error.strerror or error}") from error


class UniqueNames:
    """Unique names for result files: the name of the image, with a number appended to repeated names."""

    def __init__(self) -> None:
        self._used_names: set[str] = set()

    def name_for(self, file_name: str | None, number: int) -> str:
        """Return a unique name for an image.

        Args:
            file_name: path of the image; None for an image in memory or a camera.
            number: number of the image, used as the name if ``file_name`` is None.
        """
        stem = Path(file_name).stem if file_name else f"{number:06d}"
        name, repetition = stem, 1
        while name in self._used_names:
            repetition += 1
            name = f"{stem}_{repetition}"
        self._used_names.add(name)
        return name
