"""Throughput of the training data loader in images per second."""

import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_start_method, set_start_method
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import instantiate
from PIL import Image
from tabulate import tabulate

from benchmarks.isolation import run_in_new_process
from benchmarks.official_code import OFFICIAL, config_path, official_batches
from deim.config import load_config
from deim.data.datasets.shapes import DrawnShape, draw_shapes, shape_annotation
from deim.data.inspection import batches_from_epoch
from deim.schedule import Stage

BATCH_SIZE = 16
# Label of the stage with mosaics.
WITH_MOSAIC = "mosaic + mixup"
# Of the persons of COCO; the official code of ECPose reads no other number.
_NUM_KEYPOINTS = 17


def write_images(
    folder: Path, count: int = 256, max_bytes: int = 45_000, masks: bool = False, keypoints: bool = False
) -> tuple[str, str]:
    """Write JPEG images of 640 x 480 and 480 x 640 and their annotations.

    Args:
        folder: target folder.
        count: number of images.
        max_bytes: maximum file size of an image.
        masks: annotate the visible pixels of each object as polygons.
        keypoints: annotate 17 keypoints of each object, among which are equal ones; all objects have the same class.

    Returns:
        Paths of the annotation file (COCO format) and of the image folder.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        size = [(480, 640), (640, 480)][number % 2]
        image, shapes = draw_shapes(np.random.default_rng([0, number]), size)
        name = f"{number:06d}.jpg"
        (folder / "images" / name).write_bytes(_encode(image, max_bytes))
        images.append({"id": number + 1, "file_name": name, "height": size[0], "width": size[1]})
        for shape in shapes:
            category = 1 if keypoints else shape.class_index + 1
            annotation = shape_annotation(len(annotations) + 1, number + 1, category, shape, masks)
            annotations.append(annotation | (_keypoint_entries(shape) if keypoints else {}))
    names = {"keypoints": [str(index) for index in range(_NUM_KEYPOINTS)], "skeleton": []} if keypoints else {}
    categories = [{"id": number + 1, "name": str(number + 1)} | names for number in range(1 if keypoints else 80)]
    json_file = folder / "instances.json"
    json_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    return str(json_file), str(folder / "images")


def _keypoint_entries(shape: DrawnShape) -> dict[str, Any]:
    keypoints = np.resize(shape.keypoints, (_NUM_KEYPOINTS, 3))
    return {"keypoints": keypoints.ravel().tolist(), "num_keypoints": int((keypoints[:, 2] > 0).sum())}


def _encode(image: np.ndarray, max_bytes: int) -> bytes:
    """Encode an image as JPEG, with the highest quality from 10 to 98 that stays within a file size; else 10."""
    low, high = 10, 98
    while low < high:
        quality = (low + high + 1) // 2
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        low, high = (quality, high) if len(data) <= max_bytes else (low, quality - 1)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, low])[1].tobytes()


def images_per_second(batches: Iterator[Any], batch_size: int, count: int, warmup: int = 2) -> tuple[float, float]:
    """Return the images per second, and the images per second of CPU time of this process."""
    for _ in itertools.islice(batches, warmup):
        pass
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in itertools.islice(batches, count):
        pass
    elapsed, cpu_elapsed = time.perf_counter() - start, time.process_time() - cpu_start
    return batch_size * count / elapsed, batch_size * count / cpu_elapsed


def stage_epochs(recipe: str) -> dict[str, int]:
    """Return {label: first epoch} of the stage of a recipe with mosaics, and of the stage after it."""
    schedule = instantiate(load_config(recipe).schedule)
    stages = [schedule.stage(epoch) for epoch in range(schedule.epochs)]
    return {WITH_MOSAIC: stages.index(Stage.DENSE), "single images": stages.index(Stage.STRONG)}


def our_batches(
    recipe: str,
    json_file: str,
    image_root: str,
    epoch: int,
    batch_size: int,
    num_workers: int,
    image_cache: float = 0.0,
) -> Iterator[Any]:
    """Return an iterator over the batches of a recipe from an epoch on, all of the size in evaluation.

    Args:
        recipe: name of the recipe.
        json_file: annotation file in COCO format.
        image_root: folder of its images.
        epoch: epoch of the recipe, from 0.
        batch_size: number of images per batch.
        num_workers: number of worker processes.
        image_cache: size of the image cache in gigabytes; 0 for none.
    """
    train = "dataloader.train"
    cfg = load_config(
        recipe,
        [
            f"{train}.dataset.names=benchmark_{Path(json_file).resolve()}",
            f"{train}.dataset.json_file={json_file}",
            f"{train}.dataset.image_root={image_root}",
            f"{train}.total_batch_size={batch_size}",
            f"{train}.num_workers={num_workers}",
            f"{train}.mapper.multi_scale_repeat=null",
            f"{train}.image_cache_gb={image_cache}",
        ],
    )
    return batches_from_epoch(cfg, epoch)


def image_files(json_file: str, image_root: str) -> list[Path]:
    """Return the paths of the images that an annotation file in COCO format lists."""
    images = json.loads(Path(json_file).read_text(encoding="utf-8"))["images"]
    return [Path(image_root) / image["file_name"] for image in images]


def decode_rates(paths: Sequence[Path], seconds: float = 2.0) -> dict[str, float]:
    """Return the decoding throughput of OpenCV and Pillow in images per second, in one thread."""
    files = [path.read_bytes() for path in paths[:256]]
    decoders: dict[str, Callable[[bytes], Any]] = {
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),
        "Pillow": lambda data: Image.open(io.BytesIO(data)).convert("RGB"),
    }
    rates = {}
    for name, decode in decoders.items():
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            decode(files[count % len(files)])
            count += 1
        rates[name] = count / (time.perf_counter() - start)
    return rates


def _measure(
    source: Callable[..., Iterator[Any]], start_method: str, threads: int, batches: int, warmup: int, *arguments: Any
) -> tuple[float, float]:
    """Return the throughput of a source of batches, see :func:`images_per_second`; run it in a separate process."""
    # Start workers as training does: by default, a spawned process would spawn them.
    set_start_method(start_method, force=True)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return images_per_second(source(*arguments), BATCH_SIZE, batches, warmup)


def run(
    recipe: str,
    json_file: str,
    image_root: str,
    peer: str | None,
    batches: int,
    threads: int,
    num_workers: int,
    image_cache: float,
) -> None:
    """Print the throughput of this project's loader and, if ``peer`` is given, of the official loader.

    Args:
        recipe: name of the recipe.
        json_file: annotation file in COCO format.
        image_root: folder of its images.
        peer: checkout of the official code, or None.
        batches: number of batches of 16 images to time.
        threads: maximum number of threads of the libraries in a process.
        num_workers: number of worker processes; 0 loads in the main process.
        image_cache: size in gigabytes of an image cache; a filled cache is measured as well. 0 for none.

    Raises:
        ConfigError: if ``peer`` is not a checkout of official code, or if that code has no config for the recipe.
    """
    if peer is not None:
        config_path(peer, recipe)
    paths = image_files(json_file, image_root)
    sizes = [path.stat().st_size for path in paths]
    decoding = decode_rates(paths)
    print(
        f"{len(sizes)} images of {np.mean(sizes) / 1000:.0f} KB; decoding only, in one thread: "
        + ", ".join(f"{name} {rate:.0f} images/s" for name, rate in decoding.items())
    )
    print(f"{recipe}: batches of {BATCH_SIZE}, {num_workers} workers, {threads} threads per process")
    batches_to_fill = 3 * len(sizes) // BATCH_SIZE
    rows = []
    for label, epoch in stage_epochs(recipe).items():
        images_per_output = 2.5 if label == WITH_MOSAIC else 1.0
        arguments = (recipe, json_file, image_root, epoch, BATCH_SIZE, num_workers)
        sources: dict[str, tuple] = {"deim": (our_batches, 2, *arguments)}
        if image_cache:
            sources["deim, image cache"] = (our_batches, batches_to_fill, *arguments, image_cache)
        if peer is not None:
            sources[OFFICIAL] = (official_batches, 2, peer, *arguments)
        rates = {}
        for name, (source, warmup, *source_arguments) in sources.items():
            print(f"  {label}: {name} ...", flush=True)
            options = (get_start_method(), threads, batches, warmup)
            rates[name] = run_in_new_process(_measure, source, *options, *source_arguments)
        rows += _rows(label, rates, decoding["OpenCV"] / images_per_output, num_workers)
    header = ["stage", "loader", "images/s", "speedup", "decode limit", "of the limit", "per CPU second"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def _rows(stage: str, rates: dict[str, tuple[float, float]], limit: float, num_workers: int) -> list[list[str]]:
    """Return the table rows of a stage, one for each loader; the CPU time of worker processes is unknown."""
    official = rates.get(OFFICIAL)
    return [
        [
            stage,
            name,
            f"{rate:.1f}",
            f"{rate / official[0]:.2f}" if official else "",
            f"{limit:.0f}",
            f"{rate / limit:.0%}",
            "" if num_workers else f"{per_cpu_second:.1f}",
        ]
        for name, (rate, per_cpu_second) in rates.items()
    ]
