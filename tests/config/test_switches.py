"""Switches of method components in recipes, and ablations."""

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate

from deim.config import SWITCHES, build, is_on, load_config, switch, with_fdr, with_hybrid_branch, with_keypoints
from deim.data.datasets.shapes import CLASSES
from deim.engine.evaluation import build_evaluator
from deim.errors import ConfigError
from deim.jobs import ablation
from tests.commands import SMALL, data_overrides, metrics, tool
from tests.models import DETRS, FAMILIES, REAL_TIME, batch, recipe

TINY = ("model.decoder.queries.num_queries=20", "model.decoder.num_layers=2")
# Switch -> a loss that the model has only if the switch is on.
SWITCH_LOSSES = {"mal": "loss_mal", "fdr": "loss_bbox_pre", "hybrid": "loss_bbox_o2m", "denoising": "loss_bbox_dn_0"}


@pytest.mark.parametrize("family", REAL_TIME)
def test_switch_combinations_train_and_evaluate(family: str) -> None:
    for flags in itertools.product((True, False), repeat=len(SWITCH_LOSSES)):
        states = dict(zip(SWITCH_LOSSES, flags, strict=True))
        cfg = switch(recipe(FAMILIES[family], *TINY), **states)
        assert {name: is_on(cfg, name) for name in states} == states
        torch.manual_seed(0)
        model = instantiate(cfg.model)
        losses = model(batch([2, 1]))
        assert {name: loss in losses for name, loss in SWITCH_LOSSES.items()} == states
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        with torch.no_grad():
            assert len(model.eval()(batch([1]))[0]["instances"]) == min(100, 20 * len(CLASSES))


@pytest.mark.parametrize("flipped", SWITCH_LOSSES)
@pytest.mark.parametrize("family", DETRS)
def test_each_switch_works_in_each_detr(family: str, flipped: str) -> None:
    cfg = recipe(FAMILIES[family], *TINY)
    enabled = not is_on(cfg, flipped)
    switch(cfg, **{flipped: enabled})
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    losses = model(batch([2, 1]))
    assert (SWITCH_LOSSES[flipped] in losses) is enabled
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        assert torch.isfinite(model.eval()(batch([1]))[0]["instances"].scores).all()


@pytest.mark.parametrize("family", DETRS)
def test_all_switches_together(family: str) -> None:
    cfg = switch(recipe(FAMILIES[family], *TINY), mal=True, fdr=True, hybrid=True, denoising=True)
    losses = instantiate(cfg.model)(batch([2, 1]))
    assert set(SWITCH_LOSSES.values()) | {"loss_bbox_o2m_pre", "loss_bbox_dn_pre"} <= set(losses)
    assert torch.isfinite(sum(losses.values()))


@pytest.mark.parametrize("name", ["denoising", "fdr"])
def test_point_queries_reject_box_switches(name: str) -> None:
    cfg = switch(recipe("deformable_detr_r50_50ep_coco", "model.backbone.depth=18"), **{name: True})
    with pytest.raises(ConfigError, match="LearnedPoints gives points, but "):
        build(cfg, "model")


@pytest.mark.parametrize(
    "name", ["dfine_l_coco", "rtdetrv2_r50vd_6x_coco", "deim_dfine_n_coco", "h_deformable_detr_r50_12ep_coco"]
)
def test_switching_on_and_off_restores_the_criterion(name: str) -> None:
    # Switching MAL off selects the varifocal loss, so a recipe with the focal loss is not restored.
    for flipped in set(SWITCHES) - ({"mal"} if "loss_focal" in recipe(name).model.criterion.losses else set()):
        cfg = recipe(name)
        before = is_on(cfg, flipped)
        switch(cfg, **{flipped: before})
        assert cfg == recipe(name), "a switch in the requested state must not change the config"
        switch(cfg, **{flipped: not before})
        assert is_on(cfg, flipped) is not before
        switch(cfg, **{flipped: before})
        assert is_on(cfg, flipped) is before
        original, switched = recipe(name).model.criterion, cfg.model.criterion
        assert original.losses == switched.losses
        assert [group.group for group in original.supervision if group.group in ("main", "encoder", "denoising")] == [
            group.group for group in switched.supervision if group.group in ("main", "encoder", "denoising")
        ]
        assert {group.group for group in original.supervision} == {group.group for group in switched.supervision}


def test_dense_o2o_switch_sets_dense_epochs() -> None:
    cfg = switch(recipe("dfine_l_coco"), dense_o2o=True)
    assert list(cfg.schedule.dense_epochs) == [4, 40], "from epoch 4, for half of the 72 epochs with augmentation"
    assert cfg.dataloader.train.mapper.mosaic.tile_size == 320
    published = recipe("deim_dfine_s_coco")
    dense = list(published.schedule.dense_epochs)
    published.schedule.dense_epochs = [0, 0]
    assert list(switch(published, dense_o2o=True).schedule.dense_epochs) == dense


def test_adding_a_component_twice_does_not_repeat_its_supervision() -> None:
    for add, name in ((with_fdr, "dfine_l_coco"), (with_hybrid_branch, "rtdetrv2_r50vd_6x_coco")):
        model = add(recipe(name).model)
        groups = [group.group for group in model.criterion.supervision]
        assert sorted(group.group for group in add(model).criterion.supervision) == sorted(groups)


def test_invalid_switches_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="switch 'magic' does not exist; choose one of dense_o2o, mal, fdr, hybrid"):
        switch(recipe("dfine_l_coco"), magic=True)
    path = tmp_path / "foreign.py"
    path.write_text("train = dict()\ndataloader = dict()\nmodel = dict()\noptimizer = dict()\n")
    with pytest.raises(ConfigError, match="fdr cannot be switched in this config"):
        switch(load_config(str(path)), fdr=True)


def test_supervision_without_predictions_is_rejected() -> None:
    model = instantiate(recipe(FAMILIES["rtdetr"], *TINY).model)
    other = instantiate(recipe(FAMILIES["dfine"], *TINY).model)
    model.criterion = other.criterion
    with pytest.raises(ConfigError, match="names initial, denoising_initial, but the decoder predicts only"):
        model(batch([1]))


@pytest.mark.long
def test_an_ablation_runs_resumes_and_reports(shapes: Path, tmp_path: Path) -> None:
    arguments = ["--config-file", "deim_dfine/deim_dfine_n_shapes", "--switches", "mal"]
    arguments += ["--output", str(tmp_path), "--set", *SMALL, *data_overrides(shapes), "train.max_iter=2"]
    planned = tool("ablate.py", *arguments)
    assert planned.returncode == 0, planned.stderr
    assert sorted(path.parent.name for path in tmp_path.glob("*/seed0")) == ["baseline", "mal-off"]
    result = tool("ablate.py", "--run", *arguments)
    assert result.returncode == 0, result.stderr
    assert "run 2 of 2: " in result.stdout
    assert re.search(r"\| baseline +\| x +\| +1 \| ", result.stdout)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") in result.stdout
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["mal off"]["states"] == {"mal": False}
    losses = (tmp_path / "mal-off" / "seed0" / "metrics.json").read_text(encoding="utf-8")
    assert "loss_vfl" in losses
    assert "loss_mal" not in losses
    rerun = tool("ablate.py", "--run", *arguments)
    assert rerun.returncode == 0, rerun.stderr
    assert "run 1 of" not in rerun.stdout, "all runs are finished"
    assert len(metrics(tmp_path / "mal-off" / "seed0")) == 2
    other = tool("ablate.py", *arguments, "train.log_period=2")
    assert other.returncode == 2
    assert "holds the config of a different ablation" in other.stderr


def test_a_run_without_its_last_evaluation_is_unfinished(tmp_path: Path) -> None:
    variant = ablation.Variant("baseline", {}, (tmp_path,))
    (tmp_path / "model_final.pth").touch()
    assert variant.finished == []
    (tmp_path / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n', encoding="utf-8")
    assert variant.finished == []
    with open(tmp_path / "metrics.json", "a", encoding="utf-8") as file:
        file.write('{"iteration": 2, "bbox/AP": 3.0}\n')
    assert variant.finished == [tmp_path]


def test_a_run_that_has_ended_early_is_finished(tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").touch()
    line = '{"iteration": 7, "total_loss": 2.0, "bbox/AP": 3.0}\n'
    (tmp_path / "metrics.json").write_text(line, encoding="utf-8")
    assert ablation.Variant("baseline", {}, (tmp_path,)).finished == [tmp_path]


def test_all_combinations_are_planned(tmp_path: Path) -> None:
    variants = ablation.plan("dfine/dfine_n_coco", [], ["mal", "fdr"], [0, 1], tmp_path, all_combinations=True)
    assert [variant.name for variant in variants] == ["mal on", "mal on, fdr off", "baseline", "fdr off"]
    assert all(len(variant.runs) == 2 for variant in variants)
    cfg = load_config(str(variants[1].runs[1] / "planned.yaml"))
    assert cfg.train.seed == 1
    assert is_on(cfg, "mal")
    assert not is_on(cfg, "fdr")


def test_a_baseline_in_its_former_folder_is_continued(tmp_path: Path) -> None:
    (tmp_path / "as-it-is").mkdir()
    variants = ablation.plan("dfine/dfine_n_coco", [], ["mal"], [0], tmp_path)
    assert [variant.name for variant in variants] == ["baseline", "mal on"]
    assert variants[0].runs == (tmp_path / "as-it-is" / "seed0",)


@pytest.mark.parametrize(("name", "metric"), [("masks", "segm/AP"), ("keypoints", "keypoints/AP")])
def test_masks_and_keypoints_select_the_best_checkpoint(name: str, metric: str) -> None:
    cfg = recipe("deimv2_hgnetv2_atto_shapes")
    switch(cfg, **{name: True})
    assert cfg.train.best_metric == metric
    switch(cfg, **{name: False})
    assert cfg.train.best_metric == "bbox/AP"


@pytest.mark.parametrize("name", ["deim_dfine/deim_dfine_s_coco", "deformable_detr/deformable_detr_r50_50ep_coco"])
def test_switches_of_the_command_line_need_no_new_keys(name: str) -> None:
    """Overrides can change the keys of a component that is turned on."""
    overrides = ["model.decoder.heads.masks.upsampling=1", "dataloader.train.mapper.mask_stride=2"]
    cfg = load_config(name, overrides, switches={"masks": True, "mal": True})
    assert is_on(cfg, "masks")
    assert is_on(cfg, "mal")
    assert (cfg.model.decoder.heads.masks.upsampling, cfg.dataloader.train.mapper.mask_stride) == (1, 2)
    with pytest.raises(ConfigError, match="switch 'maks' does not exist"):
        load_config(name, switches={"maks": True})


def test_keypoints_of_coco_are_those_of_persons() -> None:
    cfg = load_config("deim_dfine/deim_dfine_s_coco", switches={"keypoints": True})
    assert cfg.dataloader.train.dataset.names == "keypoints_coco_2017_train"
    assert cfg.dataloader.test.dataset.names == cfg.dataloader.evaluator.dataset_name == "keypoints_coco_2017_val"
    assert cfg.model.num_classes == 1
    switch(cfg, keypoints=False)
    assert (cfg.dataloader.train.dataset.names, cfg.model.num_classes) == ("coco_2017_train", 80)


def test_switches_are_set_before_the_dataset_is_read(shapes: Path) -> None:
    cfg = load_config("deim_dfine/deim_dfine_s_coco", data=str(shapes), switches={"masks": True})
    assert cfg.dataloader.train.dataset.masks
    assert cfg.dataloader.test.dataset.masks
    assert cfg.model.num_classes == len(CLASSES)


def test_evaluation_uses_the_constants_of_the_keypoint_loss(shapes: Path) -> None:
    cfg = recipe("deimv2_hgnetv2_atto_shapes", *data_overrides(shapes))
    with_keypoints(cfg.model, 3, [0.1, 0.2, 0.3])
    build(cfg, "dataloader.test.dataset")  # registers the dataset
    assert list(build_evaluator(cfg)._kpt_oks_sigmas) == [0.1, 0.2, 0.3]
    cfg.model.criterion.losses.loss_oks.sigmas = [0.2, 0.2, 0.3]
    assert list(cfg.model.criterion.matcher.further_costs[0].sigmas) == [0.2, 0.2, 0.3], "the matching follows the loss"
    cfg.dataloader.evaluator.kpt_oks_sigmas = [0.4, 0.5, 0.6]
    assert list(build_evaluator(cfg)._kpt_oks_sigmas) == [0.4, 0.5, 0.6]


@pytest.mark.parametrize(("status", "error"), [(75, SystemExit), (1, ConfigError)])
def test_a_stopped_run_is_not_a_failed_run(
    status: int, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that a signal has stopped has saved a checkpoint, and the status of the ablation is that of the run."""
    commands = []

    def run(command: list[str], **options) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(ablation.subprocess, "run", run)
    with pytest.raises(error) as raised:
        ablation.run([ablation.Variant("baseline", {}, (tmp_path / "seed0",))])
    if status == 75:
        assert raised.value.code == 75
    assert "exit_with_parent" in " ".join(commands[0]), "the run does not outlive the ablation"
