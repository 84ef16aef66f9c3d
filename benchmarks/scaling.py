"""Expected throughput of training on several GPUs: formulas, and a simulation that checks them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from tabulate import tabulate
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.pipeline import mean_period, random_times, simulate
from deim.config import build, load_config
from deim.errors import ConfigError

# Gradients are sent in parts of this size while the backward pass continues; torch's default for `bucket_cap_mb`.
BUCKET_BYTES = 25 * 2**20
BYTES_PER_CHECKPOINT_PARAMETER = 16  # weights, EMA weights, and two moments of AdamW, all float32
COCO_IMAGES, COCO_TEST_IMAGES = 118_287, 5000
_SIMULATED_STEPS = 400
# Fields of Cluster by which times are divided.
_DIVISORS = {
    "gpus_per_node",
    "gpu_factor",
    "loader_rate",
    "inside_gbps",
    "between_gbps",
    "disk_gbps",
    "train_images",
    "test_batch",
    "eval_epochs",
}


@dataclass(frozen=True)
class Workload:
    """Training step of a model on one GPU, measured by `tools/benchmark.py train-step`.

    Args:
        name: label of the model.
        batch: images per GPU.
        host_ms: time of a step in which the host launches every kernel.
        gpu_ms: time of the same step with few launches (``train.cuda_graphs``), an upper bound of the time on the GPU.
        forward_ms: time of the forward pass.
        backward_ms: time of the backward pass, during which gradients are exchanged.
        parameters: number of trainable parameters.
        normalizations: number of batch normalization layers.
    """

    name: str
    batch: int
    host_ms: float
    gpu_ms: float
    forward_ms: float
    backward_ms: float
    parameters: int
    normalizations: int


# One H200 with bfloat16, as in docs/benchmarks.md, "On a GPU". The host launches as many kernels with 32 images as with 4.
WORKLOADS: Sequence[Workload] = (
    Workload("N", 4, 77, 53, 28, 33, 3_782_691, 79),
    Workload("S", 4, 102, 63, 37, 41, 10_321_875, 99),
    Workload("L", 4, 122, 85, 47, 54, 31_289_846, 169),
    Workload("S", 32, 102, 103, 33, 46, 10_321_875, 99),
)


@dataclass(frozen=True)
class Cluster:
    """Machines and settings of a run. Rates in GB/s are in 10^9 bytes.

    Args:
        gpus_per_node: GPUs per machine.
        gpu_factor: speed of the GPU relative to an H200.
        workers: data loader processes per GPU, each with a core of its own.
        loader_rate: images per second of one worker.
        loader_variation: standard deviation of the time to load one image, relative to its mean.
        extra_image_prob: probability that a rank makes one more image for its batch, the neighbor that mixup needs.
        inside_gbps: bus bandwidth of an all-reduce inside a machine, in GB/s.
        between_gbps: bus bandwidth of an all-reduce between machines, in GB/s.
        inside_message_us, between_message_us: time of an exchange of a few kilobytes, in microseconds.
        fp16_compression: ``train.ddp.fp16_compression``.
        sync_bn: ``train.sync_bn``.
        step_variation: standard deviation of the time of a step, relative to its mean.
        disk_gbps: rate of writing checkpoints, in GB/s.
        train_images, test_images: sizes of the datasets.
        test_batch: ``dataloader.test.total_batch_size``.
        eval_epochs: ``schedule.eval_epochs``.
        metrics_seconds: time of the COCO evaluation on the main rank, after all detections are gathered.
        checkpoints_per_epoch: number of checkpoints written per epoch: the periodic ones, and those of a new best AP.
    """

    gpus_per_node: int = 8
    gpu_factor: float = 1.0
    workers: int = 4
    loader_rate: float = 112.0
    loader_variation: float = 0.5
    extra_image_prob: float = 0.5
    inside_gbps: float = 50.0
    between_gbps: float = 12.5
    inside_message_us: float = 30.0
    between_message_us: float = 60.0
    fp16_compression: bool = False
    sync_bn: bool = True
    step_variation: float = 0.03
    disk_gbps: float = 0.2
    train_images: int = COCO_IMAGES
    test_images: int = COCO_TEST_IMAGES
    test_batch: int = 64
    eval_epochs: int = 1
    metrics_seconds: float = 4.0
    checkpoints_per_epoch: float = 1.25

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: if a value is negative, or zero where it divides.
        """
        for name, value in asdict(self).items():
            if value < 0 or (value == 0 and name in _DIVISORS):
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"scaling: {option} must be {'positive' if name in _DIVISORS else 'at least 0'}, got {value}"
                )


# {field of Cluster: help text of its option}
CLUSTER_OPTIONS = {
    "gpus_per_node": "GPUs per machine",
    "gpu_factor": "speed of the GPU relative to the measured one",
    "workers": "data loader processes per GPU, each with a core of its own",
    "loader_variation": "standard deviation of the time to load an image, relative to its mean",
    "extra_image_prob": "probability that mixup needs an image of another rank",
    "loader_rate": "images per second of one process, by `tools/benchmark.py dataloader --threads 1`",
    "inside_gbps": "bus bandwidth of an all-reduce inside a machine in GB/s, by all_reduce_perf of nccl-tests",
    "between_gbps": "bus bandwidth of an all-reduce between machines in GB/s",
    "inside_message_us": "time of a message of SyncBN inside a machine in microseconds",
    "between_message_us": "time of a message of SyncBN between machines in microseconds",
    "step_variation": "standard deviation of the time of a step, relative to its mean",
    "disk_gbps": "rate of writing checkpoints in GB/s",
    "train_images": "number of training images",
    "test_images": "number of test images",
    "test_batch": "dataloader.test.total_batch_size",
    "eval_epochs": "schedule.eval_epochs",
    "checkpoints_per_epoch": "checkpoints written per epoch",
    "metrics_seconds": "time of the COCO evaluation in seconds, by `tools/benchmark.py evaluator`",
}


@dataclass(frozen=True)
class Prediction:
    """Time of a step of several GPUs, in seconds, and of the other work of an epoch.

    Args:
        loading: time in which the workers of a rank load one batch.
        host: time in which the host launches the step.
        gpu: time of the step on the GPU.
        gradients: part of the exchange of gradients after the backward pass.
        normalization: exchange of the statistics of synchronized batch normalization.
        waiting: mean time in which ranks wait for the slowest rank.
        step: time between two steps.
        steps_per_epoch: number of steps of an epoch.
        evaluation, checkpoints: time per epoch.
    """

    loading: float
    host: float
    gpu: float
    gradients: float
    normalization: float
    waiting: float
    step: float
    steps_per_epoch: int
    evaluation: float
    checkpoints: float

    @property
    def compute(self) -> float:
        """Time of a step of one GPU that never waits."""
        return max(self.host, self.gpu)

    @property
    def busy(self) -> float:
        """Time of a step whose batch is already loaded."""
        return self.compute + self.gradients + self.normalization + self.waiting

    @property
    def epoch(self) -> float:
        return self.steps_per_epoch * self.step + self.evaluation + self.checkpoints

    @property
    def efficiency(self) -> float:
        """Time of the steps of an epoch if nothing but their computation took time, relative to the time of the epoch."""
        return self.steps_per_epoch * self.compute / self.epoch

    @property
    def limit(self) -> str:
        """What takes most of a step: the data loader, the launches by the host, or the GPU."""
        if self.loading > self.busy:
            return "data loader"
        return "host" if self.host > self.gpu else "GPU"

    def losses(self) -> dict[str, float]:
        """Return {cause: share of the time of an epoch that it takes in addition to computation}."""
        steps = self.steps_per_epoch / self.epoch
        others = {
            "gradients": self.gradients * steps,
            "SyncBN": self.normalization * steps,
            "waiting for ranks": self.waiting * steps,
        }
        loader = (self.step - self.compute) * steps - sum(others.values())
        return others | {
            "data loader": max(loader, 0.0),
            "evaluation": self.evaluation / self.epoch,
            "checkpoints": self.checkpoints / self.epoch,
        }


def all_reduce_bytes(parameters: int, gpus: int, fp16_compression: bool) -> float:
    """Return the bytes that each GPU sends per step to sum the gradients in a ring."""
    return 2 * (gpus - 1) / gpus * parameters * (2 if fp16_compression else 4)


def exposed_exchange(exchange: float, parameters: int, backward: float) -> float:
    """Return the time from the end of the backward pass to the end of the exchange of gradients, in seconds.

    The exchange of each part starts when the backward pass has computed it, and the previous part has been sent.

    Args:
        exchange: time of the exchange of all gradients in seconds.
        parameters: number of trainable parameters.
        backward: time of the backward pass in seconds.
    """
    parts = math.ceil(4 * parameters / BUCKET_BYTES)
    return max(exchange / parts, backward / parts + exchange - backward)


def largest_of(ranks: int) -> float:
    """Return the expected maximum of ``ranks`` standard normal values, by Blom's approximation."""
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def measured_workload(recipe: str, batch: int, path: str) -> Workload:
    """Return the workload of a recipe, measured by `tools/benchmark.py train-step --json`.

    Without a measurement of ``train.cuda_graphs``, all of the step counts as time on the GPU.

    Args:
        recipe: name of the recipe.
        batch: number of images per step of the measurement.
        path: file written by the measurement.

    Raises:
        ConfigError: if the file cannot be read, or is not of this measurement.
    """
    try:
        rows = {row["run"]: row for row in json.loads(Path(path).read_text(encoding="utf-8"))["rows"]}
        plain = rows["deim"]
        graphs = next((row for name, row in rows.items() if "train.cuda_graphs=" in name), plain)
        host_ms, gpu_ms = plain["step, ms"], graphs["step, ms"]
        forward_ms, backward_ms = plain["forward, ms"], plain["backward, ms"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a result of `tools/benchmark.py train-step --json` ({error!r}): write it with "
            "`python tools/benchmark.py train-step --device cuda --amp bfloat16 --json FILE`"
        ) from error
    model = build(load_config(recipe), "model")
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    normalizations = sum(isinstance(module, _BatchNorm) for module in model.modules())
    name = Path(recipe).stem
    return Workload(name, batch, host_ms, gpu_ms, forward_ms, backward_ms, parameters, normalizations)


def predict(workload: Workload, cluster: Cluster, gpus: int) -> Prediction:
    """Return the expected times of a training run on a number of GPUs.

    Raises:
        ConfigError: if the number of GPUs is not positive.
    """
    if gpus < 1:
        raise ConfigError(f"scaling: the number of GPUs must be positive, got {gpus}")
    is_one_node = gpus <= cluster.gpus_per_node
    rate, message = (
        (cluster.inside_gbps, cluster.inside_message_us)
        if is_one_node
        else (cluster.between_gbps, cluster.between_message_us)
    )
    host, gpu = workload.host_ms / 1e3, workload.gpu_ms / 1e3 / cluster.gpu_factor
    compute = max(host, gpu)
    gradients = normalization = 0.0
    if gpus > 1:
        sent = all_reduce_bytes(workload.parameters, gpus, cluster.fp16_compression)
        backward = workload.backward_ms / (workload.backward_ms + workload.forward_ms)
        gradients = exposed_exchange(sent / (rate * 1e9), workload.parameters, backward * compute)
        # one message in each direction
        normalization = 2 * workload.normalizations * message / 1e6 if cluster.sync_bn else 0.0
    waiting = largest_of(gpus) * cluster.step_variation * compute
    busy = compute + gradients + normalization + waiting
    # The neighbor of the first image of a rank belongs to another rank.
    loading = (workload.batch + cluster.extra_image_prob * (gpus > 1)) / cluster.loader_rate
    if cluster.workers:
        loading /= cluster.workers
    return Prediction(
        loading=loading,
        host=host,
        gpu=gpu,
        gradients=gradients,
        normalization=normalization,
        waiting=waiting,
        step=max(loading, busy) if cluster.workers else loading + busy,
        steps_per_epoch=max(cluster.train_images // (gpus * workload.batch), 1),
        evaluation=_evaluation_seconds(workload, cluster, gpus) / cluster.eval_epochs,
        checkpoints=cluster.checkpoints_per_epoch
        * workload.parameters
        * BYTES_PER_CHECKPOINT_PARAMETER
        / (cluster.disk_gbps * 1e9),
    )


def _evaluation_seconds(workload: Workload, cluster: Cluster, gpus: int) -> float:
    """Return the time of an evaluation; a batch takes the forward pass of training or the loading of its images.

    The share of the GPU in the forward pass grows with the batch, and that of the host does not.
    """
    batch = max(cluster.test_batch // gpus, 1)
    gpu_share = workload.gpu_ms / cluster.gpu_factor / max(workload.host_ms, workload.gpu_ms)
    forward = workload.forward_ms / 1e3 * max(gpu_share * batch / workload.batch, 1)
    loading = batch / cluster.loader_rate / max(cluster.workers, 1)
    return math.ceil(cluster.test_images / (gpus * batch)) * max(forward, loading) + cluster.metrics_seconds


def simulated_step(workload: Workload, cluster: Cluster, gpus: int, steps: int = _SIMULATED_STEPS) -> float:
    """Return the mean time of a step of :func:`simulate`, in seconds, with the times of :func:`predict`."""
    expected = predict(workload, cluster, gpus)
    per_worker = expected.loading * max(cluster.workers, 1)
    loading = random_times(per_worker, cluster.loader_variation / workload.batch**0.5, (gpus, steps), seed=0)
    computing = random_times(expected.compute, cluster.step_variation, (gpus, steps), seed=1)
    ends = simulate(loading, computing + expected.gradients + expected.normalization, cluster.workers)
    return mean_period(ends, warmup=steps // 4)


def cores_per_gpu(workload: Workload, cluster: Cluster, gpus: int) -> float:
    """Return the number of data loader workers per GPU that load as fast as the GPU trains."""
    expected = predict(workload, cluster, gpus)
    return expected.loading * max(cluster.workers, 1) / expected.compute


def table_row(workload: Workload, cluster: Cluster, gpus: int) -> dict[str, Any]:
    """Return the expected and simulated throughput of a workload, and what reduces the throughput."""
    expected = predict(workload, cluster, gpus)
    cause, share = max(expected.losses().items(), key=lambda item: item[1])
    return {
        "model": workload.name,
        "batch": workload.batch,
        "GPUs": gpus,
        "step, ms": 1e3 * expected.step,
        "simulated, ms": 1e3 * simulated_step(workload, cluster, gpus),
        "images/s": round(workload.batch * gpus / expected.step),
        "cores/GPU": cores_per_gpu(workload, cluster, gpus),
        "epoch, s": expected.epoch,
        "efficiency, %": 100 * expected.efficiency,
        "limit": expected.limit,
        "largest loss": f"{cause} ({share:.0%})" if share > 0 else "",
    }


def parts_row(workload: Workload, cluster: Cluster, gpus: int) -> dict[str, Any]:
    """Return the parts of a step in milliseconds, and the other parts of an epoch in seconds."""
    expected = predict(workload, cluster, gpus)
    times = {
        "loader, ms": 1e3 * expected.loading,
        "host, ms": 1e3 * expected.host,
        "GPU, ms": 1e3 * expected.gpu,
        "gradients, ms": 1e3 * expected.gradients,
        "SyncBN, ms": 1e3 * expected.normalization,
        "waiting, ms": 1e3 * expected.waiting,
        "evaluation, s": expected.evaluation,
        "checkpoints, s": expected.checkpoints,
    }
    return {"model": workload.name, "batch": workload.batch, "GPUs": gpus, **times}


def run(workloads: Sequence[Workload], cluster: Cluster, gpus: Sequence[int], path: str | None) -> None:
    """Print the expected throughput of every workload on every number of GPUs, and the parts of a step.

    Args:
        workloads: measured steps.
        cluster: machines and settings.
        gpus: numbers of GPUs.
        path: JSON file for constants and results; None for none.

    Raises:
        ConfigError: if a number of GPUs is not positive.
    """
    cases = [(workload, cluster, count) for workload in workloads for count in gpus]
    parts, rows = [parts_row(*case) for case in cases], [table_row(*case) for case in cases]
    for table in (parts, rows):
        print(tabulate(table, headers="keys", tablefmt="github", floatfmt=".4g"), end="\n\n")
    if path is not None:
        constants = {"cluster": asdict(cluster), "workloads": [asdict(workload) for workload in workloads]}
        results = [part | row for part, row in zip(parts, rows, strict=True)]
        Path(path).write_text(json.dumps(constants | {"rows": results}, indent=2) + "\n", encoding="utf-8")
