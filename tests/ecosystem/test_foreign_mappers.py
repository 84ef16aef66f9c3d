"""Channel orders, and config keys of datasets and mappers with the names of detectron2 and detrex."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from deim.config import load_config
from deim.data import DetectionMapper
from deim.engine.preflight import check_settings
from deim.errors import ConfigError
from tests.models import tiny_model

RECIPE = "deim_dfine/deim_dfine_n_shapes"


@torch.no_grad()
def test_a_model_for_bgr_sees_what_one_for_rgb_sees() -> None:
    sample = torch.randint(0, 256, (3, 100, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = tiny_model().eval()([{"image": sample}])[0]["instances"]
    reversed_model = tiny_model("model.input_format=BGR").eval()
    same = reversed_model([{"image": sample.flip(0)}])[0]["instances"]
    assert torch.equal(found.scores, same.scores)
    assert torch.equal(found.pred_boxes.tensor, same.pred_boxes.tensor)
    assert not torch.equal(reversed_model([{"image": sample}])[0]["instances"].scores, found.scores)


@pytest.mark.parametrize("key", ["img_format", "+dataloader.train.mapper.image_format"])
def test_a_mapper_with_another_channel_order_than_the_model_ends_the_run_at_once(key: str) -> None:
    override = f"{key}=BGR" if key.startswith("+") else f"dataloader.train.mapper.{key}=BGR"
    cfg = load_config(RECIPE, [override])
    with pytest.raises(ConfigError, match=r"_format is BGR, but model\.input_format is RGB"):
        check_settings(cfg, training=True)
    check_settings(
        load_config(RECIPE, [override, "dataloader.test.mapper.img_format=BGR", "model.input_format=BGR"]), True
    )


def test_mappers_take_the_names_of_detectron2_and_detrex() -> None:
    assert DetectionMapper([], is_train=True, image_format="BGR").img_format == "BGR"
    assert DetectionMapper([], is_train=True, img_format="BGR").img_format == "BGR"
    with pytest.raises(ConfigError, match="choose one of RGB, BGR"):
        DetectionMapper([], is_train=True, img_format="HSV")


def test_the_former_name_of_a_key_still_works(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    cfg = load_config(RECIPE, ["dataloader.train.dataset.name=mine"])
    assert cfg.dataloader.train.dataset.names == "mine"
    assert (
        load_config(RECIPE, ["dataloader.train.mapper.colour.0.prob=0.25"]).dataloader.train.mapper.color[0].prob
        == 0.25
    )
    saved = OmegaConf.to_container(load_config(RECIPE), resolve=False)
    for split in ("train", "test"):
        node = saved["dataloader"][split]["dataset"]
        node["name"] = node.pop("names")
    mapper = saved["dataloader"]["train"]["mapper"]
    mapper["colour"] = mapper.pop("color")
    saved["dataloader"]["evaluator"]["dataset_name"] = "${..test.dataset.name}"
    LazyConfig.save(OmegaConf.create(saved, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    loaded = load_config(str(tmp_path / "config.yaml"))
    assert (loaded.dataloader.train.dataset.names, loaded.dataloader.evaluator.dataset_name) == (
        "deim_shapes_train",
        "deim_shapes_val",
    )
    assert len(loaded.dataloader.train.mapper.color) == 1
    assert "dataloader.test.dataset.name has been renamed to names" in caplog.text
