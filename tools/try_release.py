#!/usr/bin/env python
"""Train a few steps with the deim that is installed, from a folder without a checkout, and predict with what comes out.

python tools/try_release.py
"""

import argparse
import tempfile
from pathlib import Path

import deim
from deim import Predictor, model_zoo
from deim.config import load_config
from deim.data.datasets.shapes import write_shapes
from deim.engine.run import train


def try_in(folder: Path) -> None:
    for _ in write_shapes(folder / "shapes", train_images=16, val_images=4, size=96):
        pass
    overrides = [
        *("train.max_iter=4", "train.eval_period=4", "train.device=cpu", f"train.output_dir={folder}"),
        *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
    ]
    cfg = load_config("deim_dfine/deim_dfine_n_shapes", overrides, str(folder / "shapes"))
    train(cfg)
    found = Predictor(folder / "model_final.pth", threshold=0.0).predict(folder / "shapes" / "val")
    print(f"deim {deim.__version__} in {Path(deim.__file__).parent}: {len(model_zoo.available())} recipes; trained 4 steps, "
          f"and looked at {len(found)} images")  # fmt: skip


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name:
        try_in(Path(name))
