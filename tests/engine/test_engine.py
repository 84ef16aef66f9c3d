"""Schedule, parameter groups, EMA, and the training step."""

import copy
import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import HookBase
from detrex.modeling.ema import EMAState
from torch import nn

from deim.checkpoint.run_checkpointer import RunCheckpointer
from deim.engine import EMAHook, Trainer, param_groups
from deim.engine.hooks import EvaluationResumeHook, MetricsResumeHook, PeriodicCheckpointer
from deim.engine.hooks.metrics import truncate_metrics
from deim.engine.model import build_model, prepare_for_training
from deim.errors import ConfigError
from deim.schedule import LearningRate, Schedule
from tests.conftest import needs_utf8
from tests.models import COMPILERS, FAMILIES, batch, compile_without_graph_breaks, recipe, tiny_model

DEIM_S = Schedule(epochs=132, warmup_iters=2000, warmup="quadratic", flat_epochs=64, no_aug_epochs=12, lr_gamma=0.5)


def test_flat_cosine_schedule() -> None:
    per_epoch = 3697
    total = 132 * per_epoch

    def rate(iteration: float) -> float:
        return DEIM_S.learning_rate(iteration, total)

    assert rate(0) == 0
    assert rate(1000) == pytest.approx(0.25)
    assert rate(2000) == rate(64 * per_epoch) == 1
    middle = (64 + 120) / 2 * per_epoch
    assert rate(middle) == pytest.approx(0.75)
    assert rate(120 * per_epoch) == rate(total - 1) == 0.5
    decay = [rate(64 * per_epoch + i * per_epoch) for i in range(56)]
    assert decay == sorted(decay, reverse=True)


def test_linear_warmup_and_constant_rate() -> None:
    schedule = Schedule(epochs=10, warmup_iters=500, warmup="linear", flat_epochs=7800)
    assert schedule.learning_rate(250, 10_000) == 0.5
    assert schedule.learning_rate(9_999, 10_000) == 1


def test_step_schedule() -> None:
    """The learning rate of the older families drops to a tenth at each of these epochs."""
    schedule = Schedule(epochs=50, flat_epochs=50, drop_epochs=(40, 45))
    rates = [schedule.learning_rate(iteration, 5000) for iteration in (0, 3999, 4000, 4499, 4500, 4999)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_boundaries_of_the_cosine_decay() -> None:
    schedule = Schedule(epochs=10, warmup_iters=0, flat_epochs=4, no_aug_epochs=2, lr_gamma=0.5)
    rates = [schedule.learning_rate(iteration, 1000) for iteration in (0, 400, 401, 799, 800, 999)]
    assert rates[0] == rates[1] == 1
    assert 0.5 < rates[3] < rates[2] < 1
    assert rates[4] == rates[5] == 0.5
    Schedule(
        epochs=10, flat_epochs=8, no_aug_epochs=2, lr_gamma=0.5
    )  # valid, although no iteration remains for the decay


def test_lr_multiplier_recovers_the_iteration() -> None:
    multiplier = LearningRate(DEIM_S, 488_004)
    for iteration in (0, 1, 1999, 2000, 236_608, 400_001, 488_003):
        assert multiplier(iteration / 488_004) == pytest.approx(DEIM_S.learning_rate(iteration, 488_004), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": "sudden"}, "warmup='sudden'"),
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"epochs": 12.0}, "epochs must be an integer of at least 1, got 12.0"),
        ({"eval_epochs": 1.5}, "eval_epochs must be an integer"),
        ({"flat_epochs": 9, "no_aug_epochs": 2, "lr_gamma": 0.5}, "do not fit in epochs=10"),
        ({"drop_epochs": (8,), "lr_gamma": 0.5}, "drop_epochs"),
        ({"final_ema_decay": 0.0, "final_from_best": True}, "final_ema_decay"),
        ({"final_ema_decay": 1.0, "final_from_best": True}, "final_ema_decay"),
        ({"final_ema_decay": 0.9, "final_from_best": False}, "final_from_best"),
        ({"dense_epochs": (5, 3)}, "dense_epochs"),
        ({"dense_epochs": (-1, 3)}, "dense_epochs"),
        ({"dense_epochs": (2, 5), "strong_end_epoch": 4}, "strong_end_epoch=4"),
    ],
)
def test_contradictory_schedules_are_errors(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**{"epochs": 10, **changes})


def test_first_matching_rule_applies() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "head": nn.Linear(2, 1)})
    model["head"].bias.requires_grad_(False)
    groups = param_groups(
        model,
        {"slow": {"pattern": "^backbone", "lr": 0.1}, "no_weight_decay": {"pattern": "norm|bias", "weight_decay": 0.0}},
    )
    assert [(len(g["params"]), g.get("lr"), g.get("weight_decay")) for g in groups] == [
        (2, 0.1, None),
        (2, None, 0.0),
        (1, None, None),
    ]


@pytest.mark.parametrize("rule", [{"lr": 1}, {"pattern": "("}])
def test_malformed_rules_are_errors(rule: dict) -> None:
    with pytest.raises(ConfigError, match=r"rules\.mine"):
        param_groups(nn.Linear(1, 1), {"mine": rule})


def test_ema_decay_follows_the_warmup_formula() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    hook = EMAHook(model, EMAState(), decay=0.9, warmup_iters=5)
    hook.before_train()
    expected = model[0].weight.item()
    for update in range(1, 8):
        with torch.no_grad():
            model[0].weight.fill_(update)
            model[1].num_batches_tracked += 1
        hook.after_step()
        decay = 0.9 * (1 - math.exp(-update / 5))
        expected = decay * expected + (1 - decay) * update
    assert hook.state.state["0.weight"].item() == pytest.approx(expected, rel=1e-5)
    assert hook.state.state["1.num_batches_tracked"] == 7
    resumed = EMAHook(model, EMAState(), decay=0.9, warmup_iters=5)
    resumed.load_state_dict(hook.state_dict())
    assert resumed.current_decay() == hook.current_decay()


class LossRecorder(HookBase):
    """Hook that records the total loss of each iteration."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_step(self) -> None:
        self.losses.append(self.trainer.storage.latest()["total_loss"][0])


def run(iterations: int, data: list, **options) -> tuple[list[float], nn.Module]:
    model = tiny_model("model.decoder.denoising=null", "model.backbone.freeze_norm=True")
    return train(model, iterations, data, **options), model


def train(model: nn.Module, iterations: int, data: list, **options) -> list[float]:
    """Return the losses of a model with frozen normalization."""
    from detectron2.layers import FrozenBatchNorm2d

    FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    trainer, recorder = Trainer(model, data, optimizer, **options), LossRecorder()
    trainer.register_hooks([recorder])
    trainer.train(0, iterations)
    return recorder.losses


def test_gradient_clipping_limits_the_norm() -> None:
    data = [batch([2, 3])]
    _, model = run(1, data, clip_grad={"max_norm": 0.1, "norm_type": 2})
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(0.1, rel=1e-3)


def test_gradient_accumulation_uses_the_whole_batch() -> None:
    samples = batch([2, 2, 2, 2])
    part_sizes = []
    model = nn.Linear(1, 1)

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, part):
            part_sizes.append(len(part))
            return {"loss": self.inner(torch.full((len(part), 1), float(len(part)))).mean()}

    trainer = Trainer(Counting(), [samples], torch.optim.SGD(model.parameters(), lr=0.0), accumulation_steps=3)
    trainer.train(0, 1)
    assert part_sizes == [2, 2]
    assert model.weight.grad.item() == pytest.approx(2.0), "the mean over all images"


def test_bfloat16_and_float16_train_on_the_cpu() -> None:
    """Use a model without token selection, because rounding decides which tokens an untrained model selects."""
    data = [batch([2, 1])] * 2
    reference = train(tiny_model(family="deformable"), 2, data)
    for precision, tolerance in (("bfloat16", 0.03), ("float16", 0.003)):
        losses = train(tiny_model(family="deformable"), 2, data, amp=precision)
        # After the first update another matching may be the best one.
        assert losses[0] != reference[0], "the precision has an effect"
        assert losses[0] == pytest.approx(reference[0], rel=tolerance)
        assert math.isfinite(losses[1])


def test_unknown_precision_is_an_error() -> None:
    with pytest.raises(ConfigError, match="float8"):
        run(1, [], amp="float8")


def test_non_finite_loss_stops_before_the_update() -> None:
    model = nn.Linear(1, 1)

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, part):
            return {"loss": self.inner(torch.ones(1, 1)).sum() * float("nan")}

    before = model.weight.clone()
    trainer = Trainer(Broken(), [[{}]], torch.optim.SGD(model.parameters(), lr=1.0))
    with pytest.raises(FloatingPointError, match="at iteration 0"):
        trainer.train(0, 1)
    assert torch.equal(model.weight, before)


class Squares(nn.Module):
    """Convolution trained to give small outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": self.conv(torch.stack(samples)).square().mean()}


def test_resume_with_another_memory_format() -> None:
    """Fused optimizers require that parameter and state have the same memory format."""
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1)).unbind()

    def trainer(memory_format: torch.memory_format) -> Trainer:
        model = Squares().to(memory_format=memory_format)
        return Trainer(model, [images] * 6, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True))

    whole, before, after = map(trainer, (torch.contiguous_format, torch.contiguous_format, torch.channels_last))
    whole.train(0, 6)
    before.train(0, 3)
    after.model.load_state_dict(before.model.state_dict())
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    after.train(3, 6)
    torch.testing.assert_close(after.model.conv.weight, whole.model.conv.weight)


@needs_utf8
@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiled_model_has_the_same_losses_and_gradients(compiler: str) -> None:
    cfg = recipe(FAMILIES["dfine"], "train.device=cpu", "train.compile=True", "model.decoder.num_layers=2")
    losses = []
    for context in (nullcontext(), compile_without_graph_breaks(compiler)):
        torch.manual_seed(0)
        model = build_model(cfg)
        with context:
            if losses:
                model = prepare_for_training(cfg, model)
            terms = model(batch([2, 1]))
            sum(terms.values()).backward()
        losses.append({**terms, "norm": model.backbone.stem.stem1.conv.weight.grad.norm()})
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-6, atol=1e-6)


def test_resumed_run_deletes_only_its_own_old_checkpoints(tmp_path: Path) -> None:
    """The folder may contain later checkpoints of another run."""
    for iteration in (4, 9, 14, 99):
        torch.save({}, tmp_path / f"model_{iteration:07d}.pth")
    checkpointer = RunCheckpointer(nn.Linear(1, 1), str(tmp_path))
    for start, kept in ((0, {4, 9, 14, 19, 99}), (15, {9, 14, 19, 99})):
        saving = PeriodicCheckpointer(checkpointer, period=5, max_to_keep=3)
        saving.trainer = SimpleNamespace(start_iter=start, iter=19, max_iter=100)
        saving.before_train()
        saving.after_step()
        assert {int(path.stem[-7:]) for path in tmp_path.glob("model_*.pth")} == kept


def test_metrics_are_truncated_with_neighboring_lines_in_any_order(tmp_path: Path) -> None:
    """detectron2 writes the scalars of several iterations in no particular order."""
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i, "x": 1}) + "\n" for i in (3, 7, 5, 11, 9)]
    for iteration, kept in ((12, [0, 1, 2, 3, 4]), (10, [0, 1, 2, 4]), (7, [0, 2]), (6, [0, 2]), (3, [])):
        path.write_text("".join(lines) + '{"iteration": 4')
        with open(path, "a") as appending:  # like the writer of a run, which keeps the file open
            truncate_metrics(str(path), iteration)
            appending.write("next\n")
        assert path.read_text(encoding="utf-8") == "".join(lines[i] for i in kept) + "next\n"
    truncate_metrics(str(tmp_path / "nowhere.json"), 1)


class RandomLossModel(nn.Module):
    """Model with two losses: a random number per part of a batch, and the number of images in the part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.draws: list[float] = []

    def forward(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        self.draws.append(torch.rand(()).item())
        return {"drawn": self.weight * self.draws[-1], "images": self.weight * len(samples)}


def train_random_loss_model(start: int, end: int, seed: int | None, **options) -> tuple[RandomLossModel, Trainer]:
    model = RandomLossModel()
    batches = [[{}] * 5 for _ in range(10)]
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.0), seed=seed, **options)
    trainer.train(start, end)
    return model, trainer


def test_random_numbers_depend_on_seed_iteration_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = train_random_loss_model(0, 6, seed=1)
    assert len(set(whole.draws)) == 6
    assert train_random_loss_model(4, 6, seed=1)[0].draws == whole.draws[4:]
    assert train_random_loss_model(0, 6, seed=2)[0].draws != whole.draws
    monkeypatch.setattr("deim.engine.trainer.comm.get_rank", lambda: 1)
    assert not set(train_random_loss_model(0, 6, seed=1)[0].draws) & set(whole.draws)
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    assert train_random_loss_model(0, 3, seed=None)[0].draws == expected


def test_logged_losses_are_means_over_images() -> None:
    """Five images are split into parts of two, two and one."""
    model, trainer = train_random_loss_model(0, 1, seed=0, accumulation_steps=3)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["images"] == pytest.approx((2 * 2 + 2 * 2 + 1 * 1) / 5)
    assert latest["drawn"] == pytest.approx(sum(d * n for d, n in zip(model.draws, (2, 2, 1), strict=True)) / 5)
    assert 0 <= latest["data_time"] < 10


def test_trainer_state_is_restored() -> None:
    _, saved_trainer = train_random_loss_model(0, 2, seed=3, amp="float16")
    saved_trainer.guard.skipped = 4
    saved_trainer.grad_scaler.update(7.0)
    model = RandomLossModel()
    loader = SimpleNamespace(seed=0)
    trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.5), amp="float16", seed=0)
    trainer.load_state_dict(saved_trainer.state_dict())
    assert (trainer.seed, trainer.guard.skipped) == (3, 4)
    assert trainer.grad_scaler.get_scale() == 7.0
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5, "the learning rate of this run, not of the saved one"
    trainer.load_state_dict({**saved_trainer.state_dict(), "data_seed": 5})
    assert (trainer.seed, loader.seed) == (3, 5)
    state = saved_trainer.state_dict()
    for name in (
        "seed",
        "data_seed",
        "skipped_steps",
        "grad_scaler",
    ):  # as in checkpoints of versions without these keys
        del state[name]
    trainer.load_state_dict(state)
    assert (trainer.seed, loader.seed, trainer.guard.skipped) == (3, 5, 0)
    assert "grad_scaler" not in train_random_loss_model(0, 1, seed=0)[1].state_dict()


def test_hook_states_of_earlier_versions_are_loaded() -> None:
    model = RandomLossModel()
    trainer = Trainer(model, [], torch.optim.SGD(model.parameters(), lr=0.5))
    state = trainer.state_dict()
    evaluation, metrics = EvaluationResumeHook(5, None, []), MetricsResumeHook(None)
    trainer.register_hooks([evaluation, metrics])
    stored = {"total_loss": {"values": [(1.0, 4)], "smooth": True}}
    former = {"EvaluationRecord": {"evaluated": 4}, "MetricsContinuation": {"kept": stored, "written": 3}}
    trainer.load_state_dict({**state, "hooks": former})
    assert evaluation.evaluated == 4
    assert metrics._written == 3
    assert metrics._stored == stored


def test_data_loader_starts_at_the_resumed_iteration() -> None:
    model = RandomLossModel()
    loader = SimpleNamespace(start_iter=0)
    trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.5))
    trainer.start_iter = 7
    trainer.before_train()
    assert loader.start_iter == 7


def test_gradients_are_synchronized_only_with_the_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    _, trainer = train_random_loss_model(0, 1, seed=0, accumulation_steps=3)
    lasts: list[bool] = []
    monkeypatch.setattr(trainer, "_synchronized", lambda last: lasts.append(last) or nullcontext())
    trainer._accumulate([{}] * 5)
    assert lasts == [False, False, True]


def test_damaged_checkpoints_are_skipped(tmp_path: Path) -> None:
    checkpointer = RunCheckpointer(nn.Linear(1, 1), str(tmp_path))
    assert checkpointer.newest_intact() is None
    for name in ("model_9999999", "model_0000004", "model_final", "model_10000004", "model_best"):
        checkpointer.save(name)
    assert (tmp_path / "last_checkpoint").read_text(encoding="utf-8") == "model_10000004.pth", (
        "runs are not resumed from the best checkpoint"
    )
    assert checkpointer.newest_intact() == f"{tmp_path}/model_10000004.pth"
    (tmp_path / "model_10000004.pth").write_bytes(b"PK")
    assert checkpointer.newest_intact() == f"{tmp_path}/model_9999999.pth"
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    assert checkpointer.newest_intact() == f"{tmp_path}/model_0000004.pth", (
        "last_checkpoint may name an older checkpoint"
    )
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.newest_intact() == f"{tmp_path}/model_final.pth"
    assert not list(tmp_path.glob("*.part"))
