"""Detecting runs that do not learn."""

import logging

import torch
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from deim.engine.trainer import Trainer
from deim.structures.boxes import iou

logger = logging.getLogger("detectron2.deim")

ADVICE = """Possible remedies, in this order:
  - look at the training data as the model receives it: deim view-data
  - start from trained weights: train.init_checkpoint=... or a pretrained backbone
  - start from boxes of your objects' size: model.decoder.queries.anchor_size=...
  - start Dense O2O later, once the model has begun to learn: schedule.dense_epochs=[...]
  - use a longer warm-up: schedule.warmup_iters={longer_warmup}
  - lower the learning rate: optimizer.lr=..., and that of the backbone"""


class PlateauHook(HookBase):
    """Hook that warns if a model detects no more objects than chance would.

    The ``num_boxes`` best detections of a training image are compared with the objects of that image (recall) and
    with those of another image of the batch (chance). After each tenth of the run, from ``first_tenth`` on, this is
    measured on ``num_batches`` batches, until recall exceeds chance by at least ``margin``.

    Both values are logged as the scalars ``plateau/recall`` and ``plateau/chance``. The hook does nothing for models
    that do not return detected boxes, and for batches of one image, which contain no other image to compare with.

    Args:
        first_tenth: tenth of the run after which to measure first, in [1, 9].
        num_batches: number of consecutive iterations to measure.
        num_boxes: number of best detections per image.
        margin: required difference between recall and chance, in [0, 1].
    """

    trainer: Trainer

    def __init__(self, first_tenth: int = 2, num_batches: int = 8, num_boxes: int = 10, margin: float = 0.04):
        self.first_tenth, self.num_batches, self.num_boxes, self.margin = first_tenth, num_batches, num_boxes, margin
        self.is_finished = False
        self._counts: list[Tensor] = []

    def after_step(self) -> None:
        period = max(self.trainer.max_iter // 10, self.num_batches)
        tenth, batch_index = divmod(self.trainer.iter + 1, period)
        if self.is_finished or tenth < self.first_tenth or batch_index >= self.num_batches:
            return
        if batch_index == 0:
            self._counts = []
        self._counts.append(self._count_detected_objects(self.trainer.samples))
        if batch_index == self.num_batches - 1:
            self._compare_with_chance()

    def _count_detected_objects(self, samples: list[dict]) -> Tensor:
        """Return (3,) counts: objects detected, objects detected by chance, all objects."""
        best_boxes = self._detect(samples) if len(samples) > 1 else None
        if best_boxes is None:
            self.is_finished = True
            return torch.zeros(3)
        objects = [sample["instances"].gt_boxes.tensor.cpu() for sample in samples]
        boxes_of_next_image = best_boxes[1:] + best_boxes[:1]
        detected = sum(count_detected(boxes, gt_boxes) for boxes, gt_boxes in zip(best_boxes, objects, strict=True))
        by_chance = sum(
            count_detected(boxes, gt_boxes) for boxes, gt_boxes in zip(boxes_of_next_image, objects, strict=True)
        )
        return torch.tensor([detected, by_chance, sum(map(len, objects))])

    @torch.no_grad()
    def _detect(self, samples: list[dict]) -> list[Tensor] | None:
        """Return the best boxes (N, 4) of each image; None if the model does not return detected boxes."""
        model = self.trainer.model
        model = model.module if isinstance(model, DistributedDataParallel) else model
        inputs = [{"image": s["image"], "height": s["image"].shape[1], "width": s["image"].shape[2]} for s in samples]
        with inference_context(model):
            results = model(inputs)
        if not all("instances" in result and result["instances"].has("pred_boxes") for result in results):
            return None
        return [result["instances"].pred_boxes.tensor[: self.num_boxes].cpu() for result in results]

    def _compare_with_chance(self) -> None:
        detected, by_chance, total = torch.stack(self._counts).sum(dim=0).tolist()
        recall, chance = detected / max(total, 1), by_chance / max(total, 1)
        self.trainer.storage.put_scalars(**{"plateau/recall": recall, "plateau/chance": chance}, smoothing_hint=False)
        self.is_finished = recall - chance >= self.margin or total == 0
        if not self.is_finished:
            iteration, max_iter = self.trainer.iter + 1, self.trainer.max_iter
            advice = ADVICE.format(longer_warmup=max_iter // 8)
            logger.warning(
                f"After {iteration} of {max_iter} iterations the model does not detect objects better than by chance: "
                f"its best boxes find {recall:.1%} of the objects of their image and {chance:.1%} of the objects of "
                f"another image. {advice}"
            )

    def state_dict(self) -> dict:
        return {"is_finished": self.is_finished, "counts": [counts.tolist() for counts in self._counts]}

    def load_state_dict(self, state_dict: dict) -> None:
        # Checkpoints of earlier versions have the keys "left" and "found".
        self.is_finished = state_dict["is_finished"] if "is_finished" in state_dict else state_dict["left"]
        self._counts = [torch.tensor(counts) for counts in state_dict.get("counts", state_dict.get("found", []))]


def count_detected(boxes: Tensor, objects: Tensor, threshold: float = 0.5) -> int:
    """Count the objects (T, 4) that overlap at least one box (N, 4) with an IoU of ``threshold`` or more; XYXY."""
    if len(boxes) == 0:
        return 0
    return int((iou(objects[:, None], boxes[None]).amax(dim=1) >= threshold).sum())
