"""COCO box AP."""

import contextlib
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
    """Evaluator of COCO box AP in percent. Metrics that cannot be computed are NaN."""

    def __init__(
        self, dataset_name, tasks=None, distributed=True, output_dir=None, *, max_dets_per_image=None,
        use_fast_impl=True, allow_cached_coco=True,
    ):  # fmt: skip
        """Create the evaluator. Call ``reset`` before the first prediction.

        Args:
            dataset_name: name of a registered dataset. If its metadata has no ``json_file``, the dataset is written to
                ``output_dir`` in COCO format.
            tasks: ``("bbox",)`` or None.
            distributed: whether rank 0 evaluates the predictions of all ranks.
            output_dir: folder for ``instances_predictions.pth`` and ``coco_instances_results.json``, or None.
            max_dets_per_image: maximum number of evaluated detections per image; by default 100. Values below 10 act
                as 10, since the COCO API evaluates the largest of the limits 1, 10 and this value.
            use_fast_impl: whether to use faster-coco-eval, which computes the same metrics faster than pycocotools.
            allow_cached_coco: whether to use a converted COCO file of an earlier run.

        Raises:
            NotImplementedError: if ``tasks`` contains another task.
            ValueError: if the dataset has no ``json_file`` and ``output_dir`` is not given.
        """
        if tasks is not None and tuple(tasks) != ("bbox",):
            raise NotImplementedError(
                f"The bundled subset of detectron2 evaluates boxes only, not {tasks}; install detectron2."
            )
        self._logger = logging.getLogger(__name__)
        self._tasks, self._distributed, self._output_dir = tasks, distributed, output_dir
        self._max_dets_per_image = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]
        self._use_fast_impl = use_fast_impl
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.get("json_file") is None:
            self._write_dataset(dataset_name, allow_cached_coco)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = (FastCOCO if use_fast_impl else COCO)(PathManager.get_local_path(self._metadata.json_file))
        self._do_evaluation = "annotations" in self._coco_api.dataset

    def _write_dataset(self, dataset_name: str, allow_cached: bool) -> None:
        if self._output_dir is None:
            raise ValueError(f"output_dir must be provided to COCOEvaluator: {dataset_name} is not in COCO format.")
        self._logger.info(f"Trying to convert '{dataset_name}' to COCO format ...")
        path = os.path.join(self._output_dir, f"{dataset_name}_coco_format.json")
        convert_to_coco_json(dataset_name, path, allow_cached=allow_cached)
        self._metadata.json_file = path

    def reset(self):
        self._predictions: list[dict] = []

    def process(self, inputs, outputs):
        """Collect the predictions of a batch. Outputs without ``instances`` are skipped.

        Raises:
            NotImplementedError: if an output contains proposals, masks or keypoints.
        """
        for sample, output in zip(inputs, outputs, strict=False):
            if "proposals" in output:
                raise _unsupported("proposals")
            if "instances" in output:
                image_id = sample["image_id"]
                detections = instances_to_coco_json(output["instances"].to(torch.device("cpu")), image_id)
                self._predictions.append({"image_id": image_id, "instances": detections})

    def evaluate(self, img_ids=None):
        """Return ``{"bbox": {metric: value}}``.

        The dict is empty without predictions or annotations, and on ranks above 0 if ``distributed`` is True.

        Args:
            img_ids: ids of the images to evaluate; by default all.

        Raises:
            AssertionError: if a predicted class does not exist, or the annotations have another number of classes.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            self._logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        self._save_predictions(predictions)
        self._logger.info("Preparing results for COCO format ...")
        # As in detectron2, the detections are changed in place, so that a second call needs new predictions.
        detections = list(itertools.chain(*(p["instances"] for p in predictions)))
        self._to_dataset_ids(detections)
        self._save_results(detections)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return {}
        implementation = "unofficial" if self._use_fast_impl else "official"
        self._logger.info(f"Evaluating predictions with {implementation} COCO API...")
        return OrderedDict(bbox=self._evaluate_boxes(detections, img_ids))

    def _to_dataset_ids(self, detections) -> None:
        """Replace class indices by the category ids of the annotation file."""
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

    def _save_predictions(self, predictions) -> None:
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as f:
                torch.save(predictions, f)

    def _save_results(self, detections) -> None:
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as f:
                json.dump(detections, f)

    def _evaluate_boxes(self, detections, img_ids):
        if not detections:
            self._logger.warning("No predictions from the model!")
            return {metric: float("nan") for metric in _METRICS}
        evaluation = self._run_coco_api(detections, img_ids)
        # The summary of pycocotools always assumes 100 detections per image.
        if self._use_fast_impl or self._max_dets_per_image[-1] == 100:
            evaluation.summarize()
        results = _metrics(evaluation.eval["precision"], evaluation.params.iouThrs)
        self._logger.info("Evaluation results for bbox: \n" + create_small_table(results))
        if not np.isfinite(sum(results.values())):
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        classes = self._metadata.get("thing_classes")
        if classes is not None and len(classes) > 1:
            precision = evaluation.eval["precision"]
            if len(classes) != precision.shape[2]:
                raise AssertionError(f"{len(classes)} classes, but the annotations have {precision.shape[2]}")
            per_class = [(name, _mean(precision[:, :, index, 0, -1])) for index, name in enumerate(classes)]
            self._logger.info("Per-category bbox AP: \n" + _class_table(per_class))
            results.update({f"AP-{name}": value for name, value in per_class})
        return results

    def _run_coco_api(self, detections, img_ids):
        """Match detections with annotations, and return the accumulated COCOeval object."""
        with contextlib.redirect_stdout(io.StringIO()):
            results = self._coco_api.loadRes(detections)
            evaluation = (COCOeval_faster if self._use_fast_impl else COCOeval)(self._coco_api, results, "bbox")
            evaluation.params.maxDets = self._max_dets_per_image
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation


def _metrics(precision: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """Return the metrics of the COCO API in percent.

    Args:
        precision: array (IoU, recall, class, area, detections per image); -1 where undefined.
        thresholds: IoU threshold of each entry of the first dimension.
    """
    max_detections_precision = precision[:, :, :, :, -1]
    at_iou = {
        name: max_detections_precision[np.isclose(thresholds, iou)][..., 0]
        for name, iou in (("AP50", 0.5), ("AP75", 0.75))
    }
    of_area = {name: max_detections_precision[..., index] for index, name in enumerate(("APs", "APm", "APl"), start=1)}
    by_metric = {"AP": max_detections_precision[..., 0], **at_iou, **of_area}
    return {name: _mean(by_metric[name]) for name in _METRICS}


def _mean(precision: np.ndarray) -> float:
    """Return the mean of the defined entries in percent, or NaN if all are undefined."""
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def _class_table(per_class) -> str:
    """Return a table with three classes per row."""
    columns = min(3, len(per_class))
    cells = list(itertools.chain(*per_class))
    rows = itertools.zip_longest(*[cells[start :: 2 * columns] for start in range(2 * columns)])
    return tabulate(rows, headers=["category", "AP"] * columns, tablefmt="pipe", floatfmt=".3f", numalign="left")


def instances_to_coco_json(instances, img_id):
    """Return the predictions of one image in COCO's result format.

    Args:
        instances: ``pred_boxes``, ``scores`` and ``pred_classes`` on the CPU.
        img_id: id of the image.

    Raises:
        NotImplementedError: if the instances have masks or keypoints, or no fields.
    """
    if not len(instances):
        return []
    for field in ("pred_masks", "pred_keypoints"):
        if instances.has(field):
            raise _unsupported(field)
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in zip(boxes, scores, classes, strict=True)
    ]


def _unsupported(feature: str) -> NotImplementedError:
    return NotImplementedError(f"The bundled subset of detectron2 does not evaluate {feature}; install detectron2.")
