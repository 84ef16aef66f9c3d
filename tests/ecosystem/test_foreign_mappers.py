"""Channel orders, and arguments of mappers with the names of detectron2 and detrex."""

import pytest
import torch

from deim.config import load_config
from deim.data import DetectionMapper
from deim.engine.preflight import check_settings
from deim.errors import ConfigError
from tests.models import tiny_model

RECIPE = "deim_dfine/deim_dfine_n_shapes"


@torch.no_grad()
def test_bgr_model_equals_rgb_model() -> None:
    sample = torch.randint(0, 256, (3, 100, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    instances = tiny_model().eval()([{"image": sample}])[0]["instances"]
    bgr_model = tiny_model("model.input_format=BGR").eval()
    bgr_instances = bgr_model([{"image": sample.flip(0)}])[0]["instances"]
    assert torch.equal(instances.scores, bgr_instances.scores)
    assert torch.equal(instances.pred_boxes.tensor, bgr_instances.pred_boxes.tensor)
    assert not torch.equal(bgr_model([{"image": sample}])[0]["instances"].scores, instances.scores)


@pytest.mark.parametrize("key", ["dataloader.train.mapper.img_format", "+dataloader.train.mapper.image_format"])
def test_channel_order_mismatch_is_an_error(key: str) -> None:
    override = f"{key}=BGR"
    cfg = load_config(RECIPE, [override])
    with pytest.raises(ConfigError, match=r"_format is BGR, but model\.input_format is RGB"):
        check_settings(cfg, training=True)
    check_settings(
        load_config(RECIPE, [override, "dataloader.test.mapper.img_format=BGR", "model.input_format=BGR"]), True
    )


def test_mapper_accepts_argument_names_of_detectron2_and_detrex() -> None:
    assert DetectionMapper([], is_train=True, image_format="BGR").img_format == "BGR"
    assert DetectionMapper([], is_train=True, img_format="BGR").img_format == "BGR"
    with pytest.raises(ConfigError, match="choose one of RGB, BGR"):
        DetectionMapper([], is_train=True, img_format="HSV")
