"""A checkpoint as a run leaves it, and pictures to look at."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

import deim
from deim.checkpoint.metadata import CheckpointMetadata
from deim.config.portable import to_portable
from deim.data.datasets.shapes import CLASSES, draw_image
from tests.models import FAMILIES, randomize, recipe


@pytest.fixture(autouse=True)
def unlimited_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a limit of instructions that is meant for torch from OpenVINO.

    OpenVINO has a oneDNN of its own, which reads the same variable and then generates no code ("bad combination").
    """
    # From its first convolution on, torch does not look at the variable again.
    torch.nn.functional.conv2d(torch.ones(1, 16, 32, 32), torch.ones(16, 16, 3, 3))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def checkpoint_recipe(family: str = "dfine"):
    """A recipe with keys that the command line has set."""
    return recipe(FAMILIES[family], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=2")


def write_checkpoint(path: Path, family: str = "dfine") -> Path:
    """A small model of six classes, with random weights that detect something everywhere."""
    torch.manual_seed(0)
    cfg = checkpoint_recipe(family)
    model = randomize(instantiate(cfg.model))
    said = CheckpointMetadata(deim.__version__, cfg.train.recipe, CLASSES, config=to_portable(cfg))
    torch.save({"model": model.state_dict(), "deim": said.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "model.pth")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, size in enumerate([(96, 128), (128, 96), (96, 96), (200, 160), (64, 300)]):
        cv2.imwrite(str(folder / f"{number}.png"), draw_image(rng, size)[0])
    return folder
