"""Writers of detections: images with boxes, COCO JSON, CSV, YOLO text files."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from deim.errors import ConfigError
from deim.inference.detections import Detections, default_category_ids


class Writer(Protocol):
    def add(self, found: Detections, name: str) -> None:
        """Add the detections in one image; ``name`` is its file name without directory and suffix, made unique."""

    def close(self) -> None:
        """Write everything not yet written."""


class PictureWriter:
    """Writer of ``pictures/<name>.jpg``: images with boxes."""

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "pictures"
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, found: Detections, name: str) -> None:
        found.draw().save(self.folder / f"{name}.jpg", quality=92)

    def close(self) -> None:
        pass


class CocoWriter:
    """Writer of ``coco.json``: a COCO dataset with scored annotations, which are valid COCO results."""

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.path, self.ids = folder / "coco.json", default_category_ids(class_names)
        categories = [{"id": number, "name": name} for number, name in zip(self.ids, class_names, strict=True)]
        self.content: dict[str, list[dict]] = {"images": [], "categories": categories, "annotations": []}

    def add(self, found: Detections, name: str) -> None:
        height, width = found.image_size
        # As in COCO's own files, where the image id is the number in the file name.
        image_id = int(name) if name.isdigit() else len(self.content["images"]) + 1
        self.content["images"].append(
            {"id": image_id, "file_name": Path(found.file_name or name).name, "height": height, "width": width}
        )
        for one in found.to_coco(image_id, self.ids):
            box = one["bbox"]
            number = len(self.content["annotations"]) + 1
            self.content["annotations"].append({"id": number, **one, "area": box[2] * box[3], "iscrowd": 0})

    def close(self) -> None:
        self.path.write_text(json.dumps(self.content), encoding="utf-8")


class CsvWriter:
    """Writer of ``detections.csv``: one line per detection, boxes in pixels."""

    COLUMNS = ("file", "class", "score", "left", "top", "right", "bottom")

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.file = (folder / "detections.csv").open("w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file)
        self.table.writerow(self.COLUMNS)

    def add(self, found: Detections, name: str) -> None:
        rows = zip(found.labels, found.scores.tolist(), found.boxes.tolist(), strict=True)
        for label, score, box in rows:
            self.table.writerow([found.file_name or name, label, f"{score:.4f}", *(f"{side:.1f}" for side in box)])

    def close(self) -> None:
        self.file.close()


class YoloWriter:
    """Writer of ``labels/<name>.txt``: class, center and size relative to the image, score; and ``classes.txt``."""

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "labels"
        self.folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")

    def add(self, found: Detections, name: str) -> None:
        height, width = found.image_size
        lines = []
        for label, score, box in zip(
            found.pred_classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
        ):
            left, top, right, bottom = box
            center = (left + right) / 2 / width, (top + bottom) / 2 / height
            sides = (right - left) / width, (bottom - top) / height
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in (*center, *sides, score))]))
        (self.folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def close(self) -> None:
        pass


WRITERS: dict[str, Callable[[Path, Sequence[str]], Writer]] = {
    "pictures": PictureWriter,
    "coco": CocoWriter,
    "csv": CsvWriter,
    "yolo": YoloWriter,
}


def open_writers(kinds: Sequence[str], folder: str | Path, class_names: Sequence[str]) -> list[Writer]:
    """Open the writers of the given kinds.

    Raises:
        ConfigError: if the directory is not writable.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return [WRITERS[kind](Path(folder), class_names) for kind in kinds]
    except OSError as error:
        raise ConfigError(f"{folder} is not writable: {error.strerror or error}") from error


class Names:
    """Unique names for result files: the name of the image, with a number appended if it is taken."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, file_name: str | None, number: int) -> str:
        """Return a unique name for an image.

        Args:
            number: number of the image, used as its name if it does not come from a file.
        """
        stem = Path(file_name).stem if file_name else f"{number:06d}"
        name, repetition = stem, 1
        while name in self._taken:
            repetition += 1
            name = f"{stem}_{repetition}"
        self._taken.add(name)
        return name
