"""Export of detrex's detectors, for one input shape.

The export fails if a detector does not select its detections by the same rule as the detectors of deim.
"""

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
from deim.inference.export.detrex import DetrexGraph
from deim.inference.export.export import export
from deim.inference.export.formats.onnx import export_onnx
from deim.inference.export.options import ExportOptions
from deim.inference.export.verification import compare_detections
from deim.inference.exported_runner import open_session
from deim.inference.trained_model import TrainedModel
from tests.models import randomize

requires_detrex = pytest.mark.skipif(is_standalone("detrex"), reason="needs the real detrex")
FIXED_SHAPE = {"size": (128, 160), "dynamic_batch": False}
DETREX_CONFIGS = (
    "dab_detr/configs/dab_detr_r50_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py",
    "dino/configs/dino-resnet/dino_r50_4scale_12ep.py",
)


class DetrexLikeDetector(nn.Module):
    """Detector with detrex's interface: 6 queries, 4 classes, the best ``count`` (query, class) pairs."""

    def __init__(self, count: int = 5, softmax: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.count, self.softmax = count, softmax
        self.head = nn.Linear(3, 6 * 8)
        nn.init.normal_(self.head.weight)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        pixels = torch.stack([sample["image"].float().mean(dim=(1, 2)) / 255 for sample in batched_inputs])
        outputs = self.head(pixels).view(-1, 6, 8)
        sizes = [tuple(sample["image"].shape[1:]) for sample in batched_inputs]
        results = self.inference(outputs[..., :4], outputs[..., 4:].sigmoid(), sizes)
        return [{"instances": instances} for instances in results]

    def inference(self, logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]) -> list[Instances]:
        scores = logits.softmax(dim=-1) if self.softmax else logits.sigmoid()
        best, index = scores.flatten(1).topk(self.count)
        selected = boxes.gather(1, (index // 4)[..., None].expand(-1, -1, 4))
        results = []
        for size, score, label, box in zip(sizes, best, index % 4, selected, strict=True):
            scale = box.new_tensor([size[1], size[0]] * 2)
            results.append(
                Instances(size, scores=score, pred_classes=label, pred_boxes=Boxes(box_cxcywh_to_xyxy(box) * scale))
            )
        return results


IMAGES = torch.randint(256, (2, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_detections_match_detector() -> None:
    detector = DetrexLikeDetector().eval()
    expected = [output["instances"] for output in detector([{"image": image} for image in IMAGES])]
    graph = DetrexGraph(detector)
    graph.prepare(IMAGES)
    scores, labels, boxes = graph(IMAGES)
    assert scores.shape == (2, 5)
    for index, instances in enumerate(expected):
        torch.testing.assert_close(scores[index], instances.scores)
        assert torch.equal(labels[index], instances.pred_classes)
        scale = torch.tensor([64.0, 32, 64, 32])
        torch.testing.assert_close(boxes[index] * scale, instances.pred_boxes.tensor.clamp(torch.zeros(4), scale))


def test_unsupported_selection_requires_raw_outputs() -> None:
    with pytest.raises(ConfigError, match=r"DetrexLikeDetector selects its detections in an unsupported way.*--raw"):
        DetrexGraph(DetrexLikeDetector(softmax=True).eval()).prepare(IMAGES)
    graph = DetrexGraph(DetrexLikeDetector(softmax=True).eval(), postprocess=False)
    graph.prepare(IMAGES)
    assert [tuple(output.shape) for output in graph(IMAGES)] == [(2, 6, 4), (2, 6, 4)]


def test_unknown_detector_is_an_error() -> None:
    class Other(nn.Module):
        def forward(self, batched_inputs: list[dict]) -> list[dict]:
            return []

    with pytest.raises(ConfigError, match="Other cannot be exported: it is neither a detector of deim"):
        DetrexGraph(Other()).prepare(IMAGES)


def test_dynamic_shapes_are_errors(tmp_path: Path) -> None:
    config = OmegaConf.create({"dataloader": {"test": {"mapper": {}}}})
    trained = TrainedModel(DetrexLikeDetector().eval(), config, list("abcd"))
    for options in (ExportOptions(size=(32, 64)), ExportOptions(size=(32, 64), dynamic_batch=False, dynamic_size=True)):
        with pytest.raises(ConfigError, match=r"a fixed batch size and image size only: give --batch"):
            export_onnx(trained, tmp_path / "model.onnx", options)
    assert not list(tmp_path.iterdir())


@requires_detrex
@pytest.mark.parametrize("name", DETREX_CONFIGS)
@pytest.mark.parametrize("attention", ["grid_sample", "gather"])
def test_detrex_models_match_torch_in_onnx_runtime(name: str, attention: str, tmp_path: Path) -> None:
    if attention == "gather" and "dab_detr" in name:
        pytest.skip("has no deformable attention")
    cfg = get_detrex_config(name)
    cfg.model.device = "cpu"
    torch.manual_seed(0)
    model = randomize(instantiate(cfg.model), 0.05).eval()
    trained = TrainedModel(model, OmegaConf.create({"dataloader": {"test": {"mapper": {}}}}), [""] * 80)
    path = tmp_path / "model.onnx"
    options = ExportOptions(**{**FIXED_SHAPE, "size": (256, 320)}, attention=attention)
    exported = export_onnx(trained, path, options)
    agreement = compare_detections(exported.graph, open_session(str(path), "cpu"), exported.metadata, 1)
    assert agreement.num_matched == agreement.num_detections > 0
    assert agreement.max_difference < 1e-3
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert ("GridSample" in operators) == (attention == "grid_sample" and "dab_detr" not in name)


@requires_detrex
def test_detrex_recipe_exports_checkpoint_and_predicts(tmp_path: Path) -> None:
    name = "dab_detr_deim/deim_dab_detr_r50_50ep_coco"
    from deim import model_zoo

    cfg = model_zoo.get_config(name)
    cfg.model.device = "cpu"
    torch.manual_seed(0)
    torch.save({"model": randomize(instantiate(cfg.model), 0.05).state_dict()}, tmp_path / "model.pth")
    lines: list[str] = []
    output = str(tmp_path / "model.onnx")
    export(name, str(tmp_path / "model.pth"), output, ExportOptions(**FIXED_SHAPE), log=lines.append)
    assert lines[0].endswith("batches: 1 x 128 x 160")
    detections = Predictor(output, threshold=0.0, device="cpu")(IMAGES[0].permute(1, 2, 0).numpy())
    assert len(detections) == 300
