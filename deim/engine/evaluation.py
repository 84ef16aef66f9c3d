"""Evaluation of the model of a config."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.data import MetadataCatalog
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import COCOEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import nn

from deim.checkpoint.loading import load_for_inference
from deim.config import build, published
from deim.config.annotations import keypoint_node
from deim.config.building import accepts
from deim.config.test_sets import extra_test_configs
from deim.data.datasets.names import registered_name
from deim.data.limits import COCO_MAX_DETECTIONS, DetectionLimits, limit_warnings
from deim.engine.model import build_model
from deim.engine.preflight import check_model_runs, ddp_options
from deim.errors import ConfigError, DatasetError
from deim.inference.ensemble import FusedDetector, FusedRunner, TestTimeAugmentation
from deim.inference.exported_runner import is_exported, load_exported
from deim.inference.runner import Runner, TorchRunner
from deim.inference.trained_model import TrainedModel, load_trained
from deim.structures.keypoints import oks_sigmas
from deim.structures.skeleton import Skeleton

logger = logging.getLogger("detectron2.deim")


def dataset_classes(cfg: Any, split: str) -> Sequence[str] | None:
    """Return the class names of ``dataloader.<split>``, registered by its loader; None if there are none."""
    name = _dataset_name(cfg, split)
    return None if name is None else MetadataCatalog.get(name).get("thing_classes")


def dataset_keypoints(cfg: Any, split: str) -> dict[str, Any] | None:
    """Return names and connections of the keypoints of ``dataloader.<split>``; None if there are none.

    See :meth:`deim.structures.skeleton.Skeleton.to_dict`.
    """
    name = _dataset_name(cfg, split)
    skeleton = None if name is None else Skeleton.from_metadata(MetadataCatalog.get(name))
    return None if skeleton is None else skeleton.to_dict()


def required_classes(cfg: Any, split: str) -> Sequence[str]:
    """Return the class names of ``dataloader.<split>``; see :func:`dataset_classes`.

    Raises:
        ConfigError: if the dataset has no registered name or is registered without classes.
    """
    classes = dataset_classes(cfg, split)
    if classes is None:
        raise ConfigError(
            f"the classes of dataloader.{split}.dataset are unknown: set dataloader.{split}.dataset.names to the name of a "
            "dataset that is registered with its classes"
        )
    return classes


def _dataset_name(cfg: Any, split: str) -> str | None:
    return registered_name(OmegaConf.select(cfg, f"dataloader.{split}.dataset", default=None))


def check_classes(cfg: Any, split: str) -> None:
    """Compare the number of classes of the model with that of the dataset of ``dataloader.<split>``.

    Call it after building the loader, which registers the dataset.

    Raises:
        DatasetError: if they differ.
    """
    name, classes = _dataset_name(cfg, split), dataset_classes(cfg, split)
    expected = OmegaConf.select(cfg, "model.num_classes", default=None)
    if classes is None or expected is None or len(classes) == expected:
        return
    shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    raise DatasetError(
        f"the model has {expected} classes, but the dataset {name!r} has {len(classes)} ({shown}): "
        f"set model.num_classes={len(classes)}"
    )


def check_limits(cfg: Any, loader: Any, split: str) -> None:
    """Warn if images hold more objects than the model can detect.

    For the test split, also increase the number of evaluated detections per image in ``cfg`` if needed.

    Args:
        loader: loader built from ``dataloader.<split>``; foreign loaders do not provide object counts.
        split: "train" or "test".
    """
    counts = getattr(loader, "objects_per_image", ())
    if split == "test":
        _raise_max_dets(cfg, int(max(counts, default=0)))
    if comm.is_main_process():
        for warning in limit_warnings(counts, DetectionLimits.from_config(cfg), split):
            logger.warning(warning)


def _raise_max_dets(cfg: Any, largest: int) -> None:
    """Evaluate all detections of the model if an image holds more objects than COCO's limit of detections; in place."""
    evaluator, detections = cfg.dataloader.get("evaluator"), DetectionLimits.from_config(cfg).num_detections
    if evaluator is None or largest <= COCO_MAX_DETECTIONS or not detections or detections <= COCO_MAX_DETECTIONS:
        return
    if evaluator.get("max_dets_per_image") is not None or not accepts(evaluator.get("_target_"), "max_dets_per_image"):
        return
    evaluator.max_dets_per_image = detections
    logger.info(
        f"Test images hold up to {largest} objects: evaluating {detections} detections per image instead of "
        f"{COCO_MAX_DETECTIONS} (dataloader.evaluator.max_dets_per_image={detections})"
    )


def build_evaluator(cfg: Any) -> Any:
    """Build ``dataloader.evaluator``.

    If it evaluates keypoints and has no constants of the keypoints, it gets those of the training loss, in ``cfg``.
    """
    evaluator, node = cfg.dataloader.evaluator, keypoint_node(cfg.get("model"))
    if node is not None and accepts(evaluator.get("_target_"), "kpt_oks_sigmas"):
        sigmas = OmegaConf.select(cfg, "model.criterion.losses.loss_oks.sigmas", default=None)
        if not evaluator.get("kpt_oks_sigmas"):
            evaluator.kpt_oks_sigmas = oks_sigmas(node.num_keypoints, sigmas)
    return build(cfg, "dataloader.evaluator")


def evaluate(cfg: Any, model: nn.Module, loader: Any = None) -> dict:
    """Evaluate a model on ``loader`` (default: ``dataloader.test``) and return the results on the main rank."""
    if "evaluator" not in cfg.dataloader:
        logger.warning("The config has no dataloader.evaluator: skipping evaluation")
        return {}
    loader = build(cfg, "dataloader.test") if loader is None else loader
    check_classes(cfg, "test")
    broadcast_statistics(model)
    evaluator = build_evaluator(cfg)
    with deferred_masks(model, evaluator):
        results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


@dataclass(frozen=True)
class ExtraTestSet:
    """Test set besides the main one.

    Attributes:
        config: config whose test set this is; see :func:`deim.config.test_sets.extra_test_configs`.
        loader: ``dataloader.test`` of the config. It is used by all evaluations, because reading the annotations again may
            take minutes, such as those of all training images for a part of them.
    """

    config: Any
    loader: Any


def prepare_test_sets(cfg: Any) -> dict[str, ExtraTestSet]:
    """Return the test sets besides the main one, by name.

    Call it after building the main test loader. Errors in the data show before training starts.

    Raises:
        DatasetError: if a test set has other classes than the main one.
    """
    configs = extra_test_configs(cfg)
    test_sets = {name: ExtraTestSet(part, build(part, "dataloader.test")) for name, part in configs.items()}
    for name, test_set in test_sets.items():
        check_limits(test_set.config, test_set.loader, "test")
        classes, expected = dataset_classes(test_set.config, "test"), dataset_classes(cfg, "test")
        if classes is not None and expected is not None and list(classes) != list(expected):
            raise DatasetError(
                f"dataloader.extra_tests.{name} has other classes than dataloader.test, or another order: "
                f"{', '.join(classes)} instead of {', '.join(expected)}"
            )
        logger.info(f"Evaluation also on {_dataset_name(test_set.config, 'test')}: metrics {name}/bbox/AP and so on")
    return test_sets


def evaluate_test_sets(cfg: Any, model: nn.Module, loader: Any, test_sets: Mapping[str, ExtraTestSet]) -> dict:
    """Evaluate a model on ``dataloader.test`` and on further test sets, and return the results on the main rank.

    Args:
        model: the model.
        loader: loader of ``dataloader.test``.
        test_sets: result of :func:`prepare_test_sets`. Their results have the name of the test set as key.
    """
    results = evaluate(cfg, model, loader)
    for name, test_set in test_sets.items():
        logger.info(f"Evaluating {name}")
        further_results = evaluate(test_set.config, model, test_set.loader)
        if further_results:
            results = {**results, name: further_results}
    return results


@contextmanager
def deferred_masks(model: nn.Module, evaluator: Any) -> Iterator[None]:
    """Within the context, resize the masks of an image only when an evaluator processes the image, to limit the memory.

    Has no effect on evaluators other than COCO's, since these need not move the detections to the CPU first.
    """
    detector = getattr(model, "module", model)
    if not isinstance(evaluator, COCOEvaluator) or not hasattr(detector, "defers_masks"):
        yield
        return
    detector.defers_masks = True
    try:
        yield
    finally:
        detector.defers_masks = False


@torch.no_grad()
def broadcast_statistics(model: nn.Module) -> None:
    """Broadcast the normalization statistics of the main rank, which are those of the checkpoints.

    Without synchronized normalization, each rank would otherwise evaluate its images with its own statistics.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, 0)


def evaluate_checkpoint(
    cfg: Any, augmentation: TestTimeAugmentation | None = None, ensemble: Sequence[str] = ()
) -> dict:
    """Evaluate ``train.init_checkpoint`` (``--eval-only``).

    EMA weights are used if the checkpoint has any, unless ``train.model_ema.use_ema_weights_for_eval_only`` is False.

    Args:
        cfg: config of the model and of the test data.
        augmentation: views of each image, whose detections are fused; None for the image itself.
        ensemble: checkpoints and exported files of further models, whose detections are fused with those of the first.
    """
    loader = build(cfg, "dataloader.test")
    check_limits(cfg, loader, "test")
    test_sets = prepare_test_sets(cfg)
    model = load_trained_model(cfg)
    check_model_runs(cfg, model)
    if augmentation is not None or ensemble:
        fused = _fused_detector(cfg, model, augmentation, ensemble)
        return evaluate_test_sets(cfg, fused, loader, test_sets)
    return evaluate_test_sets(cfg, create_ddp_model(model, **ddp_options(cfg)), loader, test_sets)


def _fused_detector(
    cfg: Any, model: nn.Module, augmentation: TestTimeAugmentation | None, ensemble: Sequence[str]
) -> FusedDetector:
    """Return the model together with those of an ensemble; their classes must be those of the test data."""
    classes, device = list(required_classes(cfg, "test")), torch.device(cfg.train.device)
    skeleton = Skeleton.from_metadata(MetadataCatalog.get(_dataset_name(cfg, "test") or ""))
    runners: list[Runner] = [TorchRunner(TrainedModel(model, cfg, classes, skeleton), device)]
    for path in ensemble:
        if is_exported(path):
            runners.append(load_exported(path, "cpu" if device.type == "cpu" else "auto"))
        else:
            runners.append(TorchRunner(load_trained(path, device=str(device)), device))
    return FusedDetector(FusedRunner(runners, augmentation))


def load_trained_model(cfg: Any) -> nn.Module:
    """Build the model of a config with the weights of ``train.init_checkpoint`` and the classes of its test data.

    Call it after building the test loader, which registers the classes.

    Raises:
        DeimError: if no checkpoint is given, or it does not fit the model.
    """
    if not cfg.train.init_checkpoint:
        raise ConfigError("no weights to evaluate: set train.init_checkpoint=path/to/model.pth")
    model = build_model(cfg)
    load_for_inference(
        model,
        published.weights_path(cfg.train.recipe, cfg.train.init_checkpoint),
        use_ema=cfg.train.model_ema.use_ema_weights_for_eval_only,
        classes=dataset_classes(cfg, "test"),
    )
    return model
