"""Detectors of detrex are exported for one shape of images, and only if what is exported chooses as they do."""

from pathlib import Path

import onnx
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detrex.layers import box_cxcywh_to_xyxy
from omegaconf import OmegaConf
from torch import Tensor, nn

from deim import Predictor
from deim.config import get_detrex_config
from deim.errors import ConfigError
from deim.fallback import is_standalone
from deim.inference.export import exporting
from deim.inference.export.checking import compare
from deim.inference.export.detrex import DetrexGraph
from deim.inference.export.onnx import ExportOptions, export_onnx
from deim.inference.exported import open_session
from deim.inference.source import TrainedModel
from tests.models import randomize

plug_in = pytest.mark.skipif(is_standalone("detrex"), reason="needs the real detrex")
ONE_SHAPE = {"size": (128, 160), "dynamic_batch": False}
EXPORTED = (
    "dab_detr/configs/dab_detr_r50_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py",
    "dino/configs/dino-resnet/dino_r50_4scale_12ep.py",
)


class LikeDetrex(nn.Module):
    """A detector with the ways of detrex's: 6 queries, 4 classes, the best ``count`` pairs."""

    def __init__(self, count: int = 5, softmax: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.count, self.softmax = count, softmax
        self.head = nn.Linear(3, 6 * 8)
        nn.init.normal_(self.head.weight)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        pixels = torch.stack([one["image"].float().mean(dim=(1, 2)) / 255 for one in batched_inputs])
        found = self.head(pixels).view(-1, 6, 8)
        sizes = [tuple(one["image"].shape[1:]) for one in batched_inputs]
        return [{"instances": one} for one in self.inference(found[..., :4], found[..., 4:].sigmoid(), sizes)]

    def inference(self, logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]) -> list[Instances]:
        scores = logits.softmax(dim=-1) if self.softmax else logits.sigmoid()
        best, index = scores.flatten(1).topk(self.count)
        chosen = boxes.gather(1, (index // 4)[..., None].expand(-1, -1, 4))
        made = []
        for size, score, label, box in zip(sizes, best, index % 4, chosen, strict=True):
            scale = box.new_tensor([size[1], size[0]] * 2)
            made.append(
                Instances(size, scores=score, pred_classes=label, pred_boxes=Boxes(box_cxcywh_to_xyxy(box) * scale))
            )
        return made


IMAGES = torch.randint(256, (2, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_detections_are_those_that_the_detector_chooses() -> None:
    detector = LikeDetrex().eval()
    own = [one["instances"] for one in detector([{"image": image} for image in IMAGES])]
    graph = DetrexGraph(detector)
    graph.settle(IMAGES)
    scores, labels, boxes = graph(IMAGES)
    assert scores.shape == (2, 5)
    for index, one in enumerate(own):
        torch.testing.assert_close(scores[index], one.scores)
        assert torch.equal(labels[index], one.pred_classes)
        scale = torch.tensor([64.0, 32, 64, 32])
        torch.testing.assert_close(boxes[index] * scale, one.pred_boxes.tensor.clamp(torch.zeros(4), scale))


def test_another_choice_is_refused_but_for_raw_outputs() -> None:
    with pytest.raises(ConfigError, match=r"LikeDetrex selects its detections in an unsupported way.*--raw"):
        DetrexGraph(LikeDetrex(softmax=True).eval()).settle(IMAGES)
    graph = DetrexGraph(LikeDetrex(softmax=True).eval(), postprocess=False)
    graph.settle(IMAGES)
    assert [tuple(one.shape) for one in graph(IMAGES)] == [(2, 6, 4), (2, 6, 4)]


def test_what_is_no_detector_of_either_is_refused() -> None:
    class Other(nn.Module):
        def forward(self, batched_inputs: list[dict]) -> list[dict]:
            return []

    with pytest.raises(ConfigError, match="Other cannot be exported: it is neither a detector of deim"):
        DetrexGraph(Other()).settle(IMAGES)


def test_its_graphs_are_for_one_shape(tmp_path: Path) -> None:
    config = OmegaConf.create({"dataloader": {"test": {"mapper": {}}}})
    trained = TrainedModel(LikeDetrex().eval(), config, list("abcd"))
    for options in (ExportOptions(size=(32, 64)), ExportOptions(size=(32, 64), dynamic_batch=False, dynamic_size=True)):
        with pytest.raises(ConfigError, match=r"a fixed batch size and image size only: give --batch"):
            export_onnx(trained, tmp_path / "model.onnx", options)
    assert not list(tmp_path.iterdir())


@plug_in
@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("attention", ["grid_sample", "gather"])
def test_models_of_detrex_find_in_onnx_runtime_what_they_find_in_torch(
    name: str, attention: str, tmp_path: Path
) -> None:
    if attention == "gather" and "dab_detr" in name:
        pytest.skip("has no deformable attention")
    cfg = get_detrex_config(name)
    cfg.model.device = "cpu"
    torch.manual_seed(0)
    model = randomize(instantiate(cfg.model), 0.05).eval()
    trained = TrainedModel(model, OmegaConf.create({"dataloader": {"test": {"mapper": {}}}}), [""] * 80)
    path = tmp_path / "model.onnx"
    options = ExportOptions(**{**ONE_SHAPE, "size": (256, 320)}, attention=attention)
    exported = export_onnx(trained, path, options)
    agreement = compare(exported.graph, open_session(str(path), "cpu"), exported.metadata, 1)
    assert agreement.found == agreement.kept > 0
    assert agreement.difference < 1e-3
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert ("GridSample" in operators) == (attention == "grid_sample" and "dab_detr" not in name)


@plug_in
def test_a_recipe_on_detrex_is_exported_from_its_checkpoint_and_predicts(tmp_path: Path) -> None:
    name = "dab_detr_deim/deim_dab_detr_r50_50ep_coco"
    from deim import model_zoo

    cfg = model_zoo.get_config(name)
    cfg.model.device = "cpu"
    torch.manual_seed(0)
    torch.save({"model": randomize(instantiate(cfg.model), 0.05).state_dict()}, tmp_path / "model.pth")
    lines: list[str] = []
    output = str(tmp_path / "model.onnx")
    exporting.export(name, str(tmp_path / "model.pth"), output, ExportOptions(**ONE_SHAPE), tell=lines.append)
    assert lines[0].endswith("images: 1 x 128 x 160")
    found = Predictor(output, threshold=0.0, device="cpu")(IMAGES[0].permute(1, 2, 0).numpy())
    assert len(found) == 300
