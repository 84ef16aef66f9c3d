"""Inputs and outputs of exported files, for callers that have 8-bit images and want relative boxes."""

from collections.abc import Sequence

import numpy as np

from deim.inference.export.metadata import Metadata


def network_inputs(metadata: Metadata, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the inputs of a file for uint8 images (B, 3, H, W) in its channel order.

    The size that the interface "official" requires is that of ``images``.
    """
    if metadata.interface == "deim":
        return (images,)
    pixels = images.astype(np.float32) / np.float32(255)
    if metadata.normalization is not None:
        mean, std = (np.array(metadata.normalization[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
        pixels = (pixels - mean) / std
    if metadata.interface != "official":
        return (pixels,)
    height, width = images.shape[2:]
    return pixels, np.array([[width, height]] * len(images), np.int64)


def relative_outputs(metadata: Metadata, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the outputs of a file by their names in the interface "deim"; boxes and keypoints are relative.

    Args:
        size: (height, width) of the images that :func:`network_inputs` converted.
    """
    names = [name.removeprefix("pred_") for name in metadata.outputs]
    by_name = dict(zip(names, outputs, strict=True))
    if metadata.interface == "deepstream":
        return _from_deepstream(by_name["output"], size)
    if metadata.interface != "official":
        return by_name
    limits = np.array([size[1], size[0]], np.float32)
    if "keypoints" in by_name:
        by_name["keypoints"] = by_name["keypoints"] / limits
    if "boxes" in by_name:
        by_name["boxes"] = (by_name["boxes"] / np.tile(limits, 2)).clip(0, 1)
    else:  # EdgeCrafter's files with keypoints have no boxes.
        points = by_name["keypoints"]
        by_name["boxes"] = np.concatenate([points.min(axis=2), points.max(axis=2)], axis=2).clip(0, 1)
    return by_name


def _from_deepstream(output: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return scores in descending order, labels and boxes of the interface "deepstream"; see :func:`relative_outputs`."""
    order = np.argsort(-output[..., 4], axis=1, kind="stable")
    rows = np.take_along_axis(output, order[..., None], axis=1)
    limits = np.array([size[1], size[0]] * 2, np.float32)
    return {
        "scores": rows[..., 4],
        "labels": rows[..., 5].astype(np.int64),
        "boxes": (rows[..., :4] / limits).clip(0, 1),
    }
