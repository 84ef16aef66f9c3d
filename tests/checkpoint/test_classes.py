"""Class-specific weights are transferred by class name."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from deim.checkpoint import load_for_inference, load_weights
from deim.checkpoint.class_lists import CLASSES_BY_COUNT, COCO, OBJECTS365
from deim.checkpoint.classes import class_rows
from deim.checkpoint.metadata import CheckpointMetadata
from deim.config import switch, with_keypoints
from deim.config.annotations import fit_keypoints
from deim.data.datasets.keypoints import KeypointDefinition
from deim.errors import CheckpointError
from tests.models import DETRS, FAMILIES, TASKS, recipe, task_model, tiny_model

SIX = ["circle", "square", "triangle", "ring", "cross", "star"]


def save_checkpoint(folder: Path, family: str, classes: list[str] | None = SIX) -> tuple[nn.Module, str]:
    model = tiny_model(family=family)
    content = {"model": model.state_dict()}
    if classes is not None:
        content["deim"] = CheckpointMetadata("0", "", classes).state_dict()
    torch.save(content, folder / "model.pth")
    return model.eval(), str(folder / "model.pth")


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    groups, _ = model.decoder(model.encoder(model.backbone(torch.rand(1, 3, 64, 64))))
    return groups["main"].logits[-1]


@pytest.mark.parametrize("family", ["dfine", "rtdetr", *DETRS])
def test_logits_of_kept_classes_are_unchanged(family: str, tmp_path: Path) -> None:
    """The classes are in another order; all are kept, because the scores select the queries. Deformable DETR selects by
    the first score of the proposals, which belongs to no class and keeps its position."""
    old, path = save_checkpoint(tmp_path, family)
    new_classes = ["Star", "circle", "ring", "square", "cross", "triangle"]
    new = tiny_model(family=family, seed=5)
    load_weights(new, path, allow_other_classes=True, classes=new_classes)
    rows = [SIX.index(name.lower()) for name in new_classes]
    torch.testing.assert_close(logits(new.eval()), logits(old)[..., rows], rtol=1e-5, atol=1e-6)
    if new.decoder.denoising is None:
        return
    ours, theirs = new.decoder.denoising.class_embedding.weight, old.decoder.denoising.class_embedding.weight
    assert torch.equal(ours[:6], theirs[rows])
    assert torch.equal(ours[6:], theirs[6:]), "the embedding of no object"


def test_new_classes_are_initialized_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, path = save_checkpoint(tmp_path, "dfine")
    new = tiny_model("model.num_classes=3", seed=5)
    initial = {name: value.clone() for name, value in new.state_dict().items()}
    with caplog.at_level(logging.INFO):
        load_weights(new, path, allow_other_classes=True, classes=["cross", "hexagon", "square"])
    assert "cross <- cross (4), square <- square (1)" in caplog.text
    assert "does not contain, newly initialized: hexagon" in caplog.text
    for name in ("decoder.refinement.score_heads.0.weight", "decoder.queries.score_head.bias"):
        actual, before = new.state_dict()[name], old.state_dict()[name]
        assert torch.equal(actual[[0, 2]], before[[4, 1]]), name
        assert torch.equal(actual[1], initial[name][1]), name


def test_evaluation_requires_all_classes(tmp_path: Path) -> None:
    _, path = save_checkpoint(tmp_path, "dfine")
    with pytest.raises(CheckpointError, match="lacks 1 of the model's classes: hexagon"):
        load_for_inference(tiny_model("model.num_classes=2"), path, classes=["circle", "hexagon"])


def test_untranslated_class_names_keep_the_weights(tmp_path: Path) -> None:
    """Equally many classes without a common name are treated as the same classes."""
    old, path = save_checkpoint(tmp_path, "dfine")
    new = tiny_model(seed=5)
    load_for_inference(new, path, classes=["Kreis", "Quadrat", "Dreieck", "Ring?", "Kreuz", "Stern"])
    assert torch.equal(logits(new.eval()), logits(old))


def test_unnamed_classes_are_reinitialized_if_their_number_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, path = save_checkpoint(tmp_path, "dfine", classes=None)
    with pytest.raises(CheckpointError, match="the number of classes differs"):
        load_for_inference(tiny_model("model.num_classes=2"), path, classes=["circle", "star"])
    load_weights(tiny_model("model.num_classes=2"), path, allow_other_classes=True, classes=["circle", "star"])
    assert "has unnamed classes, which cannot be matched; newly initialized" in caplog.text


@pytest.mark.parametrize("classes", [SIX, SIX[::-1], [*SIX, "hexagon"]], ids=["same", "other order", "more"])
def test_weights_of_another_width_are_reported(classes: list[str], tmp_path: Path) -> None:
    _, path = save_checkpoint(tmp_path, "dfine")
    content = torch.load(path, weights_only=True)
    name = "decoder.refinement.score_heads.0.weight"
    content["model"][name] = content["model"][name].repeat(1, 2)
    torch.save(content, path)
    model = tiny_model(f"model.num_classes={len(classes)}")
    stored, expected = (tuple(weights[name].shape) for weights in (content["model"], model.state_dict()))
    with pytest.raises(CheckpointError, match="does not fit the model") as caught:
        load_weights(model, path, allow_other_classes=True, classes=classes)
    assert f"{name} is {stored} in the file, {expected} in the model" in str(caught.value)
    assert ("the number of classes differs" in str(caught.value)) == (len(classes) != len(SIX))


def test_objects365_to_coco_mapping_of_dfine() -> None:
    """The ids of the Objects365 categories that D-FINE's code maps to COCO; ids start at 1."""
    official = (
        "1 47 6 59 115 56 117 66 22 41 177 128 250 25 57 140 93 79 100 97 145 296 179 181 39 40 14 44 121 220 149 174 "
        "166 155 138 114 146 147 205 9 36 11 89 85 94 27 113 83 266 105 142 153 235 144 151 98 3 51 26 76 99 154 38 74 "
        "116 133 107 62 164 135 278 82 134 19 95 31 170 71 329 227"
    )
    assert class_rows(CLASSES_BY_COUNT[366], COCO) == [int(number) for number in official.split()]
    assert class_rows(OBJECTS365, COCO) == [int(number) - 1 for number in official.split()]
    back = class_rows(COCO, OBJECTS365)
    assert [back[row] for row in class_rows(OBJECTS365, COCO)] == list(range(80))


def test_category_ids_map_to_coco_classes() -> None:
    rows = class_rows(CLASSES_BY_COUNT[91], COCO)
    assert (rows[0], rows[11], rows[12], rows[-1]) == (1, 13, 14, 90), "ids 0 and 12 are no categories"
    assert len(set(rows)) == 80


def test_new_heads_are_initialized_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Weights for boxes are the start of a training with masks, but not a model with masks."""
    old, path = save_checkpoint(tmp_path, "dfine")
    cfg = recipe(FAMILIES["dfine"], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=3")
    model = instantiate(switch(cfg, masks=True).model)
    initial = {name: value.clone() for name, value in model.decoder.heads.state_dict().items()}
    load_weights(model, path, allow_other_classes=True, classes=SIX)
    assert "lacks these parts of the model; newly initialized: decoder.heads.masks." in caplog.text
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in old.state_dict().items())
    assert all(torch.equal(loaded[f"decoder.heads.{name}"], value) for name, value in initial.items())
    with pytest.raises(CheckpointError, match=r"decoder\.heads\.masks\..* is missing from the file"):
        load_weights(model, path)
    incomplete = dict(list(model.state_dict().items())[:-1])
    torch.save({"model": incomplete}, path)
    with pytest.raises(CheckpointError, match="is missing from the file"):
        load_weights(model, path, allow_other_classes=True)


@pytest.mark.parametrize("task", ["keypoints", "poses"])
def test_another_number_of_keypoints_is_initialized_and_logged(
    task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model of five keypoints is the start of a training with three, but not a model of three keypoints."""
    old, path = task_model(task), str(tmp_path / "model.pth")
    torch.save({"model": old.state_dict()}, path)
    cfg = recipe(TASKS[task], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=3")
    if task == "keypoints":
        with_keypoints(cfg.model)
    fit_keypoints(cfg, KeypointDefinition(("left", "right", "top")))
    torch.manual_seed(5)
    model = instantiate(cfg.model)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(model, path, allow_other_classes=True)
    assert "has 5 keypoints, but the model has 3; newly initialized: decoder." in caplog.text
    loaded, before = model.state_dict(), old.state_dict()
    assert any(initial[name].shape != value.shape for name, value in before.items())
    assert all(torch.equal(loaded[name], initial[name]) for name in loaded if initial[name].shape != before[name].shape)
    refinement = "decoder.refinement." if task == "keypoints" else "decoder.refinement.corner_heads."
    other_parts = ("backbone.", "encoder.", "decoder.layers.", refinement)
    assert all(torch.equal(loaded[name], value) for name, value in before.items() if name.startswith(other_parts))
    with pytest.raises(CheckpointError, match=r"point_embedding\S* is \(5, \d+\) in the file, \(3, \d+\) in the model"):
        load_weights(model, path)
