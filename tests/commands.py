"""Command-line tools and short training runs in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

RECIPE = "projects/deim_dfine/configs/deim_dfine_n_shapes.py"
SMALL = [
    "model.decoder.queries.num_queries=20",
    "dataloader.image_size=[64,64]",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.log_period=1",
]


def data_overrides(shapes: Path) -> list[str]:
    overrides = []
    for key, split in (("train", "train"), ("test", "val")):
        node = f"dataloader.{key}.dataset"
        overrides.append(f"{node}.json_file={shapes}/annotations/instances_{split}.json")
        overrides.append(f"{node}.image_root={shapes}/{split}")
    return overrides


def tool(name: str, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, f"tools/{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def train_arguments(shapes: Path, output: Path, *arguments: str, config: str = RECIPE) -> list[str]:
    """What follows ``tools/train_net.py`` for a short run."""
    flags = [a for a in arguments if a.startswith("--")]
    values = [a for a in arguments if not a.startswith("--")]
    return [
        "--config-file",
        config,
        *flags,
        *SMALL,
        *data_overrides(shapes),
        f"train.output_dir={output}",
        *values,
    ]


def train_net(
    shapes: Path, output: Path, *arguments: str, config: str = RECIPE, **options
) -> subprocess.CompletedProcess:
    return tool("train_net.py", *train_arguments(shapes, output, *arguments, config=config), **options)


def metrics(output: Path, name: str = "total_loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.json").read_text(encoding="utf-8").splitlines()]
    return {line["iteration"]: line[name] for line in lines if name in line}
