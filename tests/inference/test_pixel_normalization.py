"""The pixel normalization of a config is used in training, in prediction from a checkpoint, and in exported files."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

import deim
from deim import Predictor
from deim.checkpoint.metadata import CheckpointMetadata
from deim.config.portable import to_portable
from deim.data.datasets.shapes import CLASSES
from deim.inference.deployment import to_deployment
from deim.inference.export.export import export
from deim.inference.export.options import ExportOptions
from tests.conftest import long_except
from tests.inference.conftest import checkpoint_recipe
from tests.inference.test_predictor import are_close
from tests.models import randomize

# Statistics of images in [0, 1], as papers state them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize(image: torch.Tensor) -> torch.Tensor:
    """Normalize an image (3, H, W) in [0, 255] as torchvision does: scale to [0, 1], then subtract and divide."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    return (image.double() / 255 - mean) / std


@pytest.mark.parametrize("channels", long_except({"BGR"}, ["RGB", "BGR"]))
def test_imagenet_statistics(channels: str, tmp_path: Path, photos: Path) -> None:
    torch.manual_seed(0)
    cfg = checkpoint_recipe()
    cfg.model.pixel_mean, cfg.model.pixel_std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    cfg.model.input_format = cfg.dataloader.test.mapper.img_format = channels
    model = randomize(instantiate(cfg.model)).eval()
    path = tmp_path / "model.pth"
    metadata = CheckpointMetadata(deim.__version__, cfg.train.recipe, CLASSES, config=to_portable(cfg))
    torch.save({"model": model.state_dict(), "deim": metadata.state_dict()}, path)
    export(str(path), None, str(tmp_path / "model.onnx"), ExportOptions())

    sample = instantiate(cfg.dataloader.test.mapper)({"file_name": str(photos / "0.png")})
    image = normalize(sample["image"].flip(0) if channels == "BGR" else sample["image"])
    assert torch.allclose(model.normalize(sample["image"]).double(), image, atol=1e-5)
    with torch.no_grad():
        scores, *_ = model.detect(image.float()[None])
        (deployed,) = to_deployment(model)([sample])
    assert torch.allclose(deployed["instances"].scores, scores[0], atol=1e-4)
    for file in (path, tmp_path / "model.onnx"):
        detections = Predictor(file, threshold=0.0, device="cpu")(photos / "0.png")
        assert are_close(detections, deployed["instances"])
