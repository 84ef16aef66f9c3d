"""Noticing that a run goes nowhere."""

import logging

import torch
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from deim.engine.trainer import Trainer
from deim.structures.boxes import iou

logger = logging.getLogger("detectron2.deim")

ADVICE = """What usually helps, in this order:
  - look at the training data as the model gets it: deim view-data
  - start from trained weights: train.init_checkpoint=... or a pretrained backbone
  - begin with boxes of your objects' size: model.decoder.queries.anchor_size=...
  - begin Dense O2O later, when the model has learnt something: schedule.dense_epochs=[...]
  - warm up longer: schedule.warmup_iters={longer_warmup}
  - lower the learning rate: optimizer.lr=..., and that of the backbone"""


class PlateauHook(HookBase):
    """Warns while a model finds no more objects than it would by chance.

    The ``num_boxes`` best detections of training images are compared with the objects of these images,
    and with those of another image of the batch. A model that looks at its images finds more of the
    former. This is done on ``num_batches`` batches after each tenth of the run, from ``first_tenth`` on,
    until the difference of both recalls is at least ``margin`` once.

    The scalars ``plateau/recall`` and ``plateau/chance`` hold both recalls. Models that return no detected boxes
    are left alone.

    Args:
        first_tenth: of the run after which to look first, in [1, 9].
        num_batches: to look at, in consecutive iterations.
        num_boxes: best detections of an image.
        margin: in [0, 1].
    """

    trainer: Trainer

    def __init__(self, first_tenth: int = 2, num_batches: int = 8, num_boxes: int = 10, margin: float = 0.04):
        self.first_tenth, self.num_batches, self.num_boxes, self.margin = first_tenth, num_batches, num_boxes, margin
        self.left = False
        self._found: list[Tensor] = []

    def after_step(self) -> None:
        period = max(self.trainer.max_iter // 10, self.num_batches)
        since, batch = divmod(self.trainer.iter + 1, period)
        if self.left or since < self.first_tenth or batch >= self.num_batches:
            return
        if batch == 0:
            self._found = []
        self._found.append(self._look_at(self.trainer.samples))
        if batch == self.num_batches - 1:
            self._judge()

    @torch.no_grad()
    def _look_at(self, samples: list[dict]) -> Tensor:
        """(3,) objects found, found by chance, and looked for."""
        model = self.trainer.model
        model = model.module if isinstance(model, DistributedDataParallel) else model
        inputs = [{"image": s["image"], "height": s["image"].shape[1], "width": s["image"].shape[2]} for s in samples]
        with inference_context(model):
            results = model(inputs)
        if not all("instances" in result and result["instances"].has("pred_boxes") for result in results):
            self.left = True
            return torch.zeros(3)
        boxes = [result["instances"].pred_boxes.tensor[: self.num_boxes].cpu() for result in results]
        objects = [sample["instances"].gt_boxes.tensor.cpu() for sample in samples]
        own = sum(count_found(found, wanted) for found, wanted in zip(boxes, objects, strict=True))
        other = sum(count_found(found, wanted) for found, wanted in zip(boxes[1:] + boxes[:1], objects, strict=True))
        return torch.tensor([own, other, sum(map(len, objects))])

    def _judge(self) -> None:
        own, other, total = torch.stack(self._found).sum(dim=0).tolist()
        recall, chance = own / max(total, 1), other / max(total, 1)
        self.trainer.storage.put_scalars(**{"plateau/recall": recall, "plateau/chance": chance}, smoothing_hint=False)
        self.left = recall - chance >= self.margin or total == 0
        if not self.left:
            iteration, max_iter = self.trainer.iter + 1, self.trainer.max_iter
            advice = ADVICE.format(longer_warmup=max_iter // 8)
            logger.warning(
                f"After {iteration} of {max_iter} iterations the model has not started to learn: its best boxes "
                f"find {recall:.1%} of the objects of their image, and {chance:.1%} of those of another one. {advice}"
            )

    def state_dict(self) -> dict:
        return {"left": self.left, "found": [found.tolist() for found in self._found]}

    def load_state_dict(self, state_dict: dict) -> None:
        self.left = state_dict["left"]
        self._found = [torch.tensor(found) for found in state_dict.get("found", [])]


def count_found(boxes: Tensor, objects: Tensor, threshold: float = 0.5) -> int:
    """How many of the objects (T, 4) some of the boxes (N, 4) overlaps by at least ``threshold`` in IoU; XYXY."""
    if len(boxes) == 0:
        return 0
    return int((iou(objects[:, None], boxes[None]).amax(dim=1) >= threshold).sum())
