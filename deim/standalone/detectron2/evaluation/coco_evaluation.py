"""COCO's box AP."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
from collections import OrderedDict

import detectron2.utils.comm as comm
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from faster_coco_eval import COCO as FastCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from .evaluator import DatasetEvaluator

__all__ = ["COCOEvaluator", "instances_to_coco_json"]

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class COCOEvaluator(DatasetEvaluator):
    """AP of predicted boxes, in percent; NaN where it cannot be computed."""

    def __init__(
        self, dataset_name, tasks=None, distributed=True, output_dir=None, *, max_dets_per_image=None,
        use_fast_impl=True, kpt_oks_sigmas=(), allow_cached_coco=True,
    ):  # fmt: skip
        """
        Args:
            dataset_name: a registered data set. If its metadata has no ``json_file``, it is written to
                ``output_dir`` in COCO format first.
            tasks: ``("bbox",)`` or None.
            distributed: gather the predictions of all processes on the main one.
            output_dir: where to write ``instances_predictions.pth`` and ``coco_instances_results.json``.
            max_dets_per_image: detections per image that count; default 100.
            use_fast_impl: by faster-coco-eval in place of pycocotools: the same numbers, several times as fast.
            allow_cached_coco: whether such a file of an earlier run is used.

        Raises:
            ValueError: neither ``json_file`` nor ``output_dir`` is there.
        """
        if tasks is not None and tuple(tasks) != ("bbox",):
            raise NotImplementedError(f"only boxes are evaluated here, not {tasks}; install detectron2 for more")
        self._logger = logging.getLogger(__name__)
        self._distributed, self._output_dir = distributed, output_dir
        self._max_dets = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.get("json_file") is None:
            if output_dir is None:
                raise ValueError("output_dir must be provided for data sets that are not in COCO format")
            path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, path, allow_cached=allow_cached_coco)
            self._metadata.json_file = path
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = (FastCOCO if use_fast_impl else COCO)(PathManager.get_local_path(self._metadata.json_file))
        self._evaluation = COCOeval_faster if use_fast_impl else COCOeval
        self._do_evaluation = "annotations" in self._coco_api.dataset
        self._predictions: list[dict] = []

    def reset(self):
        self._predictions = []

    def process(self, inputs, outputs):
        for given, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(torch.device("cpu"))
            image_id = given["image_id"]
            self._predictions.append({"image_id": image_id, "instances": instances_to_coco_json(instances, image_id)})

    def evaluate(self, img_ids=None):
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            self._logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        self._logger.info("Preparing results for COCO format ...")
        detections = list(itertools.chain(*(p["instances"] for p in predictions)))
        self._to_dataset_ids(detections)
        if self._output_dir:
            self._dump(predictions, detections)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return {}
        self._logger.info("Evaluating predictions ...")
        return copy.deepcopy(OrderedDict(bbox=self._evaluate_boxes(detections, img_ids)))

    def _to_dataset_ids(self, detections) -> None:
        """Replace contiguous class indices by the category ids of the annotation file."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return
        dataset_id = {index: category for category, index in mapping.items()}
        for detection in detections:
            index = detection["category_id"]
            if index not in dataset_id:
                raise AssertionError(
                    f"A prediction has class={index}, but the dataset only has {len(dataset_id)} classes and "
                    f"predicted class id should be in [0, {len(dataset_id) - 1}]."
                )
            detection["category_id"] = dataset_id[index]

    def _dump(self, predictions, detections) -> None:
        PathManager.mkdirs(self._output_dir)
        with PathManager.open(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as f:
            torch.save(predictions, f)
        path = os.path.join(self._output_dir, "coco_instances_results.json")
        self._logger.info(f"Saving results to {path}")
        with PathManager.open(path, "w") as f:
            json.dump(detections, f)

    def _evaluate_boxes(self, detections, img_ids):
        if not detections:
            self._logger.warning("No predictions from the model!")
            return {metric: float("nan") for metric in _METRICS}
        with contextlib.redirect_stdout(io.StringIO()):
            found = self._coco_api.loadRes(detections)
            evaluation = self._evaluation(self._coco_api, found, "bbox")
            evaluation.params.maxDets = self._max_dets
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
        evaluation.summarize()
        stats = evaluation.stats[: len(_METRICS)]
        results = {m: float(s * 100) if s >= 0 else float("nan") for m, s in zip(_METRICS, stats, strict=True)}
        self._logger.info("Evaluation results for bbox: \n" + create_small_table(results))
        if not np.isfinite(sum(results.values())):
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        classes = self._metadata.get("thing_classes")
        if classes is not None and len(classes) > 1:
            per_class = _per_class_ap(evaluation.eval["precision"], classes)
            self._logger.info("Per-category bbox AP: \n" + _class_table(per_class))
            results.update({f"AP-{name}": value for name, value in per_class})
        return results


def _per_class_ap(precision, classes) -> list[tuple[str, float]]:
    """Mean precision per class from COCOeval's (IoU, recall, class, area, detections) array."""
    rows = []
    for index, name in enumerate(classes):
        values = precision[:, :, index, 0, -1]
        values = values[values > -1]
        rows.append((name, float(values.mean() * 100) if values.size else float("nan")))
    return rows


def _class_table(per_class) -> str:
    columns = min(3, len(per_class))
    cells = list(itertools.chain(*per_class))
    rows = [cells[i : i + 2 * columns] for i in range(0, len(cells), 2 * columns)]
    return tabulate(rows, headers=["category", "AP"] * columns, tablefmt="pipe", floatfmt=".3f", numalign="left")


def instances_to_coco_json(instances, img_id):
    """Predictions of one image as COCO result records; ``category_id`` is the class index."""
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in zip(boxes, scores, classes, strict=True)
    ]
