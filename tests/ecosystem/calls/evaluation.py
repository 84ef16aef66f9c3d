"""Evaluation: loops over datasets, COCO metrics, results."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import contextlib
import itertools
import json
import re
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, BoxMode, Instances
from torch import nn

from tests.ecosystem.calls import messages

NAN = float("nan")
NUMBER = itertools.count()
FOLDER = Path(tempfile.mkdtemp())


def coco_dataset(
    objects: int = 40,
    classes: tuple = ("cat", "dog", "bird"),
    images: int = 5,
    keypoints: int | None = None,
    used_classes: int | None = None,
    only_labeled_keypoints: bool = False,
    **content: Any,
) -> str:
    """Register a dataset of random boxes in COCO format and return its name.

    If a number of keypoints is given, the objects also have polygons and keypoints.

    Args:
        used_classes: number of classes that have objects; by default all.
        only_labeled_keypoints: write no keypoints of objects without labeled ones, and no number of keypoints.
    """
    name = f"evaluated_{next(NUMBER)}"
    random = np.random.default_rng(3)
    boxes = np.concatenate([random.uniform(0, 400, (objects, 2)), random.uniform(4, 180, (objects, 2))], axis=1)
    annotations = [
        {
            "id": k + 1,
            "image_id": 10 + k % images,
            "category_id": 2 * (k % (used_classes or len(classes))) + 3,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(k % 9 == 8),
        }
        for k, box in enumerate(boxes.tolist())
    ]
    if keypoints is not None:
        for k, (x, y, width, height) in enumerate(boxes.tolist()):
            diamond = [x + width / 2, y, x + width, y + height / 2, x + width / 2, y + height, x, y + height / 2]
            visible = random.integers(0, 3, keypoints) * (k % 7 > 0)
            points = np.c_[keypoint_layout(keypoints) * (width, height) + (x, y), visible]
            annotations[k] |= {"segmentation": [diamond], "area": width * height / 2}
            if not only_labeled_keypoints:
                annotations[k] |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((visible > 0).sum())}
            elif visible.any():
                annotations[k] |= {"keypoints": points.ravel().tolist()}
            elif k > 0:
                annotations[k] |= {"keypoints": []}
    image_entries = [{"id": 10 + i, "file_name": f"{i}.jpg", "height": 500, "width": 600} for i in range(images)]
    categories = [{"id": 2 * i + 3, "name": label} for i, label in enumerate(classes)]
    (FOLDER / f"{name}.json").write_text(
        json.dumps({"images": image_entries, "annotations": annotations, "categories": categories} | content)
    )
    register_coco_instances(name, {}, str(FOLDER / f"{name}.json"), str(FOLDER))
    return name


def keypoint_layout(count: int) -> np.ndarray:
    """Return the positions of keypoints (P, 2) relative to the box."""
    return np.random.default_rng(5).uniform(0, 1, (count, 2))


def plain_dataset(objects: int = 10) -> str:
    """Register a dataset in detectron2's format and return its name."""
    name = f"evaluated_{next(NUMBER)}"
    random = np.random.default_rng(4)
    records = [
        {
            "file_name": f"{i}.jpg", "height": 500, "width": 600, "image_id": i,
            "annotations": [
                {"bbox": [*map(float, random.uniform(0, 200, 2)), *map(float, random.uniform(210, 400, 2))], "bbox_mode": BoxMode.XYXY_ABS, "category_id": k % 2}
                for k in range(objects)
            ],
        }
        for i in range(3)
    ]  # fmt: skip
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    return name


def detections(
    records: list[dict], seed: int = 0, noise: float = 12.0, extra: int = 20, classes: int = 3
) -> list[dict]:
    """Return detections: annotated boxes with noise, and random boxes."""
    random = np.random.default_rng(seed)
    outputs = []
    for record in records:
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record.get("annotations", [])]
        labels = [a["category_id"] for a in record.get("annotations", [])]
        boxes = np.array(boxes).reshape(-1, 4) + random.normal(0, noise, (len(boxes), 4))
        corners = random.uniform(0, 300, (extra, 2))
        boxes = np.concatenate([boxes, np.concatenate([corners, corners + random.uniform(5, 200, (extra, 2))], axis=1)])
        instances = Instances((500, 600), pred_boxes=Boxes(boxes))
        instances.scores = torch.from_numpy(random.uniform(0.05, 1, len(boxes))).float()
        instances.pred_classes = torch.tensor(labels + random.integers(0, classes, extra).tolist())
        outputs.append({"instances": instances})
    return outputs


def records_of(name: str) -> list[dict]:
    metadata = MetadataCatalog.get(name)
    return load_coco_json(metadata.json_file, "", name) if metadata.get("json_file") else DatasetCatalog.get(name)


def evaluate(
    name: str,
    *,
    img_ids: Any = None,
    output: bool = True,
    detection_options: dict | None = None,
    change: Any = None,
    **options: Any,
) -> tuple:
    """Evaluate noisy detections; return the metrics, the written files and the log messages.

    The name of the dataset, which is numbered, is replaced. Messages that name the COCO API or a path are left out.
    """
    records = records_of(name)
    folder = Path(tempfile.mkdtemp())
    with messages("detectron2.evaluation") as lines:
        evaluator = COCOEvaluator(name, output_dir=str(folder) if output else None, **options)
        evaluator.reset()
        for record, prediction in zip(records, detections(records, **(detection_options or {})), strict=True):
            evaluator.process([record], [change(prediction) if change else prediction])
        results = evaluator.evaluate(img_ids) if img_ids is not None else evaluator.evaluate()
    paths = [path for path in sorted(folder.iterdir()) if path.suffix != ".lock"]
    files = {path.name.replace(name, "dataset"): summary(path) for path in paths}
    return (
        rounded(results),
        files,
        [
            line.replace(name, "dataset")
            for line in lines
            if "COCO API" not in line and "Fast COCO" not in line and "Converting" not in line and "Saving" not in line
        ],
    )


def summary(path: Path) -> Any:
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        return content[:3] if isinstance(content, list) else sorted(content)
    content = torch.load(path, weights_only=False)
    return [(prediction["image_id"], prediction["instances"][:2]) for prediction in content]


def rounded(results: Any) -> Any:
    """Round the metrics, since implementations sum in a different order."""
    if isinstance(results, dict):
        return {name: rounded(value) for name, value in results.items()}
    return round(results, 9) if isinstance(results, float) else results


def remove_field(key: str) -> Any:
    def change(output: dict) -> dict:
        output["instances"].remove(key)
        return output

    return change


def shift_classes(output: dict) -> dict:
    output["instances"].pred_classes += 5
    return output


def remove_detections(output: dict) -> dict:
    return {"instances": output["instances"][:0]}


def rename_key(output: dict) -> dict:
    return {"other": output["instances"]}


def add_masks(output: dict) -> dict:
    """Add elliptic masks to boxes in an image of 500 x 600 pixels."""
    instances = output["instances"]
    rows, columns = torch.arange(500.0)[:, None] + 0.5, torch.arange(600.0) + 0.5
    left, top, right, bottom = (side[:, None, None] for side in instances.pred_boxes.tensor.unbind(1))
    x, y = (2 * columns - left - right) / (right - left), (2 * rows - top - bottom) / (bottom - top)
    instances.pred_masks = x**2 + y**2 <= 1
    return output


def add_keypoints(count: int) -> Any:
    def change(output: dict) -> dict:
        layout = torch.from_numpy(keypoint_layout(count)).float()
        corners, opposite = output["instances"].pred_boxes.tensor[:, None].split(2, dim=2)
        points = corners + layout * (opposite - corners)
        output["instances"].pred_keypoints = torch.cat([points, torch.ones(len(points), count, 1)], dim=2)
        return output

    return change


def add_masks_and_keypoints(output: dict) -> dict:
    return add_keypoints(17)(add_masks(output))


def evaluate_after_reset() -> tuple:
    """Return the results of an evaluator after ``reset``, which must discard earlier predictions."""
    name = coco_dataset()
    records = records_of(name)
    evaluator = COCOEvaluator(name)
    results = []
    for seed in (1, 0):
        evaluator.reset()
        evaluator.process(records, detections(records, seed))
        results.append(rounded(evaluator.evaluate()))
    return tuple(results)


def is_evaluator_reusable() -> bool:
    """Return True if a second evaluation has the same results, although those of the first were cleared."""
    name = coco_dataset()
    records = records_of(name)
    evaluator = COCOEvaluator(name)
    evaluations = []
    for _ in range(2):
        evaluator.reset()
        # Predictions are processed again, since an evaluation replaces their class indices.
        evaluator.process(records, detections(records))
        results = evaluator.evaluate()
        evaluations.append(str(rounded(results)))
        results["bbox"].clear()
    return "AP50" in evaluations[0] and evaluations[0] == evaluations[1]


def attributes(**options: Any) -> tuple:
    """Return the attributes of an evaluator that other packages read."""
    evaluator = COCOEvaluator(coco_dataset(), **options)
    names = ("_max_dets_per_image", "_distributed", "_output_dir", "_tasks", "_do_evaluation")
    return tuple(getattr(evaluator, name) for name in names), len(evaluator._coco_api.imgs)


def reuse_coco_file(allow: bool) -> tuple:
    """Return whether a COCO file of an earlier run is used for a dataset in another format."""
    folder = Path(tempfile.mkdtemp())
    name = plain_dataset()
    path = folder / f"{name}_coco_format.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    COCOEvaluator(name, output_dir=str(folder), allow_cached_coco=allow)
    return len(json.loads(path.read_text())["images"]), MetadataCatalog.get(name).json_file == str(path)


class RecordingEvaluator(DatasetEvaluator):
    def __init__(self, log: list, results: Any = None):
        self.log, self.results = log, results

    def reset(self) -> None:
        self.log.append("reset")

    def process(self, inputs: Any, outputs: Any) -> None:
        self.log.append((inputs, outputs, torch.is_grad_enabled()))

    def evaluate(self) -> Any:
        self.log.append("evaluate")
        return self.results


class Doubling(nn.Module):
    def __init__(self, log: list):
        super().__init__()
        self.log = log

    def forward(self, x: Any) -> Any:
        self.log.append(("training", self.training))
        return 2 * x


def run_inference(
    evaluator: Any = "one", callbacks: Any = None, size: int = 3, results: Any = None, model: Any = None
) -> tuple:
    """Run inference_on_dataset.

    Returns:
        its result, the recorded calls, the log messages without times, and whether the model is in training mode.
    """
    log: list = []
    evaluators = {
        "one": RecordingEvaluator(log, results),
        "list": [RecordingEvaluator(log, results), RecordingEvaluator(log)],
        "none": None,
        "tuple": (RecordingEvaluator(log),),
    }
    network = Doubling(log)
    network.train()
    callback_functions = {name: lambda name=name: log.append(name) for name in callbacks} if callbacks else None
    with messages("detectron2.evaluation.evaluator") as lines:
        returned = inference_on_dataset(
            model or network,
            list(range(size)),
            evaluators.get(evaluator, evaluator),
            *([callback_functions] if callbacks else []),
        )
    return returned, log, [re.sub(r"\d+:\d\d:\d\d(\.\d+)?|\d+\.\d+", "N", line) for line in lines], network.training


def training_modes(fails: bool = False) -> list:
    """Return the mode of a model and of a submodule in eval mode before, within and, unless ``fails``, after the context.

    detectron2 does not restore the mode after an exception; the bundled subset does.
    """
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    model[1].eval()
    states = [(model.training, model[1].training)]
    with contextlib.suppress(RuntimeError), inference_context(model):
        states.append((model.training, model[1].training))
        if fails:
            raise RuntimeError
    return [*states, *([] if fails else [(model.training, model[1].training)])]


def combine_evaluators(*results: Any) -> Any:
    log: list = []
    evaluators = DatasetEvaluators([RecordingEvaluator(log, result) for result in results])
    evaluators.reset()
    evaluators.process(1, 2)
    return evaluators.evaluate(), log


def csv_lines(results: Any) -> list[str]:
    with messages("detectron2.evaluation.testing") as lines:
        print_csv_format(results)
    return lines


def make_instances(count: int = 2, **fields: Any) -> Instances:
    boxes = torch.arange(4.0 * count).reshape(count, 4) * torch.tensor([1, 1, 2, 2])
    default_fields = {
        "pred_boxes": Boxes(boxes),
        "scores": torch.linspace(0.25, 1, count),
        "pred_classes": torch.arange(count),
    }
    return Instances((10, 20), **(default_fields | fields))


CALLS = [
    *(
        f"evaluate(coco_dataset(){o})"
        for o in (
            *("", ", use_fast_impl=False", ", output=False", ", tasks=('bbox',)", ", tasks=['bbox']", ", distributed=False"),
            *(", max_dets_per_image=5", ", max_dets_per_image=1", ", max_dets_per_image=300", ", max_dets_per_image=5, use_fast_impl=False"),
            *(", img_ids=[10, 11]", ", img_ids=[]", ", img_ids=[99]", ", allow_cached_coco=False"),
            *(", detection_options={'noise': 0.0, 'extra': 0}", ", detection_options={'noise': 300.0}", ", change=shift_classes", ", change=remove_detections", ", change=rename_key"),
            *(", change=remove_field('scores')", ", change=remove_field('pred_classes')"),
        )
    ),
    *(
        f"evaluate(coco_dataset(keypoints=17), change={c})"
        for c in (
            *("add_masks", "add_masks, use_fast_impl=False", "add_masks, tasks=('segm',)", "add_masks, tasks=('bbox',)", "add_masks, max_dets_per_image=5"),
            *("add_keypoints(17)", "add_keypoints(17), use_fast_impl=False", "add_keypoints(17), kpt_oks_sigmas=[0.1] * 17"),
            *("add_masks_and_keypoints", "add_masks_and_keypoints, tasks=('keypoints', 'bbox'), max_dets_per_image=5"),
            *("add_keypoints(3)", "add_masks, tasks=('bbox', 'unknown')", "remove_detections, tasks=('bbox', 'segm', 'keypoints')"),
        )
    ),
    "evaluate(coco_dataset(keypoints=3), change=add_keypoints(3), kpt_oks_sigmas=(0.1, 0.2, 0.05))",
    "evaluate(coco_dataset(keypoints=3), change=add_keypoints(3))",
    "evaluate(coco_dataset(), change=add_masks)",
    "evaluate(coco_dataset(), tasks=('keypoints',))",
    "instances_to_coco_json(make_instances(pred_masks=torch.arange(400.0).view(2, 10, 20).cos() > 0.5), 1)",
    "instances_to_coco_json(make_instances(pred_masks=torch.zeros(2, 10, 20)), 1)",
    "instances_to_coco_json(make_instances(pred_keypoints=torch.arange(18.0).view(2, 3, 3)), 1)",
    "evaluate(coco_dataset(classes=('only',)), detection_options={'classes': 1})",
    "evaluate(coco_dataset(classes=('a', 'b')), detection_options={'classes': 2})",
    "evaluate(coco_dataset(classes=tuple('abcdefg')), detection_options={'classes': 7})",
    "evaluate(coco_dataset(objects=0))",
    "evaluate(coco_dataset(objects=3))",
    "evaluate(coco_dataset(annotations=[]))",
    "evaluate(plain_dataset(), detection_options={'classes': 2})",
    "evaluate(plain_dataset(), detection_options={'classes': 2}, allow_cached_coco=False, use_fast_impl=False)",
    "COCOEvaluator(plain_dataset())",
    "COCOEvaluator('not registered', output_dir=str(FOLDER))",
    "COCOEvaluator('never registered')",
    "COCOEvaluator('coco_2017_val')",
    "COCOEvaluator(coco_dataset(), ('bbox',), False, str(FOLDER))",
    "COCOEvaluator(coco_dataset(), ('bbox',), False, str(FOLDER), 100)",
    "COCOEvaluator(coco_dataset()).evaluate()",
    "evaluate_after_reset()",
    "is_evaluator_reusable()",
    "attributes()",
    "attributes(max_dets_per_image=7, distributed=False, output_dir='x', tasks=('bbox',))",
    "reuse_coco_file(True), reuse_coco_file(False)",
    "COCOEvaluator(coco_dataset()).process([{}], [{'instances': make_instances()}])",
    "run_inference()",
    "run_inference(results={'a': 1}), run_inference(results={})",
    "run_inference('list', results={'a': 1})",
    "run_inference('none')",
    "run_inference('tuple')",
    "run_inference(3)",
    "run_inference(size=1)",
    "run_inference(size=7)",
    "run_inference(size=12)",
    "run_inference(size=0)",
    "run_inference(model=lambda x: x)",
    "run_inference(callbacks=['on_start', 'before_inference', 'after_inference', 'on_end'])",
    "run_inference(callbacks=['on_start', 'unknown'])",
    "training_modes(), training_modes(True)",
    "combine_evaluators({'a': 1}, {'b': 2})",
    "combine_evaluators({'a': 1}, None, {})",
    "combine_evaluators({'a': 1}, {'a': 1})",
    "combine_evaluators()",
    "DatasetEvaluator().reset(), DatasetEvaluator().process(1, 2), DatasetEvaluator().evaluate()",
    *(
        f"csv_lines({r})"
        for r in (
            *("{'bbox': {'AP': 12.34567, 'AP50': 50, 'AP-cat': 1.0}}", "OrderedDict(bbox={'AP': NAN})", "{}", "[]", "{'a': 3.5}", "{'a': {}}", "[1]"),
            *("{'a': {'b': 'x'}}", "{'a': {'b': None}}", "{'a': {'b': {'c': 1.0}}}", "{'a': {'b': np.float32(2)}}", "None", "{'a': {1: 2.0}}"),
        )
    ),
    *(f"flatten_results_dict({r})" for r in ("{'bbox': {'AP': 1}}", "{'a': {'b': {'c': 1, 'd': 2}}, 'e': 3}", "{}", "{'a': {}}", "{1: {'b': 2}}", "OrderedDict(a=OrderedDict(b=1))", "[1]")),
    "instances_to_coco_json(make_instances(), 7)",
    "instances_to_coco_json(make_instances(0), 7)",
    "instances_to_coco_json(Instances((10, 20)), 7)",
    "instances_to_coco_json(make_instances(1, pred_classes=torch.tensor([2], dtype=torch.int32)), 'name')",
]  # fmt: skip
