"""Recipes on a user's dataset, given by its path."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from deim.config import load_config, published
from deim.config.batch_size import scale_to_batch_size, scaled_learning_rates
from deim.config.user_data import with_data
from deim.data.datasets.discovery import discover
from deim.data.datasets.shapes import CLASSES as SHAPES
from deim.errors import CheckpointError, ConfigError, DatasetError
from tests.commands import RECIPE, SMALL, metrics, tool, train_net
from tests.data.test_datasets import CLASSES, OBJECTS, write_coco, write_voc, write_yolo
from tests.models import recipe

KINDS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


@pytest.mark.parametrize("kind", KINDS)
def test_dataset_format_is_detected(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path)
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == list(CLASSES)
    records = dataset.train.read(names=f"{tmp_path}", **dataset.train.arguments)
    assert [len(record["annotations"]) for record in records] == [len(objects) for objects in OBJECTS]
    assert dataset.format == {"coco": "COCO", "voc": "Pascal VOC", "yolo": "YOLO"}[kind]


LAYOUTS = {
    "coco": ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017"),
    "images": ("annotations/train.json", "images/train", "annotations/val.json", "images/val"),
    "shared": ("annotations/instances_train.json", "images", "annotations/instances_val.json", "images"),
    "roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    "flat": ("train.json", ".", "test.json", "."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_common_coco_layouts(layout: str, tmp_path: Path) -> None:
    written = write_coco(tmp_path / "source")
    for file, folder in (LAYOUTS[layout][:2], LAYOUTS[layout][2:]):
        for path in (tmp_path / "data" / file).parent, tmp_path / "data" / folder:
            path.mkdir(parents=True, exist_ok=True)
        shutil.copy(written["json_file"], tmp_path / "data" / file)
        for image in Path(written["image_root"]).iterdir():
            shutil.copy(image, tmp_path / "data" / folder)
    dataset = discover(str(tmp_path / "data"))
    assert dataset.train.arguments["json_file"].endswith(LAYOUTS[layout][0])
    assert dataset.test is not None
    assert dataset.test.arguments["json_file"].endswith(LAYOUTS[layout][2])
    for split in (dataset.train, dataset.test):
        assert Path(split.arguments["image_root"], "0.jpg").is_file()


def test_invalid_dataset_paths_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        discover(str(tmp_path / "nowhere"))
    with pytest.raises(
        DatasetError, match=r"(?s)contains no dataset in a known.* Found: nothing\. Supported formats:.*data\.yaml"
    ):
        discover(str(tmp_path))
    (tmp_path / "a.txt").touch()
    with pytest.raises(DatasetError, match=r"a\.txt contains no dataset in a known format\. Found: the file a\.txt"):
        discover(str(tmp_path / "a.txt"))
    written = write_coco(tmp_path)
    shutil.rmtree(written["image_root"])
    with pytest.raises(DatasetError, match=r"no image of .*train\.json was found in .*such as 0\.jpg"):
        discover(str(tmp_path))
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    (tmp_path / "train.json").write_text(json.dumps(content | {"images": [{"id": 0}]}))
    with pytest.raises(DatasetError, match=r"train\.json lists no images with a file_name"):
        discover(str(tmp_path))
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(DatasetError, match="not in COCO format"):
        discover(str(tmp_path))


def test_categories_of_splits_are_matched_by_name(tmp_path: Path) -> None:
    content = json.loads(Path(write_coco(tmp_path)["json_file"]).read_text(encoding="utf-8"))
    content["categories"].reverse()
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert list(discover(str(tmp_path)).classes) == list(CLASSES)
    content["categories"] = [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}]
    (tmp_path / "val.json").write_text(json.dumps(content))
    dataset = discover(str(tmp_path))
    assert list(dataset.classes) == list(CLASSES)
    records = dataset.test.read(names=f"{tmp_path}_val", **dataset.test.arguments)
    assert [a["category_id"] for a in records[0]["annotations"]] == [1, 0], "3 is the dog in this file"


def test_images_are_held_out_without_an_evaluation_split(shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "only_train"
    (folder / "annotations").mkdir(parents=True)
    shutil.copy(shapes / "annotations" / "instances_train.json", folder / "annotations")
    (folder / "train").symlink_to(shapes / "train")
    cfg = load_config(RECIPE, (), str(folder))
    train, test = (instantiate(cfg.dataloader[split].dataset) for split in ("train", "test"))
    names = [{record["file_name"] for record in records} for records in (train, test)]
    assert (len(names[0]), len(names[1])) == (22, 2)
    assert not names[0] & names[1]
    assert cfg.model.num_classes == len(SHAPES)


def test_overrides_take_precedence(tmp_path: Path) -> None:
    write_yolo(tmp_path / "mine")
    cfg = load_config("dfine/dfine_s_coco", ["model.num_classes=9", "train.output_dir=here"], str(tmp_path / "mine"))
    assert (cfg.model.num_classes, cfg.train.output_dir) == (9, "here")
    plain = load_config("dfine/dfine_s_coco", (), str(tmp_path / "mine" / "data.yaml"))
    assert plain.model.num_classes == 2
    assert plain.train.output_dir == "output/dfine_s_coco_mine"
    assert plain.train.reference_dataset_size == 118_287
    on_shapes = load_config("deim_dfine/deim_dfine_n_shapes", (), str(tmp_path / "mine"))
    assert on_shapes.train.reference_dataset_size == 600, "the recipe's own dataset, not COCO"
    assert plain.train.init_checkpoint == "coco"


def scaled(*overrides: str, iters_per_epoch: int | None = None):
    cfg = recipe("deim_dfine_n_coco", *overrides)
    assert scale_to_batch_size(cfg, iters_per_epoch)
    return cfg


def test_scaling_to_a_doubled_batch_size() -> None:
    """The values of D-FINE-L in "Customizing Batch Size" of D-FINE's README."""
    cfg = recipe(
        "dfine_l_coco",
        "train.reference_batch_size=32",
        "dataloader.train.total_batch_size=64",
        "optimizer.lr=0.00025",
        "optimizer.params.rules.backbone.lr=0.0000125",
        "schedule.warmup_iters=500",
        "train.model_ema.decay=0.9999",
        "train.model_ema.warmup_iters=1000",
    )
    assert scale_to_batch_size(cfg, 1848)
    assert cfg.optimizer.lr == pytest.approx(0.0005)
    assert cfg.optimizer.params.rules.backbone.lr == pytest.approx(0.000025)
    assert cfg.train.model_ema.decay == pytest.approx(0.9998)
    assert cfg.train.model_ema.warmup_iters == 500
    assert cfg.schedule.warmup_iters == 250


def test_scaling_to_a_small_dataset() -> None:
    unscaled = recipe("deim_dfine_n_coco")
    cfg = scaled("train.reference_batch_size=128", "train.reference_dataset_size=118287", iters_per_epoch=250)
    share = 250 / (118287 / 128)
    assert cfg.optimizer.lr == unscaled.optimizer.lr
    assert cfg.schedule.warmup_iters == round(unscaled.schedule.warmup_iters * share)
    assert 1 / (1 - cfg.train.model_ema.decay) == pytest.approx(share / (1 - unscaled.train.model_ema.decay))
    tiny = scaled("train.reference_batch_size=128", "train.reference_dataset_size=118287", iters_per_epoch=1)
    assert 0.5 <= tiny.train.model_ema.decay < 1
    assert tiny.schedule.warmup_iters >= 1


def test_scaling_is_optional_and_applied_once() -> None:
    cfg = recipe("deim_dfine_n_coco")
    assert not scale_to_batch_size(cfg, 100)
    cfg = scaled("train.reference_batch_size=64")
    rate = cfg.optimizer.lr
    assert not scale_to_batch_size(cfg, None)
    assert cfg.optimizer.lr == rate
    with pytest.raises(ConfigError, match="must be at least 1"):
        scaled("train.reference_batch_size=0")


def test_config_of_a_scaled_run_is_scaled_relative_to_its_own_data(tmp_path: Path) -> None:
    """``config.yaml`` of a run holds scaled values, which hold for the images of this run."""
    write_yolo(tmp_path / "mine")
    first = load_config("dfine/dfine_s_coco", ["dataloader.train.total_batch_size=8"], str(tmp_path / "mine"))
    assert scale_to_batch_size(first, 25)
    LazyConfig.save(first, str(tmp_path / "config.yaml"))
    again = load_config(str(tmp_path / "config.yaml"), (), str(tmp_path / "mine"))
    assert (again.train.reference_batch_size, again.train.reference_dataset_size) == (8, 200)
    assert scale_to_batch_size(again, 25)
    for key in ("optimizer.lr", "train.model_ema.decay", "train.model_ema.warmup_iters", "schedule.warmup_iters"):
        assert OmegaConf.select(again, key) == pytest.approx(OmegaConf.select(first, key)), key


def test_automatic_batch_size_in_a_config_file_is_an_error(tmp_path: Path) -> None:
    write_yolo(tmp_path / "mine")
    cfg = recipe("deim_dfine_n_coco", "dataloader.train.total_batch_size=auto")
    with pytest.raises(ConfigError, match="set it on the command line instead"):
        with_data(cfg, str(tmp_path / "mine"))


def test_interpolated_learning_rates_are_scaled_once() -> None:
    cfg = load_config("ecdet/ecdet_l_coco")
    cfg.train.reference_batch_size, cfg.dataloader.train.total_batch_size = 32, 8
    rates = {name: rule.lr for name, rule in cfg.optimizer.params.rules.items() if "lr" in rule}
    assert rates["backbone_no_weight_decay"] == rates["backbone"]
    assert scale_to_batch_size(cfg, None)
    for name, rate in rates.items():
        assert cfg.optimizer.params.rules[name].lr == pytest.approx(rate / 4), name


def test_values_on_the_command_line_are_not_scaled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_yolo(tmp_path / "mine")
    keys = ["dataloader.train.total_batch_size=8", "optimizer.lr=0.002", "schedule.warmup_iters=200"]
    recipe = load_config("dfine/dfine_s_coco")
    backbone_rate = recipe.optimizer.params.rules.backbone.lr
    cfg = load_config("dfine/dfine_s_coco", keys, str(tmp_path / "mine"))
    scaled = {"optimizer.params.rules.backbone.lr": pytest.approx(backbone_rate / 4)}
    assert scaled_learning_rates(cfg).items() >= scaled.items()
    assert "optimizer.lr" not in scaled_learning_rates(cfg)
    with caplog.at_level(logging.INFO):
        assert scale_to_batch_size(cfg, 25)
    assert (cfg.optimizer.lr, cfg.schedule.warmup_iters) == (0.002, 200)
    assert cfg.optimizer.params.rules.backbone.lr == pytest.approx(backbone_rate / 4)
    assert "not scaled, because they are set: optimizer.lr, schedule.warmup_iters" in caplog.text
    assert cfg.train.unscaled_keys == [], "a run of the saved config can be scaled to another batch size"

    cfg = load_config("dfine/dfine_s_coco", ["optimizer.params.rules.backbone={lr: 3e-4}"], str(tmp_path / "mine"))
    assert "optimizer.params.rules.backbone.lr" not in scaled_learning_rates(cfg)
    cfg = load_config("dfine/dfine_s_coco", [*keys, "train.reference_batch_size=16"], str(tmp_path / "mine"))
    assert scaled_learning_rates(cfg)["optimizer.lr"] == pytest.approx(0.001)


def test_scaling_of_a_detrex_recipe() -> None:
    """Recipes of detrex have no schedule and no rules: learning rates are derived from optimizer.lr."""
    cfg = recipe("dfine_l_coco", "train.reference_batch_size=16", "dataloader.train.total_batch_size=32")
    rate = cfg.optimizer.lr
    del cfg.schedule, cfg.optimizer.params.rules
    assert scale_to_batch_size(cfg, None)
    assert cfg.optimizer.lr == pytest.approx(2 * rate)


def test_the_warning_about_unpublished_weights_names_the_checkpoint(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from deim.config import model_zoo\n"
        "_cfg = model_zoo.get_config('deim_dfine/deim_dfine_n_coco')\n"
        "train, dataloader, model, optimizer = _cfg.train, _cfg.dataloader, _cfg.model, _cfg.optimizer\n"
        "schedule = _cfg.schedule\n"
        "train.init_checkpoint = 'mine.pth'\n"
    )
    assert load_config(str(path), data=str(shapes)).train.init_checkpoint == "mine.pth"
    assert "training starts from mine.pth;" in caplog.text
    caplog.clear()
    load_config("deim_dfine/deim_dfine_n_shapes", data=str(shapes))
    assert "training starts from random weights;" in caplog.text


def test_weights_are_a_path_or_a_published_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    (file,) = [
        weights
        for weights in published.PUBLISHED
        if (weights.recipe, weights.data) == ("deim_dfine/deim_dfine_s_coco", "coco")
    ]
    with pytest.raises(CheckpointError, match=f"{file.url} cannot be downloaded: .* save it as {file.path}"):
        published.weights_path("deim_dfine/deim_dfine_s_coco", "coco")
    file.path.parent.mkdir(exist_ok=True)
    file.path.touch()
    assert published.weights_path("deim_dfine/deim_dfine_s_coco", "coco") == str(file.path)
    for path in ("", "somewhere/model", "model.pth", str(tmp_path)):
        assert published.weights_path("deim_dfine/deim_dfine_s_coco", path) == path
    with pytest.raises(CheckpointError, match=r"no weights 'imagenet' are published for .* \(available: coco\)"):
        published.weights_path("deim_dfine/deim_dfine_s_coco", "imagenet")


def test_a_folder_with_the_name_of_weights_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets are often in a folder named coco."""
    monkeypatch.chdir(tmp_path)
    assert published.is_name("coco")
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    assert published.is_name("coco")
    (tmp_path / "coco" / "model.safetensors").touch()
    assert not published.is_name("coco"), "a folder with weights is a path"
    assert not published.is_name("model.pth")
    (tmp_path / "imagenet").touch()
    assert not published.is_name("imagenet"), "a file is a path"


def test_fine_tuning_keeps_shared_classes(shapes: Path, tmp_path: Path) -> None:
    """The dataset has two classes of the checkpoint, in another order, and a new class."""
    first = train_net(shapes, tmp_path / "first", "train.max_iter=2", "train.eval_period=2")
    assert first.returncode == 0, first.stderr
    for split in ("train", "val"):
        (tmp_path / "mine" / "annotations").mkdir(parents=True, exist_ok=True)
        content = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
        new_ids = {"star": 2, "circle": 7, "blob": 9}
        ids = {c["id"]: new_ids[c["name"]] for c in content["categories"] if c["name"] in new_ids}
        content["categories"] = [{"id": number, "name": name} for name, number in new_ids.items()]
        content["annotations"] = [
            a | {"category_id": ids[a["category_id"]]} for a in content["annotations"] if a["category_id"] in ids
        ]
        (tmp_path / "mine" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        (tmp_path / "mine" / split).symlink_to(shapes / split)
    output = tmp_path / "second"
    result = tool("train_net.py", "--config-file", RECIPE, "--data", str(tmp_path / "mine"), *SMALL, "train.max_iter=2",
                "train.eval_period=2", f"train.output_dir={output}",
                f"train.init_checkpoint={tmp_path / 'first' / 'model_final.pth'}")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "COCO format, 3 classes: star, circle, blob" in result.stdout
    assert "optimizer.lr=" in result.stdout
    assert f"star <- star ({SHAPES.index('star')}), circle <- circle ({SHAPES.index('circle')})" in result.stdout
    assert "newly initialized: blob" in result.stdout
    assert sorted(metrics(output)) == [0, 1]
    metadata = torch.load(output / "model_final.pth", weights_only=True)["deim"]
    assert metadata["classes"] == ["star", "circle", "blob"]
    assert "reference_batch_size: null" in (output / "config.yaml").read_text(encoding="utf-8")


def test_folder_without_dataset_is_rejected(tmp_path: Path) -> None:
    result = tool("train_net.py", "--config-file", RECIPE, "--data", str(tmp_path))
    assert result.returncode == 2
    assert f"error: {tmp_path} contains no dataset in a known format" in result.stderr
    assert "Traceback" not in result.stderr
