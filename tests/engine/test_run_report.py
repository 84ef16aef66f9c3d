"""HTML report of a run, and comparison of runs."""

import json
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from PIL import Image

from deim.analysis import ImageResult, match_detections, precision_recall_curves
from deim.config import build
from deim.data.datasets.shapes import write_shapes
from deim.errors import DeimError
from deim.reporting.evaluated_run import DetectionCollector, EvaluatedRun, evaluate_run
from deim.reporting.run_report import (
    _add_classes,
    _add_keypoint_errors,
    _add_summary,
    _annotated_image,
    compose_page,
    write_report,
)
from deim.structures.mask_encoding import encode_masks
from deim.structures.skeleton import Skeleton
from deim.visualization import draw_detections, draw_metrics, last_scores
from deim.visualization.comparison import compare_runs
from deim.visualization.page import Page
from tests.commands import data_overrides, tool, train_net
from tests.models import recipe


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


def test_images_are_rotated_as_in_training(tmp_path: Path) -> None:
    """Boxes of an image whose annotations ignore its EXIF rotation."""
    image = Image.fromarray(np.full((60, 80, 3), 200, np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "0.jpg", exif=exif)
    none = (np.zeros((0, 4)), np.zeros(0, np.int64))
    for size, shape in (((60, 80), (3, 4)), ((80, 60), (4, 3)), (None, (4, 3))):
        result = ImageResult(str(tmp_path / "0.jpg"), *none, *none, none[0], np.zeros(0), none[1], size=size)
        annotated, _ = _annotated_image((result, match_detections(result)), ["cat"], [])
        assert annotated.shape[0] * shape[1] == annotated.shape[1] * shape[0], size


def test_report_shows_missed_objects_as_masks_and_skeletons(tmp_path: Path) -> None:
    """Three objects: polygons, a bitmap, and no mask."""
    Image.fromarray(np.full((640, 640, 3), 100, np.uint8)).save(tmp_path / "0.png")
    bitmap = np.zeros((640, 640), bool)
    bitmap[330:370, 330:370] = True
    result = ImageResult(
        str(tmp_path / "0.png"),
        np.array([[100.0, 100, 200, 200], [300, 300, 400, 400], [500, 500, 600, 600]]),
        np.array([0, 0, 0]),
        *(np.zeros((0, 4)), np.zeros(0, np.int64)),
        *(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)),
        masks=[],
        keypoints=np.zeros((0, 2, 3)),
        gt_masks=[[[120, 120, 180, 120, 180, 180, 120, 180]], bitmap, None],
        gt_keypoints=np.array([[[120.0, 150, 2], [180, 150, 1]], [[0, 0, 0], [310, 310, 2]], [[0, 0, 0]] * 2]),
    )
    annotated, _ = _annotated_image((result, match_detections(result)), ["cat"], [(0, 1)])
    assert annotated[130, 130].tolist() == annotated[350, 350].tolist() == [round(100 * 0.55 + 255 * 0.45)] * 3
    assert annotated[550, 550].tolist() == annotated[320, 320].tolist() == [100] * 3
    assert annotated[150, 150].tolist() == [255] * 3, "a connection"
    assert annotated[310, 310].tolist() == [255] * 3, "a keypoint"


def test_report_of_poses_matches_by_keypoints(tmp_path: Path) -> None:
    """The boxes overlap completely, the keypoints hardly; only the keypoints were evaluated."""
    Image.fromarray(np.full((60, 80, 3), 200, np.uint8)).save(tmp_path / "0.png")
    box, points = np.array([[10.0, 10, 50, 50]]), np.array([[[10.0, 10, 2], [50, 50, 2]]])
    results = [
        ImageResult(
            *(str(tmp_path / "0.png"), box, np.array([0]), np.zeros((0, 4)), np.zeros(0, np.int64)),
            *(box, np.array([0.9]), np.array([0])),
            keypoints=points + shift,
            gt_keypoints=points,
            gt_areas=np.array([1600.0]),
            oks_sigmas=[0.05, 0.05],
        )
        for shift in (0.5, 30)
    ]
    scores = {"AP": 50.0, "AP50": 60.0, "AP75": 30.0, "APm": 2.0, "APl": np.nan}
    skeleton = Skeleton(("head", "tail"), ((0, 1),))
    evaluated = EvaluatedRun(scores, results, ["cat"], 0.1, 1, skeleton=skeleton, task="keypoints")
    cfg = OmegaConf.create(
        {
            "train": {"init_checkpoint": "a.pth", "device": "cpu", "recipe": ""},
            "dataloader": {"test": {"dataset": {"names": "val"}}},
        }
    )
    (tmp_path / "config.yaml").touch()
    compose_page(cfg, evaluated, tmp_path).write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>50.0</b>AP of keypoints" in text
    assert "<th>AP of keypoints</th>" in text
    assert "recall hold at this score and OKS 0.5" in text
    assert "<td>head</td><td>1</td><td>0.7</td><td>1.8</td><td>100.0</td>" in text
    assert "0.png: 2 errors" in text  # a wrong detection and a missed object
    page = Page("no keypoints")
    _add_keypoint_errors(page, [], evaluated)
    page.write(tmp_path / "page.html")
    assert "<table" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_pose_models_are_evaluated_by_keypoints(tmp_path: Path) -> None:
    for _ in write_shapes(tmp_path, train_images=1, val_images=10, size=96, masks=True, keypoints=True):
        pass
    cfg = recipe("ecpose_s_shapes", *data_overrides(tmp_path), "dataloader.test.num_workers=0", "train.device=cpu")
    cfg.dataloader.test.dataset.names = f"{tmp_path}_val"
    with mock.patch("deim.reporting.evaluated_run.load_trained_model", lambda cfg: build(cfg, "model")):
        evaluated = evaluate_run(cfg)
    assert (evaluated.task, evaluated.further_scores) == ("keypoints", {})
    assert evaluated.skeleton.names == ("center", "top", "bottom", "left_tip", "right_tip")
    for result in evaluated.results:
        assert result.gt_keypoints.shape == (len(result.gt_boxes), 5, 3)
        assert (result.gt_areas <= (result.gt_boxes[:, 2:] - result.gt_boxes[:, :2]).prod(axis=1) + 1e-3).all()
        match_detections(result)


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


def write_metrics(folder: Path, *lines: dict | list) -> str:
    folder.mkdir()
    (folder / "metrics.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return str(folder)


def test_metrics_of_masks_and_keypoints_are_plotted(tmp_path: Path) -> None:
    masks = {"bbox/AP": 40.0, "bbox/AP50": 60.0, "segm/AP": 30.0}
    both = write_metrics(tmp_path / "both", {"iteration": 3, "total_loss": 2.0}, {"iteration": 5, **masks})
    poses = {"keypoints/AP": 20.0, "keypoints/AP50": 50.0}
    pose = write_metrics(tmp_path / "pose", {"iteration": 3, "total_loss": 2.0}, {"iteration": 5, **poses})
    assert last_scores(f"{both}/metrics.json") == {"AP": 40.0, "AP50": 60.0, "AP of masks": 30.0}
    assert last_scores(f"{pose}/metrics.json") == {"AP": 20.0, "AP50": 50.0}
    for folder in (both, pose):
        draw_metrics(f"{folder}/metrics.json", tmp_path / "curves.png")
    lines = [
        [cell.strip() for cell in line.split("|")]
        for line in compare_runs([both, pose], tmp_path / "r.png").split("\n")
    ]
    assert lines[0][-2] == "AP of masks"
    assert (lines[2][3], lines[2][-2], lines[3][3], lines[3][-2]) == ("40.0", "30.0", "20.0", "-")


def test_metrics_lines_without_iteration_are_skipped(tmp_path: Path) -> None:
    """Such lines were appended by another program."""
    lines = (
        {"iteration": 3, "total_loss": 2.0},
        {"bbox/AP": 7.0, "total_loss": 9.0},
        [1],
        {"iteration": 5, "bbox/AP": 4.5},
    )
    folder = write_metrics(tmp_path / "run", *lines)
    assert last_scores(f"{folder}/metrics.json") == {"AP": 4.5}
    draw_metrics(f"{folder}/metrics.json", tmp_path / "curves.png")
    assert " 4.5 |" in compare_runs([folder], tmp_path / "runs.png")


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
