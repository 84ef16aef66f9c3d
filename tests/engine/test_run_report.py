"""HTML report of a run, and comparison of runs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from PIL import Image

from deim.analysis import ImageResult, match_detections, precision_recall_curves
from deim.errors import DeimError
from deim.reporting.run_report import (
    DetectionCollector,
    EvaluatedRun,
    _add_classes,
    _add_summary,
    _annotated_image,
    write_report,
)
from deim.structures.mask_encoding import encode_masks
from deim.visualization import draw_detections
from deim.visualization.comparison import compare_runs
from deim.visualization.page import Page
from tests.commands import tool, train_net


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    done = train_net(shapes, output, "train.max_iter=4", "train.eval_period=2", "train.report=true")
    assert done.returncode == 0, done.stderr
    assert f"Wrote {output}/report.html" in done.stdout
    return output


def test_train_report_writes_the_report_after_training(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    scores = [json.loads(line) for line in (run / "metrics.json").read_text(encoding="utf-8").splitlines()]
    best = max(line["bbox/AP"] for line in scores if "bbox/AP" in line)
    assert f"<b>{best:.1f}</b>AP" in text
    for heading in ("COCO metrics", "Training", "Classes", "Errors", "Images with the most errors", "Samples"):
        assert f"<h2>{heading}</h2>" in text
    for name in ("circle", "square", "triangle", "star", "ring", "cross"):
        assert f"<td>{name}</td>" in text
    assert "DEIMDetector" in text.partition("<summary>config.yaml</summary>")[2]


def test_report_is_self_contained(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) >= 10
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in text


def test_report_command_and_its_errors(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", dirs_exist_ok=True)
    (tmp_path / "run" / "report.html").unlink()
    done = tool("report.py", str(tmp_path / "run"), "--weights", str(run / "model_final.pth"))
    assert done.returncode == 0, done.stderr
    assert "model_final.pth" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(DeimError, match=r"holds no run: config\.yaml does not exist"):
        write_report(tmp_path)
    for file in (tmp_path / "run").glob("model_*.pth"):
        file.unlink()
    with pytest.raises(DeimError, match="has no weights yet"):
        write_report(tmp_path / "run")


def test_report_shows_the_ap_of_a_single_class(tmp_path: Path) -> None:
    evaluated = EvaluatedRun({"AP": 37.5}, [], ["box"], seconds=0.1, parameters=1)
    page = Page("report")
    _add_classes(page, evaluated, precision_recall_curves([], [], 1))
    page.write(tmp_path / "page.html")
    assert "<td>37.5</td>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_report_shows_masks_and_keypoints(tmp_path: Path) -> None:
    image = np.full((60, 80, 3), 200, np.uint8)
    Image.fromarray(image).save(tmp_path / "0.png")
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 20:40, 10:40] = True
    detections = {
        "boxes": np.array([[10.0, 20, 40, 40], [50, 20, 70, 40]]),
        "scores": np.array([0.9, 0.1]),
        "classes": np.array([0, 0]),
        "masks": encode_masks(masks),
        "keypoints": np.array([[[15.0, 25, 0.9], [35, 25, 0.9]], [[55, 25, 0.1], [65, 25, 0.1]]]),
    }
    ground_truth = (detections["boxes"][:1], np.array([0]), np.zeros((0, 4)), np.zeros(0, np.int64))
    result = ImageResult(str(tmp_path / "0.png"), *ground_truth, **detections).filter_by_score(0.5)
    assert (len(result.boxes), len(result.masks), result.keypoints.shape) == (1, 1, (1, 2, 3))
    annotated, _ = _annotated_image((result, match_detections(result)), ["cat"], [(0, 1)])
    shown = np.asarray(Image.fromarray(annotated).resize((80, 60), Image.Resampling.NEAREST)).astype(int)
    green = shown[..., 1] - shown[..., 0] > 20  # image and mask of a correct detection
    assert green[35, 25]
    assert not green[45:, :].any()
    assert not green[:, 45:].any()
    scores = {"AP": 37.5, "AP50": 50.0, "AP75": 30.0, "APs": 1.0, "APm": 2.0, "APl": np.nan}
    further = {"segm": {**scores, "AP": 31.4}, "keypoints": {"AP": 27.1}}
    evaluated = EvaluatedRun(scores, [result], ["cat"], seconds=0.1, parameters=1, further_scores=further)
    page = Page("report")
    cfg = OmegaConf.create(
        {
            "train": {"init_checkpoint": "a.pth", "device": "cpu"},
            "dataloader": {"test": {"dataset": {"names": "val"}}},
        }
    )
    _add_summary(page, cfg, evaluated, threshold=0.5)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>31.4</b>AP of masks" in text
    assert "<b>27.1</b>AP of keypoints" in text
    assert "<tr><td>keypoints</td><td>27.1</td><td>-</td>" in text


def test_collected_detections_contain_masks_and_keypoints() -> None:
    instances = Instances((4, 6), pred_boxes=Boxes(torch.ones(1, 4)), scores=torch.ones(1), pred_classes=torch.zeros(1))
    instances.pred_masks, instances.pred_keypoints = torch.ones(1, 4, 6, dtype=torch.bool), torch.ones(1, 2, 3)
    collector = DetectionCollector()
    collector.process([{"image_id": 7}], [{"instances": instances}])
    instances.pred_keypoints -= 0.5  # as detectron2's evaluator does
    assert collector.detections[7]["masks"][0]["size"] == [4, 6]
    assert collector.detections[7]["keypoints"].tolist() == np.ones((1, 2, 3)).tolist()


def test_drawn_detections_show_masks_and_keypoints(tmp_path: Path) -> None:
    image = np.full((60, 80, 3), 200, np.uint8)
    instances = Instances((60, 80), pred_boxes=Boxes(torch.tensor([[10.0, 20, 40, 40], [50, 20, 70, 40]])))
    instances.scores, instances.pred_classes = torch.tensor([0.9, 0.1]), torch.tensor([0, 0])
    ground_truth = [(np.zeros((0, 4)), np.zeros(0, np.int64))]
    drawn = []
    for has_fields in (False, True):
        if has_fields:
            instances.pred_masks = torch.ones(2, 60, 80, dtype=torch.bool)
            instances.pred_keypoints = torch.full((2, 1, 3), 0.3)
        draw_detections([image], ground_truth, [instances], ["cat"], tmp_path / "a.png", connections=[(0, 0)])
        drawn.append(np.asarray(Image.open(tmp_path / "a.png")).astype(int))
    assert (drawn[0] != drawn[1]).any(axis=2).sum() > 1000


def test_report_escapes_html(tmp_path: Path) -> None:
    page = Page("<b>")
    page.table(["<script>"], [["a & b"]])
    page.collapsible("<i>", "<u>")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    for escaped in ("a &amp; b", "<h1>&lt;b&gt;</h1>", "<summary>&lt;i&gt;</summary><pre>&lt;u&gt;</pre>"):
        assert escaped in text


def test_compare_runs(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    table = compare_runs([str(run), str(tmp_path / "other")], tmp_path / "runs.png")
    lines = table.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:4]] == ["run", "best iteration", "AP"]
    assert {line.split("|")[1].strip() for line in lines[2:4]} == {run.name, "other"}
    assert Image.open(tmp_path / "runs.png").size[0] > 500
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n')
    with pytest.raises(DeimError, match="contains no AP"):
        compare_runs([str(tmp_path / "empty")], tmp_path / "runs.png")
    with pytest.raises(DeimError, match="does not exist"):
        compare_runs([str(tmp_path / "nowhere")], tmp_path / "runs.png")
