"""Trainers, hooks, checkpoints and the setup of a run."""

# The expressions use what is imported.
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


def trainer_of(returns: Callable | None = None, data: Any = None, **options: Any) -> SimpleTrainer:
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


def moments(start: int, stop: int, fails_at: str = "", returns: Callable | None = None, data: Any = None) -> tuple:
    """Return the hook calls of a run, its exception, and the levels of its log messages."""
    trainer, recorder = trainer_of(returns, data), Recorder(fails_at)
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


def trained(stop: int = 3, **options: Any) -> tuple:
    """Return the weights and scalars after a run."""
    trainer = trainer_of(**options)
    trainer.train(0, stop)
    scalars = {name: entry for name, entry in trainer.storage.latest().items() if "time" not in name}
    return trainer.model.weight, scalars, sorted(trainer.storage.latest()), trainer.storage.smoothing_hints()


def trained_in_eval_mode() -> None:
    trainer = trainer_of()
    trainer.model.eval()
    trainer.train(0, 1)


def state_of(stop: int, *extra_hooks: HookBase) -> dict:
    trainer = trainer_of()
    trainer.register_hooks([Recorder(name="first"), Recorder(name="second"), *extra_hooks])
    trainer.train(0, stop)
    return trainer.state_dict()


def restored(**changes: Any) -> tuple:
    trainer, recorder = trainer_of(), Recorder()
    trainer.register_hooks([recorder])
    with messages("detectron2.engine.train_loop") as lines:
        trainer.load_state_dict(state_of(2) | changes)
    return trainer.iter, recorder.seen, lines, len(trainer.optimizer.state_dict()["state"])


def written(**losses: Any) -> tuple:
    with EventStorage(5) as storage:
        SimpleTrainer.write_metrics({name: torch.tensor(value) for name, value in losses.items()}, 0.5, 7, "pre_")
    return storage.latest()


def trainer_is_freed() -> bool:
    trainer = trainer_of()
    trainer.register_hooks([Recorder()])
    watched = weakref.ref(trainer)
    del trainer
    gc.collect()
    return watched() is None


class Fake(Checkpointer):
    """A checkpointer that only records its calls."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), tempfile.mkdtemp())
        self.calls: list[tuple] = []

    def save(self, name: str, **others: Any) -> None:
        self.calls.append((name, others))


def best(values: dict[int, Any], stop: int = 8, period: int = 2, **options: Any) -> tuple:
    """Return the checkpoints of BestCheckpointer for {iteration: metric}."""
    trainer, checkpointer = trainer_of(), Fake()
    hook = hooks.BestCheckpointer(period, checkpointer, options.pop("val_metric", "bbox/AP"), **options)

    class Put(HookBase):
        def after_step(self) -> None:
            if self.trainer.iter in values:
                self.trainer.storage.put_scalar("bbox/AP", values[self.trainer.iter], smoothing_hint=False)

    trainer.register_hooks([Put(), hook])
    with messages("detectron2.engine.hooks") as lines:
        trainer.train(0, stop)
    return checkpointer.calls, hook.best_metric, hook.best_iter, lines


def evaluated(
    results: Any, stop: int = 5, period: int = 2, start: int = 0, fails_at: str = "", **options: Any
) -> tuple:
    """Return the iterations in which EvalHook evaluates, and the scalars that it writes."""
    trainer, iterations = trainer_of(), []

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


def writes(period: Any, stop: int = 5, **options: Any) -> list:
    log: list = []
    trainer = trainer_of()
    trainer.register_hooks([hooks.PeriodicWriter([Writer(log)], *([] if period is None else [period]), **options)])
    trainer.train(0, stop)
    return log


def rates(stop: int = 4, groups: Any = None, start: int = 0, resumes: bool = False, **options: Any) -> tuple:
    """Return the learning rate of each step as reported by the hook, and the state of the hook after the run."""
    trainer = trainer_of()
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


def rates_from_trainer() -> list:
    """Return the learning rates of a hook that uses the optimizer and scheduler of the trainer."""
    trainer = trainer_of()
    trainer.scheduler = LinearParamScheduler(1, 0)
    trainer.register_hooks([hooks.LRScheduler()])
    trainer.train(0, 3)
    return trainer.storage.history("lr").values()


def best_group(*groups: tuple[int, float]) -> int:
    parameters = [{"params": [nn.Parameter(torch.ones(1)) for _ in range(n)], "lr": lr} for n, lr in groups]
    return hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(parameters))


def multiplier(last_iter: int = -1, multiplier: Any = None, steps: int = 4) -> tuple:
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


def checkpoints(period: int, stop: int, start: int = 0, **options: Any) -> tuple:
    """Return the files of a run with PeriodicCheckpointer."""
    folder = tempfile.mkdtemp()
    trainer = trainer_of()
    checkpointer = DetectionCheckpointer(trainer.model, folder, trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, period, **options)])
    trainer.train(start, stop)
    pointer = Path(folder) / "last_checkpoint"
    return sorted(os.listdir(folder)), pointer.read_text() if pointer.exists() else None


def saved(**others: Any) -> Any:
    folder = tempfile.mkdtemp()
    trainer = trainer_of()
    checkpointer = DetectionCheckpointer(trainer.model, folder, trainer=trainer)
    trainer.register_hooks([hooks.IterationTimer(), hooks.LRScheduler(scheduler=LinearParamScheduler(1, 0))])
    trainer.train(0, 2)
    checkpointer.save("name", **others)
    return torch.load(f"{folder}/name.pth", weights_only=False), sorted(os.listdir(folder))


def loads(content: Any, name: str = "x.pth", **options: Any) -> tuple:
    """Load a checkpoint; return the result, the weight, and the levels of the log messages."""
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


def missing_keys(content: dict) -> list[str]:
    """Return the levels and first words of the log messages for missing and unexpected tensors."""
    path = Path(tempfile.mkdtemp()) / "x.pth"
    torch.save({"model": content}, path)
    with messages("fvcore.common.checkpoint") as lines:
        DetectionCheckpointer(Normalized()).load(str(path))
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines if "Loading" not in line]


def resumes(resume: bool, *, saves: bool = True, path: str = "") -> tuple:
    folder = tempfile.mkdtemp()
    trainer = trainer_of()
    if saves:
        trainer.train(0, 3)
        DetectionCheckpointer(trainer.model, folder, trainer=trainer).save("model_0000002", iteration=2)
    resumed = trainer_of()
    checkpointer = DetectionCheckpointer(resumed.model, folder, trainer=resumed)
    remaining = checkpointer.resume_or_load(path, resume=resume)
    return (
        sorted(remaining),
        resumed.iter,
        torch.equal(resumed.model.weight, trainer.model.weight),
        checkpointer.has_checkpoint(),
    )


def timed(stop: int, start: int = 0, **options: Any) -> tuple:
    """Return the iterations with a recorded time, and the final log messages without numbers."""
    trainer = trainer_of()
    trainer.register_hooks([hooks.IterationTimer(**options)])
    with messages("detectron2.engine.hooks") as lines:
        trainer.train(start, stop)
    histories = trainer.storage.histories()
    iterations = [iteration for _, iteration in histories["time"].values()] if "time" in histories else []
    return iterations, [re.sub(r"\d:\d\d:\d\d|\d+\.\d{4}", "N", line) for line in lines]


def parsed(*arguments: str) -> dict:
    values = vars(default_argument_parser().parse_args(list(arguments)))
    return values | {"dist_url": re.sub(r":\d+$", "", values["dist_url"])}


def parser_options() -> list:
    return [
        (a.option_strings, a.dest, a.default, a.nargs, a.type)
        for a in default_argument_parser()._actions
        if a.dest != "dist_url"
    ]


def port() -> bool:
    return default_argument_parser().parse_args([]).dist_url == default_argument_parser().parse_args([]).dist_url


def prepared(cfg: Any, **arguments: Any) -> tuple:
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


def prepared_by_yacs(**changes: Any) -> tuple:
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


def log_line(name: str = "detectron2", level: int = logging.INFO, **options: Any) -> list[str]:
    """Return the line that a logger writes to its file, without the date."""
    folder = Path(tempfile.mkdtemp())
    setup_logger.cache_clear()
    logger = setup_logger(str(folder) + options.pop("suffix", ""), name=name, configure_stdout=False, **options)
    logging.disable(logging.NOTSET)
    logging.getLogger(f"{name}.part").log(level, "text")
    for handler in logger.handlers:
        handler.flush()
    files = {path.name: re.sub(r"\d\d/\d\d \d\d:\d\d:\d\d", "DATE", path.read_text()) for path in folder.iterdir()}
    logger.handlers.clear()
    return sorted(files.items())


def console_line(level: int = logging.INFO, **options: Any) -> str:
    """Return the line that a logger prints."""
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


def logged_often(**options: Any) -> list[str]:
    with messages("") as lines:
        for _ in range(3):
            log_every_n_seconds(logging.INFO, "text", **options)
    return lines


def writer_kinds() -> list[str]:
    folder = tempfile.mkdtemp()
    return [type(writer).__name__ for writer in default_writers(f"{folder}/new", 5)], sorted(
        os.listdir(f"{folder}/new")
    )


def seeded(seed: Any) -> tuple:
    seed_all_rng(seed)
    return random.random(), np.random.rand(), torch.rand(1), os.environ.get("PYTHONHASHSEED")


AT = ("before_train", "before_step", "after_backward", "after_step", "after_train")
CFG = {"train": {"output_dir": "OUT", "seed": 7}, "model": {"a": 1}}

CALLS = [
    "moments(0, 2)",
    "moments(3, 5)",
    "moments(2, 2)",
    "moments(3, 2)",
    *(f"moments(0, 2, {moment!r})" for moment in AT),
    "moments(0, 3, data=[torch.ones(1, 2)])",
    "moments(0, 1, returns=lambda loss: {'loss': loss * NAN})",
    "moments(0, 1, returns=lambda loss: {})",
    "moments(0, 1, returns=lambda loss: {'loss': 'x'})",
    "trained()",
    "trained(zero_grad_before_forward=True)",
    "trained(returns=lambda loss: loss)",
    "trained(returns=lambda loss: {'a': loss, 'b': 2 * loss, 'c': loss.detach()})",
    "trained(gather_metric_period=2)",
    "trained(stop=4, gather_metric_period=2)",
    "trained_in_eval_mode()",
    *(f"vars(trainer_of())[{name!r}]" for name in ("iter", "start_iter", "gather_metric_period", "zero_grad_before_forward")),
    "hasattr(trainer_of(), 'max_iter'), hasattr(trainer_of(), 'storage')",
    "TrainerBase().run_step()",
    "TrainerBase().register_hooks([3])",
    "TrainerBase().register_hooks([None]), TrainerBase()._hooks",
    "HookBase().trainer, HookBase().state_dict(), HookBase().after_backward()",
    "state_of(2)",
    "restored()",
    "restored(hooks={'Recorder': {'name': 'x'}, 'Other': {'a': 1}})",
    "restored(hooks={})",
    "trainer_of().load_state_dict({})",
    "trainer_of().state_dict()",
    "written(loss=1.5)",
    "written(a=1.5, b=2.0)",
    "written(a=NAN)",
    "written(a=INF, b=1.0)",
    "written()",
    "trainer_is_freed()",
    *(f"best({v})" for v in ("{1: 1.0, 3: 3.0, 5: 2.0, 7: 4.0}", "{}", "{7: 1.0}", "{1: NAN, 3: 2.0}", "{1: 2.0, 3: NAN, 5: 1.0}", "{1: INF, 3: 1.0}", "{1: 1.0, 3: INF, 5: 2.0}", "{1: 2.0, 3: 2.0}", "{0: 1.0, 6: 2.0}")),
    *(f"best({{1: 3.0, 3: 1.0, 5: 2.0, 7: -INF}}, mode={m!r})" for m in ("min", "max", "other")),
    "best({1: 1.0, 3: 2.0}, file_prefix='top')",
    "best({1: 1.0, 3: 2.0}, val_metric='other')",
    "best({1: 1.0, 3: 2.0}, period=0)",
    "best({1: 1.0, 3: 2.0}, period=8)",
    "best({1: 1.0, 3: 2.0}, period=5, stop=5)",
    *(f"evaluated({r})" for r in ("{'bbox': {'AP': 1.0}}", "{}", "None", "{'a': '1.5'}", "{'a': 'x'}", "{'a': None}", "{'a': torch.tensor(2.0)}", "[1]", "3", "'x'", "{'a': {'b': {'c': 1}}}", "{'a': [1]}")),
    *(f"evaluated({{'a': 1}}, stop={s}, period={p})" for s, p in ((4, 2), (5, 0), (5, 1), (5, 9), (5, -1), (0, 2), (6, 3))),
    "evaluated({'a': 1}, eval_after_train=False)",
    "evaluated({'a': 1}, start=5, stop=5)",
    "evaluated({'a': 1}, start=4, stop=5)",
    "evaluated({'a': 1}, fails_at='after_step')",
    *(f"writes({p}, {s})" for p in (None, 1, 2, 3, 7) for s in (5, 6)),
    "writes(0)",
    "hooks.PeriodicWriter([3])",
    "hooks.PeriodicWriter(writers=[], period=3)",
    "rates()",
    "rates(stop=3, start=1)",
    "rates(scheduler=MultiStepParamScheduler([1, 0.1], milestones=[2], num_updates=4))",
    "rates(scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))",
    "rates(groups=[(1, 0.1), (3, 0.5)])",
    "rates(optimizer=None)",
    "rates_from_trainer()",
    *(f"best_group({g})" for g in ("(1, 1.0), (1, 2.0), (1, 2.0)", "(1, 1.0), (3, 2.0), (3, 5.0)", "(1, 1.0)", "(1, 1.0), (1, 2.0)", "(2, 1.0), (1, 2.0)")),
    "multiplier()",
    "multiplier(last_iter=1)",
    "multiplier(multiplier=lambda where: 1.0)",
    "hooks.LRScheduler(scheduler=lambda: 1).state_dict()",
    *(f"checkpoints({p}, {s})" for p, s in ((2, 5), (2, 4), (9, 3), (1, 1), (3, 0))),
    *(f"checkpoints(1, 5, max_to_keep={k})" for k in (1, 2, 9, None)),
    "checkpoints(1, 5, max_to_keep=0)",
    "checkpoints(2, 5, file_prefix='other')",
    "checkpoints(2, 9, 6)",
    "checkpoints(0, 3)",
    "saved()",
    "saved(iteration=4, note='x')",
    *(f"loads({c})" for c in ("{'model': {'weight': torch.ones(1, 2), 'bias': torch.ones(1)}}", "{'weight': torch.ones(1, 2), 'bias': torch.ones(1)}", "{'model': {'weight': torch.ones(3, 2)}}", "{'model': {'x': torch.ones(1)}}", "{'model': {}}", "{'model': {'module.weight': torch.ones(1, 2), 'module.bias': torch.ones(1)}}", "{'model': {'weight': np.ones((1, 2), np.float32)}, 'iteration': 3}")),
    "loads({'model': {'weight': np.ones((1, 2), np.float32)}, '__author__': 'x'}, 'x.pkl')",
    "loads({'model': {'weight': torch.ones(1, 2)}, 'trainer': 3}, checkpointables=[])",
    "loads({'model': {'weight': torch.ones(1, 2)}}, query='?a=b')",
    "missing_keys({})",
    "missing_keys({'other': torch.ones(3)})",
    "missing_keys({'pixel_mean': torch.ones(3), 'other': torch.ones(3), 'strange': torch.ones(1)})",
    "missing_keys({'other': torch.ones(3), 'anchor_generator.cell_anchors.0': torch.ones(1)})",
    "resumes(True)",
    "resumes(False)",
    "resumes(True, saves=False)",
    "resumes(True, saves=False, path='/nothing.pth')",
    "resumes(False, path='/nothing.pth')",
    "DetectionCheckpointer(nn.Linear(1, 1)).load('')",
    "DetectionCheckpointer(nn.Linear(1, 1)).load(None)",
    "DetectionCheckpointer(nn.Linear(1, 1), save_to_disk=False).save('x')",
    "DetectionCheckpointer(nn.Linear(1, 1)).save_to_disk",
    *(f"timed({s})" for s in (1, 2, 3, 5)),
    "timed(5, warmup_iter=0), timed(6, 2, warmup_iter=1)",
    "parsed()",
    "parsed('--config-file', 'c.py', '--num-gpus', '2', '--resume', '--eval-only', 'a.b=1', 'c', '--d')",
    "parsed('--num-machines', '3', '--machine-rank', '1', '--dist-url', 'auto')",
    "parser_options()",
    "default_argument_parser('the end').format_help().splitlines()[-1]",
    "default_argument_parser().dist_url",
    "port()",
    *(f"prepared({c})" for c in ("CFG", "{'train': {'output_dir': 'OUT'}}", "{'train': {'output_dir': ''}}", "{'train': {}}", "{}", "{'output_dir': 'OUT'}", "{'train': {'output_dir': 'OUT', 'seed': 0, 'cudnn_benchmark': True}}", "{'OUTPUT_DIR': 'OUT', 'SEED': 3}", "{'train': {'output_dir': 'OUT', 'float32_precision': 'high'}}", "{'SEED': 3, 'CUDNN_BENCHMARK': True, 'train': {'output_dir': 'OUT'}}")),
    "prepared(CFG, config_file='OUT/c.py')",
    "prepared(CFG, config_file='OUT/none.py')",
    "prepared(CFG, config_file='')",
    "prepared(CFG | {'train': {'output_dir': 'OUT', 'cudnn_benchmark': True}}, eval_only=True)",
    "prepared_by_yacs()",
    "prepared_by_yacs(SEED=3)",
    *(f"log_line({o})" for o in ("", "level=logging.WARNING", "level=logging.DEBUG", "name='other'", "distributed_rank=2", "suffix='/named.txt'", "suffix='/named.log'", "suffix='/deep/er'")),
    *(f"console_line({o})" for o in ("", "logging.WARNING", "logging.ERROR", "logging.CRITICAL", "logging.DEBUG", "color=False", "name='other'", "abbrev_name='short'", "abbrev_name=''", "distributed_rank=1", "enable_propagation=True", "configure_stdout=False")),
    "setup_logger(name='same') is setup_logger(name='same')",
    "logged_often(n=1000), logged_often(n=0), logged_often(n=1000, name='other')",
    *(f"create_small_table({d})" for d in ("{'a': 1.23456, 'b': 2}", "{'a': NAN}", "{'a': 'x'}", "{}")),
    "writer_kinds()",
    *(f"seeded({s})" for s in ("0", "5", "2**31", "-1", "2**40", "'x'", "1.5")),
    "len(seeded(None))",
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
