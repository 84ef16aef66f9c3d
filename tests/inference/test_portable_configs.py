"""What a checkpoint keeps of its config: enough to predict, and nothing that runs code."""

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
from deim.inference.source import load_trained
from tests.models import FAMILIES, recipe, without_pretrained

SHIPPED = [name for name in model_zoo.available() if not name.startswith(("dino_deim/", "dab_detr_deim/"))]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    cfg = without_pretrained(model_zoo.get_config(name))
    torch.save({"deim": {"config": to_portable(cfg)}}, tmp_path / "model.pth")
    kept = from_portable(read_checkpoint(str(tmp_path / "model.pth"))["deim"]["config"], "model.pth")
    # detectron2's Swin Transformer reads values of a tensor while it is built
    with torch.device("cpu" if "swin" in name and not is_standalone("detectron2") else "meta"):
        wanted, made = instantiate(cfg.model), instantiate(kept.model)
    assert str(made) == str(wanted)
    assert str(instantiate(kept.dataloader.test.mapper.augmentations)) == str(
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
def test_a_checkpoint_calls_nothing_but_parts_of_detectors(target: str, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint)
    content["deim"]["config"]["model"]["encoder"] = {"_target_": target, "command": "touch here"}
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"calls {target}, which is not a known part of a detector"):
        load_trained(str(tmp_path / "model.pth"))


def test_a_checkpoint_with_other_settings_than_its_recipe_is_identified(checkpoint: Path) -> None:
    found = identify(read_weights(str(checkpoint)))
    assert (found.recipe, found.config.model.decoder.queries.num_queries) == ("deim_dfine/deim_dfine_n_shapes", 20)
    assert len(found.model.decoder.layers) == 2


def test_a_config_that_is_no_data_is_not_kept() -> None:
    cfg = recipe(FAMILIES["dfine"])
    cfg.model.decoder.layer.activation = nn.ReLU
    assert to_portable(cfg) is None
