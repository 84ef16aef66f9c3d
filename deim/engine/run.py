"""A training or evaluation run described by a LazyConfig."""

import itertools
import logging
from argparse import Namespace
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detrex.modeling import ema
from omegaconf import OmegaConf
from torch import nn

from deim.config import load_config
from deim.data.image import read_image
from deim.data.records import annotation_arrays
from deim.engine.checkpoint import load_weights, resume
from deim.engine.ema import EMAHook
from deim.engine.final_stage import FinalStageHook
from deim.engine.hooks import BestCheckpointer
from deim.engine.trainer import Trainer
from deim.engine.writers import build_writers
from deim.errors import ConfigError, DatasetError
from deim.visualization import draw_detections

logger = logging.getLogger("detectron2.deim")


def main(args: Namespace) -> None:
    """One process of ``tools/train_net.py``; ``args`` as parsed by detectron2's parser.

    Raises:
        DeimError: something that the user can mend is wrong.
    """
    cfg = load_config(args.config_file, args.opts)
    _fall_back_to_cpu(cfg)
    default_setup(cfg, args)
    if args.eval_only:
        evaluate_checkpoint(cfg)
    else:
        train(cfg, resume_run=args.resume)


def _fall_back_to_cpu(cfg: Any) -> None:
    if str(cfg.train.device).startswith("cuda") and not torch.cuda.is_available():
        print("No GPU is available: running on the CPU in float32 (train.device=cpu silences this).")
        cfg.train.device = "cpu"
        cfg.train.amp.enabled = False


def check_classes(cfg: Any, split: str) -> None:
    """Compare the model's number of classes with that of the data set of ``dataloader.<split>``.

    Call it after the loader is built, which registers the data set.

    Raises:
        DatasetError: they differ.
    """
    dataset = OmegaConf.select(cfg, f"dataloader.{split}.dataset", default=None) or {}
    name = dataset.get("name", dataset.get("names"))
    expected = OmegaConf.select(cfg, "model.num_classes", default=None)
    classes = None if not isinstance(name, str) else MetadataCatalog.get(name).get("thing_classes")
    if classes is None or expected is None or len(classes) == expected:
        return
    shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    raise DatasetError(
        f"the model has {expected} classes, but the data set {name!r} has {len(classes)} ({shown}): "
        f"set model.num_classes={len(classes)}"
    )


def evaluate(cfg: Any, model: nn.Module) -> dict:
    """Run ``dataloader.test`` through the model and its evaluator; the results, on the main process."""
    if "evaluator" not in cfg.dataloader:
        logger.warning("The config has no dataloader.evaluator: nothing is evaluated")
        return {}
    loader = instantiate(cfg.dataloader.test)
    check_classes(cfg, "test")
    results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    print_csv_format(results)
    return results


def evaluate_checkpoint(cfg: Any) -> dict:
    """``--eval-only``: evaluate ``train.init_checkpoint``, its averaged weights if it has any."""
    return evaluate(cfg, create_ddp_model(_trained_model(cfg), **_ddp_options(cfg)))


def _trained_model(cfg: Any) -> nn.Module:
    if not cfg.train.init_checkpoint:
        raise ConfigError("no weights are given: train.init_checkpoint=path/to/model.pth")
    model = instantiate(cfg.model).to(cfg.train.device)
    load_weights(model, cfg.train.init_checkpoint, use_ema=cfg.train.model_ema.use_ema_weights_for_eval_only)
    return model


def train(cfg: Any, resume_run: bool = False) -> None:
    """Train as ``cfg`` says, evaluating and saving on the way."""
    if cfg.train.fast_dev_run.enabled:
        cfg.train.max_iter, cfg.train.eval_period, cfg.train.log_period = 20, 10, 1
    loader = instantiate(cfg.dataloader.train)
    check_classes(cfg, "train")
    instantiate(cfg.dataloader.test)  # a mistake in the test data shows now and not after an epoch
    check_classes(cfg, "test")
    iters_per_epoch = getattr(loader, "iters_per_epoch", None)
    resolve_schedule(cfg, iters_per_epoch)

    model = build_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    wrapped = create_ddp_model(model, **_ddp_options(cfg))
    ema.may_build_model_ema(cfg, wrapped)
    trainer = Trainer(
        wrapped,
        loader,
        optimizer,
        amp=_amp(cfg),
        clip_grad=cfg.train.clip_grad.params if cfg.train.clip_grad.enabled else None,
        accumulation_steps=cfg.train.accumulation_steps,
    )
    checkpointer = DetectionCheckpointer(
        wrapped, cfg.train.output_dir, trainer=trainer, **ema.may_get_ema_checkpointer(cfg, wrapped)
    )
    trainer.register_hooks(_hooks(cfg, wrapped, optimizer, checkpointer, iters_per_epoch))
    start = 0
    if resume_run and checkpointer.has_checkpoint():
        resume(checkpointer, wrapped)
        start = trainer.iter + 1
    elif cfg.train.init_checkpoint:
        load_weights(wrapped, cfg.train.init_checkpoint, allow_other_classes=True)
    trainer.train(start, cfg.train.max_iter)


def build_model(cfg: Any) -> nn.Module:
    """The model on its device, with synchronised normalisation if asked for and possible."""
    model = instantiate(cfg.model).to(cfg.train.device)
    count = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(f"Model {type(model).__name__}: {count:,} parameters, {trainable:,} trainable")
    if cfg.train.sync_bn and comm.get_world_size() > 1 and torch.cuda.is_available():
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def resolve_schedule(cfg: Any, iters_per_epoch: int | None) -> None:
    """Fill in ``train.max_iter`` and the periods that are None, from the schedule's epochs.

    Raises:
        ConfigError: they cannot be known, since the loader has no epochs or the config no schedule.
    """
    settings = {
        "max_iter": ("epochs", cfg.train),
        "eval_period": ("eval_epochs", cfg.train),
        "period": ("checkpoint_epochs", cfg.train.checkpointer),
    }
    for key, (epochs_key, node) in settings.items():
        if node.get(key) is not None:
            continue
        if iters_per_epoch is None or "schedule" not in cfg:
            raise ConfigError(
                f"train.{key} is not set, and there is no schedule or loader with epochs to derive it from"
            )
        node[key] = cfg.schedule[epochs_key] * iters_per_epoch
    per_epoch = f"{iters_per_epoch} iterations per epoch, " if iters_per_epoch else ""
    logger.info(
        f"Schedule: {per_epoch}{cfg.train.max_iter} in all, evaluation every {cfg.train.eval_period}, "
        f"checkpoint every {cfg.train.checkpointer.period}"
    )


def _amp(cfg: Any) -> str | None:
    return cfg.train.amp.dtype if cfg.train.amp.enabled else None


def _ddp_options(cfg: Any) -> dict:
    options = dict(cfg.train.ddp)
    if not torch.cuda.is_available():
        options["device_ids"] = None  # detectron2 would name a GPU
    return options


def _hooks(
    cfg: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpointer: DetectionCheckpointer,
    iters_per_epoch: int | None,
) -> list[hooks.HookBase | None]:
    use_ema = cfg.train.model_ema.enabled

    def test() -> dict:
        with ema.apply_model_ema_and_restore(model) if use_ema else nullcontext():
            return evaluate(cfg, model)

    options, period = cfg.train.model_ema, cfg.train.eval_period
    saving = best = writing = averaging = final = None
    if comm.is_main_process():
        saving = hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
        best = BestCheckpointer(period, checkpointer, cfg.train.best_metric)
        writers = build_writers(cfg, cfg.train.max_iter, iters_per_epoch)
        writing = hooks.PeriodicWriter(writers, cfg.train.log_period)
    if use_ema:
        averages = ema.get_model_ema_state(model)
        module = getattr(model, "module", model)
        averaging = EMAHook(module, averages, options.decay, options.warmup_iters, options.device)
        final = _final_stage(cfg, checkpointer, optimizer, averaging, best, iters_per_epoch)
    return [
        hooks.IterationTimer(),
        averaging,
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        saving,
        hooks.EvalHook(period, test),
        best,
        final,
        writing,
    ]


def _final_stage(
    cfg: Any,
    checkpointer: DetectionCheckpointer,
    optimizer: torch.optim.Optimizer,
    averaging: EMAHook,
    best: BestCheckpointer | None,
    iters_per_epoch: int | None,
) -> FinalStageHook | None:
    schedule = instantiate(cfg.schedule) if "schedule" in cfg else None
    if schedule is None or schedule.final_ema_decay is None or iters_per_epoch is None:
        return None
    return FinalStageHook(
        checkpointer,
        optimizer,
        averaging,
        best,
        start_iter=schedule.final_epoch * iters_per_epoch,
        eval_period=cfg.train.eval_period,
        metric=cfg.train.best_metric,
        decay=schedule.final_ema_decay,
    )


@torch.no_grad()
def draw_predictions(config_file: str, overrides: list[str], output: str, count: int, threshold: float) -> None:
    """Draw what a checkpoint detects on the first ``count`` images of ``dataloader.test``; see
    :func:`deim.visualization.draw_detections`.

    Raises:
        DeimError: something that the user can mend is wrong.
    """
    cfg = load_config(config_file, overrides)
    _fall_back_to_cpu(cfg)
    loader = instantiate(cfg.dataloader.test)
    check_classes(cfg, "test")
    model = _trained_model(cfg).eval()
    samples = list(itertools.islice(itertools.chain.from_iterable(loader), count))
    records = {r["image_id"]: r for r in instantiate(cfg.dataloader.test.dataset)}
    images, truths = [], []
    for sample in samples:
        image = read_image(sample["file_name"], (sample["height"], sample["width"]))
        images.append(image)
        truths.append(annotation_arrays(records[sample["image_id"]]))
    found = [result["instances"].to("cpu") for sample in samples for result in model([sample])]
    names = MetadataCatalog.get(cfg.dataloader.test.dataset.name).thing_classes
    draw_detections(images, truths, found, names, output, threshold)
