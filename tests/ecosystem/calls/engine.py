"""Trainers, hooks, checkpoints and the setup of a run."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import argparse
import gc
import json
import logging
import os
import random
import re
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import (
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, EventWriter
from detectron2.utils.logger import create_small_table, log_every_n_seconds, setup_logger
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler, MultiStepParamScheduler
from omegaconf import OmegaConf
from torch import nn

from tests.ecosystem.calls import messages

NAN, INF = float("nan"), float("inf")


class Model(nn.Linear):
    """A model that returns a dict of losses, or the result of ``returns`` for the loss."""

    def __init__(self, returns: Callable = lambda loss: {"loss": loss}):
        super().__init__(2, 1)
        self.returns = returns

    def forward(self, x: torch.Tensor) -> Any:
        return self.returns(super().forward(x).sum())


def make_trainer(returns: Callable | None = None, data: Any = None, **options: Any) -> SimpleTrainer:
    torch.manual_seed(0)
    model = Model(returns) if returns else Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return SimpleTrainer(model, [torch.ones(1, 2)] * 30 if data is None else data, optimizer, **options)


class Recorder(HookBase):
    """A hook that records the calls of its methods and their iterations."""

    def __init__(self, fails_at: str = "", name: str = ""):
        self.seen: list[tuple] = []
        self._fails_at, self._name = fails_at, name

    def _note(self, moment: str) -> None:
        self.seen.append((moment, self.trainer.iter, self.trainer.storage.iter))
        if moment == self._fails_at:
            raise RuntimeError(moment)

    def before_train(self) -> None:
        self._note("before_train")

    def after_train(self) -> None:
        self._note("after_train")

    def before_step(self) -> None:
        self._note("before_step")

    def after_backward(self) -> None:
        self._note("after_backward")

    def after_step(self) -> None:
        self._note("after_step")

    def state_dict(self) -> dict:
        return {"name": self._name} if self._name else {}

    def load_state_dict(self, state: dict) -> None:
        self.seen.append(("loaded", state))


def hook_calls(start: int, stop: int, fails_at: str = "", returns: Callable | None = None, data: Any = None) -> tuple:
    """Return the hook calls of a run, its exception, the first lines of its log messages, and its iterations."""
    trainer, recorder = make_trainer(returns, data), Recorder(fails_at)
    trainer.register_hooks([recorder, None])
    raised = None
    with messages("detectron2.engine.train_loop") as lines:
        try:
            trainer.train(start, stop)
        except BaseException as error:
            raised = type(error).__name__
    return (
        recorder.seen,
        raised,
        [line.split("\n")[0] for line in lines],
        (trainer.iter, trainer.start_iter, trainer.max_iter),
    )


def train(stop: int = 3, **options: Any) -> tuple:
    """Return the weights and scalars after a run."""
    trainer = make_trainer(**options)
    trainer.train(0, stop)
    scalars = {name: entry for name, entry in trainer.storage.latest().items() if "time" not in name}
    return trainer.model.weight, scalars, sorted(trainer.storage.latest()), trainer.storage.smoothing_hints()


def train_in_eval_mode() -> None:
    trainer = make_trainer()
    trainer.model.eval()
    trainer.train(0, 1)


def trainer_state(stop: int, *extra_hooks: HookBase) -> dict:
    trainer = make_trainer()
    trainer.register_hooks([Recorder(name="first"), Recorder(name="second"), *extra_hooks])
    trainer.train(0, stop)
    return trainer.state_dict()


def restore_trainer(**changes: Any) -> tuple:
    trainer, recorder = make_trainer(), Recorder()
    trainer.register_hooks([recorder])
    with messages("detectron2.engine.train_loop") as lines:
        trainer.load_state_dict(trainer_state(2) | changes)
    return trainer.iter, recorder.seen, lines, len(trainer.optimizer.state_dict()["state"])


def write_losses(**losses: Any) -> tuple:
    with EventStorage(5) as storage:
        SimpleTrainer.write_metrics({name: torch.tensor(value) for name, value in losses.items()}, 0.5, 7, "pre_")
    return storage.latest()


def trainer_is_freed() -> bool:
    trainer = make_trainer()
    trainer.register_hooks([Recorder()])
    reference = weakref.ref(trainer)
    del trainer
    gc.collect()
    return reference() is None


class RecordingCheckpointer(Checkpointer):
    """A checkpointer that only records its calls."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), tempfile.mkdtemp())
        self.calls: list[tuple] = []

    def save(self, name: str, **others: Any) -> None:
        self.calls.append((name, others))


def best_checkpoints(values: dict[int, Any], stop: int = 8, period: int = 2, **options: Any) -> tuple:
    """Return the saved checkpoints, the best metric, its iteration and the messages of BestCheckpointer.

    Args:
        values: {iteration: metric}.
        stop: number of iterations.
        period: evaluation period.
    """
    trainer, checkpointer = make_trainer(), RecordingCheckpointer()
    hook = hooks.BestCheckpointer(period, checkpointer, options.pop("val_metric", "bbox/AP"), **options)

    class Put(HookBase):
        def after_step(self) -> None:
            if self.trainer.iter in values:
                self.trainer.storage.put_scalar("bbox/AP", values[self.trainer.iter], smoothing_hint=False)

    trainer.register_hooks([Put(), hook])
    with messages("detectron2.engine.hooks") as lines:
        trainer.train(0, stop)
    return checkpointer.calls, hook.best_metric, hook.best_iter, lines


def run_eval_hook(
    results: Any, stop: int = 5, period: int = 2, start: int = 0, fails_at: str = "", **options: Any
) -> tuple:
    """Return the iterations in which EvalHook evaluates, and the scalars that it writes."""
    trainer, iterations = make_trainer(), []

    def evaluate() -> Any:
        iterations.append(trainer.iter)
        return results

    trainer.register_hooks([hooks.EvalHook(period, evaluate, **options), Recorder(fails_at)])
    try:
        trainer.train(start, stop)
    except RuntimeError as error:
        iterations.append(str(error))
    scalars = {
        name: entry for name, entry in trainer.storage.latest().items() if "time" not in name and "loss" not in name
    }
    return iterations, scalars, {name: trainer.storage.smoothing_hints()[name] for name in scalars}


class Writer(EventWriter):
    def __init__(self, log: list):
        self.log = log

    def write(self) -> None:
        from detectron2.utils.events import get_event_storage

        self.log.append(get_event_storage().iter)

    def close(self) -> None:
        self.log.append("closed")


def writer_iterations(period: Any, stop: int = 5, **options: Any) -> list:
    log: list = []
    trainer = make_trainer()
    trainer.register_hooks([hooks.PeriodicWriter([Writer(log)], *([] if period is None else [period]), **options)])
    trainer.train(0, stop)
    return log


def learning_rates(stop: int = 4, groups: Any = None, start: int = 0, **options: Any) -> tuple:
    """Return the learning rate of each step as reported by the hook, and the state of the hook after the run."""
    trainer = make_trainer()
    if groups is not None:
        trainer.optimizer = torch.optim.SGD(
            [{"params": [nn.Parameter(torch.ones(1)) for _ in range(n)], "lr": lr} for n, lr in groups]
        )
        trainer.run_step = lambda: None
    if start:
        for group in trainer.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    scheduler = options.pop("scheduler", LinearParamScheduler(1, 0))
    if callable(scheduler) and not hasattr(scheduler, "WHERE_EPSILON"):
        scheduler = scheduler(trainer.optimizer)
    hook = hooks.LRScheduler(options.pop("optimizer", trainer.optimizer), scheduler)
    trainer.register_hooks([hook])
    trainer.train(start, stop)
    scalars = trainer.storage.history("lr").values()
    return (
        scalars,
        hook.state_dict(),
        [group["lr"] for group in trainer.optimizer.param_groups],
        trainer.storage.smoothing_hints()["lr"],
    )


def learning_rates_from_trainer() -> list:
    """Return the learning rates of a hook that uses the optimizer and scheduler of the trainer."""
    trainer = make_trainer()
    trainer.scheduler = LinearParamScheduler(1, 0)
    trainer.register_hooks([hooks.LRScheduler()])
    trainer.train(0, 3)
    return trainer.storage.history("lr").values()


def best_group(*groups: tuple[int, float]) -> int:
    parameters = [{"params": [nn.Parameter(torch.ones(1)) for _ in range(n)], "lr": lr} for n, lr in groups]
    return hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(parameters))


def multiplied_learning_rates(last_iter: int = -1, multiplier: Any = None, steps: int = 4) -> tuple:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (1.0, 0.5)])
    if last_iter >= 0:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    scheduler = LRMultiplier(optimizer, multiplier or CosineParamScheduler(1, 0.1), 4, last_iter)
    rates = [scheduler.get_last_lr()]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr())
    return rates, scheduler.state_dict(), scheduler.base_lrs


def checkpoint_files(period: int, stop: int, start: int = 0, **options: Any) -> tuple:
    """Return the files of a run with PeriodicCheckpointer."""
    folder = tempfile.mkdtemp()
    trainer = make_trainer()
    checkpointer = DetectionCheckpointer(trainer.model, folder, trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, period, **options)])
    trainer.train(start, stop)
    pointer = Path(folder) / "last_checkpoint"
    return sorted(os.listdir(folder)), pointer.read_text() if pointer.exists() else None


def save_checkpoint(**others: Any) -> Any:
    folder = tempfile.mkdtemp()
    trainer = make_trainer()
    checkpointer = DetectionCheckpointer(trainer.model, folder, trainer=trainer)
    trainer.register_hooks([hooks.IterationTimer(), hooks.LRScheduler(scheduler=LinearParamScheduler(1, 0))])
    trainer.train(0, 2)
    checkpointer.save("name", **others)
    return torch.load(f"{folder}/name.pth", weights_only=False), sorted(os.listdir(folder))


def load_checkpoint(content: Any, name: str = "x.pth", **options: Any) -> tuple:
    """Load a checkpoint.

    Returns:
        the result, the weight, one entry per warning, and whether detectron2 logged a message.
    """
    import pickle

    path = Path(tempfile.mkdtemp()) / name
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    with messages("fvcore") as lines, messages("detectron2.checkpoint") as checkpoint_lines:
        remaining = DetectionCheckpointer(model, str(path.parent)).load(str(path) + options.pop("query", ""), **options)
    return (
        remaining,
        model.weight,
        [line.split(":")[0] for line in lines if line.startswith("W")],
        len(checkpoint_lines) > 0,
    )


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.ones(3))
        self.register_buffer("other", torch.ones(3))


def missing_key_messages(content: dict) -> list[str]:
    """Return the log messages for missing and unexpected tensors, without colors."""
    path = Path(tempfile.mkdtemp()) / "x.pth"
    torch.save({"model": content}, path)
    with messages("fvcore.common.checkpoint") as lines:
        DetectionCheckpointer(Normalized()).load(str(path))
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines if "Loading" not in line]


def resume_trainer(resume: bool, *, saves: bool = True, path: str = "") -> tuple:
    folder = tempfile.mkdtemp()
    trainer = make_trainer()
    if saves:
        trainer.train(0, 3)
        DetectionCheckpointer(trainer.model, folder, trainer=trainer).save("model_0000002", iteration=2)
    resumed = make_trainer()
    checkpointer = DetectionCheckpointer(resumed.model, folder, trainer=resumed)
    remaining = checkpointer.resume_or_load(path, resume=resume)
    return (
        sorted(remaining),
        resumed.iter,
        torch.equal(resumed.model.weight, trainer.model.weight),
        checkpointer.has_checkpoint(),
    )


def recorded_times(stop: int, start: int = 0, **options: Any) -> tuple:
    """Return the iterations with a recorded time, and the final log messages without numbers."""
    trainer = make_trainer()
    trainer.register_hooks([hooks.IterationTimer(**options)])
    with messages("detectron2.engine.hooks") as lines:
        trainer.train(start, stop)
    histories = trainer.storage.histories()
    iterations = [iteration for _, iteration in histories["time"].values()] if "time" in histories else []
    return iterations, [re.sub(r"\d:\d\d:\d\d|\d+\.\d{4}", "N", line) for line in lines]


def parse_arguments(*arguments: str) -> dict:
    values = vars(default_argument_parser().parse_args(list(arguments)))
    return values | {"dist_url": re.sub(r":\d+$", "", values["dist_url"])}


def parser_options() -> list:
    return [
        (a.option_strings, a.dest, a.default, a.nargs, a.type)
        for a in default_argument_parser()._actions
        if a.dest != "dist_url"
    ]


def is_default_port_constant() -> bool:
    return default_argument_parser().parse_args([]).dist_url == default_argument_parser().parse_args([]).dist_url


def set_up(cfg: Any, **arguments: Any) -> tuple:
    """Return the effects of default_setup: files, start of the log, state of the random generators."""
    folder = Path(tempfile.mkdtemp())
    cfg = OmegaConf.create(json.loads(json.dumps(cfg).replace("OUT", str(folder / "new"))))
    (folder / "c.py").write_text("a = 1\n")
    if "config_file" in arguments:
        arguments["config_file"] = arguments["config_file"].replace("OUT", str(folder))
    setup_logger.cache_clear()
    returned = default_setup(cfg, argparse.Namespace(**arguments))
    files = sorted(path.name for path in (folder / "new").iterdir()) if (folder / "new").exists() else []
    log = (folder / "new" / "log.txt").read_text() if "log.txt" in files else ""
    starts = [
        line.split("INFO: ")[1].split(":")[0].replace(str(folder), "") for line in log.splitlines() if "INFO: " in line
    ]
    config = (folder / "new" / "config.yaml").read_text().replace(str(folder), "") if "config.yaml" in files else ""
    random_numbers = (
        (random.random(), np.random.rand(), torch.rand(1).item()) if cfg.get("train", {}).get("seed", -1) >= 0 else None
    )
    return returned, files, starts, config, random_numbers, torch.backends.cudnn.benchmark


def set_up_with_yacs(**changes: Any) -> tuple:
    """Return the effects of default_setup with a yacs config."""
    folder = tempfile.mkdtemp()
    cfg = get_cfg()
    cfg.merge_from_list([entry for pair in ({"OUTPUT_DIR": folder} | changes).items() for entry in pair])
    setup_logger.cache_clear()
    default_setup(cfg, argparse.Namespace(eval_only=False))
    log = Path(folder, "log.txt").read_text()
    starts = [
        line.split("INFO: ")[1].split(":")[0].replace(folder, "") for line in log.splitlines() if "INFO: " in line
    ]
    text = Path(folder, "config.yaml").read_text()
    return (
        sorted(os.listdir(folder)),
        starts,
        re.findall("^SEED.*", text, re.M),
        random.random() if cfg.SEED >= 0 else None,
    )


def log_line(name: str = "detectron2", level: int = logging.INFO, **options: Any) -> list[tuple[str, str]]:
    """Return the path and the text of each file that a logger writes, without the date."""
    folder = Path(tempfile.mkdtemp())
    setup_logger.cache_clear()
    logger = setup_logger(str(folder) + options.pop("suffix", ""), name=name, configure_stdout=False, **options)
    logging.disable(logging.NOTSET)
    logging.getLogger(f"{name}.part").log(level, "text")
    for handler in logger.handlers:
        handler.flush()
    files = {
        path.relative_to(folder).as_posix(): re.sub(r"\d\d/\d\d \d\d:\d\d:\d\d", "DATE", path.read_text())
        for path in folder.rglob("*")
        if path.is_file()
    }
    logger.handlers.clear()
    return sorted(files.items())


def console_line(level: int = logging.INFO, **options: Any) -> tuple:
    """Return the printed line, and the handler types, ``propagate`` and ``level`` of the logger."""
    import io

    setup_logger.cache_clear()
    logger = setup_logger(**{"name": "detectron2"} | options)
    stream = io.StringIO()
    handler_types = [type(handler).__name__ for handler in logger.handlers]
    for handler in logger.handlers:
        handler.stream = stream
    logging.disable(logging.NOTSET)
    logging.getLogger(f"{logger.name}.part").log(level, "text")
    logger.handlers.clear()
    return re.sub(r"\d\d/\d\d \d\d:\d\d:\d\d", "DATE", stream.getvalue()), handler_types, logger.propagate, logger.level


def log_repeatedly(**options: Any) -> list[str]:
    with messages("") as lines:
        for _ in range(3):
            log_every_n_seconds(logging.INFO, "text", **options)
    return lines


def writer_kinds() -> tuple:
    folder = tempfile.mkdtemp()
    return [type(writer).__name__ for writer in default_writers(f"{folder}/new", 5)], sorted(
        os.listdir(f"{folder}/new")
    )


def random_numbers_after_seeding(seed: Any) -> tuple:
    seed_all_rng(seed)
    return random.random(), np.random.rand(), torch.rand(1), os.environ.get("PYTHONHASHSEED")


HOOK_METHODS = ("before_train", "before_step", "after_backward", "after_step", "after_train")
CFG = {"train": {"output_dir": "OUT", "seed": 7}, "model": {"a": 1}}

CALLS = [
    "hook_calls(0, 2)",
    "hook_calls(3, 5)",
    "hook_calls(2, 2)",
    "hook_calls(3, 2)",
    *(f"hook_calls(0, 2, {moment!r})" for moment in HOOK_METHODS),
    "hook_calls(0, 3, data=[torch.ones(1, 2)])",
    "hook_calls(0, 1, returns=lambda loss: {'loss': loss * NAN})",
    "hook_calls(0, 1, returns=lambda loss: {})",
    "hook_calls(0, 1, returns=lambda loss: {'loss': 'x'})",
    "train()",
    "train(zero_grad_before_forward=True)",
    "train(returns=lambda loss: loss)",
    "train(returns=lambda loss: {'a': loss, 'b': 2 * loss, 'c': loss.detach()})",
    "train(gather_metric_period=2)",
    "train(stop=4, gather_metric_period=2)",
    "train_in_eval_mode()",
    *(f"vars(make_trainer())[{name!r}]" for name in ("iter", "start_iter", "gather_metric_period", "zero_grad_before_forward")),
    "hasattr(make_trainer(), 'max_iter'), hasattr(make_trainer(), 'storage')",
    "TrainerBase().run_step()",
    "TrainerBase().register_hooks([3])",
    "TrainerBase().register_hooks([None]), TrainerBase()._hooks",
    "HookBase().trainer, HookBase().state_dict(), HookBase().after_backward()",
    "trainer_state(2)",
    "restore_trainer()",
    "restore_trainer(hooks={'Recorder': {'name': 'x'}, 'Other': {'a': 1}})",
    "restore_trainer(hooks={})",
    "make_trainer().load_state_dict({})",
    "make_trainer().state_dict()",
    "write_losses(loss=1.5)",
    "write_losses(a=1.5, b=2.0)",
    "write_losses(a=NAN)",
    "write_losses(a=INF, b=1.0)",
    "write_losses()",
    "trainer_is_freed()",
    *(f"best_checkpoints({v})" for v in ("{1: 1.0, 3: 3.0, 5: 2.0, 7: 4.0}", "{}", "{7: 1.0}", "{1: NAN, 3: 2.0}", "{1: 2.0, 3: NAN, 5: 1.0}", "{1: INF, 3: 1.0}", "{1: 1.0, 3: INF, 5: 2.0}", "{1: 2.0, 3: 2.0}", "{0: 1.0, 6: 2.0}")),
    *(f"best_checkpoints({{1: 3.0, 3: 1.0, 5: 2.0, 7: -INF}}, mode={m!r})" for m in ("min", "max", "other")),
    "best_checkpoints({1: 1.0, 3: 2.0}, file_prefix='top')",
    "best_checkpoints({1: 1.0, 3: 2.0}, val_metric='other')",
    "best_checkpoints({1: 1.0, 3: 2.0}, period=0)",
    "best_checkpoints({1: 1.0, 3: 2.0}, period=8)",
    "best_checkpoints({1: 1.0, 3: 2.0}, period=5, stop=5)",
    *(f"run_eval_hook({r})" for r in ("{'bbox': {'AP': 1.0}}", "{}", "None", "{'a': '1.5'}", "{'a': 'x'}", "{'a': None}", "{'a': torch.tensor(2.0)}", "[1]", "3", "'x'", "{'a': {'b': {'c': 1}}}", "{'a': [1]}")),
    *(f"run_eval_hook({{'a': 1}}, stop={s}, period={p})" for s, p in ((4, 2), (5, 0), (5, 1), (5, 9), (5, -1), (0, 2), (6, 3))),
    "run_eval_hook({'a': 1}, eval_after_train=False)",
    "run_eval_hook({'a': 1}, start=5, stop=5)",
    "run_eval_hook({'a': 1}, start=4, stop=5)",
    "run_eval_hook({'a': 1}, fails_at='after_step')",
    *(f"writer_iterations({p}, {s})" for p in (None, 1, 2, 3, 7) for s in (5, 6)),
    "writer_iterations(0)",
    "hooks.PeriodicWriter([3])",
    "hooks.PeriodicWriter(writers=[], period=3)",
    "learning_rates()",
    "learning_rates(stop=3, start=1)",
    "learning_rates(scheduler=MultiStepParamScheduler([1, 0.1], milestones=[2], num_updates=4))",
    "learning_rates(scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))",
    "learning_rates(groups=[(1, 0.1), (3, 0.5)])",
    "learning_rates(optimizer=None)",
    "learning_rates_from_trainer()",
    *(f"best_group({g})" for g in ("(1, 1.0), (1, 2.0), (1, 2.0)", "(1, 1.0), (3, 2.0), (3, 5.0)", "(1, 1.0)", "(1, 1.0), (1, 2.0)", "(2, 1.0), (1, 2.0)")),
    "multiplied_learning_rates()",
    "multiplied_learning_rates(last_iter=1)",
    "multiplied_learning_rates(multiplier=lambda where: 1.0)",
    "hooks.LRScheduler(scheduler=lambda: 1).state_dict()",
    *(f"checkpoint_files({p}, {s})" for p, s in ((2, 5), (2, 4), (9, 3), (1, 1), (3, 0))),
    *(f"checkpoint_files(1, 5, max_to_keep={k})" for k in (1, 2, 9, None)),
    "checkpoint_files(1, 5, max_to_keep=0)",
    "checkpoint_files(2, 5, file_prefix='other')",
    "checkpoint_files(2, 9, 6)",
    "checkpoint_files(0, 3)",
    "save_checkpoint()",
    "save_checkpoint(iteration=4, note='x')",
    *(f"load_checkpoint({c})" for c in ("{'model': {'weight': torch.ones(1, 2), 'bias': torch.ones(1)}}", "{'weight': torch.ones(1, 2), 'bias': torch.ones(1)}", "{'model': {'weight': torch.ones(3, 2)}}", "{'model': {'x': torch.ones(1)}}", "{'model': {}}", "{'model': {'module.weight': torch.ones(1, 2), 'module.bias': torch.ones(1)}}", "{'model': {'weight': np.ones((1, 2), np.float32)}, 'iteration': 3}")),
    "load_checkpoint({'model': {'weight': np.ones((1, 2), np.float32)}, '__author__': 'x'}, 'x.pkl')",
    "load_checkpoint({'model': {'weight': torch.ones(1, 2)}, 'trainer': 3}, checkpointables=[])",
    "load_checkpoint({'model': {'weight': torch.ones(1, 2)}}, query='?a=b')",
    "missing_key_messages({})",
    "missing_key_messages({'other': torch.ones(3)})",
    "missing_key_messages({'pixel_mean': torch.ones(3), 'other': torch.ones(3), 'strange': torch.ones(1)})",
    "missing_key_messages({'other': torch.ones(3), 'anchor_generator.cell_anchors.0': torch.ones(1)})",
    "resume_trainer(True)",
    "resume_trainer(False)",
    "resume_trainer(True, saves=False)",
    "resume_trainer(True, saves=False, path='/nothing.pth')",
    "resume_trainer(False, path='/nothing.pth')",
    "DetectionCheckpointer(nn.Linear(1, 1)).load('')",
    "DetectionCheckpointer(nn.Linear(1, 1)).load(None)",
    "DetectionCheckpointer(nn.Linear(1, 1), save_to_disk=False).save('x')",
    "DetectionCheckpointer(nn.Linear(1, 1)).save_to_disk",
    *(f"recorded_times({s})" for s in (1, 2, 3, 5)),
    "recorded_times(5, warmup_iter=0), recorded_times(6, 2, warmup_iter=1)",
    "parse_arguments()",
    "parse_arguments('--config-file', 'c.py', '--num-gpus', '2', '--resume', '--eval-only', 'a.b=1', 'c', '--d')",
    "parse_arguments('--num-machines', '3', '--machine-rank', '1', '--dist-url', 'auto')",
    "parser_options()",
    "default_argument_parser('the end').format_help().splitlines()[-1]",
    "default_argument_parser().dist_url",
    "is_default_port_constant()",
    *(f"set_up({c})" for c in ("CFG", "{'train': {'output_dir': 'OUT'}}", "{'train': {'output_dir': ''}}", "{'train': {}}", "{}", "{'output_dir': 'OUT'}", "{'train': {'output_dir': 'OUT', 'seed': 0, 'cudnn_benchmark': True}}", "{'OUTPUT_DIR': 'OUT', 'SEED': 3}", "{'train': {'output_dir': 'OUT', 'float32_precision': 'high'}}", "{'SEED': 3, 'CUDNN_BENCHMARK': True, 'train': {'output_dir': 'OUT'}}")),
    "set_up(CFG, config_file='OUT/c.py')",
    "set_up(CFG, config_file='OUT/none.py')",
    "set_up(CFG, config_file='')",
    "set_up(CFG | {'train': {'output_dir': 'OUT', 'cudnn_benchmark': True}}, eval_only=True)",
    "set_up_with_yacs()",
    "set_up_with_yacs(SEED=3)",
    *(f"log_line({o})" for o in ("", "level=logging.WARNING", "level=logging.DEBUG", "name='other'", "distributed_rank=2", "suffix='/named.txt'", "suffix='/named.log'", "suffix='/deep/er'")),
    *(f"console_line({o})" for o in ("", "logging.WARNING", "logging.ERROR", "logging.CRITICAL", "logging.DEBUG", "color=False", "name='other'", "abbrev_name='short'", "abbrev_name=''", "distributed_rank=1", "enable_propagation=True", "configure_stdout=False")),
    "setup_logger(name='same') is setup_logger(name='same')",
    "log_repeatedly(n=1000), log_repeatedly(n=0), log_repeatedly(n=1000, name='other')",
    *(f"create_small_table({d})" for d in ("{'a': 1.23456, 'b': 2}", "{'a': NAN}", "{'a': 'x'}", "{}")),
    "writer_kinds()",
    *(f"random_numbers_after_seeding({s})" for s in ("0", "5", "2**31", "-1", "2**40", "'x'", "1.5")),
    "len(random_numbers_after_seeding(None))",
    *(f"comm.{f}()" for f in ("get_world_size", "get_rank", "get_local_rank", "get_local_size", "is_main_process", "synchronize")),
    "comm.all_gather({'a': 1}), comm.gather([1]), comm.gather(3, dst=1), comm.gather(torch.ones(1))",
    "comm.shared_random_seed()",
    "type(comm.shared_random_seed())",
    "create_ddp_model(MODEL) is MODEL, create_ddp_model(MODEL, fp16_compression=True, broadcast_buffers=False) is MODEL",
    "create_ddp_model(MODEL, True)",
    "launch(lambda *a: RUNS.append(a), 1, args=(3, 4)), RUNS.pop()",
    "launch(lambda: 5, 1)",
    "launch(lambda: 1 / 0, 1)",
    "launch(lambda: 5, 1, 2, dist_url='auto')",
    "launch(lambda: 5, num_gpus_per_machine=2, num_machines=2, machine_rank=0, dist_url='auto')",
    "launch(lambda: 5, 1, 0, dist_url='auto')",
    "DEFAULT_TIMEOUT.total_seconds()",
]  # fmt: skip

MODEL = nn.Linear(1, 1)
RUNS: list = []
