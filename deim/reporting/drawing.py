"""Figures of a checkpoint's detections."""

import itertools
from typing import Any

import torch

from deim.config import build
from deim.data.image import read_image
from deim.data.records import annotation_arrays
from deim.engine.evaluation import check_classes, dataset_keypoints, load_trained_model, required_classes
from deim.engine.preflight import resolve_device
from deim.structures.skeleton import Skeleton
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
    keypoints = dataset_keypoints(cfg, "test")
    connections = () if keypoints is None else Skeleton.from_dict(keypoints).connections
    classes = required_classes(cfg, "test")
    draw_detections(images, ground_truth, detections, classes, output, threshold, connections=connections)
