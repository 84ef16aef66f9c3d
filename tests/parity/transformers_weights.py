"""Conversion of the weights of ``transformers``' detectors, and comparison of predictions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from transformers import ResNetConfig

from deim.checkpoint.loading import load_for_inference, to_native_layout
from deim.checkpoint.reading import StoredWeights, read_weights
from deim.conversion.conversion import to_layout, write_hugging_face
from deim.conversion.identification import IdentifiedCheckpoint
from deim.structures.predictions import Predictions
from tests.models import randomize


def translated(weights: Mapping[str, Tensor], renamings: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename a state dict of ``transformers`` and join the query, key and value projections.

    Args:
        weights: state dict of the ``transformers`` model.
        renamings: (pattern, replacement), applied in this order.
    """
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        if not name.startswith("model.") or name.endswith("points_scale"):
            continue  # heads outside of "model." share their tensors with those inside
        for pattern, replacement in renamings:
            name = re.sub(pattern, replacement, name)
        result[name.replace(".o_proj.", ".out_proj.")] = value
    for name in [n for n in result if ".q_proj." in n]:
        parts = [result.pop(name.replace(".q_proj.", f".{kind}_proj.")) for kind in "qkv"]
        result[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return result


def assert_folders_agree(config: Any, their_class: type, size: tuple[int, int], folder: Path) -> None:
    """Assert that checkpoint folders written for and by ``transformers`` give the same predictions.

    Converting a folder written by ``transformers`` there and back is bit-identical.

    Args:
        config: config of the recipe.
        their_class: model class of ``transformers``.
        size: (height, width) of the images.
        folder: folder for the files.
    """
    torch.manual_seed(0)
    ours = randomize(instantiate(config.model), scale=0.02).eval()
    identified = IdentifiedCheckpoint(
        StoredWeights("ours", ours.state_dict()), None, config.train.recipe, config, ours, ours.state_dict(), None, []
    )
    write_hugging_face(identified, folder / "ours")
    theirs, report = their_class.from_pretrained(folder / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert_predict_alike(ours, theirs.eval(), size)

    randomize(theirs, scale=0.02)
    theirs.save_pretrained(folder / "theirs")
    loaded = instantiate(config.model).eval()
    load_for_inference(loaded, str(folder / "theirs"))
    assert_predict_alike(loaded, theirs, size)
    stored = read_weights(str(folder / "theirs"))
    restored = to_layout(replace(identified, weights=to_native_layout(stored, ours)), "hf")
    assert restored.keys() == stored.weights.keys()
    assert all(torch.equal(restored[name], value) for name, value in stored.weights.items())


def assert_predict_alike(ours: nn.Module, theirs: nn.Module, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    expected = theirs(pixel_values=images)
    groups, _ = ours.decoder(ours.encoder(ours.backbone(images)))
    assert expected.logits.std() > 0.1, "the comparison must not be of constants"
    assert_same_predictions(groups["main"], expected.logits, expected.pred_boxes)


def assert_same_predictions(predictions: Predictions, logits: Tensor, boxes: Tensor, tolerance: float = 1e-6) -> None:
    """Assert that the logits (B, Q, K) and boxes (B, Q, 4) of the last layer agree, in any order of the queries.

    Queries are ordered by token score; the order of nearly equal scores depends on rounding.
    """
    expected = torch.cat([logits, boxes], dim=-1)
    ours = torch.cat([predictions.logits[-1], predictions.boxes[-1]], dim=-1)
    for expected_row, row in zip(expected, ours, strict=True):
        distance = torch.cdist(expected_row, row, p=float("inf"), compute_mode="donot_use_mm_for_euclid_dist")
        _, order = linear_sum_assignment(distance)
        torch.testing.assert_close(row[order], expected_row, atol=tolerance, rtol=0)


# (height, width) of the images of :func:`padded_batch`
SIZES = [(96, 128), (128, 72)]


def padded_batch(config: Any) -> tuple[list[dict], Tensor, Tensor, list[dict]]:
    """Return two images of different sizes: samples of this project, and pixels, mask and labels of transformers."""
    generator = torch.Generator().manual_seed(0)
    samples, labels = [], []
    mean, std = (torch.tensor(list(value))[:, None, None] for value in (config.pixel_mean, config.pixel_std))
    pixels, mask = torch.zeros(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.long)
    for index, (height, width) in enumerate(SIZES):
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        pixels[index, :, :height, :width] = (image - mean) / std
        mask[index, :height, :width] = 1
        boxes = torch.rand(3 + index, 4, generator=generator) * 0.3 + 0.3
        classes = torch.randint(config.num_classes, (len(boxes),), generator=generator)
        scale = torch.tensor([width, height, width, height])
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1) * scale
        instances = Instances((height, width), gt_boxes=Boxes(corners), gt_classes=classes)
        samples.append({"image": image, "instances": instances, "height": height, "width": width})
        labels.append({"class_labels": classes, "boxes": boxes})
    return samples, pixels, mask, labels


def resnet_config(config: Any) -> ResNetConfig:
    """Return the config of ResNet-18 of ``transformers`` with the same features."""
    features = config.backbone.out_features
    return ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=[{"res3": "stage2", "res4": "stage3", "res5": "stage4"}[feature] for feature in features],
    )


def resnet_renamings(prefix: str) -> list[tuple[str, str]]:
    """Return (pattern, replacement) from ResNet names of ``transformers``, after ``prefix``, to detectron2's names."""
    block = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
    return [
        (rf"^{prefix}embedder\.embedder\.convolution\.", "backbone.stem.conv1."),
        (rf"^{prefix}embedder\.embedder\.normalization\.", "backbone.stem.conv1.norm."),
        *((f"^{prefix}" + block.replace(r"(\d+)", str(i), 1), rf"backbone.res{i + 2}.\1.") for i in range(4)),
        *((rf"(backbone\.res\d\.\d+)\.layer\.{i}\.", rf"\1.conv{i + 1}.") for i in range(2)),
        (r"(backbone\..*)\.convolution\.", r"\1."),
        (r"(backbone\..*)\.normalization\.", r"\1.norm."),
    ]
