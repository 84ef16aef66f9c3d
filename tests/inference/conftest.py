"""Fixtures: a checkpoint as written by a training run, and images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

import deim
from deim.checkpoint.metadata import CheckpointMetadata
from deim.config import with_keypoints, with_masks
from deim.config.portable import to_portable
from deim.data.datasets.shapes import CLASSES, draw_image
from deim.structures.skeleton import Skeleton
from tests.models import FAMILIES, randomize, recipe


@pytest.fixture(autouse=True)
def unlimited_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove ``ONEDNN_MAX_CPU_ISA``, which limits the instructions of torch, for OpenVINO.

    OpenVINO has its own oneDNN, which reads the same variable and then generates no code ("bad combination").
    """
    # torch reads the variable once, at its first convolution.
    torch.nn.functional.conv2d(torch.ones(1, 16, 32, 32), torch.ones(16, 16, 3, 3))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def checkpoint_recipe(family: str = "dfine", *overrides: str):
    """Return the config of a recipe with command-line overrides."""
    return recipe(FAMILIES[family], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=2", *overrides)


def write_checkpoint(path: Path, family: str = "dfine") -> Path:
    """Write a small model with six classes and random weights, which detects objects in every image."""
    torch.manual_seed(0)
    cfg = checkpoint_recipe(family)
    model = randomize(instantiate(cfg.model))
    metadata = CheckpointMetadata(deim.__version__, cfg.train.recipe, CLASSES, config=to_portable(cfg))
    torch.save({"model": model.state_dict(), "deim": metadata.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "model.pth")


SKELETON = Skeleton(("top", "middle", "bottom"), ((0, 1), (1, 2)))


def write_checkpoint_with_heads(path: Path, masks: bool = True, keypoints: bool = True) -> Path:
    """Write a small model as :func:`write_checkpoint` does, which also predicts masks or the keypoints of SKELETON.

    Its images have 96 x 128 pixels.
    """
    torch.manual_seed(0)
    cfg = checkpoint_recipe("dfine", "dataloader.image_size=[96,128]")
    if keypoints:
        with_keypoints(cfg.model, len(SKELETON.names))
    if masks:
        with_masks(cfg.model)
    model = randomize(instantiate(cfg.model))
    with torch.no_grad():
        for parameter in model.decoder.heads.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # the keypoints of an object and its masks shall differ
        if masks:
            # About half of the pixels are inside of a mask.
            image = torch.from_numpy(draw_image(np.random.default_rng(0), (96, 128))[0].copy()).permute(2, 0, 1)
            model.decoder.heads.masks.bias -= model.eval().detect(model.normalize(image)[None]).masks.median()
    metadata = CheckpointMetadata(
        deim.__version__,
        cfg.train.recipe,
        CLASSES,
        config=to_portable(cfg),
        keypoints=SKELETON.to_dict() if keypoints else None,
    )
    torch.save({"model": model.state_dict(), "deim": metadata.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint_with_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint_with_heads(tmp_path_factory.mktemp("heads") / "model.pth")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with five images of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, size in enumerate([(96, 128), (128, 96), (96, 96), (200, 160), (64, 300)]):
        cv2.imwrite(str(folder / f"{number}.png"), draw_image(rng, size)[0])
    return folder
