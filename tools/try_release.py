#!/usr/bin/env python
"""Test the installed deim in an empty folder: generate a dataset, train, predict, write a report, and export.

python tools/try_release.py
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

# Config overrides for a short training run on the CPU.
SMALL_RUN = [
    "model.decoder.queries.num_queries=20",
    "dataloader.image_size=[64,64]",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.max_iter=4",
    "train.eval_period=4",
    "train.device=cpu",
    "train.output_dir=run",
]


def deim(folder: Path, *arguments: str) -> None:
    """Run the ``deim`` command of this Python environment in ``folder``."""
    print("$ deim", *arguments, flush=True)
    subprocess.run([str(Path(sys.executable).parent / "deim"), *arguments], cwd=folder, check=True)


def check_release(folder: Path, export: bool) -> None:
    """Run the subcommands in ``folder`` and exit with an error if an output file is missing."""

    deim(folder, "env")
    deim(folder, "make-shapes", "shapes", "--train-images", "16", "--val-images", "4", "--size", "96")
    deim(folder, "train", "--config-file", "deim_dfine/deim_dfine_n_shapes", "--data", "shapes", *SMALL_RUN)
    deim(folder, "predict", "run/model_final.pth", "shapes/val", "--output", "predictions", "--threshold", "0")
    deim(folder, "report", "run")
    expected = ["run/model_final.pth", "run/report.html", "predictions/images"]
    if export:
        deim(folder, "export", "run/model_final.pth", "--output", "detector.onnx")
        expected.append("detector.onnx")
    for name in expected:
        if not (folder / name).exists():
            sys.exit(f"{name} was not written")
    print("the installed deim trains, predicts, reports" + (" and exports" if export else ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", action="store_true", help="also export to ONNX; requires deim[export]")
    with tempfile.TemporaryDirectory() as name:
        check_release(Path(name), parser.parse_args().export)
