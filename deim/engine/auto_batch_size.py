"""Choice of the batch size for ``dataloader.train.total_batch_size=auto``."""

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest import mock

import torch
import torch.distributed as dist
from detectron2.config import LazyConfig
from detectron2.structures import Instances
from detectron2.utils import comm

from deim.checkpoint.reading import read_checkpoint
from deim.config import build
from deim.config.batch_size import AUTO
from deim.data.loader import TrainLoader
from deim.data.sampler import seeded_generators
from deim.data.staged import StagedMapper
from deim.devices import PRECISIONS
from deim.engine.freezing import freeze_modules
from deim.engine.initial_state import unfreeze_random_backbone
from deim.engine.model import build_model
from deim.engine.out_of_memory import DeviceMemoryError
from deim.engine.performance.activation_checkpointing import checkpoint_activations
from deim.engine.trainer import split_batch
from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")

# Batch size over all ranks on a CPU, where memory is not the limit.
CPU_BATCH_SIZE = 8
# Learning rates are scaled in proportion to the batch size, which holds only near the reference.
MAX_REFERENCE_RATIO = 4
# Smallest number of iterations per epoch.
MIN_ITERATIONS = 10
# Part of the free memory that a step may use. The rest is for fragmentation and for larger numbers of objects.
MEMORY_FRACTION = 0.85


class MemoryProbe(Protocol):
    """Function that returns whether a training step with a number of images per rank fits into the memory.

    Attributes:
        num_images: number of images of the training data.
    """

    num_images: int

    def __call__(self, size: int) -> bool: ...


def resolve_batch_size(
    cfg: Any, checkpoint: str | None = None, probe: Callable[[Any], MemoryProbe] | None = None
) -> None:
    """Replace ``dataloader.train.total_batch_size=auto`` by a number, in place and the same on all ranks.

    On a GPU, this is the largest batch of which a training step fits into the memory, at most ``MAX_REFERENCE_RATIO``
    times ``train.reference_batch_size`` and small enough for ``MIN_ITERATIONS`` iterations per epoch. Other devices
    use ``CPU_BATCH_SIZE``.

    Args:
        cfg: config of the run.
        checkpoint: checkpoint that the run resumes from, whose batch size is used.
        probe: returns the probe of a config; by default :class:`StepProbe`.

    Raises:
        ConfigError: if the memory of a step cannot be measured with this config.
        DeviceMemoryError: if not even one image fits.
    """
    if cfg.dataloader.train.total_batch_size != AUTO:
        return
    world_size = comm.get_world_size()
    stored = stored_batch_size(checkpoint)
    if stored is not None:
        size, reason = stored, f"the batch size of {checkpoint}"
    elif torch.device(cfg.train.device).type != "cuda" and probe is None:
        size, reason = max(CPU_BATCH_SIZE // world_size, 1) * world_size, f"the default on {cfg.train.device}"
    else:
        size, reason = _measure(cfg, probe or StepProbe, world_size)
    cfg.dataloader.train.total_batch_size = size
    logger.info(f"dataloader.train.total_batch_size={size}: {reason}")
    if comm.is_main_process():
        # default_setup has saved the config with "auto"
        LazyConfig.save(cfg, os.path.join(cfg.train.output_dir, "config.yaml"))


def stored_batch_size(checkpoint: str | None) -> int | None:
    """Return the batch size of the run that wrote a checkpoint; None if it is unknown or there is no checkpoint."""
    return None if checkpoint is None else read_checkpoint(checkpoint)["trainer"].get("total_batch_size")


def _measure(cfg: Any, probe: Callable[[Any], MemoryProbe], world_size: int) -> tuple[int, str]:
    """Return the largest batch size over all ranks, and how it was found."""
    if cfg.train.get("cuda_graphs"):
        raise ConfigError(
            "dataloader.train.total_batch_size=auto cannot be combined with train.cuda_graphs, whose memory it does not "
            "measure: set a number"
        )
    cfg.dataloader.train.total_batch_size = world_size  # the loader needs a number
    fits = probe(cfg)
    limit, reason = _limit(cfg, fits.num_images, world_size)
    share = min(comm.all_gather(largest_batch_size(fits, limit)))
    # Activation checkpointing makes reference cycles, which would keep the memory of the trial during the run.
    del fits
    gc.collect()
    if share < 1:
        raise DeviceMemoryError(
            "dataloader.train.total_batch_size=auto: a training step with one image per rank does not fit into the memory: "
            "reduce dataloader.image_size, or set train.activation_checkpointing=[backbone,encoder,decoder]"
        )
    if share < limit:
        reason = f"{share} images per rank are the most that fit into the memory of the device"
    return share * world_size, reason


def _limit(cfg: Any, num_images: int, world_size: int) -> tuple[int, str]:
    """Return the largest batch size per rank to consider, at least 1, and the reason for this limit."""
    limits = {num_images // MIN_ITERATIONS: f"an epoch of {num_images} images has {MIN_ITERATIONS} iterations"}
    if cfg.train.reference_batch_size is not None:
        limit = MAX_REFERENCE_RATIO * cfg.train.reference_batch_size
        limits[limit] = f"{MAX_REFERENCE_RATIO} times train.reference_batch_size"
    limit = min(limits)
    return max(limit // world_size, 1), limits[limit]


def largest_batch_size(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest batch size up to ``limit`` that fits, or 0.

    Powers of two are tried in ascending order. Between the last that fits and the first that does not, three
    intermediate sizes are considered.
    """
    fitting, too_large = 0, limit + 1
    for exponent in range(limit.bit_length()):
        if not fits(2**exponent):
            too_large = 2**exponent
            break
        fitting = 2**exponent
    step = max(fitting // 4, 1)
    between = [size for size in range(fitting + step, 2 * fitting, step) if size < too_large]
    if fitting < limit < too_large and limit not in between:
        between.append(limit)
    while between:
        middle = len(between) // 2
        if fits(between[middle]):
            fitting, between = between[middle], between[middle + 1 :]
        else:
            between = between[:middle]
    return fitting


class StepProbe:
    """Training steps of a throw-away model on a GPU, with the largest images of the run and many objects.

    Call it with a number of images: it returns whether a step fits into ``MEMORY_FRACTION`` of the memory that was free.
    The random numbers of the run are not affected. Ranks do not communicate, because each tries its own sizes.

    Args:
        cfg: config of the run, with a number as batch size.

    Attributes:
        num_images: number of images of the training data.

    Raises:
        ConfigError: if the data loader does not state the sizes of its images.
    """

    def __init__(self, cfg: Any):
        self.device = torch.device(cfg.train.device)
        loader = build(cfg, "dataloader.train")
        self.sample, self.num_images = worst_sample(loader), len(loader.dataset)
        free, _ = torch.cuda.mem_get_info(self.device)
        self.budget = MEMORY_FRACTION * (free + torch.cuda.memory_reserved(self.device))
        with self._own_random_numbers():
            self.trial = TrialTraining(cfg)

    def __call__(self, size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            with self._own_random_numbers(), without_communication():
                self.trial.step([self.sample] * size)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_allocated(self.device) <= self.budget

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        with seeded_generators(0, 0), torch.random.fork_rng(devices=[self.device]):
            yield


@contextmanager
def without_communication() -> Iterator[None]:
    """Let criteria and normalization layers, also those of detrex, compute as in a run with one rank.

    They average over the ranks if there is a process group. A rank whose trial step fails would then block the others.
    """
    with mock.patch.object(dist, "is_initialized", return_value=False):
        yield


class TrialTraining:
    """Model, optimizer and EMA weights of a run, for steps whose only purpose is to measure their memory.

    Args:
        cfg: config of the run.
    """

    def __init__(self, cfg: Any):
        self.cfg = cfg
        self.model = build_model(cfg)
        unfreeze_random_backbone(cfg, self.model)
        freeze_modules(self.model, cfg.train.freeze)
        checkpoint_activations(self.model, cfg.train.get("activation_checkpointing", []))
        self.model.train()
        cfg.optimizer.params.model = self.model
        self.optimizer = build(cfg, "optimizer")
        cfg.optimizer.params.model = None
        # EMA weights, and the gradients that DistributedDataParallel stores a second time
        self.copies = [value.clone() for value in [*self.model.state_dict().values(), *self.model.parameters()]]

    def step(self, samples: list[dict]) -> None:
        train = self.cfg.train
        dtype = PRECISIONS[train.amp.dtype] if train.amp.enabled else None
        self.optimizer.zero_grad()
        for part, share in split_batch(samples, train.accumulation_steps):
            with torch.autocast(torch.device(train.device).type, dtype, enabled=dtype is not None):
                losses = self.model(part)
            (sum(losses.values()) * share).backward()
        self.optimizer.step()


def worst_sample(loader: Any) -> dict:
    """Return the image with the most objects in the largest image size, with the objects of a mosaic if there are any.

    Args:
        loader: training loader.

    Raises:
        ConfigError: if the loader does not state the sizes of its images.
    """
    mapper = loader.dataset.mapper if isinstance(loader, TrainLoader) else None
    if not isinstance(mapper, StagedMapper) or mapper.resize is not None:
        raise ConfigError(
            "dataloader.train.total_batch_size=auto needs images of known sizes (a StagedMapper without resize): set a number"
        )
    counts = torch.as_tensor(loader.objects_per_image).float()
    shape = max(mapper.shapes, key=lambda size: size[0] * size[1])
    with seeded_generators(0, 0):
        sample = mapper.plain_mapper(shape)(loader.dataset.records[int(counts.argmax())])
    count = int(counts.max() + (3 * counts.mean() if mapper.mosaic is not None else 0))
    instances = sample["instances"]
    if len(instances):
        instances = Instances.cat([instances] * -(-count // len(instances)))[:count]
    return {**sample, "instances": instances}
