"""Preparation of Objects365 v2 as for D-FINE: most validation images move to the training set, and images are resized
once on disk."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from deim.data.image import image_size, read_image
from deim.errors import DatasetError

PREFIX = "new_"
SUFFIX = "_resized"


def annotation_path(root: Path, split: str) -> Path:
    """Return the path of the "train" or "val" annotations in a download."""
    return root / split / f"zhiyuan_objv2_{split}.json"


def move_validation_images(root: Path, num_validation: int = 5000) -> None:
    """Write annotation files that keep the first ``num_validation`` validation images; the others move to the training set.

    ``val/images/...`` must have been copied or linked to ``train/images_from_val/...``.

    Args:
        root: folder that contains ``train/zhiyuan_objv2_train.json`` and ``val/zhiyuan_objv2_val.json``; the new files
            get the prefix ``new_``.
        num_validation: number of validation images to keep.

    Raises:
        DatasetError: if files are missing or malformed.
    """
    train, val = (_load(annotation_path(root, split)) for split in ("train", "val"))
    validation = {image["id"] for image in val["images"][:num_validation]}
    moved = [image for image in val["images"] if image["id"] not in validation]
    for image in moved:
        image["file_name"] = str(Path("images_from_val", *Path(image["file_name"]).parts[1:]))
    duplicates = {image["id"] for image in train["images"]} & {image["id"] for image in moved}
    if duplicates:
        raise DatasetError(f"{len(duplicates)} image ids occur in both train and val, for example {min(duplicates)}")
    val_annotations: dict[bool, list[dict]] = {True: [], False: []}
    for annotation in val["annotations"]:
        val_annotations[annotation["image_id"] in validation].append(annotation)
    _save(root, "train", train, moved + train["images"], val_annotations[False] + train["annotations"])
    _save(root, "val", val, val["images"][:num_validation], val_annotations[True])


def _load(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise DatasetError(f"{path} is not in COCO format: missing lists: {', '.join(missing)}")
    return content


def _save(root: Path, split: str, source: dict, images: list[dict], annotations: list[dict]) -> None:
    # Ids are unique only within each of the two source files.
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    path = annotation_path(root, split)
    path = path.with_name(PREFIX + path.name)
    path.write_text(json.dumps({**source, "images": images, "annotations": annotations}), encoding="utf-8")
    print(f"{path}: {len(images)} images, {len(annotations)} objects")


def resize_images(annotation_file: Path, image_root: Path, max_size: int = 640, workers: int = 4) -> list[str]:
    """Downscale images whose longer side exceeds ``max_size`` pixels, and scale their annotations.

    ``x.jpg`` becomes ``x_resized.jpg`` in the same folder, and the annotation file also gets the suffix ``_resized``.
    Resized images that already exist are kept if their size is correct.

    Returns:
        error messages of the images that could not be read and were left out.
    """
    content = _load(annotation_file)
    paths = [image_root / image["file_name"] for image in content["images"]]
    with ProcessPoolExecutor(workers) as pool:
        results = list(
            tqdm(
                pool.map(_resize, paths, [max_size] * len(paths), chunksize=16),
                f"resizing images of {annotation_file}",
                total=len(paths),
                unit="image",
                mininterval=2,
            )
        )
    errors = [result for result in results if isinstance(result, str)]
    scales: dict[int, tuple[float, float]] = {}
    for image, result in zip(content["images"], results, strict=True):
        if isinstance(result, str):
            continue
        (height, width), (new_height, new_width) = result
        scales[image["id"]] = (new_width / width, new_height / height)
        image["height"], image["width"] = new_height, new_width
        if (height, width) != (new_height, new_width):
            image["file_name"] = str(_resized_path(Path(image["file_name"])))
    content["images"] = [image for image in content["images"] if image["id"] in scales]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in scales]
    for annotation in content["annotations"]:
        horizontal, vertical = scales[annotation["image_id"]]
        annotation["bbox"] = (np.array(annotation["bbox"]) * [horizontal, vertical, horizontal, vertical]).tolist()
        if "area" in annotation:
            annotation["area"] *= horizontal * vertical
    path = annotation_file.with_stem(annotation_file.stem + SUFFIX)
    path.write_text(json.dumps(content), encoding="utf-8")
    print(f"{path}: {len(content['images'])} images, {len(content['annotations'])} objects, {len(errors)} left out")
    return errors


def _resized_path(path: Path) -> Path:
    return path.with_stem(path.stem + SUFFIX)


def _resize(path: Path, max_size: int) -> tuple[tuple[int, int], tuple[int, int]] | str:
    """Return the sizes before and after as (height, width), or an error message."""
    target = _resized_path(path)
    try:
        height, width = size = image_size(str(path))
        scale = max_size / max(size)
        if scale >= 1:
            return size, size
        new_size = (max(int(height * scale), 1), max(int(width * scale), 1))
        if not target.is_file() or image_size(str(target)) != new_size:
            image = cv2.resize(read_image(str(path), size), new_size[::-1], interpolation=cv2.INTER_AREA)
            partial = target.with_suffix(".part.jpg")
            cv2.imwrite(str(partial), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
            partial.replace(target)  # so that an interrupted run leaves no truncated image under the final name
    except DatasetError as error:
        return str(error)
    return size, new_size
