"""Keypoints of objects, and the keypoints that a mirror image exchanges."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from deim.errors import ConfigError, DatasetError


def keypoint_hflip_indices(dataset_name: str | Sequence[str]) -> np.ndarray:
    """Return which keypoint of an object becomes which in a mirror image, such as left and right eye.

    Args:
        dataset_name: name of a registered dataset, or names of datasets with the same keypoints. Its metadata must
            have ``keypoint_names`` and ``keypoint_flip_map``, pairs of names; the map is empty if no keypoint has a
            counterpart.

    Returns:
        (P,) int64; keypoint i of the mirror image is keypoint ``indices[i]`` of the image. The indices are those of
        detectron2's ``create_keypoint_hflip_indices``.

    Raises:
        ConfigError: if the metadata have no keypoints, are inconsistent, or differ between the datasets.
    """
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
    indices = [_hflip_indices(name) for name in names]
    different = [name for name, other in zip(names, indices, strict=True) if other != indices[0]]
    if different:
        raise ConfigError(f"the datasets {names[0]!r} and {different[0]!r} have different keypoints in their metadata")
    return np.array(indices[0], dtype=np.int64)


def _hflip_indices(dataset_name: str) -> list[int]:
    metadata = MetadataCatalog.get(dataset_name)
    keypoint_names, flip_map = metadata.get("keypoint_names"), metadata.get("keypoint_flip_map")
    if not keypoint_names or flip_map is None:
        missing = "keypoint_names" if not keypoint_names else "keypoint_flip_map"
        raise ConfigError(
            f"the metadata of dataset {dataset_name!r} have no {missing}. Set them before training: "
            f'MetadataCatalog.get("{dataset_name}").set(keypoint_names=[...], keypoint_flip_map=[("left_eye", "right_eye"), '
            "...]); the map is empty if no keypoint has a counterpart"
        )
    names, counterparts = list(keypoint_names), dict(flip_map)
    counterparts |= {right: left for left, right in counterparts.items()}
    unknown = sorted(set(counterparts) - set(names))
    if unknown:
        raise ConfigError(
            f"the keypoint_flip_map of dataset {dataset_name!r} has {unknown[0]!r}, which is not one of its keypoint_names"
        )
    return [names.index(counterparts.get(name, name)) for name in names]


def keypoint_array(keypoints: Sequence[Any], locations: Sequence[str], num_keypoints: int) -> np.ndarray:
    """Return the keypoints of the objects of an image.

    Args:
        keypoints: ``keypoints`` of each object: x, y in pixels and visibility (0 not labeled, 1 not visible, 2 visible)
            of each keypoint; None or empty for an object without labeled keypoints.
        locations: location of each object, for error messages.
        num_keypoints: P, the number of keypoints of the dataset.

    Returns:
        (N, P, 3) float32; all values of a keypoint that is not labeled are 0.

    Raises:
        ConfigError: if an object has another number of keypoints.
        DatasetError: if the keypoints are not numbers or contain NaN/Inf.
    """
    array = np.zeros((len(keypoints), 3 * num_keypoints), np.float32)
    for number, (values, location) in enumerate(zip(keypoints, locations, strict=True)):
        if values is None:
            continue
        try:
            row = np.asarray(values, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{location}: keypoints contain something that is not a number: {error}") from error
        if len(row) == 0:
            continue
        if len(row) != 3 * num_keypoints:
            raise ConfigError(
                f"{location} has {len(row)} keypoint values, but the {num_keypoints} keypoints of the dataset's metadata "
                f"(keypoint_names) need {3 * num_keypoints}: x, y and visibility of each"
            )
        with np.errstate(over="ignore"):  # becomes Inf, which is reported below
            array[number] = row
    if not np.isfinite(array).all():
        number = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise DatasetError(f"{locations[number]}: keypoints contain NaN/Inf")
    result = array.reshape(len(keypoints), num_keypoints, 3)
    result[result[..., 2] <= 0] = 0
    return result
