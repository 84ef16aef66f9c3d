"""Figures of a checkpoint's detections."""

import itertools
from typing import Any

import torch
from detectron2.data import MetadataCatalog

from deim.config import build
from deim.data.datasets.keypoints import keypoints_from_metadata
from deim.data.datasets.names import registered_name
from deim.data.drawing import object_shapes
from deim.data.image import read_image
from deim.data.records import annotation_arrays
from deim.engine.evaluation import check_classes, load_trained_model, required_classes
from deim.engine.preflight import resolve_device
from deim.visualization import draw_detections


@torch.no_grad()
def draw_predictions(cfg: Any, output: str, count: int, threshold: float) -> None:
    """Draw the detections of a checkpoint on the first ``count`` images of ``dataloader.test``.

    See :func:`deim.visualization.draw_detections`.

    Raises:
        DeimError: if the config or the checkpoint is wrong.
    """
    resolve_device(cfg)
    loader = build(cfg, "dataloader.test")
    check_classes(cfg, "test")
    model = load_trained_model(cfg).eval()
    samples = list(itertools.islice(itertools.chain.from_iterable(loader), count))
    records = {r["image_id"]: r for r in build(cfg, "dataloader.test.dataset")}
    images = [read_image(sample["file_name"], (sample["height"], sample["width"])) for sample in samples]
    ground_truth = [annotation_arrays(records[sample["image_id"]]) for sample in samples]
    detections = [result["instances"].to("cpu") for sample in samples for result in model([sample])]
    name = registered_name(cfg.dataloader.test.dataset)
    definition = None if name is None else keypoints_from_metadata(MetadataCatalog.get(name))
    shapes = [object_shapes(records[sample["image_id"]], definition) for sample in samples]
    has_masks, has_keypoints = (any(x.has(field) for x in detections) for field in ("pred_masks", "pred_keypoints"))
    draw_detections(
        images,
        ground_truth,
        detections,
        required_classes(cfg, "test"),
        output,
        threshold,
        connections=() if definition is None else definition.connected_indices(),
        masks=[masks for masks, _ in shapes] if has_masks else (),
        keypoints=[keypoints for _, keypoints in shapes] if has_keypoints else (),
    )
