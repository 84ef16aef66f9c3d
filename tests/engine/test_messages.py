"""Console output of a run, and the message for out-of-memory errors."""

import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyCall
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from deim.config import without_dense_o2o
from deim.data.copy_blend import CopyBlend
from deim.engine.buffered_log import buffered_log
from deim.engine.hooks.writers import ProgressPrinter, main_loss_names
from deim.engine.out_of_memory import DeviceMemoryError, explain_out_of_memory
from deim.engine.preflight import warn_about_unused_augmentation
from tests.models import FAMILIES, batch, recipe, tiny_model


def shown_losses(losses: list[str], **options) -> list[str]:
    printer = ProgressPrinter(10, **options)
    return printer._shown_losses(losses)


@pytest.mark.parametrize("family", FAMILIES)
def test_console_shows_each_loss_of_the_last_layer_once(family: str) -> None:
    model = tiny_model(family=family).train()
    losses = model(batch([2, 1]))
    printed = shown_losses(list(losses), main_losses=main_loss_names(model))
    assert printed
    assert not any(part in name for name in printed for part in ("_aux_", "_dn_", "_enc", "_pre", "_o2m"))
    assert {name.split("_")[1] for name in printed} == {name.split("_")[1] for name in losses} - {"ddf"}


def test_losses_of_other_models_are_grouped_by_their_names() -> None:
    losses = ["loss_class", "loss_class_0", "loss_class_enc", "loss_bbox", "loss_bbox_dn_1", "loss_rpn_cls"]
    assert shown_losses(losses) == ["loss_class", "loss_bbox", "loss_rpn_cls"]


def test_console_line_contains_only_the_main_losses(caplog: pytest.LogCaptureFixture) -> None:
    with EventStorage(0) as storage, caplog.at_level(logging.INFO, logger="detectron2.utils.events"):
        storage.put_scalars(total_loss=3.0, loss_bbox=1.0, loss_bbox_o2m=2.0)
        ProgressPrinter(10, main_losses=["loss_bbox"]).write()
    assert "loss_bbox: 1" in caplog.text
    assert "o2m" not in caplog.text


def test_unused_batch_operations_cause_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    cfg = recipe("deimv2_dinov3_s_shapes")
    warn_about_unused_augmentation(cfg)
    without_dense_o2o(cfg.dataloader)
    warn_about_unused_augmentation(cfg)
    assert not caplog.records
    cfg.dataloader.train.batch_operations = [LazyCall(CopyBlend)(prob=0.5, epochs=[1, 2])]
    cfg.schedule.dense_epochs = [0, 0]
    warn_about_unused_augmentation(cfg)
    assert not caplog.records
    cfg.dataloader.train.batch_operations[0].epochs = None
    warn_about_unused_augmentation(cfg)
    assert "has batch_operations without epochs, but schedule.dense_epochs is empty" in caplog.text


STEP = SimpleNamespace(
    samples=[
        {"image": torch.zeros(3, 640, 480), "instances": Instances((640, 480), gt_boxes=Boxes(torch.zeros(5, 4)))},
        {"image": torch.zeros(3, 320, 320)},
    ]
)


def test_out_of_memory_message_lists_sizes_and_keys() -> None:
    cfg = OmegaConf.create({
        "train": {"amp": {"enabled": False}, "activation_checkpointing": [], "accumulation_steps": 1},
        "dataloader": {"train": {"total_batch_size": 32}},
    })  # fmt: skip
    with pytest.raises(DeviceMemoryError) as raised, explain_out_of_memory(cfg, STEP):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    message = str(raised.value)
    assert "2 images of 640 x 480, 320 x 320 with 5 objects" in message
    order = [message.index(key) for key in ("total_batch_size (now 32)", "amp.enabled", "activation_checkpointing", "accumulation_steps")]  # fmt: skip
    assert order == sorted(order)
    assert message.endswith("CUDA out of memory. Tried to allocate 2.00 GiB.")
    cfg.train.amp.enabled = True
    with pytest.raises(DeviceMemoryError) as raised, explain_out_of_memory(cfg, STEP):
        raise torch.OutOfMemoryError("x")
    assert "amp" not in str(raised.value)


def test_out_of_memory_message_fits_other_loaders_and_options() -> None:
    cfg = OmegaConf.create({
        "train": {"amp": {"enabled": True}, "compile": True},
        "dataloader": {"train": {"_target_": "foreign.loader"}},
    })  # fmt: skip
    with (
        pytest.raises(DeviceMemoryError, match=r"total_batch_size \(now unknown\)") as raised,
        explain_out_of_memory(cfg, STEP),
    ):
        raise torch.OutOfMemoryError("x")
    assert "activation_checkpointing" not in str(raised.value), "train.compile excludes it"
    cfg.train.update(compile=False, cuda_graphs=True)
    with pytest.raises(DeviceMemoryError, match=r"train\.cuda_graphs=False"), explain_out_of_memory(cfg, STEP):
        raise torch.OutOfMemoryError("x")


def test_buffered_records_are_logged_once_if_handlers_exist(caplog: pytest.LogCaptureFixture) -> None:
    """A second run in the same process finds the handlers of the first one."""
    logger = logging.getLogger("buffered")
    with caplog.at_level(logging.INFO), buffered_log(logger) as emit:
        logger.info("before the setup")
        assert caplog.messages == []
        emit()
        logger.info("after the setup")
    assert caplog.messages == ["before the setup", "after the setup"]
    assert logger.propagate
