"""Detections as predictions of Label Studio, and the labeling configuration of its project."""

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from deim.errors import ConfigError
from deim.inference.detections import Detections
from deim.inference.preannotation import image_file, run_lengths
from deim.inference.video import FramePosition
from deim.visualization.annotation import class_color

# Names of the controls in the labeling configuration; the image has the name "image".
_BOXES, _MASKS, _KEYPOINTS = "boxes", "masks", "keypoints"
# Folder below which Label Studio serves local files; the variable is that of Label Studio.
_ROOT_VARIABLE = "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"
# Bits of the length of a run in Label Studio's run-length encoding.
_RUN_BITS = (3, 4, 8, 16)


class LabelStudioWriter:
    """Writer of ``label_studio.json``, tasks with predictions, and ``label_studio.xml``, the labeling configuration.

    An object has a mask if the model predicts masks, and else a box. Its keypoints are regions whose parent is the mask or
    the box.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder, self.class_names = folder, list(class_names)
        self.tasks: list[dict[str, Any]] = []
        self._keypoint_names: tuple[str, ...] = ()
        self._has_masks = False

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        """Add a task. Raises ConfigError if Label Studio cannot serve the image."""
        self._has_masks |= detections.masks is not None
        if detections.skeleton is not None:
            self._keypoint_names = detections.skeleton.names
        scores = detections.scores.tolist()
        prediction = {
            "model_version": "deim",
            "score": sum(scores) / len(scores) if scores else 0.0,
            "result": list(_regions(detections)),
        }
        url = _local_url(image_file(detections, name, self.folder))
        self.tasks.append({"data": {"image": url}, "predictions": [prediction]})

    def close(self) -> None:
        (self.folder / "label_studio.json").write_text(json.dumps(self.tasks), encoding="utf-8")
        (self.folder / "label_studio.xml").write_text(self._configuration(), encoding="utf-8")

    def _configuration(self) -> str:
        view = ET.Element("View")
        ET.SubElement(view, "Image", name="image", value="$image", zoom="true")
        kind, control = ("BrushLabels", _MASKS) if self._has_masks else ("RectangleLabels", _BOXES)
        labels = ET.SubElement(view, kind, name=control, toName="image")
        for index, name in enumerate(self.class_names):
            color = "#{:02x}{:02x}{:02x}".format(*class_color(index))
            ET.SubElement(labels, "Label", value=name, background=color)
        if self._keypoint_names:
            labels = ET.SubElement(view, "KeyPointLabels", name=_KEYPOINTS, toName="image")
            for index, name in enumerate(self._keypoint_names):
                # The index defines the order in exported files.
                ET.SubElement(labels, "Label", value=name, model_index=str(index))
        ET.indent(view)
        return ET.tostring(view, encoding="unicode") + "\n"


def _local_url(path: Path) -> str:
    """Return the URL of a file that Label Studio serves from its folder of local files."""
    root = Path(os.environ.get(_ROOT_VARIABLE) or path.anchor).absolute()
    if not path.is_relative_to(root):
        raise ConfigError(f"{path} is not below {_ROOT_VARIABLE}={root}, from which Label Studio serves images")
    return f"/data/local-files/?d={quote(path.relative_to(root).as_posix())}"


def _regions(detections: Detections) -> Iterator[dict[str, Any]]:
    """Yield the regions of all detections of an image."""
    height, width = detections.image_size
    scale = np.array([100 / width, 100 / height])
    boxes = detections.boxes.cpu().numpy().astype(np.float64).reshape(-1, 2, 2) * scale
    for index, (label, score) in enumerate(zip(detections.labels, detections.scores.tolist(), strict=True)):
        common = {
            "id": f"object-{index}",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": score,
        }
        if detections.masks is None:
            (left, top), (right, bottom) = boxes[index].tolist()
            corners = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
            value: dict[str, Any] = {**corners, "rectanglelabels": [label]}
            yield {**common, "type": "rectanglelabels", "from_name": _BOXES, "value": value}
        else:
            counts = encode_brush(detections.masks[index].cpu().numpy())
            value = {"format": "rle", "rle": counts, "brushlabels": [label]}
            yield {**common, "type": "brushlabels", "from_name": _MASKS, "value": value}
        if detections.keypoints is not None and detections.skeleton is not None:
            points = (detections.keypoints[index, :, :2].cpu().numpy() * scale).tolist()
            for name, (x, y) in zip(detections.skeleton.names, points, strict=True):
                yield {
                    **common,
                    "id": f"object-{index}-{name}",
                    "parentID": common["id"],
                    "type": "keypointlabels",
                    "from_name": _KEYPOINTS,
                    "value": {"x": x, "y": y, "width": 0.5, "keypointlabels": [name]},
                }


def encode_brush(mask: np.ndarray) -> list[int]:
    """Return Label Studio's run-length encoding of a mask (H, W), bool.

    It encodes an RGBA image whose four values are 255 inside of the mask and 0 outside. The bits are those of the package
    rle-pack of thi.ng: number of values, bits of a value, and bits of the lengths of runs; then the runs.
    """
    lengths = run_lengths(mask.reshape(-1)) * 4  # the values of a pixel
    bits = [f"{mask.size * 4:032b}", f"{8 - 1:05b}", *(f"{number - 1:04b}" for number in _RUN_BITS)]
    is_inside = bool(mask.flat[0])
    for length in lengths.tolist():
        value = "11111111" if is_inside else "00000000"
        is_inside = not is_inside
        while length:
            run = min(length, 2 ** _RUN_BITS[-1])
            size = next(index for index, number in enumerate(_RUN_BITS) if run <= 2**number)
            bits.append(f"1{size:02b}{run - 1:0{_RUN_BITS[size]}b}{value}")
            length -= run
    flags = np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")
    return np.packbits(flags).tolist()
