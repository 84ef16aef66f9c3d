"""Training and evaluation runs described by a LazyConfig."""

import logging
import os
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig
from detectron2.engine import default_setup, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detrex.modeling import ema
from omegaconf import OmegaConf
from torch import nn

import deim
from deim.checkpoint.loading import resume
from deim.checkpoint.metadata import CheckpointMetadata
from deim.checkpoint.run_checkpointer import FINAL, RunCheckpointer
from deim.config import build, find_config, load_config
from deim.config.batch_size import scale_to_batch_size
from deim.config.portable import to_portable
from deim.config.random_weights import MAX_IMAGES, fit_to_small_data
from deim.data.loader import TrainLoader, translate_worker_errors
from deim.engine.auto_batch_size import resolve_batch_size, stored_batch_size
from deim.engine.buffered_log import buffered_log
from deim.engine.evaluation import (
    check_classes,
    check_limits,
    dataset_classes,
    dataset_keypoints,
    evaluate_checkpoint,
    evaluate_test_sets,
    prepare_test_sets,
)
from deim.engine.freezing import freeze_modules
from deim.engine.hooks import (
    BestCheckpointer,
    EarlyStoppingHook,
    EvaluationResumeHook,
    MetricsResumeHook,
    MetricsWriter,
    PeriodicCheckpointer,
    TimedEvaluationHook,
)
from deim.engine.hooks.criterion_epoch import CriterionEpochHook
from deim.engine.hooks.ema import EMAHook
from deim.engine.hooks.final_stage import FinalStageHook
from deim.engine.hooks.plateau import PlateauHook
from deim.engine.hooks.preemption import PreemptionHook
from deim.engine.hooks.writers import build_writers, main_loss_names
from deim.engine.initial_state import (
    InitialState,
    check_pixel_normalization,
    find_initial_state,
    initial_weights_files,
    load_initial_weights,
    starts_from_random_weights,
    unfreeze_random_backbone,
    warn_about_frozen_random_weights,
)
from deim.engine.model import build_model, prepare_for_training
from deim.engine.non_finite import NonFiniteGuard
from deim.engine.out_of_memory import explain_out_of_memory
from deim.engine.output_folder import claim_output_folder, make_output_folder
from deim.engine.performance.cpu_memory import keep_freed_memory
from deim.engine.preflight import (
    check_model_runs,
    check_settings,
    ddp_options,
    resolve_device,
    warn_about_unused_augmentation,
)
from deim.engine.trainer import Trainer
from deim.errors import ConfigError
from deim.inference.ensemble import requested_augmentation

logger = logging.getLogger("detectron2.deim")


def main(args: Namespace) -> Any:
    """Run one rank of ``deim train``.

    Args:
        args: arguments of detectron2's parser.

    Returns:
        the config of the run.

    Raises:
        DeimError: if the run fails for a reason that the user can fix.
    """
    args.config_file = find_config(args.config_file)
    augmentation, ensemble = requested_augmentation(args), getattr(args, "ensemble", ())
    if not args.eval_only and (augmentation is not None or ensemble):
        raise ConfigError("--tta, --tta-scales and --ensemble are for evaluations: add --eval-only")
    with buffered_log(logger) as emit:
        cfg = load_config(
            args.config_file,
            args.opts,
            getattr(args, "data", None),
            getattr(args, "image_root", None),
            dict(getattr(args, "switches", ())),
        )
        check_settings(cfg, training=not args.eval_only)
        resolve_device(cfg)
        make_output_folder(cfg.train.output_dir)
        resume_run = args.resume or is_restarted_by_torchrun()
        if not args.eval_only and not resume_run:
            claim_output_folder(cfg.train.output_dir, getattr(args, "overwrite", False), initial_weights_files(cfg))
        config_file = Path(cfg.train.output_dir, "config.yaml")
        run_config = config_file.read_bytes() if args.eval_only and config_file.is_file() else None
        default_setup(cfg, args)
        if run_config is not None and comm.is_main_process():
            # default_setup has replaced the config of the run by that of the evaluation
            config_file.write_bytes(run_config)
        emit()
    with translate_worker_errors():
        if args.eval_only:
            evaluate_checkpoint(cfg, augmentation, ensemble)
        else:
            train(cfg, resume_run)
    return cfg


def is_restarted_by_torchrun() -> bool:
    """Return whether torchrun has restarted this process after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def train(cfg: Any, resume_run: bool = False) -> None:
    """Train the model of ``cfg``, with evaluations and checkpoints."""
    if cfg.train.fast_dev_run.enabled:
        cfg.train.max_iter, cfg.train.eval_period, cfg.train.log_period = 20, 10, 1
    if cfg.train.seed < 0:
        cfg.train.seed = comm.shared_random_seed()
    start = find_initial_state(cfg, resume_run)
    check_pixel_normalization(cfg)
    resolve_batch_size(cfg, start.checkpoint)
    loader = build(cfg, "dataloader.train")
    is_small = _is_small_random_start(cfg, loader)
    if is_small:
        loader = _fit_to_small_data(cfg, loader, start.checkpoint)
    check_classes(cfg, "train")
    check_limits(cfg, loader, "train")
    # Errors in the test data show before training starts.
    test_loader = build(cfg, "dataloader.test")
    check_limits(cfg, test_loader, "test")
    check_classes(cfg, "test")
    test_sets = prepare_test_sets(cfg)
    iters_per_epoch = getattr(loader, "iters_per_epoch", None)
    if scale_to_batch_size(cfg, iters_per_epoch, from_random_weights=is_small) and comm.is_main_process():
        # default_setup has saved the unscaled config
        LazyConfig.save(cfg, os.path.join(cfg.train.output_dir, "config.yaml"))
    resolve_schedule(cfg, iters_per_epoch)
    warn_about_unused_augmentation(cfg)

    model = build_model(cfg, pretrained_backbone=start.backbone is not None)
    unfreeze_random_backbone(cfg, model)
    warn_about_frozen_random_weights(cfg)
    freeze_modules(model, cfg.train.freeze)
    check_model_runs(cfg, model, getattr(loader, "shapes", ()))
    model = prepare_for_training(cfg, model)
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    ddp_model = create_ddp_model(model, **ddp_options(cfg))
    ema.may_build_model_ema(cfg, ddp_model)
    metadata = CheckpointMetadata(
        deim.__version__,
        cfg.train.recipe,
        dataset_classes(cfg, "train"),
        config=to_portable(cfg),
        keypoints=dataset_keypoints(cfg, "train") if "keypoints" in getattr(model, "predicted_fields", ()) else None,
    )
    trainer = Trainer(
        ddp_model,
        loader,
        optimizer,
        amp=_amp_dtype(cfg),
        clip_grad=cfg.train.clip_grad.params if cfg.train.clip_grad.enabled else None,
        accumulation_steps=cfg.train.accumulation_steps,
        seed=cfg.train.seed,
        guard=NonFiniteGuard(model, cfg.train.output_dir, cfg.train.max_non_finite_steps, metadata.content),
    )
    checkpointer = RunCheckpointer(
        ddp_model,
        cfg.train.output_dir,
        trainer=trainer,
        deim=metadata,
        **ema.may_get_ema_checkpointer(cfg, ddp_model),
    )

    def evaluate() -> dict:
        """Evaluate the EMA weights, or the weights if the run has no EMA weights."""
        with ema.apply_model_ema_and_restore(ddp_model) if cfg.train.model_ema.enabled else nullcontext():
            return evaluate_test_sets(cfg, ddp_model, test_loader, test_sets)

    trainer.register_hooks(_build_hooks(cfg, ddp_model, checkpointer, iters_per_epoch, evaluate))
    with keep_freed_memory(torch.device(cfg.train.device)), explain_out_of_memory(cfg, trainer):
        trainer.train(_first_iteration(cfg, trainer, checkpointer, start), cfg.train.max_iter)


def _is_small_random_start(cfg: Any, loader: Any) -> bool:
    """Return whether a scaled run starts from random weights, on few images."""
    is_scaled = cfg.train.reference_batch_size is not None
    is_small = isinstance(loader, TrainLoader) and len(loader.dataset) <= MAX_IMAGES
    return is_scaled and is_small and starts_from_random_weights(cfg)


def _fit_to_small_data(cfg: Any, loader: TrainLoader, checkpoint: str | None) -> TrainLoader:
    """Adapt batch size and schedule of a run from random weights to its small dataset, and return the loader."""
    num_images = len(loader.dataset)
    changes = fit_to_small_data(cfg, num_images, comm.get_world_size(), stored_batch_size(checkpoint))
    if not changes:
        return loader
    values = ", ".join(f"{key}={value}" for key, value in changes.items())
    logger.info(f"Training from random weights on {num_images} images: {values}. To use other values, set these keys")
    return build(cfg, "dataloader.train")


def _first_iteration(cfg: Any, trainer: Trainer, checkpointer: RunCheckpointer, start: InitialState) -> int:
    """Load the initial weights or the checkpoint of a run, and return the first iteration."""
    if start.checkpoint is not None:
        resume(checkpointer, trainer.model, start.checkpoint)
        return trainer.iter + 1
    load_initial_weights(start, trainer.model, dataset_classes(cfg, "train"))
    return 0


def resolve_schedule(cfg: Any, iters_per_epoch: int | None) -> None:
    """Derive ``train.max_iter``, ``train.eval_period`` and ``train.checkpointer.period`` from the schedule's epochs.

    Works in place. Numbers in the config are kept. None and interpolations are replaced; the recipes refer to
    ``train.iterations``, which exists for foreign trainers.

    Args:
        iters_per_epoch: of the training loader; None if it has no epochs.

    Raises:
        ConfigError: if a value is missing and the loader has no epochs or the config no schedule.
    """
    settings = {
        "max_iter": ("epochs", cfg.train),
        "eval_period": ("eval_epochs", cfg.train),
        "period": ("checkpoint_epochs", cfg.train.checkpointer),
    }
    for key, (epochs_key, node) in settings.items():
        if not OmegaConf.is_interpolation(node, key) and node.get(key) is not None:
            continue
        if iters_per_epoch is None or "schedule" not in cfg:
            raise ConfigError(
                f"train.{'checkpointer.' if key == 'period' else ''}{key} is not a number and cannot be "
                "derived: the config has no schedule or dataloader.train has no epochs"
            )
        node[key] = cfg.schedule[epochs_key] * iters_per_epoch
    per_epoch = f"{iters_per_epoch} iterations per epoch, " if iters_per_epoch else ""
    logger.info(
        f"Schedule: {per_epoch}{cfg.train.max_iter} in total, evaluation every {cfg.train.eval_period}, "
        f"checkpoint every {cfg.train.checkpointer.period}"
    )


def _amp_dtype(cfg: Any) -> str | None:
    return cfg.train.amp.dtype if cfg.train.amp.enabled else None


def _build_hooks(
    cfg: Any,
    model: nn.Module,
    checkpointer: RunCheckpointer,
    iters_per_epoch: int | None,
    evaluate: Callable[[], dict],
) -> list[hooks.HookBase | None]:
    """Return the hooks of a run, in order. A hook that this rank or the config does not need is None."""
    is_main, eval_period = comm.is_main_process(), cfg.train.eval_period
    ema_hook = _build_ema_hook(cfg, model) if cfg.train.model_ema.enabled else None
    best_checkpointer = BestCheckpointer(eval_period, checkpointer, cfg.train.best_metric) if is_main else None
    metrics_writer = _build_metrics_writer(cfg, model, iters_per_epoch) if is_main else None
    evaluation_hooks: list[hooks.HookBase | None] = [
        hooks.EvalHook(eval_period, evaluate),
        best_checkpointer,
        _build_final_stage_hook(cfg, checkpointer, ema_hook, best_checkpointer, iters_per_epoch),
        _build_early_stopping_hook(cfg, checkpointer, iters_per_epoch),
        None
        if cfg.train.eval_minutes is None
        else TimedEvaluationHook(
            cfg.train.eval_minutes,
            evaluate,
            eval_period=eval_period,
            best_checkpointer=best_checkpointer,
            metrics_writer=metrics_writer,
        ),
        metrics_writer,
    ]
    return [
        CriterionEpochHook(iters_per_epoch),
        hooks.IterationTimer(),
        ema_hook,
        hooks.LRScheduler(scheduler=build(cfg, "lr_multiplier")),
        MetricsResumeHook(metrics_writer),
        PlateauHook() if is_main and cfg.train.plateau_warning else None,
        PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
        *evaluation_hooks,
        EvaluationResumeHook(
            eval_period, checkpointer if is_main else None, [hook for hook in evaluation_hooks if hook is not None]
        ),
        PreemptionHook(checkpointer.save_iteration),
    ]


def _build_ema_hook(cfg: Any, model: nn.Module) -> EMAHook:
    options = cfg.train.model_ema
    module = getattr(model, "module", model)
    return EMAHook(module, ema.get_model_ema_state(model), options.decay, options.warmup_iters, options.device)


def _build_metrics_writer(cfg: Any, model: nn.Module, iters_per_epoch: int | None) -> MetricsWriter:
    writers = build_writers(cfg, cfg.train.max_iter, iters_per_epoch, main_loss_names(model))
    metrics_file = os.path.join(cfg.train.output_dir, "metrics.json")
    return MetricsWriter(writers, cfg.train.log_period, cfg.train.eval_period, metrics_file)


def _build_final_stage_hook(
    cfg: Any,
    checkpointer: RunCheckpointer,
    ema_hook: EMAHook | None,
    best_checkpointer: BestCheckpointer | None,
    iters_per_epoch: int | None,
) -> FinalStageHook | None:
    """Return the hook of the final epochs; None if the run has no EMA weights or does not restart for these epochs."""
    schedule = build(cfg, "schedule") if ema_hook is not None and "schedule" in cfg else None
    if ema_hook is None or schedule is None or not schedule.final_from_best or iters_per_epoch is None:
        return None
    return FinalStageHook(
        checkpointer,
        ema_hook,
        best_checkpointer,
        start_iter=schedule.final_epoch * iters_per_epoch,
        eval_period=cfg.train.eval_period,
        metric=cfg.train.best_metric,
        decay=schedule.final_ema_decay,
        restarts=schedule.final_restarts,
    )


def _build_early_stopping_hook(
    cfg: Any, checkpointer: RunCheckpointer, iters_per_epoch: int | None
) -> EarlyStoppingHook | None:
    options = cfg.train.early_stopping
    if not options.enabled:
        return None
    schedule = build(cfg, "schedule") if "schedule" in cfg and options.final_epochs else None
    final_iter = None if schedule is None or iters_per_epoch is None else schedule.final_epoch * iters_per_epoch
    return EarlyStoppingHook(
        lambda iteration: checkpointer.save(Path(FINAL).stem, iteration=iteration),
        metric=cfg.train.best_metric,
        patience=options.patience,
        min_delta=options.min_delta,
        eval_period=cfg.train.eval_period,
        final_iter=final_iter if final_iter is not None and final_iter < cfg.train.max_iter else None,
    )
