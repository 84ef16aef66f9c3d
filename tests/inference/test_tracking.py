"""Tracking: identities in drawn videos with occlusions, and in the files of results."""

import csv
import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from deim import Predictor
from deim.cli import main
from deim.data.datasets.moving_shapes import VisibleShape, draw_video
from deim.data.datasets.shapes import CLASSES
from deim.errors import ConfigError, DatasetError
from deim.inference.batch_predict import PredictionJob
from deim.inference.detections import Detections
from deim.inference.live_predict import StreamOptions
from deim.inference.stopping import Limits
from deim.inference.tracking import ImageSequences, Tracker, TrackerFactory, TrackingSettings
from deim.inference.video import FramePosition
from deim.inference.writers import MotWriter, UniqueNames
from tests.inference.web_server import Server

needs_trackers = pytest.mark.skipif(importlib.util.find_spec("trackers") is None, reason="needs the package trackers")

FPS = 25


def detections_of(boxes: list, scores: list | None = None, classes: list | None = None) -> Detections:
    instances = Instances(
        (192, 192),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores or [0.9] * len(boxes)),
        pred_classes=torch.tensor(classes or [0] * len(boxes), dtype=torch.int64),
    )
    return Detections.from_instances(instances, CLASSES, np.zeros((192, 192, 3), np.uint8))


def test_drawn_video_is_reproducible_and_has_occlusions() -> None:
    first, second = list(draw_video(0, 45, size=(128, 128))), list(draw_video(0, 45, size=(128, 128)))
    assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, second, strict=True))
    assert {shape.identity for _, shapes in first for shape in shapes} == set(range(1, 7))
    assert any(len(shapes) < 6 for _, shapes in first)
    assert any(shape.visibility < 0.5 for _, shapes in first for shape in shapes)
    for frame, shapes in first:
        assert frame.shape == (128, 128, 3)
        for shape in shapes:
            left, top, right, bottom = shape.box
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 128


def drawn_detections(shapes: list[VisibleShape]) -> Detections:
    return detections_of([s.box for s in shapes], [s.visibility * 0.9 for s in shapes], [s.class_index for s in shapes])


@needs_trackers
def test_identities_survive_occlusions_in_a_drawn_video() -> None:
    tracker, identities = Tracker(0.4, FPS), defaultdict(set)
    num_hidden = 0
    for number, (_, shapes) in enumerate(draw_video(0, 90, size=(128, 128))):
        num_hidden += len(shapes) < 6
        tracked = tracker.update(drawn_detections(shapes), number / FPS)
        for identity, box in zip(tracked.track_ids.tolist(), tracked.boxes.tolist(), strict=True):
            shape = next(s for s in shapes if np.allclose(s.box, box))
            identities[shape.identity].add(identity)
    assert num_hidden > 3
    assert {shape: len(ids) for shape, ids in identities.items()} == dict.fromkeys(range(1, 7), 1)
    assert len(set.union(*identities.values())) == 6


def moving_boxes(frames: range, hidden: range = range(0)) -> Iterator[tuple[int, Detections]]:
    """Yield the numbers and detections of frames with an object that moves to the right, and one that stands."""
    for number in frames:
        boxes = [[100.0, 100.0, 140.0, 140.0]] + (
            [] if number in hidden else [[10 + 2.0 * number, 10, 50 + 2.0 * number, 50]]
        )
        yield number, detections_of(boxes)


@needs_trackers
@pytest.mark.parametrize(("num_hidden", "num_identities"), [(15, 2), (40, 3)])
def test_identity_survives_only_short_occlusions(num_hidden: int, num_identities: int) -> None:
    tracker = Tracker(0.4, FPS)
    identities = set()
    for number, detections in moving_boxes(range(70), range(10, 10 + num_hidden)):
        identities |= set(tracker.update(detections, number / FPS).track_ids.tolist())
    assert len(identities) == num_identities


@needs_trackers
def test_tracks_survive_a_slow_stream_but_not_an_interruption() -> None:
    tracker, identities = Tracker(0.4, FPS), []
    for number, detections in moving_boxes(range(10)):
        identities.append(set(tracker.update(detections, 3.0 * number).track_ids.tolist()))
    assert identities[1:] == [{1, 2}] * 9
    for number, detections in moving_boxes(range(10, 13)):
        identities.append(set(tracker.update(detections, 600.0 + number).track_ids.tolist()))
    assert identities[-1] == {3, 4}


@needs_trackers
def test_two_videos_do_not_share_identities() -> None:
    factory = TrackerFactory(0.4, TrackingSettings())
    trackers, identities = [factory.create(FPS), factory.create(FPS)], [set(), set()]
    for number, detections in moving_boxes(range(5)):
        for tracker, ids in zip(trackers, identities, strict=True):
            ids |= set(tracker.update(detections, number / FPS).track_ids.tolist())
    assert identities[0] | identities[1] == {1, 2, 3, 4}
    assert not identities[0] & identities[1]


@needs_trackers
def test_low_scores_continue_tracks_and_start_none() -> None:
    tracker = Tracker(0.4, FPS)
    box, other = [10, 10, 50, 50], [100, 100, 150, 150]
    for number in range(3):
        tracker.update(detections_of([box], [0.8]), number / FPS)
    tracked = tracker.update(detections_of([box, other], [0.2, 0.2]), 3 / FPS)
    assert tracked.track_ids.tolist() == [1]
    assert tracked.scores.tolist() == pytest.approx([0.2])
    assert len(tracker.update(detections_of([]), 4 / FPS)) == 0


@needs_trackers
def test_object_reported_as_two_classes_is_one_track() -> None:
    for max_overlap, count in ((0.7, 1), (1.0, 2)):
        tracker = Tracker(0.4, FPS, TrackingSettings(max_overlap=max_overlap))
        for number in range(3):
            tracked = tracker.update(
                detections_of([[10, 10, 50, 50], [11, 10, 50, 50]], [0.8, 0.6], [number % 2, 2]), number / FPS
            )
        assert len(tracked) == count


@needs_trackers
def test_memory_of_a_tracker_is_bounded() -> None:
    tracker = Tracker(0.4, FPS, TrackingSettings(max_lost_seconds=0.1))
    for number in range(200):
        left = 40.0 * (number // 4 % 4)
        tracked = tracker.update(detections_of([[left, 10, left + 20, 50]]), number / FPS)
    assert int(tracked.track_ids.max()) > 20
    assert len(tracker._identity_of) <= 3


@needs_trackers
def test_masks_and_keypoints_are_carried_along(checkpoint_with_heads: Path) -> None:
    predictor = Predictor(checkpoint_with_heads, threshold=0.0, device="cpu")
    image = next(draw_video(0, 1, size=(96, 128)))[0]
    expected = predictor(image)
    settings = TrackingSettings(low_threshold=0, max_overlap=1)
    *_, tracked = predictor.track([image] * 3, settings=settings)
    assert len(tracked) > 0
    for index in range(len(tracked)):
        (match,) = np.flatnonzero((expected.scores == tracked.scores[index]).numpy())
        assert torch.equal(tracked.boxes[index], expected.boxes[match])
        assert torch.equal(tracked.masks[index], expected.masks[match])
        assert torch.equal(tracked.keypoints[index], expected.keypoints[match])
    assert tracked.skeleton == expected.skeleton
    assert tracked.to_coco()[0]["track_id"] == int(tracked.track_ids[0])


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, threshold=0.0, device="cpu")


def write_film(path: Path, seed: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (128, 96))
    for frame, _ in draw_video(seed, 5, size=(96, 128)):
        writer.write(frame[..., ::-1])
    writer.release()


@needs_trackers
def test_files_of_videos_and_directories_of_frames(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "MOT-01" / "img1"
    folder.mkdir(parents=True)
    for number, (frame, _) in enumerate(draw_video(1, 5, size=(96, 128))):
        Image.fromarray(frame).save(folder / f"{number + 1:06d}.png")
    write_film(tmp_path / "film.mp4", 0)
    formats = ["images", "csv", "coco", "mot", "yolo"]
    job = PredictionJob(predictor, formats, str(tmp_path / "out"), tracking=TrackingSettings())
    assert job.run([str(folder), str(tmp_path / "film.mp4")]) == 10
    rows = {name: np.loadtxt(tmp_path / f"out/mot/{name}.txt", delimiter=",") for name in ("MOT-01", "film")}
    identities = {name: set(table[:, 1].astype(int)) for name, table in rows.items()}
    assert not identities["film"] & identities["MOT-01"]
    for table in rows.values():
        assert set(table[:, 0]) == {2, 3, 4, 5}  # identities are given in the second frame
        assert table.shape[1] == 10
        assert (table[:, 7:] == -1).all()
    lines = list(csv.DictReader((tmp_path / "out/detections.csv").open()))
    assert {int(line["track_id"]) for line in lines} == identities["film"] | identities["MOT-01"]
    annotations = json.loads((tmp_path / "out/coco.json").read_text())["annotations"]
    assert [a["track_id"] for a in annotations] == [int(line["track_id"]) for line in lines]
    assert cv2.VideoCapture(str(tmp_path / "out/film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 5


@needs_trackers
def test_frames_that_cannot_be_read_count(predictor: Predictor, tmp_path: Path) -> None:
    """The other frames keep their numbers, and a video with the name of the directory gets another name."""
    folder = tmp_path / "film"
    folder.mkdir()
    for number, (frame, _) in enumerate(draw_video(1, 6, size=(96, 128))):
        Image.fromarray(frame).save(folder / f"{number + 1:06d}.png")
    (folder / "000004.png").write_bytes(b"damaged")
    write_film(tmp_path / "film.mp4", 0)
    job = PredictionJob(predictor, ["mot"], str(tmp_path / "out"), tracking=TrackingSettings())
    with pytest.raises(DatasetError, match=r"1 of 7 images and videos could not be read"):
        job.run([str(folder), str(tmp_path / "film.mp4")])
    frames = {
        name: set(np.loadtxt(tmp_path / f"out/mot/{name}.txt", delimiter=",")[:, 0]) for name in ("film", "film_2")
    }
    assert frames == {"film": {2, 3, 5, 6}, "film_2": {2, 3, 4, 5}}


def test_frame_rate_must_be_positive() -> None:
    for fps in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="must be positive, got --fps"):
            ImageSequences(TrackerFactory(0.5, TrackingSettings()), fps, [], UniqueNames())


@needs_trackers
def test_live_stream_is_tracked(predictor: Predictor, tmp_path: Path) -> None:
    with Server(fps=20).running() as server:
        job = PredictionJob(
            predictor,
            ["mot", "csv"],
            str(tmp_path),
            options=StreamOptions(Limits(frames=4)),
            tracking=TrackingSettings(),
        )
        assert job.run([f"{server.address}/camera"]) == 4
    (path,) = tmp_path.rglob("127.0.0.1_camera.txt")
    assert len(set(np.loadtxt(path, delimiter=",")[:, 0])) >= 2


@needs_trackers
def test_tracks_of_a_video_in_python(predictor: Predictor, tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", 0)
    first = [d.track_ids.tolist() for d in predictor.track(tmp_path / "film.mp4")]
    assert len(first) == 5
    assert first[0] == []  # an identity is given in the second frame
    assert 1 in first[1]
    assert [d.track_ids.tolist() for d in predictor.track(str(tmp_path / "film.mp4"), batch_size=2)] == first


def test_labels_and_colors_are_those_of_the_identity() -> None:
    detections = detections_of([[20, 60, 120, 150]])
    assert detections.track_ids is None
    plain = np.asarray(detections.draw())
    detections.pred_track_ids = torch.tensor([5])
    first = np.asarray(detections.draw())
    detections.pred_track_ids = torch.tensor([6])
    assert not np.array_equal(plain, first)
    assert not np.array_equal(first[60, 20], np.asarray(detections.draw())[60, 20])
    assert detections[detections.scores > 0.5].track_ids.tolist() == [6]


def test_mot_file_counts_from_one(tmp_path: Path) -> None:
    writer, detections = MotWriter(tmp_path, CLASSES), detections_of([[0, 9, 20, 39]], [0.5])
    with pytest.raises(ConfigError, match="--save mot requires --track"):
        writer.add(detections, "a_000000", FramePosition("a", 0))
    detections.pred_track_ids = torch.tensor([3])
    writer.add(detections, "a_000000", FramePosition("a", 0))
    writer.add(detections, "b_000007", FramePosition("b", 7))
    writer.close()
    assert (tmp_path / "mot/a.txt").read_text() == "1,3,1.00,10.00,20.00,30.00,0.5000,-1,-1,-1\n"
    assert (tmp_path / "mot/b.txt").read_text().startswith("8,3,")


def test_errors(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"min_iou=2 must be between 0 and 1"):
        TrackingSettings(min_iou=2)
    with pytest.raises(ConfigError, match="max_lost_seconds=-1 must be at least 0"):
        TrackingSettings(max_lost_seconds=-1)
    with pytest.raises(ConfigError, match="min_frames=1 at least 2"):
        TrackingSettings(min_frames=1)
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ConfigError, match=r"requires the package trackers, .*: pip install 'deim\[track\]'"):
        Tracker(0.4)
    arguments = ["predict", str(checkpoint), "film.mp4", "--output", str(tmp_path), "--save", "mot"]
    assert main(arguments) == 2
    assert "--save mot writes the tracks of objects: add --track" in capsys.readouterr().err
