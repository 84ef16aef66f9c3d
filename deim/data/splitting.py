"""Splits of a dataset: stratified over the classes, with near-duplicate images in the same part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from deim.data.datasets.keypoints import KeypointDefinition, keypoints_from_metadata
from deim.data.datasets.to_coco import common_folder, write_coco_file
from deim.data.duplicates import compute_fingerprints, group_duplicates
from deim.data.records import annotation_arrays
from deim.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class ImagePool:
    """Images to split.

    Attributes:
        records: detectron2 records of the N images.
        classes: class names in index order.
        keypoints: names and connections of the keypoints; None if there are none.
        image_root: deepest folder that contains all images.
    """

    records: Sequence[dict]
    classes: Sequence[str]
    keypoints: KeypointDefinition | None
    image_root: Path

    def class_counts(self) -> np.ndarray:
        """Return (N, K) the number of objects of each class in each image."""
        labels = [annotation_arrays(record)[1] for record in self.records]
        return np.array([np.bincount(image_labels, minlength=len(self.classes)) for image_labels in labels])

    def write_split(self, folder: Path, is_held_out: np.ndarray) -> None:
        """Write ``instances_train.json`` and ``instances_val.json``, which are replaced if they exist.

        Args:
            folder: directory of the files.
            is_held_out: (N,) bool, whether each image is for evaluation.
        """
        for file, is_selected in zip(_split_files(folder), (~is_held_out, is_held_out), strict=True):
            records = [self.records[int(i)] for i in np.flatnonzero(is_selected)]
            write_coco_file(file, records, self.classes, self.image_root, self.keypoints)

    def summarize(self, parts: np.ndarray, names: Sequence[str]) -> str:
        """Return a table of the images and the objects of each class in the parts, which have the given names."""
        counts = self.class_counts()
        per_part = np.array([counts[parts == part].sum(axis=0) for part in range(len(names))])
        images = [int((parts == part).sum()) for part in range(len(names))]
        rows = [["images", *images], *([name, *per_part[:, i].tolist()] for i, name in enumerate(self.classes))]
        return tabulate(rows, headers=["objects", *names], tablefmt="github")


def _split_files(folder: Path) -> tuple[Path, Path]:
    """Return the files of the training images and of the evaluation images of a split."""
    return folder / "instances_train.json", folder / "instances_val.json"


def check_output(folders: Iterable[Path]) -> None:
    """Check that the files of splits do not exist yet; an existing file may be an original.

    Args:
        folders: folders of the splits to write.

    Raises:
        ConfigError: if a file exists.
    """
    for folder in folders:
        for file in _split_files(folder):
            if file.exists():
                raise ConfigError(f"{file} exists: choose another --output, or delete the file")


def read_pool(datasets: Sequence[Mapping[str, Any]]) -> ImagePool:
    """Read datasets of the same classes; an image that occurs in several datasets is taken from the first.

    Args:
        datasets: ``dataset`` nodes of a config, with ``names``.

    Raises:
        DatasetError: if a dataset cannot be read.
    """
    records: dict[str, dict] = {}
    for node in datasets:
        for record in instantiate(node):
            records.setdefault(record["file_name"], record)
    metadata = MetadataCatalog.get(datasets[0]["names"])
    keypoints = keypoints_from_metadata(metadata)
    return ImagePool(list(records.values()), metadata.thing_classes, keypoints, common_folder(list(records)))


def split_pool(pool: ImagePool, shares: Sequence[float], max_distance: int, seed: int) -> np.ndarray:
    """Assign the images of a pool to parts; see :func:`split_groups`.

    Args:
        pool: images to split.
        shares: share of each part; their sum is 1.
        max_distance: number of bits of the perceptual hashes in which near-duplicates may differ; negative to ignore
            near-duplicates.
        seed: seed for another split.

    Returns:
        (N,) part of each image.

    Raises:
        ConfigError: if there are fewer than two shares, or a share is not between 0 and 1.
        DatasetError: if a part has no image.
    """
    if len(shares) < 2 or not all(0 < share < 1 for share in shares):
        raise ConfigError("a split needs at least 2 folds, or a share of evaluation images between 0 and 1")
    groups = np.arange(len(pool.records))
    if max_distance >= 0:
        groups = group_duplicates(compute_fingerprints(pool.records), max_distance)
        _describe_groups(groups, min(shares))
    counts = pool.class_counts()
    # Images without objects are balanced like the objects of a class.
    is_empty = counts.sum(axis=1, keepdims=True) == 0
    parts = split_groups(groups, np.hstack([counts, is_empty]), shares, seed)
    if len(np.unique(parts)) < len(shares):
        raise DatasetError(
            f"{len(pool.records)} images in {len(np.unique(groups))} groups of near-duplicates cannot be split into "
            f"{len(shares)} parts with at least one image each: use fewer folds, a larger share, or a smaller --max-distance"
        )
    return parts


def _describe_groups(groups: np.ndarray, smallest_share: float) -> None:
    sizes = np.bincount(groups)
    num_duplicates, num_groups = int(sizes[sizes > 1].sum()), int((sizes > 1).sum())
    print(f"{num_duplicates} of {len(groups)} images have near-duplicates, in {num_groups} groups that stay together")
    if sizes.max() > max(1, smallest_share * len(groups)):
        print(
            f"warning: the largest group has {sizes.max()} images, more than the smallest part should have; the parts "
            "are therefore uneven. A smaller --max-distance makes smaller groups"
        )


def split_groups(groups: np.ndarray, counts: np.ndarray, shares: Sequence[float], seed: int = 0) -> np.ndarray:
    """Assign images to parts so that groups stay together and each part gets its share of the objects of every class.

    The groups are assigned one after the other, those with a large share of a class first, each to the part where it
    least increases the imbalance: the sum over parts and classes of ``(objects / all objects)**2 / share``. The number
    of images weighs as much as all classes together. The result depends only on the arguments.

    Args:
        groups: (N,) number of the group of each image, such as from :func:`deim.data.duplicates.group_duplicates`.
        counts: (N, K) number of objects of each class.
        shares: share of each part; their sum is 1.
        seed: seed of the order of groups with equal shares.

    Returns:
        (N,) part of each image.
    """
    _, groups = np.unique(groups, return_inverse=True)
    num_groups = int(groups.max()) + 1
    sums = np.zeros((num_groups, counts.shape[1]))
    np.add.at(sums, groups, counts)
    class_shares = sums / np.maximum(sums.sum(axis=0), 1)
    size_shares = np.bincount(groups)[:, None] / len(groups)
    num_classes = max(int((sums.sum(axis=0) > 0).sum()), 1)
    weighted = np.hstack([class_shares / np.sqrt(num_classes), size_shares])

    order = np.random.default_rng(seed).permutation(num_groups)
    largest_share = np.hstack([class_shares, size_shares]).max(axis=1)
    order = order[np.argsort(-largest_share[order], kind="stable")]
    parts, assigned = np.zeros(num_groups, int), np.zeros((len(shares), weighted.shape[1]))
    for group in order:
        # The increase of assigned**2 / share, without constant factors.
        increases = ((2 * assigned + weighted[group]) * weighted[group]).sum(axis=1) / np.asarray(shares)
        parts[group] = increases.argmin()
        assigned[parts[group]] += weighted[group]
    return parts[groups]
