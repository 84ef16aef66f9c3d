"""Training runs of this project and of the official DEIM code with the same settings, timed from outside."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.utils.env import seed_all_rng

from benchmarks.official_code import OFFICIAL, config_path
from deim.config import build, load_config
from deim.conversion.conversion import convert
from deim.errors import DeimError
from deim.processes import deim_environment

ROOT = Path(__file__).resolve().parents[1]
# Last lines of the output of a failed run that the error message repeats.
_QUOTED_LINES = 15


@dataclass(frozen=True)
class Settings:
    """Settings of a run that both codes are given. The learning rate is constant after its warm-up.

    Attributes:
        recipe: recipe of a DEIM-D-FINE model without multi-scale training, such as "deim_dfine/deim_dfine_n_coco".
        data: folder with ``instances_train.json`` and ``instances_val.json`` in COCO format.
        image_root: folder that the names of the images are relative to.
        size: side of the square images in pixels, a multiple of 64.
        epochs: number of epochs; an evaluation follows each of them.
        final_epochs: number of epochs without augmentation at the end, which start from the best weights.
        dense_epochs: (start, end) of Dense O2O; the end is exclusive.
        batch_size: images per step.
        learning_rate: learning rate of encoder and decoder.
        backbone_rate: learning rate of the backbone.
        warmup_iters: iterations of the (quadratic) warm-up.
        ema_decay: decay of the EMA.
        ema_warmup: time constant of its warm-up in iterations.
        workers: processes of the data loader.
        initial_weights: checkpoint of this project's code to start from; None for random weights, which differ by seed.
    """

    recipe: str
    data: str
    image_root: str
    size: int
    epochs: int
    final_epochs: int
    dense_epochs: tuple[int, int]
    batch_size: int
    learning_rate: float
    backbone_rate: float
    warmup_iters: int
    ema_decay: float
    ema_warmup: int
    workers: int
    initial_weights: str | None = None

    def split_file(self, split: str) -> Path:
        """Return the annotation file of a split."""
        return Path(self.data).resolve() / f"instances_{split}.json"

    def classes(self) -> list[str]:
        """Return the names of the classes in the order of their ids."""
        categories = json.loads(self.split_file("train").read_text(encoding="utf-8"))["categories"]
        return [category["name"] for category in sorted(categories, key=lambda category: category["id"])]


@dataclass(frozen=True)
class Point:
    """Result of an evaluation on the validation images.

    Attributes:
        epoch: number of epochs before it.
        seconds: training time before it, without evaluations and without the start of the program.
        ap: AP in percent.
    """

    epoch: int
    seconds: float
    ap: float


class Code(ABC):
    """Code that is trained: its files, command and results.

    Attributes:
        name: name in tables.
        started, evaluating, evaluated: patterns of lines of the output: training starts, an evaluation starts, and the
            evaluation has ended.
    """

    name: str
    started: str
    evaluating: str
    evaluated: str

    @abstractmethod
    def prepare(self, settings: Settings, start: Path, folder: Path, seed: int) -> list[str]:
        """Write the files of a run to ``folder`` and return its command.

        Args:
            start: checkpoint of this project's code with the weights to start from.
        """

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the environment variables of the command."""

    @abstractmethod
    def scores(self, folder: Path) -> list[float]:
        """Return the AP of every evaluation in percent."""

    @abstractmethod
    def best_checkpoint(self, folder: Path) -> Path:
        """Return the checkpoint with the highest AP on the validation images."""


class DeimCode(Code):
    """This project."""

    name = "deim"
    started = r"Starting training from iteration 0"
    evaluating = r"Start inference on \d+ batches"
    evaluated = r"copypaste: [\d.]+,"

    def prepare(self, settings: Settings, start: Path, folder: Path, seed: int) -> list[str]:
        command = [sys.executable, str(ROOT / "tools" / "train_net.py"), f"--config-file={settings.recipe}"]
        data = [f"--data={settings.data}", f"--image-root={settings.image_root}"]
        overrides = [
            *(f"{key}={value}" for key, value in our_settings(settings).items()),
            f"train.init_checkpoint={start}",
            f"train.output_dir={folder}",
            f"train.seed={seed}",
        ]
        return [*command, *data, "--overwrite", *overrides]

    def environment(self) -> dict[str, str]:
        return deim_environment()

    def scores(self, folder: Path) -> list[float]:
        lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
        return [row["bbox/AP"] for row in map(json.loads, lines) if "bbox/AP" in row]

    def best_checkpoint(self, folder: Path) -> Path:
        return folder / "model_best.pth"


class OfficialCode(Code):
    """Official DEIM code in a checkout.

    Args:
        checkout: the checkout, which is not modified.
        python: Python interpreter with the packages that the code requires.
    """

    name = OFFICIAL
    started = r"-Start training-"
    evaluating = r"^Test:"
    evaluated = r"^best_stat:"

    def __init__(self, checkout: str, python: str):
        self.checkout, self.python = Path(checkout).resolve(), python

    def prepare(self, settings: Settings, start: Path, folder: Path, seed: int) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            write_zero_based(settings.split_file(split), folder / f"{split}.json")
        config = {"__include__": [str(config_path(str(self.checkout), settings.recipe))]}
        config |= official_settings(settings, folder)
        file, weights = folder / "config.yml", folder / "start.pth"
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        convert(str(start), str(weights), to="dfine", recipe=settings.recipe, image_size=[settings.size] * 2)
        options = ["-c", str(file), "-t", str(weights), "--device=cpu", f"--seed={seed}", f"--output-dir={folder}"]
        return [self.python, str(self.checkout / "train.py"), *options]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def scores(self, folder: Path) -> list[float]:
        lines = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
        return [100 * json.loads(line)["test_coco_eval_bbox"][0] for line in lines]

    def best_checkpoint(self, folder: Path) -> Path:
        final = folder / "best_stg2.pth"  # exists if the final epochs exceeded the best earlier result
        return final if final.exists() else folder / "best_stg1.pth"


def our_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings as config overrides of this project."""
    dense = ",".join(map(str, settings.dense_epochs))
    loaders = {
        "dataloader.train.total_batch_size": settings.batch_size,
        "dataloader.train.num_workers": settings.workers,
        "dataloader.train.mapper.mosaic.tile_size": settings.size // 2,
        "dataloader.test.total_batch_size": settings.batch_size,
        "dataloader.test.num_workers": settings.workers,
        "dataloader.image_size": f"[{settings.size},{settings.size}]",
    }
    schedule = {
        "epochs": settings.epochs,
        "no_aug_epochs": settings.final_epochs,
        "dense_epochs": f"[{dense}]",
        "warmup_iters": settings.warmup_iters,
        "eval_epochs": 1,
        "checkpoint_epochs": 1,
    }
    training = {
        "device": "cpu",
        "reference_batch_size": "null",
        "model_ema.decay": settings.ema_decay,
        "model_ema.warmup_iters": settings.ema_warmup,
        "report": "False",
    }
    return (
        loaders
        | {f"schedule.{key}": value for key, value in schedule.items()}
        | {f"train.{key}": value for key, value in training.items()}
        | {"optimizer.lr": settings.learning_rate, "optimizer.params.rules.backbone.lr": settings.backbone_rate}
    )


def official_settings(settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the settings as entries of an official config, which replace those of the recipe's config.

    Args:
        folder: folder with ``train.json`` and ``val.json``, in which class ids count from 0.
    """
    side, half = settings.size, settings.size // 2
    first_final = settings.epochs - settings.final_epochs
    resize = {"type": "Resize", "size": [side, side]}
    to_tensor = {"type": "ConvertPILImage", "dtype": "float32", "scale": True}
    no_small = {"type": "SanitizeBoundingBoxes", "min_size": 1}
    mosaic = {"type": "Mosaic", "output_size": half, "rotation_range": 10, "translation_range": [0.1, 0.1]}
    mosaic |= {"scaling_range": [0.5, 1.5], "probability": 1.0, "fill_value": 0, "use_cache": False}
    operations = [
        mosaic | {"max_cached_images": 50, "random_pop": True},
        {"type": "RandomPhotometricDistort", "p": 0.5},
        {"type": "RandomZoomOut", "fill": 0},
        {"type": "RandomIoUCrop", "p": 0.8},
        no_small,
        {"type": "RandomHorizontalFlip"},
        resize,
        no_small,
        to_tensor,
        {"type": "ConvertBoxes", "fmt": "cxcywh", "normalize": True},
    ]
    policy = {"epoch": [*settings.dense_epochs, first_final]}
    shared = {"num_workers": settings.workers, "total_batch_size": settings.batch_size}

    def dataset(split: str, transforms: dict[str, Any]) -> dict[str, Any]:
        files = {"img_folder": str(Path(settings.image_root).resolve()), "ann_file": str(folder / f"{split}.json")}
        return files | {"transforms": transforms}

    collate: dict[str, Any] = {"base_size": side, "base_size_repeat": None, "stop_epoch": first_final}
    collate["mixup_epochs"] = list(settings.dense_epochs)
    weight_free = {"weight_decay": 0.0}
    groups = [
        {"params": "^(?=.*backbone)(?!.*norm|bn).*$", "lr": settings.backbone_rate},
        {"params": "^(?=.*backbone)(?=.*norm|bn).*$", "lr": settings.backbone_rate} | weight_free,
        {"params": "^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn|bias)).*$"} | weight_free,
    ]
    return {
        "num_classes": len(settings.classes()),
        "remap_mscoco_category": False,
        "epoches": settings.epochs,
        "no_aug_epoch": settings.final_epochs,
        "warmup_iter": settings.warmup_iters,
        "eval_spatial_size": [side, side],
        "use_amp": False,
        "sync_bn": False,
        "checkpoint_freq": 10**6,
        "ema": {"decay": settings.ema_decay, "warmups": settings.ema_warmup},
        "HGNetv2": {"pretrained": False},
        "optimizer": {"params": groups, "lr": settings.learning_rate},
        "train_dataloader": shared
        | {"dataset": dataset("train", {"ops": operations, "policy": policy}), "collate_fn": collate},
        "val_dataloader": shared | {"dataset": dataset("val", {"ops": [resize, to_tensor]})},
    }


def write_zero_based(source: Path, target: Path) -> None:
    """Write a COCO file with class ids that count from 0: the official code uses ids as class indices."""
    content = json.loads(source.read_text(encoding="utf-8"))
    order = sorted(category["id"] for category in content["categories"])
    for category in content["categories"]:
        category["id"] = order.index(category["id"])
    for annotation in content["annotations"]:
        annotation["category_id"] = order.index(annotation["category_id"])
    target.write_text(json.dumps(content), encoding="utf-8")


def write_start(settings: Settings, seed: int, target: Path) -> None:
    """Write the weights that both codes start from.

    Raises:
        DeimError: if ``settings.initial_weights`` does not have the shapes of the model.
    """
    config = load_config(settings.recipe)
    config.model.num_classes = len(settings.classes())
    if "weights" in config.model.backbone:
        config.model.backbone.weights = ""
    seed_all_rng(seed)
    model = build(config, "model")
    if settings.initial_weights is not None:
        stored = torch.load(settings.initial_weights, map_location="cpu", weights_only=True)["model"]
        own = model.state_dict()
        fitting = {key: value for key, value in stored.items() if key in own and own[key].shape == value.shape}
        if not fitting:
            raise DeimError(f"{settings.initial_weights} has no weights of {settings.recipe}")
        model.load_state_dict(own | fitting)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, target)


class TrainingClock:
    """Clock that runs while a program trains, and stands still during evaluations, as its output tells.

    Args:
        code: has the patterns of the output.
        now: returns the time in seconds.
    """

    def __init__(self, code: Code, now: Callable[[], float] = time.perf_counter):
        self.code, self.now = code, now
        self.elapsed, self.evaluations = 0.0, list[float]()
        self._since: float | None = None
        self._is_training = False

    def read(self, lines: Iterable[str]) -> None:
        """Read the output of the program until it ends."""
        for line in lines:
            if not self._is_training:
                if re.search(self.code.started, line):
                    self._is_training, self._since = True, self.now()
            elif self._since is not None:
                if re.search(self.code.evaluating, line):
                    self.elapsed += self.now() - self._since
                    self._since = None
                    self.evaluations.append(self.elapsed)
            elif re.search(self.code.evaluated, line):
                self._since = self.now()


def train(code: Code, settings: Settings, start: Path, folder: Path, seed: int) -> list[Point]:
    """Train one run from the start, and return its evaluations. Files of an earlier run in the folder are deleted.

    Raises:
        DeimError: if the program fails, or its output and its results have different numbers of evaluations.
    """
    if folder.exists():  # of an interrupted run, whose evaluations would count: the official code appends to its log
        shutil.rmtree(folder)
    command = code.prepare(settings, start, folder, seed)
    output = folder.with_suffix(".log")
    clock = TrainingClock(code)
    with (
        output.open("w", buffering=1, encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env=code.environment() | {"PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None

        def lines() -> Iterable[str]:
            for line in process.stdout or ():
                log.write(line)
                yield line

        clock.read(lines())
    if process.returncode:
        last = "".join(output.read_text(encoding="utf-8").splitlines(keepends=True)[-_QUOTED_LINES:])
        raise DeimError(
            f"{' '.join(command)} failed with status {process.returncode}; the last lines of {output}:\n{last}"
        )
    scores = code.scores(folder)
    if len(scores) != settings.epochs or len(clock.evaluations) != settings.epochs:
        raise DeimError(
            f"{output}: expected {settings.epochs} evaluations, found {len(clock.evaluations)} in the output and "
            f"{len(scores)} results"
        )
    return [Point(n, t, ap) for n, (t, ap) in enumerate(zip(clock.evaluations, scores, strict=True), 1)]
