"""Evaluation of masks that are resized one image at a time."""

from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from torch import Tensor

from deim.config import build, switch
from deim.engine.evaluation import deferred_masks
from deim.structures.mask_images import DeferredMasks
from tests.commands import data_overrides
from tests.models import batch, randomize, recipe

TINY = ("model.decoder.queries.num_queries=20", "model.decoder.num_layers=2", "model.num_detections=10")


@torch.no_grad()
def test_deferred_masks_give_the_same_detections(shapes: Path) -> None:
    cfg = recipe("deim_dfine_n_shapes", *TINY, *data_overrides(shapes))
    build(cfg, "dataloader.test.dataset")  # registers the dataset
    evaluator = COCOEvaluator("deim_shapes_val", tasks=("bbox", "segm"))
    torch.manual_seed(0)
    model = randomize(instantiate(switch(cfg, masks=True).model)).eval()
    head = randomize(model.decoder.heads.masks, 0.1)  # the masks of the objects shall differ
    samples = [{**batch([0])[0], "image_id": image_id, "height": 40, "width": 50} for image_id in (1, 2)]
    # About half of the pixels are inside of a mask.
    head.bias -= model.detect(model.normalize(samples[0]["image"])[None]).masks.median()
    evaluator.reset()
    evaluator.process(samples, model(samples))
    expected = evaluator._predictions
    assert len({detection["segmentation"]["counts"] for detection in expected[0]["instances"]}) > 1

    evaluator.reset()
    with deferred_masks(model, evaluator):
        outputs = model(samples)
        assert all(isinstance(output["instances"].pred_masks, DeferredMasks) for output in outputs)
        evaluator.process(samples, outputs)
    assert evaluator._predictions == expected
    assert isinstance(model(samples)[0]["instances"].pred_masks, Tensor)
    with deferred_masks(model, DatasetEvaluator()):
        assert isinstance(model(samples)[0]["instances"].pred_masks, Tensor), "an evaluator that may not expect them"
