"""Writers of detections: images, mask images, COCO JSON, CSV, text files of YOLO and MOT Challenge, annotation tools."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from deim.data.datasets.keypoints import FLIP_PAIRS_KEY
from deim.errors import ConfigError
from deim.inference.addresses import image_name, is_address
from deim.inference.cvat import CvatWriter
from deim.inference.detections import Detections, default_category_ids
from deim.inference.label_studio import LabelStudioWriter
from deim.inference.outlines import mask_outline
from deim.inference.video import FramePosition
from deim.structures.skeleton import Skeleton


class DetectionWriter(Protocol):
    """Writer of the detections in many images."""

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        """Add the detections in one image.

        Args:
            name: file name of the image without directory and suffix, made unique.
            position: place of the image in a video; None for single images.
        """

    def close(self) -> None:
        """Write everything not yet written."""


class ImageWriter:
    """Writer of ``images/<name>.jpg``: images with boxes, masks and skeletons."""

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "images"
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        detections.draw().save(self.folder / f"{name}.jpg", quality=92)

    def close(self) -> None:
        pass


class MaskWriter:
    """Writer of ``masks/<name>.png``: images whose value is the number of the detection at a pixel, 0 for background.

    Detections are numbered from 1, the best first, as in the other files. Where masks overlap, the best is on top. Values
    have 8 bits, or 16 bits if an image has more than 255 detections.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "masks"
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        """Write the masks of an image. Raises ConfigError if the model predicts no masks."""
        if detections.masks is None:
            raise ConfigError("--save masks: the model predicts no masks")
        numbers = np.zeros(detections.image_size, np.uint8 if len(detections) < 256 else np.uint16)
        for index in reversed(range(len(detections))):
            numbers[detections.masks[index].cpu().numpy()] = index + 1
        Image.fromarray(numbers).save(self.folder / f"{name}.png")

    def close(self) -> None:
        pass


class CocoWriter:
    """Writer of ``coco.json``: a COCO dataset with scored annotations, which are valid COCO results.

    Until it is closed, images and annotations are in ``coco.images.part`` and ``coco.annotations.part``, one per line, so
    that the memory does not grow with the number of images. An image whose file name occurred before, in another folder,
    is listed with its path.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.path, self.ids = folder / "coco.json", default_category_ids(class_names)
        self.categories: list[dict[str, Any]] = [
            {"id": number, "name": name} for number, name in zip(self.ids, class_names, strict=True)
        ]
        self._images = _JsonItems(folder / "coco.images.part")
        self._annotations = _JsonItems(folder / "coco.annotations.part")
        self._used_ids: set[int] = set()
        self._used_names: set[str] = set()

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        height, width = detections.image_size
        # As in COCO's own files, where the image id is the number in the file name. Other images, and those whose
        # number is taken, get the next free id.
        image_id = int(name) if name.isdecimal() else self._images.count + 1
        while image_id in self._used_ids:
            image_id += 1
        self._used_ids.add(image_id)
        file_name = Path(detections.file_name or name).name
        if file_name in self._used_names and detections.file_name:
            file_name = detections.file_name
        self._used_names.add(file_name)
        self._images.add({"id": image_id, "file_name": file_name, "height": height, "width": width})
        if detections.skeleton is not None:
            self._define_keypoints(detections.skeleton)
        for result in detections.to_coco(image_id, self.ids):
            box = result["bbox"]
            area = float(coco_masks.area(result["segmentation"])) if "segmentation" in result else box[2] * box[3]
            if "keypoints" in result:
                # The third value is the score in results, and the visibility in datasets: 2 for visible.
                result["keypoints"][2::3] = [2] * (len(result["keypoints"]) // 3)
                result["num_keypoints"] = len(result["keypoints"]) // 3
            self._annotations.add({"id": self._annotations.count + 1, **result, "area": area, "iscrowd": 0})

    def _define_keypoints(self, skeleton: Skeleton) -> None:
        # COCO counts keypoints from 1.
        pairs = [[first + 1, second + 1] for first, second in skeleton.connections]
        for category in self.categories:
            category.update(keypoints=list(skeleton.names), skeleton=pairs)
            if skeleton.flip_pairs is not None:
                category[FLIP_PAIRS_KEY] = [[first + 1, second + 1] for first, second in skeleton.flip_pairs]

    def close(self) -> None:
        with self.path.open("w", encoding="utf-8") as file:
            file.write('{"images": [')
            self._images.move_to(file)
            file.write(f'], "categories": {json.dumps(self.categories)}, "annotations": [')
            self._annotations.move_to(file)
            file.write("]}")


class _JsonItems:
    """Items of a JSON array in a temporary file, one per line."""

    def __init__(self, path: Path):
        self.path, self.count = path, 0
        # Lines are written at once, so that they are kept if the process is killed while a stream is recorded.
        self._file = path.open("w", buffering=1, encoding="utf-8")

    def add(self, item: dict[str, Any]) -> None:
        self._file.write(f"{json.dumps(item)}\n")
        self.count += 1

    def move_to(self, target: TextIO) -> None:
        """Append the items to another file, separated by commas, and delete the temporary file."""
        self._file.close()
        with self.path.open(encoding="utf-8") as source:
            for number, line in enumerate(source):
                target.write(f"{', ' if number else ''}{line.rstrip()}")
        self.path.unlink()


class CsvWriter:
    """Writer of ``detections.csv``: one line per detection, boxes in pixels.

    Further columns are the area of the mask in pixels, and x and y of each keypoint, if the model predicts them; and the
    identity if objects are tracked.
    """

    COLUMNS = ("file", "class", "score", "left", "top", "right", "bottom")

    def __init__(self, folder: Path, class_names: Sequence[str]):
        # Lines are written at once, so that the file can be read while a stream is recorded.
        self.file = (folder / "detections.csv").open("w", buffering=1, newline="", encoding="utf-8")
        self.writer = csv.writer(self.file)
        self._has_header = False

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        self._write_header(detections)
        values = detections.boxes
        if detections.masks is not None:
            values = torch.cat([values, detections.masks.sum(dim=(1, 2))[:, None]], dim=1)
        if detections.keypoints is not None:
            values = torch.cat([values, detections.keypoints[..., :2].flatten(1)], dim=1)
        identities = [[]] * len(detections) if detections.track_ids is None else detections.track_ids[:, None].tolist()
        rows = zip(detections.labels, detections.scores.tolist(), values.tolist(), identities, strict=True)
        for label, score, numbers, identity in rows:
            coordinates = [f"{number:.1f}" for number in numbers]
            self.writer.writerow([detections.file_name or name, label, f"{score:.4f}", *coordinates, *identity])

    def close(self) -> None:
        self._write_header(None)
        self.file.close()

    def _write_header(self, detections: Detections | None) -> None:
        """Write the names of the columns, once."""
        if self._has_header:
            return
        columns = list(self.COLUMNS)
        if detections is not None and detections.masks is not None:
            columns.append("mask_area")
        if detections is not None and detections.skeleton is not None:
            columns += [f"{keypoint}_{axis}" for keypoint in detections.skeleton.names for axis in "xy"]
        if detections is not None and detections.track_ids is not None:
            columns.append("track_id")
        self.writer.writerow(columns)
        self._has_header = True


class YoloWriter:
    """Writer of ``labels/<name>.txt`` and ``classes.txt``, in the formats of YOLO's tasks with a score at the end.

    A line has the class, the values of the object relative to the image, and the score. The values are those of the
    predictions: center and size of the box; for masks, the corners of a polygon instead; for keypoints, the box followed
    by x, y and visibility (2) of each keypoint. YOLO has no format for masks together with keypoints: the masks are then
    omitted.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "labels"
        self.folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        lines = []
        for index, (label, score) in enumerate(
            zip(detections.pred_classes.tolist(), detections.scores.tolist(), strict=True)
        ):
            values = (*_yolo_values(detections, index), score)
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in values)]))
        (self.folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def close(self) -> None:
        pass


def _yolo_values(detections: Detections, index: int) -> list[float]:
    """Return the values of a detection between its class and its score; see :class:`YoloWriter`."""
    height, width = detections.image_size
    left, top, right, bottom = detections.boxes[index].tolist()
    box = [(left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height]
    if detections.keypoints is not None:
        for x, y, _ in detections.keypoints[index].tolist():
            box += [x / width, y / height, 2]
        return box
    if detections.masks is None:
        return box
    corners = mask_outline(detections.masks[index].cpu().numpy())
    if not len(corners):  # the line of an empty mask has the corners of its box
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return (corners / (width, height)).ravel().tolist()


class MotWriter:
    """Writer of ``mot/<video>.txt``: tracked boxes in the format of results of the MOT Challenge.

    A line has the number of the frame, the identity, left, top, width and height of the box, the score, and -1 three
    times. Frames and pixels are counted from 1.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder = folder / "mot"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO | None = None
        self._sequence: str | None = None

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        """Write the boxes in a frame. Raises ConfigError if objects are not tracked."""
        if detections.track_ids is None or position is None:
            raise ConfigError("--save mot requires --track, and a video, a stream or a directory of frames")
        if self._sequence != position.sequence:
            self.close()
            self._sequence = position.sequence
            self._file = (self.folder / f"{position.sequence}.txt").open("w", buffering=1, encoding="utf-8")
        assert self._file is not None
        rows = zip(detections.track_ids.tolist(), detections.boxes.tolist(), detections.scores.tolist(), strict=True)
        for identity, (left, top, right, bottom), score in rows:
            box = f"{left + 1:.2f},{top + 1:.2f},{right - left:.2f},{bottom - top:.2f}"
            self._file.write(f"{position.number + 1},{identity},{box},{score:.4f},-1,-1,-1\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


# Output formats of ``deim predict --save``.
WRITERS: dict[str, Callable[[Path, Sequence[str]], DetectionWriter]] = {
    "images": ImageWriter,
    "masks": MaskWriter,
    "coco": CocoWriter,
    "csv": CsvWriter,
    "yolo": YoloWriter,
    "labelstudio": LabelStudioWriter,
    "cvat": CvatWriter,
    "mot": MotWriter,
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
            file_name: path or address of the image; None for an image in memory or a camera.
            number: number of the image, used as the name if ``file_name`` is None.
        """
        if not file_name:
            stem = f"{number:06d}"
        else:
            stem = image_name(file_name) if is_address(file_name) else Path(file_name).stem
        return self.unique(stem)

    def unique(self, stem: str) -> str:
        """Return a name that was not returned before, regardless of case: ``stem``, with a number if it was."""
        name, repetition = stem, 1
        while name.casefold() in self._used_names:
            repetition += 1
            name = f"{stem}_{repetition}"
        self._used_names.add(name.casefold())
        return name
