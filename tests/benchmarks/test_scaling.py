"""Formulas for training on several GPUs agree with the simulation, and the simulation with torch's data loader."""

import argparse
import json
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from benchmarks import cli, pipeline, scaling
from deim.errors import ConfigError

SMALL = scaling.Workload("S", 4, 102, 63, 37, 41, 10_321_875, 99)
CLUSTER = scaling.Cluster()


@pytest.mark.parametrize("gpus", [1, 8, 64])
@pytest.mark.parametrize(
    ("batch", "loader_rate", "bound", "limits"),
    [
        (4, 112.0, 0.02, {"host"}),  # the host launches more slowly than the workers load
        (32, 30.0, 0.06, {"data loader"}),  # the workers load more slowly than the GPU trains
        # Both take about as long, so that ranks also wait for single slow batches.
        (32, 78.0, 0.10, {"data loader", "host"}),
    ],
)
def test_formula_agrees_with_simulation(
    batch: int, loader_rate: float, bound: float, limits: set[str], gpus: int
) -> None:
    workload, cluster = replace(SMALL, batch=batch), replace(CLUSTER, loader_rate=loader_rate)
    expected = scaling.predict(workload, cluster, gpus)
    assert scaling.simulated_step(workload, cluster, gpus) == pytest.approx(expected.step, rel=bound)
    assert expected.limit in limits


def test_without_workers_loading_and_computing_alternate() -> None:
    cluster = replace(CLUSTER, workers=0, loader_variation=0.0, step_variation=0.0)
    expected = scaling.predict(SMALL, cluster, 1)
    assert expected.step == pytest.approx(4 / 112 + 0.102)
    assert scaling.simulated_step(SMALL, cluster, 1) == pytest.approx(expected.step)


def test_equal_times() -> None:
    steps = np.full((2, 50), 1.0)
    assert pipeline.mean_period(pipeline.simulate(3 * steps, steps, workers=2), 10) == pytest.approx(1.5)
    assert pipeline.mean_period(pipeline.simulate(steps, 2 * steps, workers=2), 10) == pytest.approx(2)
    # A worker loads its next batch while the rank computes.
    assert pipeline.simulate(steps, steps, workers=1)[:3].tolist() == [2, 3, 4]


def test_a_rank_waits_for_the_slowest() -> None:
    computing = np.array([[1.0, 5.0, 1.0], [3.0, 1.0, 1.0]])
    assert pipeline.simulate(np.zeros((2, 3)), computing, workers=1).tolist() == [3, 8, 9]


def test_prefetched_batches_hide_a_slow_batch() -> None:
    loading, computing = np.full((1, 40), 0.1), np.ones((1, 40))
    loading[0, 20] = 4.0
    delays = [pipeline.simulate(loading, computing, workers, 2)[-1] - 40.1 for workers in (1, 2)]
    # The batch is assigned 2 or 4 steps before the rank takes it.
    assert delays == pytest.approx([2, 0])


@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_largest_of_normal_values(ranks: int) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, ranks)).max(axis=1)
    assert scaling.largest_of(ranks) == pytest.approx(values.mean(), abs=0.03)


def test_exchange_of_gradients() -> None:
    assert scaling.all_reduce_bytes(1000, 8, fp16_compression=False) == 7000
    assert scaling.all_reduce_bytes(1000, 8, fp16_compression=True) == 3500
    assert scaling.all_reduce_bytes(1000, 1, fp16_compression=False) == 0
    four_parts = scaling.BUCKET_BYTES  # parameters of four bytes each
    # Parts of 0.1 s: each is sent while the next is computed, or only the first is sent before the end of the backward pass.
    assert scaling.exposed_exchange(0.4, four_parts, backward=0.8) == pytest.approx(0.1)
    assert scaling.exposed_exchange(0.4, four_parts, backward=0.04) == pytest.approx(0.37)


def test_effects_of_settings() -> None:
    base = scaling.predict(SMALL, CLUSTER, 64)
    assert base.gradients > scaling.predict(SMALL, replace(CLUSTER, fp16_compression=True), 64).gradients
    assert scaling.predict(SMALL, replace(CLUSTER, sync_bn=False), 64).normalization == 0
    assert scaling.predict(SMALL, replace(CLUSTER, gpu_factor=0.5), 64).limit == "GPU"
    assert scaling.predict(SMALL, replace(CLUSTER, eval_epochs=5), 64).evaluation == pytest.approx(base.evaluation / 5)
    one = scaling.predict(SMALL, CLUSTER, 1)
    assert one.gradients == one.normalization == one.waiting == 0
    for gpus in (1, 8, 64):
        expected = scaling.predict(SMALL, CLUSTER, gpus)
        assert expected.efficiency + sum(expected.losses().values()) == pytest.approx(1)


class SleepingDataset(Dataset):
    """Dataset whose items take a given time to load, without using the CPU."""

    def __init__(self, seconds: np.ndarray):
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, index: int) -> int:
        time.sleep(self.seconds[index])
        return index


@pytest.mark.parametrize(("loading", "computing"), [(0.12, 0.02), (0.05, 0.06)])
def test_simulation_agrees_with_a_real_data_loader(loading: float, computing: float) -> None:
    workers, steps, warmup = 2, 24, 4
    seconds = pipeline.random_times(loading, 0.5, (1, steps), seed=0)
    ends = []
    for _ in DataLoader(SleepingDataset(seconds[0]), batch_size=1, num_workers=workers):
        time.sleep(computing)
        ends.append(time.perf_counter())
    simulated = pipeline.simulate(seconds, np.full((1, steps), computing), workers)
    measured = pipeline.mean_period(np.array(ends), warmup)
    assert measured == pytest.approx(pipeline.mean_period(simulated, warmup), rel=0.25)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"run": "deim", "step, ms": 100.0, "forward, ms": 40.0, "backward, ms": 40.0},
        {"run": "deim, train.cuda_graphs=True", "step, ms": 60.0, "forward, ms": 20.0, "backward, ms": 20.0},
    ]
    (tmp_path / "step.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    arguments = ["--recipe=deim_dfine/deim_dfine_n_coco", "--images=8", "--gpus", "8", "--workers=2", "--no-sync-bn"]
    files = [f"--train-step={tmp_path / 'step.json'}", f"--json={tmp_path / 'scaling.json'}"]
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    cli.run(parser.parse_args(["scaling", *arguments, *files]))
    assert "efficiency, %" in capsys.readouterr().out
    saved = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    assert saved["workloads"][0]["host_ms"] == 100
    assert saved["workloads"][0]["gpu_ms"] == 60
    assert saved["workloads"][0]["normalizations"] == 79
    assert saved["cluster"]["workers"] == 2
    assert saved["rows"][0]["SyncBN, ms"] == 0
    assert saved["rows"][0]["images/s"] == round(64e3 / saved["rows"][0]["step, ms"])


def test_every_constant_has_an_option() -> None:
    switches = {"fp16_compression", "sync_bn"}
    assert {field.name for field in fields(CLUSTER)} == scaling.CLUSTER_OPTIONS.keys() | switches


def test_invalid_values_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--loader-rate must be positive"):
        replace(CLUSTER, loader_rate=0.0)
    with pytest.raises(ConfigError, match="--workers must be at least 0"):
        replace(CLUSTER, workers=-1)
    with pytest.raises(ConfigError, match="number of GPUs must be positive"):
        scaling.predict(SMALL, CLUSTER, 0)
    (tmp_path / "step.json").write_text('{"rows": [{"run": "deim"}]}', encoding="utf-8")
    with pytest.raises(ConfigError, match="is not a result of `tools/benchmark"):
        scaling.measured_workload("deim_dfine/deim_dfine_n_coco", 4, str(tmp_path / "step.json"))
