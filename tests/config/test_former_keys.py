"""Renamed config keys: the former names still work on the command line and in config files, with a warning."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.utils.registry import locate
from omegaconf import OmegaConf

from deim.config import build, is_on, load_config, with_deim_loss
from deim.config.former_keys import rename_former_keys
from deim.config.portable import from_portable, to_portable
from deim.errors import ConfigError
from deim.modeling.losses import DetrexCriterion
from tests.commands import RECIPE
from tests.data.test_datasets import write_yolo

# Former key -> (present key, value on the command line).
RENAMED_KEYS = {
    "train.non_finite_steps_allowed": ("train.max_non_finite_steps", 7),
    "train.reference_images": ("train.reference_dataset_size", 7),
    "train.warn_of_plateau": ("train.plateau_warning", False),
    "optimizer.params.rules.undecayed.pattern": ("optimizer.params.rules.no_weight_decay.pattern", "bias"),
    "dataloader.train.unreadable_images_allowed": ("dataloader.train.max_unreadable_images", 7),
    "dataloader.train.image_cache_gigabytes": ("dataloader.train.image_cache_gb", 0.5),
    "dataloader.train.mapper.always.0.prob": ("dataloader.train.mapper.weak.0.prob", 0.25),
    "dataloader.train.mapper.colour.0.prob": ("dataloader.train.mapper.color.0.prob", 0.25),
    "dataloader.train.dataset.name": ("dataloader.train.dataset.names", "mine"),
    "dataloader.test.dataset.name": ("dataloader.test.dataset.names", "mine"),
}


@pytest.mark.parametrize("former", RENAMED_KEYS)
def test_former_keys_work_on_the_command_line(former: str, caplog: pytest.LogCaptureFixture) -> None:
    present, value = RENAMED_KEYS[former]
    cfg = load_config(RECIPE, [f"{former}={value}"])
    assert OmegaConf.select(cfg, present) == value
    assert OmegaConf.select(cfg, former) is None
    assert "is deprecated: it has been renamed to" in caplog.text


def test_former_keys_can_be_added_on_the_command_line(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(RECIPE, ["+dataloader.train.dataset.problems_allowed=3"])
    assert cfg.dataloader.train.dataset.max_invalid_records == 3
    assert "dataset.problems_allowed is deprecated: it has been renamed to dataloader.train.dataset.max" in caplog.text


def test_former_keys_work_in_a_config_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.py").write_text(
        f"""
from detectron2.config import LazyConfig
_base = LazyConfig.load({RECIPE!r})
train, model, optimizer, schedule, lr_multiplier, dataloader = (
    _base[key] for key in ("train", "model", "optimizer", "schedule", "lr_multiplier", "dataloader")
)
train.non_finite_steps_allowed = 7
train.warn_of_plateau = False
train.reference_images = 7
optimizer.params.rules.undecayed = dict(pattern="bias", weight_decay=0.5)
dataloader.train.unreadable_images_allowed = 7
dataloader.train.image_cache_gigabytes = 0.5
dataloader.train.mapper.always = []
dataloader.train.dataset.problems_allowed = 7
"""
    )
    cfg = load_config(str(tmp_path / "mine.py"))
    assert (cfg.train.max_non_finite_steps, cfg.train.plateau_warning, cfg.train.reference_dataset_size) == (
        7,
        False,
        7,
    )
    assert cfg.optimizer.params.rules.no_weight_decay.weight_decay == 0.5
    assert list(cfg.optimizer.params.rules) == list(load_config(RECIPE).optimizer.params.rules)
    assert (cfg.dataloader.train.max_unreadable_images, cfg.dataloader.train.image_cache_gb) == (7, 0.5)
    assert list(cfg.dataloader.train.mapper.weak) == []
    assert cfg.dataloader.train.dataset.max_invalid_records == 7
    assert caplog.text.count("is deprecated") == 8
    assert "warn_of_plateau" not in OmegaConf.to_yaml(cfg.train)


def _with_former_keys(node: Any, renamed: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {renamed.get(key, key): _with_former_keys(value, renamed) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_former_keys(value, renamed) for value in node]
    return node.replace("max_invalid_records", "problems_allowed") if isinstance(node, str) else node


def _arguments(node: Any) -> Any:
    """Return a node without ``_target_``, which is a string in a saved config."""
    if not isinstance(node, dict):
        return node
    return {key: _arguments(value) for key, value in node.items() if key != "_target_"}


def test_saved_configs_with_former_keys_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = OmegaConf.to_container(load_config(RECIPE), resolve=False)
    for split in ("train", "test"):
        node = saved["dataloader"][split]["dataset"]
        node["name"] = node.pop("names")
    mapper = saved["dataloader"]["train"]["mapper"]
    mapper["colour"], mapper["always"] = mapper.pop("color"), mapper.pop("weak")
    saved["dataloader"]["evaluator"]["dataset_name"] = "${..test.dataset.name}"
    LazyConfig.save(OmegaConf.create(saved, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    loaded = load_config(str(tmp_path / "config.yaml"))
    assert loaded.dataloader.train.dataset.names == "deim_shapes_train"
    assert loaded.dataloader.evaluator.dataset_name == "deim_shapes_val"
    assert (len(loaded.dataloader.train.mapper.color), len(loaded.dataloader.train.mapper.weak)) == (1, 1)
    assert "dataloader.test.dataset.name is deprecated: it has been renamed to dataloader.test.dataset" in caplog.text


def test_saved_configs_with_a_held_out_split_load(tmp_path: Path) -> None:
    write_yolo(tmp_path / "mine")
    (tmp_path / "mine" / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\n")
    saved = OmegaConf.to_container(load_config(RECIPE, (), str(tmp_path / "mine")), resolve=False)
    datasets = {split: saved["dataloader"][split]["dataset"] for split in ("train", "test")}
    former = {
        "max_invalid_records": "problems_allowed",
        "full_name": "whole",
        "every_nth": "every",
        "held_out": "evaluated",
    }
    for split, node in datasets.items():
        saved["dataloader"][split]["dataset"] = _with_former_keys(node, former)
    LazyConfig.save(OmegaConf.create(saved, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "problems_allowed: '${..problems_allowed}'" in text
    present, former_target = "deim.data.datasets.holdout.holdout_split", "deim.data.datasets.held_out.held_out_part"
    assert text.count(present) == 2
    (tmp_path / "config.yaml").write_text(text.replace(present, former_target), encoding="utf-8")
    loaded = load_config(str(tmp_path / "config.yaml"), ["dataloader.train.dataset.problems_allowed=2"]).dataloader
    assert _arguments(OmegaConf.to_container(loaded.test.dataset, resolve=False)) == _arguments(datasets["test"])
    assert loaded.train.dataset.dataset.max_invalid_records == 2
    assert [loaded[split].dataset._target_ for split in ("train", "test")] == [present] * 2


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("deim.engine.ema.EMAHook", "deim.engine.hooks.ema.EMAHook"),
        ("deim.engine.hooks.BestCheckpointer", "deim.engine.hooks.checkpoints.BestCheckpointer"),
        ("deim.engine.final_stage.FinalStageHook", "deim.engine.hooks.final_stage.FinalStageHook"),
        ("deim.engine.cpu_memory.keep_freed_memory", "deim.engine.performance.cpu_memory.keep_freed_memory"),
        ("deim.engine.run_report.write_report", "deim.reporting.run_report.write_report"),
        ("deim.engine.slurm.TrainingJob", "deim.jobs.slurm.TrainingJob"),
    ],
)
def test_targets_in_moved_modules_are_located(former: str, present: str) -> None:
    assert locate(former) is locate(present)


def test_other_functions_keep_their_arguments(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        """
from argparse import Namespace
from detectron2.config import LazyCall
train, model, optimizer = dict(), dict(), dict()
dataloader = dict(train=dict(dataset=LazyCall(Namespace)(name="mine", every=3), mapper=LazyCall(Namespace)(always=[])))
"""
    )
    train = load_config(str(tmp_path / "mine.py")).dataloader.train
    assert instantiate(train.dataset) == Namespace(name="mine", every=3)
    assert instantiate(train.mapper) == Namespace(always=[])


def test_overrides_of_other_functions_keep_their_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.py").write_text(
        """
from detectron2.config import LazyCall
def read_records(name, every): ...
train, model, optimizer = dict(), dict(), dict()
dataloader = dict(train=dict(dataset=LazyCall(read_records)(name="mine", every=3)))
"""
    )
    cfg = load_config(str(tmp_path / "mine.py"), ["dataloader.train.dataset.name=other"])
    assert cfg.dataloader.train.dataset.name == "other"
    assert not caplog.records


# Criterion of a recipe of an earlier version, in the form that its saved config has.
FORMER_CRITERION = {
    "dfine": {"classification": "vfl", "alpha": 0.75, "gamma": 2.0, "temperature": 4.0},
    "deim": {"classification": "mal", "alpha": None, "gamma": 1.5},
}
FORMER_WEIGHTS = {"loss_giou": 2.0, "loss_bbox": 5.0, "loss_fgl": 0.15, "loss_ddf": 1.5}  # not in the order of the sum


def former_criterion(cfg: Any, kind: str) -> None:
    """Replace the losses of a config by the former keys, in place."""
    criterion = cfg.model.criterion
    del criterion.losses
    criterion.update(FORMER_CRITERION[kind])
    criterion.weights = {**FORMER_WEIGHTS, f"loss_{criterion.classification}": 0.5}


def losses_of(cfg: Any) -> dict[str, dict[str, float]]:
    """Return {name: arguments} of the losses that the criterion of a config has, in their order.

    Class weights are left out: there were none when the former keys were in use.
    """
    losses = {name: vars(loss) for name, loss in build(cfg, "model.criterion").losses.items()}
    assert all(arguments.pop("class_weights", None) is None for arguments in losses.values())
    return losses


BOX_LOSSES = {"loss_bbox": {"weight": 5.0}, "loss_giou": {"weight": 2.0}, "loss_fgl": {"weight": 0.15}}


@pytest.mark.parametrize("kind", FORMER_CRITERION)
def test_former_criterion_of_a_saved_config(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(RECIPE)
    former_criterion(cfg, kind)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    loaded = load_config(str(tmp_path / "config.yaml"), ["model.criterion.losses.loss_bbox.weight=7"])
    assert not set(loaded.model.criterion) & set(FORMER_CRITERION["dfine"])
    classification = {
        "dfine": {"loss_vfl": {"weight": 0.5, "alpha": 0.75, "gamma": 2.0}},
        "deim": {"loss_mal": {"weight": 0.5, "gamma": 1.5, "alpha": None}},
    }[kind]
    distillation = {"weight": 1.5, "temperature": {"dfine": 4.0, "deim": 5.0}[kind]}
    expected = {**classification, **BOX_LOSSES, "loss_bbox": {"weight": 7}, "loss_ddf": distillation}
    actual = losses_of(loaded)
    assert actual == expected
    assert list(actual) == list(expected), "the order in which the losses are summed"
    assert "model.criterion.weights is deprecated: it has been renamed to model.criterion.losses.<loss>.weight" in (
        caplog.text
    )


def test_former_criterion_without_loading(caplog: pytest.LogCaptureFixture) -> None:
    """Trainers of other packages instantiate a config without loading it by this project."""
    cfg = load_config(RECIPE)
    former_criterion(cfg, "dfine")
    assert instantiate(cfg.model.criterion).losses["loss_vfl"].weight == 0.5
    assert "of Criterion are deprecated: list the losses in `losses`" in caplog.text
    with_deim_loss(cfg.model)
    assert list(cfg.model.criterion.losses) == ["loss_mal", "loss_bbox", "loss_giou", "loss_fgl", "loss_ddf"]
    former_criterion(cfg, "dfine")
    assert not is_on(cfg, "mal")


def test_former_criterion_of_a_checkpoint() -> None:
    cfg = load_config(RECIPE)
    former_criterion(cfg, "deim")
    cfg.model.backbone.weights = ""
    assert list(losses_of(from_portable(to_portable(cfg), "model.pth"))) == ["loss_mal", *BOX_LOSSES, "loss_ddf"]


MAL = {"weight": 1.0, "gamma": 1.5, "alpha": None}
# Overrides -> losses that differ from those of the recipe.
FORMER_OVERRIDES: dict[str, dict[str, Any]] = {
    "model.criterion.weights.loss_bbox=2": {"loss_bbox": {"weight": 2}},
    "model.criterion.weights.loss_mal=2 model.criterion.gamma=2": {"loss_mal": {**MAL, "weight": 2, "gamma": 2}},
    "model.criterion.alpha=0.5": {"loss_mal": {**MAL, "alpha": 0.5}},
    "model.criterion.alpha=0.5 model.criterion.alpha=null": {},
    "model.criterion.temperature=3": {"loss_ddf": {"weight": 1.5, "temperature": 3}},
    "model.criterion.weights.loss_bbox=2 model.criterion.losses.loss_bbox.weight=3": {"loss_bbox": {"weight": 3}},
    "model.criterion.losses.loss_bbox.weight=3 model.criterion.weights.loss_bbox=2": {"loss_bbox": {"weight": 2}},
    "model.criterion.losses.loss_fgl=null": {"loss_fgl": None},
}


@pytest.mark.parametrize("overrides", FORMER_OVERRIDES)
def test_former_overrides_of_the_criterion(overrides: str) -> None:
    cfg = load_config(RECIPE, overrides.split())
    recipe_losses = {"loss_mal": MAL, **BOX_LOSSES, "loss_ddf": {"weight": 1.5, "temperature": 5.0}}
    expected = {**recipe_losses, **FORMER_OVERRIDES[overrides]}
    assert losses_of(cfg) == {name: loss for name, loss in expected.items() if loss is not None}


def test_former_keys_in_a_recipe_replace_the_losses_of_its_base() -> None:
    """A recipe of a user may set the former keys of a base config that lists its losses."""
    cfg = load_config(RECIPE)
    cfg.model.criterion.classification = "vfl"
    cfg.model.criterion.gamma = 3
    cfg.model.criterion.weights = {"loss_bbox": 4, "loss_vfl": 2}
    cfg.model.criterion.alpha = 0.25
    rename_former_keys(cfg)
    assert losses_of(cfg) == {"loss_vfl": {"weight": 2, "alpha": 0.25, "gamma": 3}, "loss_bbox": {"weight": 4}}
    cfg.model.criterion.weights = {"loss_focal": 2}
    rename_former_keys(cfg)
    assert losses_of(cfg) == {"loss_focal": {"weight": 2, "alpha": 0.25, "gamma": 3}}


def test_former_override_of_the_classification_loss() -> None:
    cfg = load_config(RECIPE, ["model.criterion.classification=vfl", "model.criterion.weights.loss_vfl=2"])
    assert list(cfg.model.criterion.losses) == ["loss_vfl", *BOX_LOSSES, "loss_ddf"]
    assert losses_of(cfg)["loss_vfl"] == {"weight": 2, "alpha": 0.75, "gamma": 1.5}


def test_former_weights_add_losses() -> None:
    cfg = load_config("deim_rtdetrv2/deim_rtdetrv2_r18vd_shapes", ["+model.criterion.weights.loss_fgl=0.5"])
    assert losses_of(cfg)["loss_fgl"] == {"weight": 0.5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.criterion.weights.loss_vfl=1", "unknown losses loss_vfl; with classification='mal', choose from"),
        (
            "+model.criterion.weights.loss_x=1",
            "model.criterion of the config: criterion.weights: unknown losses loss_x",
        ),
        ("model.criterion.classification=hinge", "unknown classification loss 'hinge'; choose one of mal, vfl, focal"),
    ],
)
def test_unknown_losses_in_former_overrides_are_rejected(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(RECIPE, [override])


def test_former_keys_of_other_criteria_are_kept() -> None:
    model = {"criterion": LazyCall(DetrexCriterion)(num_classes=3, classification="focal", alpha=0.5)}
    cfg = OmegaConf.create({"model": model}, flags={"allow_objects": True})
    rename_former_keys(cfg)
    assert (cfg.model.criterion.classification, cfg.model.criterion.alpha) == ("focal", 0.5)
