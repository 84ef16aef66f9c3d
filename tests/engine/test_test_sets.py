"""Several test sets, a part of the training data as a test set, and evaluation after a number of minutes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import MetadataCatalog
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.events import EventWriter
from torch import nn

from deim.checkpoint.run_checkpointer import RunCheckpointer
from deim.config import build, load_config
from deim.config.test_sets import extra_test_configs, split_test_sets
from deim.data import coco_dataset
from deim.data.datasets.shapes import write_shapes
from deim.data.datasets.subset import evenly_spaced_images
from deim.engine import Trainer, evaluation
from deim.engine.evaluation import ExtraTestSet, evaluate_test_sets, prepare_test_sets
from deim.engine.hooks import BestCheckpointer, MetricsWriter, TimedEvaluationHook, timed_evaluation
from deim.errors import ConfigError, DatasetError
from tests.commands import SMALL, data_overrides, metrics, train_net
from tests.conftest import ROOT

RECIPE = "projects/deimv2/configs/deimv2_hgnetv2_atto_shapes.py"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate a second dataset."""
    folder = tmp_path_factory.mktemp("night") / "night_shapes"
    for _ in write_shapes(folder, train_images=2, val_images=3, size=96, seed=7):
        pass
    return folder


def config(shapes: Path, output: Path, *overrides: str) -> Any:
    paths = [f"train.output_dir={output}", "train.device=cpu"]
    return load_config(str(ROOT / RECIPE), [*SMALL, *data_overrides(shapes), *paths, *overrides])


def dataset_node(folder: Path, split: str, name: str) -> Any:
    return L(coco_dataset)(
        names=name, json_file=f"{folder}/annotations/instances_{split}.json", image_root=f"{folder}/{split}"
    )


def test_extra_tests_have_their_own_dataset_and_evaluator(shapes: Path, night: Path, tmp_path: Path) -> None:
    cfg = config(shapes, tmp_path, f"+dataloader.extra_tests.path={night}")
    assert extra_test_configs(config(shapes, tmp_path)) == {}
    cfg.dataloader.extra_tests.node = dataset_node(night, "train", "night_train")
    cfg.dataloader.extra_tests.loader = {**cfg.dataloader.test, "total_batch_size": 2}
    cfg.dataloader.extra_tests.loader.dataset = dataset_node(night, "val", "night_val")
    cfg.optimizer.params.model = model = nn.Linear(1, 1)
    parts = extra_test_configs(cfg)
    assert list(parts) == ["path", "node", "loader"]
    assert [len(build(part, "dataloader.test").dataset) for part in parts.values()] == [3, 2, 3]
    names = [part.dataloader.evaluator.dataset_name for part in parts.values()]
    assert names == ["night_shapes_path", "night_train", "night_val"]
    assert [part.dataloader.test.total_batch_size for part in parts.values()] == [20, 20, 2]
    assert len({part.dataloader.evaluator.output_dir for part in parts.values()}) == 3
    assert cfg.dataloader.test.dataset.names == "deim_shapes_val"
    assert cfg.optimizer.params.model is model


LISTED = """
from deim.config import load_config

cfg = load_config("{recipe}", {overrides})
dataloader, train, model, optimizer = (cfg[name] for name in ("dataloader", "train", "model", "optimizer"))
names = ["deim_shapes_val", "n_val", "n_train"]
dataloader.test = [{{**dataloader.test, "dataset": {{**dataloader.test.dataset, "names": name}}}} for name in names]
del cfg
"""


def test_list_or_dict_of_loaders(shapes: Path, tmp_path: Path) -> None:
    """Configs may list loaders, as ``DATASETS.TEST`` of detectron2 lists datasets."""
    text = LISTED.format(recipe=ROOT / RECIPE, overrides=[*SMALL, *data_overrides(shapes)])
    (tmp_path / "listed.py").write_text(text, encoding="utf-8")
    cfg = load_config(str(tmp_path / "listed.py"))
    assert cfg.dataloader.test.dataset.names == "deim_shapes_val"
    parts = extra_test_configs(cfg)
    assert list(parts) == ["n_val", "n_train"]
    assert [part.dataloader.evaluator.dataset_name for part in parts.values()] == ["n_val", "n_train"]
    cfg.dataloader.test = {"a": cfg.dataloader.extra_tests.n_val, "b": cfg.dataloader.test}
    cfg.dataloader.extra_tests = {}
    split_test_sets(cfg)
    assert cfg.dataloader.test.dataset.names == "n_val"
    assert {name: part.dataloader.test.dataset.names for name, part in extra_test_configs(cfg).items()} == {
        "b": "deim_shapes_val"
    }


@pytest.mark.parametrize("names", [[], ["same", "same"]])
def test_invalid_lists_are_errors(shapes: Path, tmp_path: Path, names: list[str]) -> None:
    cfg = config(shapes, tmp_path)
    cfg.dataloader.test = [{**cfg.dataloader.test, "dataset": dataset_node(shapes, "val", name)} for name in names]
    with pytest.raises(ConfigError, match="different names"):
        split_test_sets(cfg)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("+dataloader.extra_tests.bbox=/data", ConfigError, "name of a task"),
        ("+dataloader.extra_tests.mine=3", ConfigError, "must be the path of a dataset"),
        ("+dataloader.extra_tests.mine=/no/such/folder", DatasetError, "extra_tests.mine: /no/such/folder"),
        ("train.eval_train_images=-1", ConfigError, "at least 1"),
    ],
)
def test_invalid_test_sets_are_errors(
    shapes: Path, tmp_path: Path, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        extra_test_configs(config(shapes, tmp_path, override))


def test_classes_must_be_those_of_the_main_test_set(shapes: Path, night: Path, tmp_path: Path) -> None:
    content = json.loads((night / "annotations/instances_val.json").read_text(encoding="utf-8"))
    names = [category["name"] for category in content["categories"]]
    for category, name in zip(content["categories"], names[::-1], strict=True):
        category["name"] = name
    (tmp_path / "other.json").write_text(json.dumps(content))
    cfg = config(shapes, tmp_path)
    cfg.dataloader.extra_tests.other = L(coco_dataset)(
        names="other_classes", json_file=str(tmp_path / "other.json"), image_root=str(night / "val")
    )
    build(cfg, "dataloader.test")
    with pytest.raises(DatasetError, match=r"extra_tests\.other has other classes"):
        prepare_test_sets(cfg)


def test_part_of_the_training_images(shapes: Path) -> None:
    records = build(load_config(str(ROOT / RECIPE), data_overrides(shapes)), "dataloader.train.dataset")
    part = evenly_spaced_images("part_of_shapes", records, "deim_shapes_train", 5)
    assert [record["image_id"] for record in part] == [records[i]["image_id"] for i in (0, 4, 9, 14, 19)]
    assert MetadataCatalog.get("part_of_shapes").thing_classes == MetadataCatalog.get("deim_shapes_train").thing_classes
    whole = evenly_spaced_images("whole_shapes", records, "deim_shapes_train", 1000)
    assert [record["image_id"] for record in whole] == [record["image_id"] for record in records]


def test_metrics_have_the_name_of_the_test_set(shapes: Path, night: Path, tmp_path: Path) -> None:
    """The main test set is that of the extra one, so that both have the same results."""
    names = [f"dataloader.{key}.dataset.names=night_{key}" for key in ("train", "test")]
    cfg = config(night, tmp_path, *names, f"+dataloader.extra_tests.night={night}", "train.eval_train_images=2")
    build(cfg, "dataloader.train")
    loader = build(cfg, "dataloader.test")
    torch.manual_seed(0)
    model = build(cfg, "model").eval()
    results = flatten_results_dict(evaluate_test_sets(cfg, model, loader, prepare_test_sets(cfg)))
    assert {"bbox/AP50", "night/bbox/AP50", "train/bbox/AP50"} <= set(results)
    assert results["bbox/AP50"] == results["night/bbox/AP50"]
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["night", "train"]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, samples: list) -> dict:
        return {"loss": self.weight * 1.0}


def test_loaders_are_used_by_all_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = []

    def evaluate(cfg: Any, model: nn.Module, loader: Any = None) -> dict:
        loaders.append(loader)
        return {}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    for _ in range(2):
        evaluate_test_sets(None, Model(), "main loader", {"night": ExtraTestSet(None, "loader of night")})
    assert loaders == ["main loader", "loader of night"] * 2


def test_evaluation_after_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration takes 3 seconds; the periodic evaluation follows every 70 iterations."""
    trainer = Trainer(Model(), [[{}]] * 200, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
    monkeypatch.setattr(timed_evaluation.time, "monotonic", lambda: 3.0 * trainer.iter)
    evaluated = []

    def evaluate() -> dict:
        evaluated.append(trainer.iter)
        return {"bbox": {"AP": float(trainer.iter)}}

    class Writer(EventWriter):
        def __init__(self) -> None:
            self.lines: list[int] = []

        def write(self) -> None:
            self.lines.append(trainer.iter)

    lines = Writer()
    best = BestCheckpointer(70, RunCheckpointer(trainer.model, str(tmp_path), trainer=trainer), "bbox/AP")
    writer = MetricsWriter([lines], 1000, 70, str(tmp_path / "metrics.json"))
    hook = TimedEvaluationHook(2, evaluate, eval_period=70, best_checkpointer=best, metrics_writer=writer)
    trainer.register_hooks([best, hook, writer])
    trainer.train(0, 200)
    # Every 20 iterations the hook looks at the clock; 40 iterations are 2 minutes. 69 and 139 are periodic evaluations.
    assert evaluated == [59, 119, 179]
    assert lines.lines[:5] == [59, 69, 119, 139, 179]
    assert json.loads((tmp_path / "model_best.json").read_text()) == {"value": 179.0, "iteration": 179}


def test_minutes_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="eval_minutes"):
        TimedEvaluationHook(0, dict, eval_period=1, best_checkpointer=None, metrics_writer=None)


@pytest.mark.long
def test_run_with_all_evaluations_and_early_stopping(shapes: Path, night: Path, tmp_path: Path) -> None:
    done = train_net(
        shapes,
        tmp_path / "run",
        f"+dataloader.extra_tests.night={night}",
        "train.best_metric=night/bbox/AP",
        "train.eval_train_images=4",
        "train.eval_minutes=0.001",
        "train.early_stopping.enabled=true",
        "train.early_stopping.patience=1",
        "train.early_stopping.min_delta=99",
        "train.freeze=[backbone]",
        "dataloader.train.repeat_threshold=1.0",
        "schedule.epochs=12",
        "schedule.eval_epochs=2",
        "schedule.no_aug_epochs=4",
        "schedule.flat_epochs=1",
        config=RECIPE,
    )
    assert done.returncode == 0, done.stderr
    assert "skipping from iteration" in done.stdout
    assert "ending the run after iteration" in done.stdout
    extra = metrics(tmp_path / "run", "night/bbox/AP")
    assert (
        extra.keys() == metrics(tmp_path / "run", "train/bbox/AP").keys() == metrics(tmp_path / "run", "bbox/AP").keys()
    )
    assert len(metrics(tmp_path / "run")) < max(extra) + 1, "skipped iterations have no metrics"
