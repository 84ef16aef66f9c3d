"""Batch size that the run chooses: search, limits, samples of the trial steps, scaling, resume."""

import logging
import weakref
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from detectron2.config import LazyConfig
from detectron2.utils import comm
from omegaconf import OmegaConf

from deim.config import build, load_config
from deim.config.batch_size import scale_to_batch_size
from deim.data.inspection import batches_from_epoch
from deim.engine import auto_batch_size
from deim.engine.auto_batch_size import (
    StepProbe,
    TrialTraining,
    largest_batch_size,
    resolve_batch_size,
    without_communication,
    worst_sample,
)
from deim.engine.out_of_memory import DeviceMemoryError
from deim.engine.preflight import check_settings
from deim.errors import ConfigError
from tests.commands import SMALL, data_overrides
from tests.conftest import ROOT

RECIPE = str(ROOT / "projects/deimv2/configs/deimv2_hgnetv2_atto_shapes.py")
AUTO = "dataloader.train.total_batch_size=auto"


class Probe:
    """Probe of a device that has enough memory for ``capacity`` images."""

    def __init__(self, capacity: int, num_images: int = 10**6):
        self.capacity, self.num_images, self.tried = capacity, num_images, []

    def __call__(self, size: int) -> bool:
        self.tried.append(size)
        return size <= self.capacity


@pytest.mark.parametrize(
    ("capacity", "limit", "expected"),
    [
        (0, 64, 0),
        (1, 64, 1),
        (3, 64, 3),
        (11, 64, 10),
        (47, 64, 40),
        (48, 64, 48),
        (500, 64, 64),
        (500, 50, 50),
        (9, 9, 9),
    ],
)
def test_search_finds_the_largest_size(capacity: int, limit: int, expected: int) -> None:
    probe = Probe(capacity)
    assert largest_batch_size(probe, limit) == expected
    assert len(probe.tried) <= limit.bit_length() + 3
    assert max(probe.tried) <= limit


def config(tmp_path: Path, *overrides: str) -> Any:
    """Return the recipe with an automatic batch size, and its own batch size of 8 as reference."""
    return load_config(RECIPE, [AUTO, f"train.output_dir={tmp_path}", "train.device=cpu", *overrides])


def test_largest_batch_scales_the_learning_rate(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    recipe = load_config(RECIPE)
    cfg = config(tmp_path)
    check_settings(cfg, training=True)
    assert cfg.train.reference_batch_size == recipe.dataloader.train.total_batch_size == 8
    resolve_batch_size(cfg, probe=lambda _: Probe(21))
    assert cfg.dataloader.train.total_batch_size == 20
    assert "total_batch_size=20: 20 images per rank are the most that fit" in caplog.text
    assert LazyConfig.load(str(tmp_path / "config.yaml")).dataloader.train.total_batch_size == 20
    assert scale_to_batch_size(cfg, iters_per_epoch=None)
    assert cfg.optimizer.lr == pytest.approx(recipe.optimizer.lr * 20 / 8)


@pytest.mark.parametrize(
    ("overrides", "num_images", "expected", "reason"),
    [
        ([], 10**6, 32, "4 times train.reference_batch_size"),
        ([], 160, 16, "an epoch of 160 images has 10 iterations"),
        ([], 3, 1, "an epoch of 3 images"),
        (["train.reference_batch_size=16"], 10**6, 64, "4 times"),
        (["train.reference_batch_size=null"], 10**4, 1000, "an epoch of 10000 images"),
    ],
)
def test_limits(tmp_path: Path, caplog, overrides: list[str], num_images: int, expected: int, reason: str) -> None:
    caplog.set_level(logging.INFO)
    cfg = config(tmp_path, *overrides)
    resolve_batch_size(cfg, probe=lambda _: Probe(10**6, num_images))
    assert cfg.dataloader.train.total_batch_size == expected
    assert reason in caplog.text


def test_memory_of_the_trial_is_freed(tmp_path: Path) -> None:
    probes = [Probe(21)]
    probes[0].itself = probes[0]
    reference = weakref.ref(probes[0])
    resolve_batch_size(config(tmp_path), probe=lambda _: probes.pop())
    assert reference() is None


def test_all_ranks_use_the_smallest_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_comm = SimpleNamespace(
        get_world_size=lambda: 4, all_gather=lambda value: [value, 3, 7, 5], is_main_process=lambda: True
    )
    monkeypatch.setattr(auto_batch_size, "comm", fake_comm)
    cfg = config(tmp_path)
    resolve_batch_size(cfg, probe=lambda _: Probe(100))
    assert cfg.dataloader.train.total_batch_size == 12
    cfg = config(tmp_path)
    resolve_batch_size(cfg)
    assert cfg.dataloader.train.total_batch_size == 8, "without a GPU, the default is divided among the ranks"


def test_resumed_run_keeps_its_batch_size(tmp_path: Path) -> None:
    torch.save({"model": {}, "trainer": {"total_batch_size": 6}}, tmp_path / "model_0000001.pth")
    cfg = config(tmp_path)
    resolve_batch_size(cfg, str(tmp_path / "model_0000001.pth"), probe=lambda _: Probe(100))
    assert cfg.dataloader.train.total_batch_size == 6


def test_numbers_are_unchanged(tmp_path: Path) -> None:
    cfg = load_config(RECIPE, [f"train.output_dir={tmp_path}"])
    resolve_batch_size(cfg, probe=lambda _: Probe(1))
    assert cfg.dataloader.train.total_batch_size == 8
    assert cfg.train.reference_batch_size is None
    assert not list(tmp_path.iterdir())


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DeviceMemoryError, match="one image per rank does not fit"):
        resolve_batch_size(config(tmp_path), probe=lambda _: Probe(0))
    with pytest.raises(ConfigError, match="cuda_graphs"):
        resolve_batch_size(config(tmp_path, "train.cuda_graphs=true"), probe=lambda _: Probe(1))
    with pytest.raises(ConfigError, match="must be a number"):
        load_config(RECIPE, ["dataloader.train.total_batch_size=big"])


def test_trial_step_has_the_largest_images_and_many_objects(shapes: Path) -> None:
    """The trial itself runs on any device; only its memory is measured on a GPU."""
    overrides = ["dataloader.image_size=[160,160]", "dataloader.train.mapper.multi_scale_repeat=3"]
    cfg = load_config(RECIPE, [*SMALL, *data_overrides(shapes), "train.device=cpu", *overrides])
    loader = build(cfg, "dataloader.train")
    sample = worst_sample(loader)
    largest = max(loader.shapes)
    assert largest > tuple(cfg.dataloader.image_size)
    assert tuple(sample["image"].shape) == (3, *largest)
    counts = loader.objects_per_image
    assert len(sample["instances"]) == int(counts.max() + 3 * counts.mean())
    trial = TrialTraining(cfg)
    trial.step([sample] * 2)
    assert trial.optimizer.state
    assert cfg.optimizer.params.model is None


def test_probe_compares_the_memory_of_a_step_with_the_free_memory(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of n images takes n units of memory; 100 units are free, and the device has 120."""
    used = [0.0]

    def step(self: TrialTraining, samples: list[dict]) -> None:
        if len(samples) > 120:
            raise torch.OutOfMemoryError("CUDA out of memory")
        used.append(len(samples))

    fakes = {"mem_get_info": (90, 120), "memory_reserved": 10, "empty_cache": None, "reset_peak_memory_stats": None}
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: used[-1])
    monkeypatch.setattr(torch.random, "fork_rng", lambda **_: nullcontext())
    monkeypatch.setattr(TrialTraining, "step", step)
    probe = StepProbe(load_config(RECIPE, [*SMALL, *data_overrides(shapes), "train.device=cpu"]))
    assert probe.num_images == 24
    assert [probe(size) for size in (1, 85, 86, 120, 121)] == [True, True, False, False, False]


def test_images_of_unknown_sizes_are_an_error() -> None:
    with pytest.raises(ConfigError, match="known sizes"):
        worst_sample(OmegaConf.create())


def test_other_users_of_the_loader_need_a_number(shapes: Path) -> None:
    cfg = load_config(RECIPE, [*data_overrides(shapes), AUTO])
    with pytest.raises(ConfigError, match="total_batch_size=auto: only deim train chooses the batch size"):
        next(batches_from_epoch(cfg, 0))


def _try_steps(rank: int, address: str, overrides: list[str]) -> None:
    """Rank 1 tries one batch size fewer than rank 0."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    cfg = load_config(RECIPE, overrides)
    trial, sample = TrialTraining(cfg), worst_sample(build(cfg, "dataloader.train"))
    with without_communication():
        assert comm.get_world_size() == 1
        for size in range(1, 3 - rank):
            trial.step([sample] * size)
    assert comm.all_gather(rank) == [0, 1]
    dist.destroy_process_group()


@pytest.mark.usefixtures("several_processes")
def test_ranks_try_different_numbers_of_steps(shapes: Path, tmp_path: Path) -> None:
    """A collective in a trial step would wait for the other rank."""
    overrides = [*SMALL, *data_overrides(shapes), "train.device=cpu"]
    torch.multiprocessing.spawn(_try_steps, ((tmp_path / "store").as_uri(), overrides), nprocs=2)
