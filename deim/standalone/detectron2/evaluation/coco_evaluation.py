"""COCO metrics of boxes, masks and keypoints."""

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
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from .evaluator import DatasetEvaluator

__all__ = ["COCOEvaluator", "instances_to_coco_json"]

# Metrics of each task.
_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
# Masks that are encoded at once, to limit the memory.
_CHUNK = 32


class COCOEvaluator(DatasetEvaluator):
    """Evaluator of the COCO AP of boxes, masks and keypoints in percent. Metrics that cannot be computed are NaN."""

    def __init__(
        self, dataset_name, tasks=None, distributed=True, output_dir=None, *, max_dets_per_image=None,
        use_fast_impl=True, kpt_oks_sigmas=(), allow_cached_coco=True,
    ):  # fmt: skip
        """Create the evaluator. Call ``reset`` before the first prediction.

        Args:
            dataset_name: name of a registered dataset. If its metadata has no ``json_file``, the dataset is written to
                ``output_dir`` in COCO format.
            tasks: some of ``"bbox"``, ``"segm"`` and ``"keypoints"``. By default ``"bbox"`` and, if the predictions have
                ``pred_masks`` or ``pred_keypoints``, ``"segm"`` or ``"keypoints"``.
            distributed: whether rank 0 evaluates the predictions of all ranks.
            output_dir: folder for ``instances_predictions.pth`` and ``coco_instances_results.json``, or None.
            max_dets_per_image: maximum number of evaluated detections per image; by default 100. Values below 10 act
                as 10, since the COCO API evaluates the largest of the limits 1, 10 and this value. The limit of
                keypoints is always 20.
            use_fast_impl: whether to use faster-coco-eval, which computes the same metrics faster than pycocotools.
            kpt_oks_sigmas: constants of the keypoints in OKS; by default those of COCO's 17 keypoints.
            allow_cached_coco: whether to use a converted COCO file of an earlier run.

        Raises:
            ValueError: if the dataset has no ``json_file`` and ``output_dir`` is not given.
        """
        self._logger = logging.getLogger(__name__)
        self._tasks, self._distributed, self._output_dir = tasks, distributed, output_dir
        self._max_dets_per_image = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]
        self._use_fast_impl, self._kpt_oks_sigmas = use_fast_impl, kpt_oks_sigmas
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
            NotImplementedError: if an output contains proposals.
        """
        for sample, output in zip(inputs, outputs, strict=False):
            if "proposals" in output:
                raise NotImplementedError(
                    "The bundled subset of detectron2 does not evaluate proposals; install detectron2."
                )
            if "instances" in output:
                image_id = sample["image_id"]
                detections = instances_to_coco_json(output["instances"].to(torch.device("cpu")), image_id)
                self._predictions.append({"image_id": image_id, "instances": detections})

    def evaluate(self, img_ids=None):
        """Return ``{task: {metric: value}}``.

        The dict is empty without predictions or annotations, and on ranks above 0 if ``distributed`` is True.

        Args:
            img_ids: ids of the images to evaluate; by default all.

        Raises:
            AssertionError: if a task or a predicted class does not exist, or the annotations have another number of
                classes or keypoints.
            KeyError: if the annotations or predictions lack the masks or keypoints of a task.
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
        tasks = sorted(self._tasks or _predicted_tasks(detections))
        return OrderedDict((task, self._evaluate_task(task, detections, img_ids)) for task in tasks)

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

    def _evaluate_task(self, task: str, detections: list[dict], img_ids) -> dict[str, float]:
        if task not in _METRICS:
            raise AssertionError(f"Got unknown task: {task}!")
        if not detections:
            self._logger.warning("No predictions from the model!")
            return {metric: float("nan") for metric in _METRICS[task]}
        evaluation = self._run_coco_api(task, detections, img_ids)
        # The summary of pycocotools always assumes 100 boxes or masks per image.
        if self._use_fast_impl or task == "keypoints" or self._max_dets_per_image[-1] == 100:
            evaluation.summarize()
        results = _metrics(task, evaluation)
        self._logger.info(f"Evaluation results for {task}: \n" + create_small_table(results))
        if not np.isfinite(sum(results.values())):
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        classes = self._metadata.get("thing_classes")
        if classes is not None and len(classes) > 1:
            precision = evaluation.eval["precision"]
            if len(classes) != precision.shape[2]:
                raise AssertionError(f"{len(classes)} classes, but the annotations have {precision.shape[2]}")
            per_class = [(name, _mean(precision[:, :, index, 0, -1])) for index, name in enumerate(classes)]
            self._logger.info(f"Per-category {task} AP: \n" + _class_table(per_class))
            results.update({f"AP-{name}": value for name, value in per_class})
        return results

    def _run_coco_api(self, task: str, detections: list[dict], img_ids):
        """Match detections with annotations, and return the accumulated COCOeval object."""
        _complete_annotations(list(self._coco_api.anns.values()))
        if task == "segm":
            # Without boxes, the COCO API computes the area of a detection from its mask.
            detections = [{key: v for key, v in detection.items() if key != "bbox"} for detection in detections]
        elif task == "keypoints":
            _complete_keypoints(list(self._coco_api.anns.values()))
        with contextlib.redirect_stdout(io.StringIO()):
            results = self._coco_api.loadRes(detections)
            evaluation = (COCOeval_faster if self._use_fast_impl else COCOeval)(self._coco_api, results, task)
            # The fast implementation would leave out classes without objects, but only for keypoints.
            evaluation.params.catIds = sorted(self._coco_api.getCatIds())
            if task == "keypoints":
                if self._kpt_oks_sigmas:
                    evaluation.params.kpt_oks_sigmas = np.array(self._kpt_oks_sigmas)
                self._check_number_of_keypoints(detections, len(evaluation.params.kpt_oks_sigmas))
            else:
                evaluation.params.maxDets = self._max_dets_per_image
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def _check_number_of_keypoints(self, detections: list[dict], num_sigmas: int) -> None:
        annotation = next(iter(self._coco_api.anns.values()))
        predicted, annotated = (len(points) // 3 for points in (detections[0]["keypoints"], annotation["keypoints"]))
        if not num_sigmas == predicted == annotated:
            raise AssertionError(
                f"[COCOEvaluator] Prediction contain {predicted} keypoints. Ground truth contains {annotated} keypoints. "
                f"The length of kpt_oks_sigmas is {num_sigmas}. They have to agree with each other."
            )


def _complete_annotations(annotations: list[dict]) -> None:
    """Add a missing ``area``, that of the box, and a missing ``iscrowd``; in place. The COCO API needs both."""
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation and "bbox" in annotation:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]


def _complete_keypoints(annotations: list[dict]) -> None:
    """Add zeros to annotations without keypoints, and the number of labeled keypoints where it is missing, in place.

    Without these, the COCO API raises a KeyError or ignores the object. detectron2 needs them in the file.
    """
    size = max((len(annotation.get("keypoints") or ()) for annotation in annotations), default=0)
    for annotation in annotations if size else ():
        annotation["keypoints"] = annotation.get("keypoints") or [0] * size
        annotation.setdefault("num_keypoints", sum(visibility > 0 for visibility in annotation["keypoints"][2::3]))


def _predicted_tasks(detections: list[dict]) -> set[str]:
    """Return the tasks that the fields of the detections allow."""
    fields = {"segmentation": "segm", "keypoints": "keypoints"}
    tasks = {task for key, task in fields.items() if any(key in detection for detection in detections)}
    return {"bbox", *tasks}


def _metrics(task: str, evaluation) -> dict[str, float]:
    """Return the metrics of a task in percent, from an accumulated COCOeval object."""
    # Array (IoU, recall, class, area, detections per image); -1 where undefined.
    precision = evaluation.eval["precision"][:, :, :, :, -1]
    thresholds, areas = evaluation.params.iouThrs, evaluation.params.areaRngLbl
    by_metric = {"AP": precision[..., 0]}
    for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
        by_metric[name] = precision[np.isclose(thresholds, iou)][..., 0]
    for name, area in (("APs", "small"), ("APm", "medium"), ("APl", "large")):
        if name in _METRICS[task]:
            by_metric[name] = precision[..., areas.index(area)]
    return {name: _mean(by_metric[name]) for name in _METRICS[task]}


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
        instances: ``pred_boxes``, ``scores`` and ``pred_classes`` on the CPU; optionally ``pred_masks`` (n, H, W), and
            ``pred_keypoints`` (n, P, 3): x, y in pixels, score.
        img_id: id of the image.

    Returns:
        one dict per prediction. Masks are run-length encoded. Keypoints are pixel indices, so that the center of
        pixel 0 is at 0.

    Raises:
        NotImplementedError: if the instances have no fields.
    """
    if not len(instances):
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    results = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in zip(boxes, scores, classes, strict=True)
    ]
    if instances.has("pred_masks"):
        for result, mask in zip(results, _encode_masks(instances.pred_masks), strict=True):
            result["segmentation"] = mask
    if instances.has("pred_keypoints"):
        keypoints = instances.pred_keypoints - torch.tensor([0.5, 0.5, 0])
        for result, points in zip(results, keypoints.flatten(1).tolist(), strict=True):
            result["keypoints"] = points
    return results


def _encode_masks(masks: torch.Tensor) -> list[dict]:
    """Return the run-length encodings of (n, H, W) masks."""
    encodings: list[dict] = []
    for part in masks.split(_CHUNK):
        # pycocotools needs an array (H, W, n) whose columns are contiguous.
        columns = part.to(torch.uint8).transpose(1, 2).contiguous().numpy()
        encodings += rle.encode(columns.transpose(2, 1, 0))
    for encoding in encodings:
        encoding["counts"] = encoding["counts"].decode()  # JSON has no bytes
    return encodings
