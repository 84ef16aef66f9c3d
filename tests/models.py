"""Small models and inputs for tests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partialmethod
from unittest import mock

import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import Tensor, nn
from torch._dynamo.utils import counters

from deim.config import load_config, with_keypoints, with_masks
from deim.config.building import WEIGHTS_ARGUMENTS
from deim.layers import AttentionBlock
from tests.conftest import ROOT, long_except


def recipe(name: str, *overrides: str):
    """Load the config ``projects/<system>/configs/<name>.py`` by its file name."""
    (path,) = ROOT.glob(f"projects/*/configs/{name}.py")
    return without_pretrained(load_config(str(path), overrides))


def without_pretrained(cfg):
    """Disable the pretrained weights of the backbone in place, so that building needs no download."""
    for argument, empty in WEIGHTS_ARGUMENTS.items():
        if argument in cfg.model.get("backbone", {}):
            cfg.model.backbone[argument] = empty
    return cfg


# The small recipe of each family.
REAL_TIME = {
    "dfine": "deim_dfine_n_shapes",
    "rtdetr": "deim_rtdetrv2_r18vd_shapes",
    "deimv2": "deimv2_dinov3_s_shapes",
    "deimv2_lite": "deimv2_hgnetv2_atto_shapes",
    "ecdet": "ecdet_s_shapes",
}
DETRS = {
    "deformable": "deformable_detr_r18_shapes",
    "hybrid": "h_deformable_detr_r18_shapes",
    "dn": "dn_deformable_detr_r18_shapes",
}
FAMILIES = REAL_TIME | DETRS


def tiny_model(*overrides: str, family: str = "dfine", seed: int = 0) -> nn.Module:
    """Return a trainable detector with 6 classes and few queries."""
    torch.manual_seed(seed)
    return instantiate(
        recipe(FAMILIES[family], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=3", *overrides).model
    )


NUM_KEYPOINTS = 5
# A small recipe for each task besides boxes; those of masks and keypoints get a head.
TASKS = {"masks": "ecdet_s_shapes", "keypoints": "deim_dfine_n_shapes", "poses": "ecpose_s_shapes"}


def task_model(task: str, *overrides: str, seed: int = 0) -> nn.Module:
    """Return a trainable model for one of the ``TASKS``, with few queries; see :func:`task_batch`."""
    cfg = recipe(TASKS[task], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=3", *overrides)
    if task == "masks":
        with_masks(cfg.model)
    elif task == "keypoints":
        with_keypoints(cfg.model, NUM_KEYPOINTS)
    torch.manual_seed(seed)
    return instantiate(cfg.model)


def task_batch(task: str, counts: list[int], size: int = 64, seed: int = 0) -> list[dict]:
    """Return :func:`batch` with the ground truth of a task."""
    return batch(
        counts,
        size,
        classes=1 if task == "poses" else 6,
        seed=seed,
        masks=task == "masks",
        num_keypoints=0 if task == "masks" else NUM_KEYPOINTS,
    )


def dense_mask(blocks: Sequence[AttentionBlock], total: int) -> Tensor:
    """Return the attention mask (total, total), bool, True where a query must not attend to another."""
    masked, first = torch.ones(total, total, dtype=torch.bool), 0
    for block in blocks:
        masked[first : first + block.size, block.keys] = False if block.masked is None else block.masked
        first += block.size
    assert first == total
    return masked


def randomize(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Add noise to the parameters, since some layers start at zero, and set random norm statistics, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


# Backends of torch.compile. "inductor", torch's default, takes a minute.
COMPILERS = long_except(["aot_eager"], ["inductor", "aot_eager"])


@contextmanager
def compile_without_graph_breaks(compiler: str) -> Iterator[None]:
    """Assert that torch.compile produces no graph breaks within the block."""
    torch._dynamo.reset()
    counters.clear()
    compile_module = nn.Module.compile
    with mock.patch.object(nn.Module, "compile", partialmethod(compile_module, backend=compiler)):
        yield
    assert not counters["graph_break"], list(counters["graph_break"])
    assert counters["stats"]["unique_graphs"] > 0


def batch(
    counts: list[int], size: int = 64, classes: int = 6, seed: int = 0, masks: bool = False, num_keypoints: int = 0
) -> list[dict]:
    """Return one random square image per entry of ``counts``, with that number of objects.

    With ``masks``, the mask of an object at a quarter of the size is its box; keypoints are inside of the box.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * size * 0.6
        side = torch.rand(count, 2, generator=generator) * size * 0.3 + 4
        instances = Instances(
            (size, size),
            gt_boxes=Boxes(torch.cat([corner, corner + side], dim=1)),
            gt_classes=torch.randint(classes, (count,), generator=generator),
        )
        image = torch.randint(256, (3, size, size), dtype=torch.uint8, generator=generator)
        if masks:
            instances.gt_masks = BitMasks(_box_masks(instances.gt_boxes.tensor / 4, size // 4))
        if num_keypoints:
            positions = corner[:, None] + side[:, None] * torch.rand(count, num_keypoints, 2, generator=generator)
            visibility = torch.randint(3, (count, num_keypoints, 1), generator=generator)
            instances.gt_keypoints = Keypoints(torch.cat([positions, visibility], dim=-1))
        samples.append({"image": image, "instances": instances})
    return samples


def _box_masks(boxes: Tensor, size: int) -> Tensor:
    """Return (n, size, size) bool, True inside of the boxes (n, 4), XYXY in pixels."""
    left, top, right, bottom = (side[:, None, None] for side in boxes.unbind(dim=1))
    rows, columns = torch.arange(size)[:, None] + 0.5, torch.arange(size) + 0.5
    return (left <= columns) & (columns < right) & (top <= rows) & (rows < bottom)
