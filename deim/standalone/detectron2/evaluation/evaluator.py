"""Evaluators, and the evaluation loop over a dataset."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import MutableSequence
from contextlib import ExitStack, contextmanager

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

__all__ = ["DatasetEvaluator", "DatasetEvaluators", "inference_context", "inference_on_dataset"]


class DatasetEvaluator:
    """Base class of evaluators. :meth:`process` collects outputs of a model, and :meth:`evaluate` evaluates them."""

    def reset(self):
        """Discard all collected outputs, before a new evaluation."""

    def process(self, inputs, outputs):
        """Collect the inputs and outputs of the model for one batch."""

    def evaluate(self):
        """Return ``{task: {metric: value}}`` on rank 0."""


class DatasetEvaluators(DatasetEvaluator):
    """A combination of several evaluators."""

    def __init__(self, evaluators):
        self._evaluators = evaluators

    def process(self, inputs, outputs):
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def reset(self):
        for evaluator in self._evaluators:
            evaluator.reset()

    def evaluate(self):
        joined = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if not is_main_process() or result is None:
                continue
            if joined.keys() & result.keys():
                raise AssertionError(f"Different evaluators produce the same keys {joined.keys() & result.keys()}")
            joined.update(result)
        return joined


class _PhaseTimer:
    """Timer for the phases of the loop, in seconds."""

    def __init__(self):
        self.restart()

    def restart(self):
        self.start = self._lap = time.perf_counter()
        self.seconds = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}

    def lap(self, phase):
        now = time.perf_counter()
        self.seconds[phase] += now - self._lap
        self._lap = now

    def total(self):
        return time.perf_counter() - self.start


def inference_on_dataset(model, data_loader, evaluator, callbacks=None):
    """Run a model in eval mode over a dataset, evaluate its outputs, and log progress and speed.

    Args:
        model: a module or a function.
        data_loader: iterable of batches with a known length.
        evaluator: an evaluator, a list of evaluators, or None to measure only the speed.
        callbacks: {name: function without arguments} for on_start, before_inference, after_inference, on_end.

    Returns:
        The results of the evaluator, or an empty dict if it returns None.
    """
    if evaluator is None:
        evaluator = DatasetEvaluators([])
    elif isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator)
    evaluator.reset()
    call = {"on_start": None, "before_inference": None, "after_inference": None, "on_end": None, **(callbacks or {})}
    logger = logging.getLogger(__name__)
    total = len(data_loader)
    logger.info(f"Start inference on {total} batches")
    warmup = min(5, total - 1)
    timer = _PhaseTimer()
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        if call["on_start"]:
            call["on_start"]()
        for index, inputs in enumerate(data_loader):
            if index == warmup:
                timer.restart()
            timer.lap("Dataloading")
            if call["before_inference"]:
                call["before_inference"]()
            outputs = model(inputs)
            if call["after_inference"]:
                call["after_inference"]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            timer.lap("Inference")
            evaluator.process(inputs, outputs)
            timer.lap("Eval")
            counted = index + 1 - warmup * (index >= warmup)
            if index >= warmup * 2 or timer.seconds["Inference"] / counted > 5:
                _log_progress(timer, index + 1, total, counted)
        if call["on_end"]:
            call["on_end"]()
    compute = timer.seconds["Inference"]
    for quantity, seconds, displayed_seconds in (
        ("time", timer.total(), timer.total()),
        ("pure compute time", compute, int(compute)),
    ):
        logger.info(
            f"Total inference {quantity}: {datetime.timedelta(seconds=displayed_seconds)} "
            f"({seconds / (total - warmup):.6f} s / iter per device, on {get_world_size()} devices)"
        )
    results = evaluator.evaluate()
    return {} if results is None else results


def _log_progress(timer: _PhaseTimer, num_batches: int, total: int, counted: int) -> None:
    per_iter = timer.total() / counted
    phases = " ".join(f"{phase}: {seconds / counted:.4f} s/iter." for phase, seconds in timer.seconds.items())
    eta = datetime.timedelta(seconds=int(per_iter * (total - num_batches)))
    log_every_n_seconds(
        logging.INFO, f"Inference done {num_batches}/{total}. {phases} Total: {per_iter:.4f} s/iter. ETA={eta}", n=5
    )


@contextmanager
def inference_context(model):
    """Set a model to eval mode within the context; afterwards, set it and all its modules to the former mode of the model."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
