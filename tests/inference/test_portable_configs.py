"""Portable configs in checkpoints: complete enough to predict, and unable to run arbitrary code."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from deim import model_zoo
from deim.checkpoint.reading import read_checkpoint, read_weights
from deim.config.portable import from_portable, to_portable
from deim.conversion.identification import identify
from deim.errors import CheckpointError
from deim.fallback import is_standalone
from deim.inference.trained_model import load_trained
from tests.models import FAMILIES, recipe, without_pretrained

RECIPES = [name for name in model_zoo.available() if not name.startswith(("dino_deim/", "dab_detr_deim/"))]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_round_trip(name: str, tmp_path: Path) -> None:
    cfg = without_pretrained(model_zoo.get_config(name))
    torch.save({"deim": {"config": to_portable(cfg)}}, tmp_path / "model.pth")
    restored = from_portable(read_checkpoint(str(tmp_path / "model.pth"))["deim"]["config"], "model.pth")
    # detectron2's Swin Transformer reads values of a tensor while it is built
    with torch.device("cpu" if "swin" in name and not is_standalone("detectron2") else "meta"):
        expected, model = instantiate(cfg.model), instantiate(restored.model)
    assert str(model) == str(expected)
    assert str(instantiate(restored.dataloader.test.mapper.augmentations)) == str(
        instantiate(cfg.dataloader.test.mapper.augmentations)
    )


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "deim.modeling.detector.torch.os.system",
        "torch.hub.load",
        "deim.engine.run.main",
        "deim.data.datasets.shapes.write_shapes",
        "projects.nowhere.Model",
        "nowhere",
    ],
)
def test_checkpoint_config_calls_only_detector_parts(target: str, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint)
    content["deim"]["config"]["model"]["encoder"] = {"_target_": target, "command": "touch here"}
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"calls {target}, which is not a known part of a detector"):
        load_trained(str(tmp_path / "model.pth"))


def test_checkpoint_with_overrides_is_identified(checkpoint: Path) -> None:
    identified = identify(read_weights(str(checkpoint)))
    assert (identified.recipe, identified.config.model.decoder.queries.num_queries) == (
        "deim_dfine/deim_dfine_n_shapes",
        20,
    )
    assert len(identified.model.decoder.layers) == 2


def test_config_with_classes_is_not_portable() -> None:
    cfg = recipe(FAMILIES["dfine"])
    cfg.model.decoder.layer.activation = nn.ReLU
    assert to_portable(cfg) is None
