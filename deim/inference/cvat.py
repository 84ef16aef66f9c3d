"""Detections as annotations of CVAT, and the labels of its task."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deim.inference.detections import Detections
from deim.inference.preannotation import image_file, relative_names, run_lengths
from deim.inference.video import FramePosition
from deim.structures.skeleton import Skeleton
from deim.visualization.annotation import class_color

# Every label has this attribute: the score of the model.
_SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": [""]}


class CvatWriter:
    """Writer of ``cvat.xml`` in the format "CVAT for images 1.1", and ``cvat_labels.json``, the labels of the task.

    An object is a skeleton if the model predicts keypoints, else a mask if it predicts masks, and else a box, because a
    label of CVAT has one kind of shape.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]):
        self.folder, self.class_names = folder, list(class_names)
        self._images: list[tuple[Path, ET.Element]] = []
        self._skeleton: Skeleton | None = None
        self._shape = "rectangle"

    def add(self, detections: Detections, name: str, position: FramePosition | None = None) -> None:
        height, width = detections.image_size
        image = ET.Element("image", id=str(len(self._images)), name="", width=str(width), height=str(height))
        if detections.keypoints is not None:
            self._skeleton, self._shape = detections.skeleton, "skeleton"
        elif detections.masks is not None:
            self._shape = "mask"
        for index, (label, score) in enumerate(zip(detections.labels, detections.scores.tolist(), strict=True)):
            shape = _shape(detections, index)
            shape.set("label", label)
            shape.set("source", "auto")
            shape.set("occluded", "0")
            shape.set("z_order", "0")
            attribute = ET.SubElement(shape, "attribute", name="score")
            attribute.text = f"{score:.4f}"
            image.append(shape)
        self._images.append((image_file(detections, name, self.folder), image))

    def close(self) -> None:
        root = ET.Element("annotations")
        ET.SubElement(root, "version").text = "1.1"
        meta = ET.SubElement(root, "meta")
        labels = ET.SubElement(ET.SubElement(meta, "task"), "labels")
        for label in self._labels():
            _add_label(labels, label)
        for name, (_, image) in zip(relative_names([file for file, _ in self._images]), self._images, strict=True):
            image.set("name", name)
            root.append(image)
        ET.indent(root)
        ET.ElementTree(root).write(self.folder / "cvat.xml", encoding="utf-8", xml_declaration=True)
        content = json.dumps(self._labels(), indent=2, ensure_ascii=False)
        (self.folder / "cvat_labels.json").write_text(content + "\n", encoding="utf-8")

    def _labels(self) -> list[dict[str, Any]]:
        """Return the labels in the form that CVAT's raw editor of labels reads."""
        labels = []
        for index, name in enumerate(self.class_names):
            color = "#{:02x}{:02x}{:02x}".format(*class_color(index))
            label: dict[str, Any] = {"name": name, "color": color, "type": self._shape, "attributes": [_SCORE]}
            if self._skeleton is not None:
                label |= _skeleton_label(self._skeleton)
            labels.append(label)
        return labels


def _add_label(labels: ET.Element, label: dict[str, Any]) -> None:
    """Add a label to the list in the XML file; the points of a skeleton are labels with a parent."""
    element = ET.SubElement(labels, "label")
    for key in ("name", "color", "type"):
        ET.SubElement(element, key).text = label[key]
    attribute = ET.SubElement(ET.SubElement(element, "attributes"), "attribute")
    for key, value in (("name", "score"), ("mutable", "False"), ("input_type", "text"), ("values", "")):
        ET.SubElement(attribute, key).text = value
    if "svg" in label:
        ET.SubElement(element, "svg").text = label["svg"]
    for point in label.get("sublabels", ()):
        child = ET.SubElement(labels, "label")
        for key in ("name", "type"):
            ET.SubElement(child, key).text = point[key]
        ET.SubElement(child, "attributes")
        ET.SubElement(child, "parent").text = label["name"]


def _skeleton_label(skeleton: Skeleton) -> dict[str, Any]:
    """Return the points of a skeleton, and the drawing that CVAT places on an object: its points on a circle."""
    angles = 2 * np.pi * np.arange(len(skeleton.names)) / len(skeleton.names)
    positions = np.stack([50 + 40 * np.sin(angles), 50 - 40 * np.cos(angles)], axis=1)
    drawing = ET.Element("svg")
    for first, second in skeleton.connections:
        ends = {
            "x1": positions[first, 0],
            "y1": positions[first, 1],
            "x2": positions[second, 0],
            "y2": positions[second, 1],
        }
        values = {name: f"{value:.2f}" for name, value in ends.items()}
        nodes = {"data-type": "edge", "data-node-from": str(first + 1), "data-node-to": str(second + 1)}
        ET.SubElement(drawing, "line", {**values, "stroke": "black", **nodes, "stroke-width": "0.5"})
    for number, (name, (x, y)) in enumerate(zip(skeleton.names, positions.tolist(), strict=True), 1):
        node = {"data-type": "element node", "data-element-id": str(number), "data-node-id": str(number)}
        point = {"r": "1.5", "stroke": "black", "fill": "#b3b3b3", "cx": f"{x:.2f}", "cy": f"{y:.2f}"}
        ET.SubElement(drawing, "circle", {**point, **node, "data-label-name": name})
    content = "".join(ET.tostring(element, encoding="unicode") for element in drawing)
    sublabels = [{"name": name, "type": "points", "attributes": []} for name in skeleton.names]
    return {"svg": content, "sublabels": sublabels}


def _shape(detections: Detections, index: int) -> ET.Element:
    if detections.keypoints is not None and detections.skeleton is not None:
        shape = ET.Element("skeleton")
        points = detections.keypoints[index, :, :2].tolist()
        for name, (x, y) in zip(detections.skeleton.names, points, strict=True):
            attributes = {
                "label": name,
                "source": "auto",
                "outside": "0",
                "occluded": "0",
                "points": f"{x:.2f},{y:.2f}",
            }
            ET.SubElement(shape, "points", attributes)
        return shape
    if detections.masks is not None and detections.masks[index].any():
        return _mask(detections.masks[index].cpu().numpy())
    corners = zip(("xtl", "ytl", "xbr", "ybr"), detections.boxes[index].tolist(), strict=True)
    return ET.Element("box", {name: f"{value:.2f}" for name, value in corners})


def _mask(mask: np.ndarray) -> ET.Element:
    """Return the mask element: run lengths of the smallest rectangle, row by row, which begin with background."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0], columns[0]
    cropped = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    begins_with_object = [0] if cropped.flat[0] else []
    counts = [*begins_with_object, *run_lengths(cropped.reshape(-1)).tolist()]
    height, width = cropped.shape
    numbers = {"left": left, "top": top, "width": width, "height": height}
    values = {name: str(int(value)) for name, value in numbers.items()}
    return ET.Element("mask", {"rle": ", ".join(map(str, counts)), **values})
