"""Warning for runs that do not learn."""

import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from deim.engine.hooks.plateau import PlateauHook, count_detected
from tests.models import batch


class Detector(nn.Module):
    """Detector whose boxes are a function of the image."""

    def __init__(self, predict: Callable[[Tensor], Tensor]):
        super().__init__()
        self.predict = predict

    def forward(self, inputs: list[dict]) -> list[dict]:
        assert not self.training
        results = []
        for sample in inputs:
            boxes = self.predict(sample["image"])
            results.append({"instances": Instances((sample["height"], sample["width"]), pred_boxes=Boxes(boxes))})
        return results


def run(model: nn.Module, samples: list[dict], max_iter: int = 100) -> tuple[dict, list[str]]:
    """Return the scalars and the warnings of a run."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("detectron2.deim")
    logger.addHandler(handler)
    hook = PlateauHook(num_batches=2)
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(max_iter=max_iter, model=model.train(), samples=samples, storage=storage)
        for iteration in range(max_iter):
            hook.trainer.iter = storage.iter = iteration
            hook.after_step()
        assert model.training
    logger.removeHandler(handler)
    return {name: value for name, (value, _) in storage.latest().items()}, warnings


def test_model_that_ignores_images_causes_a_warning() -> None:
    samples = batch([3, 4, 2, 5])
    constant_boxes = torch.cat([sample["instances"].gt_boxes.tensor for sample in samples])[:10]
    scalars, warnings = run(Detector(lambda image: constant_boxes), samples)
    assert len(warnings) == 8, "one after each tenth of the run, from the second to the ninth"
    assert warnings[0].startswith(
        "After 21 of 100 iterations the model does not detect objects better than by chance: its best boxes find"
    )
    assert "schedule.dense_epochs" in warnings[0]
    assert scalars["plateau/recall"] > 0.5, "the constant boxes find many objects, but those of other images as well"
    assert scalars["plateau/recall"] == pytest.approx(scalars["plateau/chance"], abs=0.04)


def test_model_that_finds_objects_causes_no_warning() -> None:
    samples = batch([3, 4, 2, 5])
    boxes_by_image = {hash(s["image"].numpy().tobytes()): s["instances"].gt_boxes.tensor[:1] for s in samples}
    scalars, warnings = run(Detector(lambda image: boxes_by_image[hash(image.numpy().tobytes())]), samples)
    assert warnings == []
    assert scalars["plateau/recall"] >= 4 / 14
    assert scalars["plateau/chance"] < 0.1


def test_images_without_objects_cause_no_warning() -> None:
    _, warnings = run(Detector(lambda image: torch.zeros(0, 4)), batch([0, 0]))
    assert warnings == []


def test_batches_of_one_image_are_ignored() -> None:
    samples = batch([3])
    scalars, warnings = run(Detector(lambda image: samples[0]["instances"].gt_boxes.tensor), samples)
    assert warnings == []
    assert scalars == {}


@pytest.mark.parametrize("state", [{"is_finished": True, "counts": [[1, 0, 3]]}, {"left": True, "found": [[1, 0, 3]]}])
def test_state_of_earlier_version_is_restored(state: dict) -> None:
    hook = PlateauHook()
    hook.load_state_dict(state)
    assert hook.state_dict() == {"is_finished": True, "counts": [[1, 0, 3]]}


def test_models_without_boxes_are_ignored() -> None:
    class Segmenter(nn.Module):
        def forward(self, inputs: list[dict]) -> list[dict]:
            return [{"sem_seg": sample["image"]} for sample in inputs]

    scalars, warnings = run(Segmenter(), batch([2, 1]))
    assert warnings == []
    assert scalars == {}


def test_objects_are_detected_by_iou() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    assert count_detected(torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 10]]), objects) == 1
    assert count_detected(torch.zeros(0, 4), objects) == 0
    assert count_detected(torch.tensor([[0.0, 0, 10, 10]]), torch.zeros(0, 4)) == 0
