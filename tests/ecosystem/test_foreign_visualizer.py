"""detectron2's Visualizer draws the masks and keypoints of our predictors."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from deim.fallback import is_standalone
from deim.inference.detections import Detections
from deim.structures.skeleton import Skeleton
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(is_standalone("detectron2"), reason="needs the real detectron2")

HEIGHT, WIDTH = 120, 160
SKELETON = Skeleton(("head", "hip", "foot"), ((0, 1), (1, 2)))
POINTS = [(100, 30), (120, 60), (110, 100)]


def detections_with(*fields: str) -> Detections:
    """Return one detection on a gray image: a box, and on request a mask and keypoints outside of the box."""
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, 70:110, 10:60] = True
    values = {
        "pred_masks": mask,
        "pred_keypoints": torch.tensor([[[x + 0.5, y + 0.5, 0.9] for x, y in POINTS]]),
    }
    boxes = Boxes(torch.tensor([[10.0, 20, 60, 40]]))
    instances = Instances((HEIGHT, WIDTH), pred_boxes=boxes, scores=torch.tensor([0.9]), pred_classes=torch.tensor([0]))
    for name in fields:
        instances.set(name, values[name])
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    return Detections.from_instances(instances, ["cat"], image, skeleton=SKELETON)


def draw(detections: Detections, folder: Path) -> np.ndarray:
    """Run the example of docs/ecosystem.md; return which pixels it changed."""
    page = (ROOT / "docs/ecosystem.md").read_text(encoding="utf-8")
    section = page.partition("## Draw results with detectron2's Visualizer")[2]
    example = section.partition("```py\n")[2].partition("```")[0]
    lines = [line for line in example.splitlines() if not line.startswith(("from deim", "detections ="))]
    MetadataCatalog.pop("deim_results", None)
    namespace = {"detections": detections}
    code = "\n".join(lines).replace("drawn.png", str(folder / "drawn.png"))
    exec(compile(code, "docs/ecosystem.md", "exec"), namespace)
    assert (folder / "drawn.png").stat().st_size > 100
    return (namespace["drawn"].get_image() != detections.image).any(axis=2)


def test_masks_and_keypoints_are_drawn(tmp_path: Path) -> None:
    boxes = draw(detections_with(), tmp_path)
    masks = draw(detections_with("pred_masks"), tmp_path)
    keypoints = draw(detections_with("pred_keypoints"), tmp_path)
    assert boxes.any()
    assert not boxes[72:, :].any()
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[70:110, 10:60] = True
    assert masks[72:108, 12:58].mean() > 0.95  # the label may cover some pixels
    assert not masks[112:].any()
    assert not masks[72:108, 64:].any()
    for x, y in POINTS:
        assert keypoints[y - 1 : y + 2, x - 1 : x + 2].all()
    for (x, y), (other_x, other_y) in itertools.pairwise(POINTS):
        center_x, center_y = (x + other_x) // 2, (y + other_y) // 2
        assert keypoints[center_y - 2 : center_y + 3, center_x - 2 : center_x + 3].any(), "a connection"
    assert not keypoints[70:110, 10:60].any()
