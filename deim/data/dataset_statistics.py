"""Statistics of a dataset, and the problems in it, before training (``deim check-data``)."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from tabulate import tabulate
from tqdm import tqdm

from deim.data.datasets.annotation_errors import find_keypoint_errors
from deim.data.datasets.coco import find_format_error
from deim.data.datasets.keypoints import keypoints_from_metadata
from deim.data.datasets.names import registered_name
from deim.data.datasets.validation import DatasetContent, InvalidDatasetError, Problem, collect_left_out
from deim.data.drawing import object_shapes
from deim.data.image import image_size, read_image
from deim.data.limits import DetectionLimits, describe_counts, limit_warnings
from deim.data.records import annotation_arrays, record_size
from deim.errors import DatasetError
from deim.visualization import draw_objects, draw_statistics

# COCO's small, medium and large objects, by area in square pixels.
_SIZES = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, np.inf))


def read_content(dataset: Mapping[str, Any]) -> DatasetContent:
    """Read the dataset of a ``dataset`` node of a config, even if the dataset has fatal problems.

    Raises:
        DatasetError: if the dataset cannot be read.
    """
    try:
        with collect_left_out() as left_out:
            records = instantiate(dataset)
    except InvalidDatasetError as error:
        return error.content
    metadata = MetadataCatalog.get(str(registered_name(dataset)))
    json_file = metadata.get("json_file")
    format_error = None if json_file is None else find_format_error(json_file)
    problems = left_out if format_error is None else [Problem(str(json_file), format_error, True), *left_out]
    keypoints = keypoints_from_metadata(metadata) if reads_annotations(dataset, "keypoints") else None
    return DatasetContent(records, metadata.thing_classes, problems, metadata.get("notes", []), keypoints)


def reads_annotations(dataset: Mapping[str, Any], kind: str) -> bool:
    """Return whether a ``dataset`` node of a config reads "masks" or "keypoints"."""
    source = dataset.get("dataset")  # of a holdout split
    return bool(dataset.get(kind) or (isinstance(source, Mapping) and source.get(kind)))


def _read_with_optional_keypoints(dataset: Mapping[str, Any], required: Sequence[str]) -> DatasetContent:
    """Read a dataset; if only keypoints that are not required prevent this, read it without them."""
    try:
        return read_content(dataset)
    except DatasetError as error:
        if not reads_annotations(dataset, "keypoints") or "keypoints" in required:
            raise
        without: Any = copy.deepcopy(dataset)
        without.get("dataset", without)["keypoints"] = False
        content = read_content(without)
        content.notes = [*content.notes, f"the keypoints cannot be used: {error}"]
        return content


def find_image_problems(records: Sequence[dict], threads: int = 4) -> Iterator[Problem]:
    """Yield a problem for each image that cannot be decoded or whose size differs from its record."""

    def check(record: dict) -> Problem | None:
        try:
            read_image(record["file_name"], record_size(record), reduction=_checked_reduction(record))
        except DatasetError as error:
            return Problem(record["file_name"], str(error), True)
        return None

    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(check, records)
        for problem in tqdm(results, "decoding images", total=len(records), delay=2, mininterval=2, unit="image"):
            if problem is not None:
                yield problem


def _checked_reduction(record: dict) -> int:
    """Return 8 if the header of the image has the recorded size, else 1: reduced decoding tolerates small differences."""
    size = record_size(record)
    if size is None or min(size) < 8:
        return 1
    try:
        return 8 if sorted(image_size(record["file_name"])) == sorted(size) else 1
    except DatasetError:
        return 1


def check_dataset(
    dataset: Mapping[str, Any],
    output: str,
    decode: bool,
    images: int,
    limits: DetectionLimits | None = None,
    split: str = "train",
    required: Sequence[str] | None = None,
) -> bool:
    """Print and plot counts, classes, sizes and problems of a dataset.

    Args:
        dataset: a ``dataset`` node of a config, with ``names``.
        output: folder for ``classes.png``, ``images.png`` and ``problems.txt``.
        decode: whether to decode every image to find corrupt files; if False, only the drawn images are decoded.
        images: number of images to draw.
        limits: limits of the model and the evaluation; None skips their check.
        split: "train" or "test".
        required: what is trained on beside boxes: "masks", "keypoints"; problems of other annotations are not fatal. By
            default, the annotations that the node reads.

    Returns:
        whether the dataset has no fatal problems.

    Raises:
        DeimError: if the dataset cannot be read.
    """
    if required is None:
        required = [kind for kind in ("masks", "keypoints") if reads_annotations(dataset, kind)]
    content = _read_with_optional_keypoints(dataset, required)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    objects = [annotation_arrays(record) for record in content.records]
    if content.records:
        _describe(str(registered_name(dataset)), content, objects, folder / "classes.png")
    for note in content.notes:
        print(f"note: {note}")
    if limits is not None:
        for warning in limit_warnings([len(boxes) for boxes, _ in objects], limits, split):
            print(f"warning: {warning}")
    problems = _find_problems(content, required)
    if decode:
        problems += find_image_problems(content.records)
    records = _select_valid(content.records, problems, images)
    if not decode:
        unreadable = list(find_image_problems(records))
        problems += unreadable
        records = _select_valid(records, unreadable, len(records))
    _draw_images(records, content, folder / "images.png")
    num_fatal = _report_problems(problems, required, folder / "problems.txt")
    if content.records:
        print(f"plots: {folder / 'classes.png'}, {folder / 'images.png'}")
    return not num_fatal


def _describe(name: str, content: DatasetContent, objects: Sequence[tuple[np.ndarray, np.ndarray]], plot: Path) -> None:
    """Print the counts of a dataset, and plot its classes and sizes."""
    print(_summarize(name, content, objects))
    print(_class_table(content, objects))
    draw_statistics([boxes for boxes, _ in objects], _objects_per_class(content, objects), content.classes, plot)


def _select_valid(records: Sequence[dict], problems: Sequence[Problem], count: int) -> list[dict]:
    """Return ``count`` records without problems, evenly spaced; all of them if there are fewer."""
    invalid = {problem.location for problem in problems}
    valid = [record for record in records if record["file_name"] not in invalid]
    return [valid[i] for i in np.linspace(0, len(valid) - 1, min(count, len(valid))).astype(int)]


def _report_problems(problems: Sequence[Problem], required: Sequence[str], file: Path) -> int:
    """Print the first problems, write all of them to a file, and return the number of fatal ones."""
    file.write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8")
    for problem in problems[:20]:
        print(problem)
    tasks = ("boxes", *required)
    num_fatal = sum(problem.is_fatal and problem.task in tasks for problem in problems)
    num_others = sum(problem.task not in tasks for problem in problems)
    print(
        f"{len(problems)} problems, {num_fatal} of them must be fixed"
        + (f"; {num_others} matter only for models with masks or keypoints" if num_others else "")
        + ("; the remaining ones are objects that training skips" if len(problems) > num_fatal + num_others else "")
        + (f"; full list: {file}" if problems else "")
    )
    return num_fatal


def _find_problems(content: DatasetContent, required: Sequence[str]) -> list[Problem]:
    """Return all problems; masks are checked if they are required, and otherwise where there are any."""
    has_masks = any(a.get("segmentation") for record in content.records for a in record.get("annotations", ()))
    problems = content.all_problems(masks=has_masks, keypoints=True)
    if "masks" in required:
        return problems
    return [p for p in problems if p.task != "masks" or p.annotation is None or p.annotation.get("segmentation")]


def _draw_images(records: Sequence[dict], content: DatasetContent, output: Path) -> None:
    images = [read_image(record["file_name"], record_size(record)) for record in records]
    names = [Path(record["file_name"]).name for record in records]
    shapes = [object_shapes(record, content.keypoints) for record in records]
    draw_objects(
        images,
        [annotation_arrays(record) for record in records],
        content.classes,
        output,
        names,
        masks=[masks for masks, _ in shapes],
        keypoints=[keypoints for _, keypoints in shapes],
        connections=() if content.keypoints is None else content.keypoints.connected_indices(),
    )


def _objects_per_class(content: DatasetContent, objects: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return (K,) the number of objects of each class."""
    labels = np.concatenate([labels for _, labels in objects])
    return np.bincount(labels[(labels >= 0) & (labels < len(content.classes))], minlength=len(content.classes))


def _summarize(name: str, content: DatasetContent, objects: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    per_image = np.array([len(boxes) for boxes, _ in objects])
    boxes = np.concatenate([boxes for boxes, _ in objects])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crowds = sum(a.get("iscrowd", 0) for record in content.records for a in record.get("annotations", ()))
    total = max(len(boxes), 1)
    rows = [
        ["dataset", name],
        ["images", f"{len(per_image)}, {(per_image == 0).sum()} without objects"],
        ["objects", f"{len(boxes)}, plus {crowds} crowds, which training ignores"],
        ["objects per image", describe_counts(per_image)],
        *([f"{size} objects", f"{((low <= areas) & (areas < high)).sum() / total:.1%}"] for size, low, high in _SIZES),
        *_summarize_masks(content),
        *_summarize_keypoints(content),
    ]
    return tabulate(rows, tablefmt="plain")


def _summarize_masks(content: DatasetContent) -> list[list[str]]:
    """Return a row with the number of masks; no row if there are none."""
    annotations = _trained_annotations(content)
    masks = [annotation["segmentation"] for annotation in annotations if annotation.get("segmentation")]
    if not masks:
        return []
    num_run_lengths = sum(isinstance(mask, dict) for mask in masks)
    kinds = f"{len(masks) - num_run_lengths} as polygons, {num_run_lengths} as run lengths"
    return [["masks", f"{len(masks)} of {len(annotations)} objects: {kinds}"]]


def _summarize_keypoints(content: DatasetContent) -> list[list[str]]:
    """Return rows with the number of keypoints and their visibility; no rows if there are none."""
    if content.keypoints is None:
        return []
    num_keypoints = len(content.keypoints.names)
    errors = find_keypoint_errors(content.records, num_keypoints)
    invalid = {id(content.records[error.record]["annotations"][error.number]) for error in errors}
    valid = [a["keypoints"] for a in _trained_annotations(content) if a.get("keypoints") and id(a) not in invalid]
    visibility = np.array([values[2::3] for values in valid], dtype=float).reshape(-1, num_keypoints)
    has_any = (visibility > 0).any(axis=1).sum()
    shares = [f"{(visibility == value).sum() / max(visibility.size, 1):.1%}" for value in (2, 1, 0)]
    names = ", ".join(content.keypoints.names)
    return [
        ["keypoints", f"{num_keypoints} ({names}); {has_any} of {len(_trained_annotations(content))} objects have any"],
        ["visibility", f"{shares[0]} visible, {shares[1]} hidden, {shares[2]} not labeled"],
    ]


def _trained_annotations(content: DatasetContent) -> list[dict]:
    return [a for record in content.records for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]


def _class_table(content: DatasetContent, objects: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    counts = _objects_per_class(content, objects)
    images = np.zeros(len(content.classes), dtype=int)
    for _, labels in objects:
        present = np.unique(labels)
        images[present[(present >= 0) & (present < len(images))]] += 1
    order = np.argsort(-counts, kind="stable")
    rows = [[content.classes[i], counts[i], images[i]] for i in order]
    return tabulate(rows, headers=["class", "objects", "images"], tablefmt="github")
