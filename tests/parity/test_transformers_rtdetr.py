"""Weights of RT-DETR in Hugging Face ``transformers`` predict the same in RT-DETRv2 of this project."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from transformers import RTDetrConfig, RTDetrForObjectDetection

from deim.checkpoint.loading import load_for_inference
from deim.checkpoint.reading import read_weights
from deim.conversion import hugging_face
from deim.conversion.identification import identify
from tests.conftest import long_except
from tests.models import randomize, recipe
from tests.parity.transformers_weights import assert_predict_alike


def their_config(config) -> RTDetrConfig:
    """Return the config of the RT-DETR with the parts of a recipe of RT-DETRv2."""
    values, _ = hugging_face.build_config(config, None)
    values["backbone_config"] = {**values["backbone_config"], "model_type": "rt_detr_resnet"}
    removed = ("model_type", "architectures", "decoder_method")
    return RTDetrConfig(**{name: value for name, value in values.items() if name not in removed})


@pytest.mark.parametrize("size", long_except(["r18vd_120e"], ["r18vd_120e", "r50vd_6x"]))
@torch.no_grad()
def test_weights_of_rtdetr_predict_the_same(size: str, tmp_path: Path) -> None:
    side = 64
    tokens = sum((side // stride) ** 2 for stride in (8, 16, 32))
    config = recipe(f"rtdetrv2_{size}_coco", f"model.decoder.queries.num_queries={tokens}")
    torch.manual_seed(0)
    theirs = randomize(RTDetrForObjectDetection(their_config(config)).eval(), scale=0.02)
    folder = tmp_path / f"rtdetr_{size.partition('_')[0]}"
    theirs.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "rt_detr"
    ours = instantiate(config.model).eval()
    load_for_inference(ours, str(folder))
    assert_predict_alike(ours, theirs, (side, side))
    identified = identify(read_weights(str(folder)))
    assert identified.source_format.title == "transformers' RT-DETR"
    assert identified.recipe == f"rtdetrv2/rtdetrv2_{size}_coco"
