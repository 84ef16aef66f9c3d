"""Checkpoints of EdgeCrafter's official code for poses."""

import copy
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from deim.checkpoint import read_weights
from deim.checkpoint.formats import recognize
from deim.checkpoint.formats.edgecrafter import ECPOSE
from deim.checkpoint.loading import load_for_inference, load_weights
from deim.conversion import convert
from deim.inference import deployment_form
from deim.inference.trained_model import _class_names
from tests.checkpoint.foreign import digest
from tests.conftest import long_except
from tests.ecpose import MODELS, OFFICIAL_CLASSES, build_model
from tests.models import batch, randomize, recipe

# Tensors of a model in the official code: their number and digest.
OFFICIAL = {
    "s": (656, "4ecb3f8ede208318"),
    "m": (694, "74fd33e6e9dcbbc6"),
    "l": (802, "c381e9f15f156459"),
    "x": (802, "d34ab3856d253636"),
}


def ecpose_s(num_classes: int = OFFICIAL_CLASSES) -> nn.Module:
    """Return an ECPose-S with random values."""
    torch.manual_seed(num_classes)
    config = recipe("ecpose_s_coco").model
    config.num_classes = num_classes
    return randomize(instantiate(config)).eval()


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    """An ECPose-S with the classes of the official code. Tests do not change it."""
    return ecpose_s()


def assert_equal_weights(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(actual[name], value)] == []


@pytest.mark.parametrize("name", long_except(["s", "l"], MODELS))
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    model = build_model(name)
    theirs = ECPOSE.from_native(model.state_dict(), model)
    assert digest(theirs) == OFFICIAL[name]
    assert recognize(theirs) is ECPOSE
    back, unknown = ECPOSE.to_native(theirs)
    assert unknown == []
    assert back.keys() == model.state_dict().keys()


def test_constants_are_the_official_ones(detector: nn.Module) -> None:
    theirs = ECPOSE.from_native(detector.state_dict(), detector, image_size=(64, 96))
    assert theirs["decoder.anchors"].shape == (1, 8 * 12 + 4 * 6 + 2 * 3, 2)
    torch.testing.assert_close(theirs["decoder.anchors"][0, 1].sigmoid(), torch.tensor([1.5 / 12, 0.5 / 8]))
    assert not theirs["decoder.valid_mask"].any()  # True for tokens at the border, of larger images
    temperatures = theirs["decoder.decoder.dim_t"]
    assert temperatures.shape == (96,)
    assert temperatures[:4].tolist() == pytest.approx([1, 1, 10000 ** (2 / 96), 10000 ** (2 / 96)])


@pytest.mark.long
def test_release_files_are_converted_both_ways(detector: nn.Module, tmp_path: Path) -> None:
    theirs = ECPOSE.from_native(detector.state_dict(), detector)
    zeros = {name: torch.zeros_like(value) for name, value in theirs.items()}
    state = {"last_epoch": 91, "model": zeros, "ema": {"module": theirs, "updates": 9}}
    torch.save(state, tmp_path / "ecpose_s.pth")
    identified = convert(str(tmp_path / "ecpose_s.pth"), str(tmp_path / "native.pth"))
    assert (identified.recipe, identified.form) == ("ecpose/ecpose_s_coco", "training")
    assert list(identified.classes) == ["", "person"]
    assert_equal_weights(identified.weights, detector.state_dict())
    convert(str(tmp_path / "native.pth"), str(tmp_path / "back.pth"), to="ecpose")
    assert_equal_weights(torch.load(tmp_path / "back.pth", weights_only=True)["model"], theirs)


def test_predictions_with_release_files_have_class_names(detector: nn.Module, tmp_path: Path) -> None:
    """The first of the two scores is unused."""
    torch.save({"model": ECPOSE.from_native(detector.state_dict(), detector)}, tmp_path / "ecpose_s.pth")
    assert _class_names(read_weights(str(tmp_path / "ecpose_s.pth")), detector, 2) == ["class 0", "person"]


@torch.no_grad()
def test_deployed_files_are_loaded(detector: nn.Module, tmp_path: Path) -> None:
    """The official code fuses convolutions and removes the first quality heads, but keeps what only training needs."""
    deployed = copy.deepcopy(detector)
    for module in list(deployed.modules()):
        getattr(module, "reparameterize", lambda: None)()
    theirs = ECPOSE.from_native(deployed.state_dict(), deployed)
    theirs = {name: value for name, value in theirs.items() if not re.match(r"decoder\.lqe_embed\.[01]\.", name)}
    assert digest(theirs) == (384, "65baa67ecc083615")
    torch.save({"model": theirs}, tmp_path / "ecpose_s_deployed.pth")
    identified = convert(str(tmp_path / "ecpose_s_deployed.pth"), str(tmp_path / "native.pth"))
    assert (identified.recipe, identified.form) == ("ecpose/ecpose_s_coco", "deployment")
    images = torch.randn(1, 3, 64, 64)
    expected = deployment_form(detector).detect(images)
    for name in ("ecpose_s_deployed.pth", "native.pth"):
        loaded = ecpose_s()
        for parameter in loaded.parameters():
            parameter.zero_()
        load_for_inference(loaded, str(tmp_path / name))
        actual = loaded.detect(images)
        torch.testing.assert_close(actual.scores, expected.scores)
        torch.testing.assert_close(actual.keypoints, expected.keypoints)


@torch.no_grad()
def test_scores_of_persons_are_loaded_by_name(detector: nn.Module, tmp_path: Path) -> None:
    """The recipes have only the class "person"; the other score of a published file is never trained to be positive."""
    trained = copy.deepcopy(detector)
    trained.decoder.queries.score_head.bias[0] = -50.0  # so that it selects no tokens
    torch.save({"model": ECPOSE.from_native(trained.state_dict(), trained)}, tmp_path / "ecpose_s.pth")
    model = ecpose_s(num_classes=1)
    load_weights(model, str(tmp_path / "ecpose_s.pth"), classes=["person"])
    images = torch.randn(1, 3, 64, 64)
    ours, theirs = (part.decoder(part.encode(images))[0]["main"] for part in (model, trained))
    torch.testing.assert_close(ours.keypoints, theirs.keypoints)
    torch.testing.assert_close(ours.logits, theirs.logits[..., 1:])
    embedding, source = (part.decoder.denoising.class_embedding.weight for part in (model, detector))
    assert torch.equal(embedding[0], source[1])
    assert torch.equal(embedding[2:], source[2:])


def test_detections_of_a_loaded_file_are_equal(detector: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": ECPOSE.from_native(detector.state_dict(), detector)}, tmp_path / "ecpose_s.pth")
    loaded, samples = ecpose_s(), batch([1], size=96)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
        load_weights(loaded, str(tmp_path / "ecpose_s.pth"))
        ours, theirs = (model(samples)[0]["instances"] for model in (loaded, detector))
    assert torch.equal(ours.pred_keypoints, theirs.pred_keypoints)
