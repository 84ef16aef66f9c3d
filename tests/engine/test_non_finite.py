"""NaN/Inf losses and gradients end a run or skip the step before they reach the weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from torch import Tensor, nn

from deim.checkpoint.backbone import unfreeze
from deim.checkpoint.metadata import CheckpointMetadata
from deim.config.portable import to_portable
from deim.engine import Trainer
from deim.engine.freezing import freeze_modules
from deim.engine.non_finite import NonFiniteError, NonFiniteGuard, _to_plain_data, restore_sample
from deim.engine.randomness import seed_iteration
from deim.engine.replay import replay
from deim.errors import CheckpointError
from deim.modeling.matching import ScoreIoUCost
from tests.commands import tool, train_net
from tests.faults.test_bad_input import expect_error
from tests.models import FAMILIES, batch, recipe


class ScriptedLoss(nn.Module):
    """Model with a batch normalization whose loss is the weight times the factor of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, samples: list[dict]) -> dict[str, Tensor]:
        factors = torch.stack([sample["factor"] for sample in samples])
        self.norm(factors.view(-1, 1))
        return {"loss": (self.weight * factors).mean()}


def batches(*factors: float) -> list[list[dict]]:
    return [
        [{"image_id": 10 * i + j, "image": torch.zeros(3, 2, 2), "factor": torch.tensor(f)} for j in range(2)]
        for i, f in enumerate(factors)
    ]


def train(factors: list[float], allowed: int = 0, folder: str = "", **options) -> tuple[ScriptedLoss, Trainer]:
    model = ScriptedLoss()
    guard = NonFiniteGuard(model, folder, allowed)
    trainer = Trainer(model, batches(*factors), torch.optim.SGD(model.parameters(), lr=0.1), guard=guard, **options)
    trainer.train(0, len(factors))
    return model, trainer


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_message_lists_iteration_images_and_losses(value: float, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as raised:
        train([1.0, value, 1.0], folder=str(tmp_path))
    message = str(raised.value)
    assert "at iteration 1" in message
    assert "images: 10, 11" in message
    assert f"loss {value:g}" in message
    content = torch.load(tmp_path / "non_finite_0000001_rank0.pth", weights_only=True)
    torch.testing.assert_close(content["model"]["weight"], torch.tensor([0.9]), msg="weights before the step")
    assert [sample["image_id"] for sample in content["samples"]] == [10, 11]
    step_info = {"iteration": 1, "seed": None, "rank": 0, "amp": None, "accumulation_steps": 1}
    assert {name: content[name] for name in step_info} == step_info


class InfiniteGradient(nn.Module):
    """Model with loss 0 and an infinite gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, samples: list[dict]) -> dict[str, Tensor]:
        return {"loss": self.weight.sqrt().sum()}


def test_non_finite_gradient_with_finite_loss_is_detected() -> None:
    model = InfiniteGradient()
    trainer = Trainer(model, batches(1.0), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(NonFiniteError, match="gradient norm inf, all losses finite"):
        trainer.train(0, 1)
    assert model.weight == 0


def test_non_finite_steps_are_skipped_up_to_the_limit() -> None:
    model, trainer = train([1.0, math.nan, 1.0, math.inf, 1.0], allowed=2)
    clean, _ = train([1.0, 1.0, 1.0])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, clean.state_dict()[name], msg=f"{name} is as without these steps")
    assert trainer.state_dict()["skipped_steps"] == 2
    with pytest.raises(NonFiniteError):
        train([math.nan, math.nan, math.nan], allowed=2)


def test_float16_overflow_is_handled_by_the_gradient_scaler() -> None:
    """Overflow caused by the loss scale lowers the scale, and training continues."""
    model, trainer = train([1e35] * 3 + [1.0] * 2, amp="float16", clip_grad={"max_norm": 1.0})
    assert trainer.grad_scaler.get_scale() == 2.0**13
    torch.testing.assert_close(model.weight.detach(), torch.tensor([0.8]))
    assert trainer.guard.skipped == 0
    with pytest.raises(NonFiniteError, match="loss nan"):
        train([math.nan], amp="float16")
    infinite_gradient = InfiniteGradient()
    trainer = Trainer(
        infinite_gradient, batches(*[1.0] * 30), torch.optim.SGD(infinite_gradient.parameters(), lr=0.1), amp="float16"
    )
    with pytest.raises(NonFiniteError, match="although the float16 loss scale has dropped below 1"):
        trainer.train(0, 30)
    assert trainer.iter == 16, "from 2^16 down to 1/2"


def test_float16_gradients_are_unscaled_before_clipping() -> None:
    for amp in (None, "float16"):
        model, _ = train([10.0], amp=amp, clip_grad={"max_norm": 0.5})
        torch.testing.assert_close(model.weight.detach(), torch.tensor([0.95]), msg=f"{amp}")


def test_unequal_parts_are_weighted_by_their_images() -> None:
    """Five images are split into parts of three and two."""
    model = ScriptedLoss()
    samples = [{"factor": torch.tensor(float(f))} for f in (1, 2, 4, 8, 16)]
    trainer = Trainer(model, [samples], torch.optim.SGD(model.parameters(), lr=1.0), accumulation_steps=2)
    trainer.train(0, 1)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([1 - 31 / 5]))
    torch.testing.assert_close(trainer.storage.latest()["grad_norm"][0], 31 / 5)


def test_non_finite_run_writes_a_batch_for_replay(shapes: Path, tmp_path: Path) -> None:
    """An excessive learning rate makes the losses NaN/Inf."""
    settings = ["optimizer.lr=1e30", "schedule.warmup_iters=0", "train.clip_grad.enabled=false", "train.eval_period=0"]
    message = expect_error(train_net(shapes, tmp_path, *settings))
    assert "NaN/Inf loss or gradient at iteration" in message
    (batch_file,) = tmp_path.glob("non_finite_*_rank0.pth")
    assert str(batch_file) in message
    done = tool("replay.py", str(batch_file))
    assert done.returncode == 0, done.stderr
    assert "first module with NaN/Inf output: encoder." in done.stdout
    assert batch_file.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.parametrize("has_other_frozen_modules", [False, True])
def test_replay_reproduces_the_losses(tmp_path: Path, has_other_frozen_modules: bool) -> None:
    """The noise of the denoising queries is reproduced as well, and so are frozen modules that the config does not state."""
    cfg = recipe(FAMILIES["dfine"], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=3")
    cfg.model.backbone.freeze_norm = has_other_frozen_modules
    cfg.model.criterion.matcher.update(late_cost=LazyCall(ScoreIoUCost)(exponent=4.0), late_epoch=2)
    metadata = CheckpointMetadata("0", "tiny", list("abcdef"), config=to_portable(cfg))
    torch.manual_seed(0)
    model, samples = instantiate(cfg.model).train(), batch([3, 0, 2, 1])
    if has_other_frozen_modules:
        assert unfreeze(model.backbone)
        freeze_modules(model, ["encoder"])
    model.criterion.epoch = 2
    step_info = {"iteration": 7, "seed": 3, "rank": 0, "amp": None, "accumulation_steps": 2}
    seed_iteration(3, 7, 0)
    parts = [model(samples[:2]), model(samples[2:])]
    losses = {name: (parts[0][name] + parts[1][name]).detach() / 2 for name in parts[0]}
    with pytest.raises(NonFiniteError, match="all losses finite"):
        NonFiniteGuard(model, str(tmp_path), metadata=metadata.content).skip_step(step_info, losses, math.inf, samples)
    (batch_file,) = tmp_path.iterdir()
    result = replay(str(batch_file))
    assert result.first_module is None
    assert result.gradients == []
    for name, value in losses.items():
        assert result.losses[name] == pytest.approx(float(value), rel=1e-5), name


def test_saved_samples_keep_masks_and_keypoints(tmp_path: Path) -> None:
    polygons = [[np.array([0.0, 0, 4, 0, 4, 4])], [np.array([1.0, 1, 3, 1, 3, 3]), np.array([5.0, 5, 7, 5, 7, 7])]]
    masks = torch.rand(2, 8, 8) > 0.5
    instances = Instances((8, 8))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.rand(2, 4)), torch.tensor([0, 1])
    instances.gt_keypoints, instances.gt_areas = Keypoints(torch.rand(2, 3, 3)), torch.rand(2)
    for value in (BitMasks(masks), PolygonMasks(polygons)):
        instances.gt_masks = value
        sample = {"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "image_id": 4, "instances": instances}
        torch.save(_to_plain_data(sample), tmp_path / "sample.pth")
        restored = restore_sample(torch.load(tmp_path / "sample.pth", weights_only=True))["instances"]
        assert restored.image_size == (8, 8)
        for name, field in instances.get_fields().items():
            assert type(restored.get(name)) is type(field), name
        assert torch.equal(restored.gt_keypoints.tensor, instances.gt_keypoints.tensor)
        assert torch.equal(restored.gt_areas, instances.gt_areas)
    assert [[polygon.tolist() for polygon in mask] for mask in restored.gt_masks.polygons] == [
        [polygon.tolist() for polygon in mask] for mask in polygons
    ]


def test_replay_of_other_files_is_an_error(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="is not the saved batch of a NaN/Inf step"):
        replay(str(tmp_path / "model.pth"))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        replay(str(tmp_path / "x.json"))
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist$"):
        replay(str(tmp_path / "nowhere.pth"))
