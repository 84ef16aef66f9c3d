"""tools/predict.py: pictures and videos in, files out."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deim import Predictor
from deim.data.datasets.shapes import CLASSES
from deim.errors import ConfigError, DatasetError
from deim.inference.predicting import Job
from deim.inference.writers import Names
from tests.commands import tool


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, threshold=0.0, device="cpu")


def test_all_kinds_of_files_say_the_same(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    assert Job(predictor, ["pictures", "coco", "csv", "yolo"], str(tmp_path)).run([str(photos)]) == 5
    wanted = predictor.predict(photos)
    coco = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert [one["file_name"] for one in coco["images"]] == [f"{n}.png" for n in range(5)]
    assert [one["name"] for one in coco["categories"]] == list(CLASSES)
    assert [one["score"] for one in coco["annotations"]] == [s for found in wanted for s in found.scores.tolist()]
    with (tmp_path / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [label for found in wanted for label in found.labels]
    assert float(rows[0]["right"]) == pytest.approx(float(wanted[0].boxes[0, 2]), abs=0.06)
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8").split() == list(CLASSES)
    for number, found in enumerate(wanted):
        height, width = found.image_size
        lines = np.loadtxt(tmp_path / "labels" / f"{number}.txt", ndmin=2).reshape(-1, 6)
        corners = (lines[:, 1:3] - lines[:, 3:5] / 2) * [width, height]
        assert corners == pytest.approx(found.boxes[:, :2].numpy(), abs=0.01)
        assert Image.open(tmp_path / "pictures" / f"{number}.jpg").size == (width, height)


def test_a_bad_file_is_skipped_and_told_at_the_end(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    job = Job(predictor, ["csv"], str(tmp_path / "out"))
    with pytest.raises(DatasetError, match=r"1 of 6 images could not be read:\n  cannot read image .*broken.jpg"):
        job.run([str(tmp_path / "broken.jpg"), str(photos)])
    assert "4.png" in (tmp_path / "out" / "detections.csv").read_text(encoding="utf-8")


def test_only_the_classes_that_are_asked_for(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    name = predictor(photos / "0.png").labels[0]
    Job(predictor, ["csv"], str(tmp_path), classes=[name]).run([str(photos)])
    with (tmp_path / "detections.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} == {name}
    with pytest.raises(ConfigError, match="no class unicorn"):
        Job(predictor, ["csv"], str(tmp_path), classes=["unicorn"])


def test_pictures_of_one_name_do_not_overwrite_each_other() -> None:
    names = Names()
    assert [names.of(path, 3) for path in ("a/x.jpg", "b/x.jpg", "x_2.jpg", None)] == ["x", "x_2", "x_2_2", "000003"]


def test_a_video_comes_out_with_as_many_frames(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (128, 96))
    frame = cv2.imread(str(photos / "0.png"))
    for shift in range(7):
        film.write(np.roll(frame, 4 * shift, axis=1))
    film.release()
    job = Job(predictor, ["pictures", "csv"], str(tmp_path / "out"), batch_size=3)
    assert job.run([str(path)]) == 7
    made = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert made.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert made.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert made.read()[1].shape == frame.shape
    assert "film_000006" in (tmp_path / "out" / "detections.csv").read_text(encoding="utf-8")
    with pytest.raises(DatasetError, match=r"cannot open video nowhere\.mp4"):
        job.run(["nowhere.mp4"])


def test_the_tool_tells_what_it_did_and_its_status(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    arguments = [str(checkpoint), str(photos), "--output", str(tmp_path), "--save", "csv", "yolo", "--device", "cpu"]
    done = tool("predict.py", *arguments, "--tile", "64", "--threshold", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["6 classes, torch on cpu", f"wrote csv, yolo of 5 to {tmp_path}"]
    assert "image/s" in done.stderr
    failed = tool("predict.py", str(checkpoint), "nowhere.jpg", "--output", str(tmp_path))
    assert failed.returncode == 2
    assert failed.stderr.strip().endswith("cannot read image nowhere.jpg: No such file or directory")
