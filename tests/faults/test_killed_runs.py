"""A run that is killed and resumed in every stage ends with the weights of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.conftest import ROOT
from tests.test_train_net import train_arguments, train_net

# 24 images in batches of 4: six iterations per epoch.
SETTINGS = [
    "schedule.epochs=8",
    "schedule.dense_epochs=[2,4]",
    "schedule.flat_epochs=2",
    "schedule.no_aug_epochs=2",
    "schedule.final_from_best=true",
    "schedule.final_ema_decay=0.9",
    "schedule.eval_epochs=1",
    "schedule.checkpoint_epochs=1",
    "train.model_ema.decay=0.9",
    "train.model_ema.warmup_iters=5",
    # the generators of the model's own noise are not saved
    "model.decoder.denoising.label_noise_ratio=0.0",
    "model.decoder.denoising.box_noise_scale=0.0",
    "dataloader.train.num_workers=1",
]
KILLED_AT = {"plain": 9, "dense": 16, "strong": 28, "final": 39}


def last_iteration(output: Path) -> int:
    file = output / "metrics.json"
    lines = file.read_text().splitlines() if file.is_file() else []
    return max((json.loads(line)["iteration"] for line in lines if line.endswith("}")), default=-1)


def run_until(shapes: Path, output: Path, iteration: int) -> None:
    arguments = [sys.executable, "tools/train_net.py", *train_arguments(shapes, output, "--resume", *SETTINGS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        limit = time.monotonic() + 300
        while last_iteration(output) < iteration:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)


def test_killed_and_resumed_in_every_stage(shapes: Path, tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    done = train_net(shapes, whole, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert "Started from the best weights before the final epochs" in done.stdout
    for iteration in KILLED_AT.values():
        run_until(shapes, pieces, iteration)
    done = train_net(shapes, pieces, "--resume", *SETTINGS)
    assert done.returncode == 0, done.stderr
    for key in ("model", "ema_state"):
        a, b = (torch.load(d / "model_final.pth", weights_only=True)[key] for d in (whole, pieces))
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_two_processes_start_the_final_epochs_together(shapes: Path, tmp_path: Path) -> None:
    done = train_net(shapes, tmp_path, "--num-gpus=2", *SETTINGS, "schedule.epochs=4")
    assert done.returncode == 0, done.stderr
    assert "Started from the best weights before the final epochs" in done.stdout
    assert last_iteration(tmp_path) >= 23
