"""``tools/predict.py``: output files of images and videos."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deim import Predictor
from deim.cli import main
from deim.data.datasets.shapes import CLASSES
from deim.errors import ConfigError, DatasetError
from deim.inference.batch_predict import PredictionJob
from deim.inference.detections import Detections, default_category_ids
from deim.inference.images import as_rgb
from deim.inference.video import is_video
from deim.inference.writers import CocoWriter, UniqueNames
from tests.commands import tool


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, threshold=0.0, device="cpu")


def test_output_formats_agree(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    assert PredictionJob(predictor, ["images", "coco", "csv", "yolo"], str(tmp_path)).run([str(photos)]) == 5
    expected = predictor.predict(photos)
    coco = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert [entry["file_name"] for entry in coco["images"]] == [f"{n}.png" for n in range(5)]
    assert [entry["name"] for entry in coco["categories"]] == list(CLASSES)
    assert [entry["score"] for entry in coco["annotations"]] == [
        s for detections in expected for s in detections.scores.tolist()
    ]
    with (tmp_path / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [label for detections in expected for label in detections.labels]
    assert float(rows[0]["right"]) == pytest.approx(float(expected[0].boxes[0, 2]), abs=0.06)
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8").split() == list(CLASSES)
    for number, detections in enumerate(expected):
        height, width = detections.image_size
        lines = np.loadtxt(tmp_path / "labels" / f"{number}.txt", ndmin=2).reshape(-1, 6)
        corners = (lines[:, 1:3] - lines[:, 3:5] / 2) * [width, height]
        assert corners == pytest.approx(detections.boxes[:, :2].numpy(), abs=0.01)
        assert Image.open(tmp_path / "images" / f"{number}.jpg").size == (width, height)


def test_inputs_are_not_replaced(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "images")
    with pytest.raises(ConfigError, match="the results would replace files of the input"):
        PredictionJob(predictor, ["images"], str(tmp_path)).run([str(tmp_path / "images")])
    assert not list((tmp_path / "images").glob("*.jpg"))
    # Labels of images without labels may be written beside the images.
    assert PredictionJob(predictor, ["yolo"], str(tmp_path)).run([str(tmp_path / "images")]) == 5
    with pytest.raises(ConfigError, match="the results would replace files of the input"):
        PredictionJob(predictor, ["yolo"], str(tmp_path)).run([str(tmp_path / "images")])
    (tmp_path / "traffic.mp4").write_bytes(b"a video")
    with pytest.raises(ConfigError, match="the results would replace files of the input"):
        PredictionJob(predictor, ["images"], str(tmp_path)).run([str(tmp_path / "traffic.mp4")])
    assert (tmp_path / "traffic.mp4").read_bytes() == b"a video"


@pytest.mark.parametrize(("kind", "name"), [("yolo", "classes.txt"), ("coco", "coco.json"), ("csv", "detections.csv")])
def test_files_of_a_dataset_are_not_replaced(
    kind: str, name: str, predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    """LabelImg keeps images, labels and classes.txt in one folder."""
    shutil.copy(photos / "0.png", tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{name} exists and would be replaced; choose another folder"):
        PredictionJob(predictor, [kind], str(tmp_path)).run([str(tmp_path / "0.png")])
    assert (tmp_path / name).read_text() == "mine"
    PredictionJob(predictor, [kind], str(tmp_path)).run([str(photos / "0.png")])
    assert (tmp_path / name).read_text() != "mine", "results of an earlier prediction are replaced"


def test_truncated_videos_are_reported(predictor: Predictor, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(20):
        writer.write(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    data = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    assert PredictionJob(predictor, ["csv"], str(tmp_path / "out")).run([str(tmp_path / "film.avi")]) == 20
    with pytest.raises(DatasetError, match=r"half.avi(: no frame could be read| broke off after \d+ of 20 frames)"):
        PredictionJob(predictor, ["csv"], str(tmp_path / "out")).run([str(tmp_path / "half.avi")])


def test_patterns_of_videos_and_images(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    for number in range(2):
        writer = cv2.VideoWriter(str(tmp_path / f"{number}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        for _ in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
    shutil.copy(photos / "0.png", tmp_path)
    (tmp_path / "notes.txt").touch()
    assert PredictionJob(predictor, ["csv"], str(tmp_path / "out")).run([str(tmp_path / "*.avi")]) == 6
    assert PredictionJob(predictor, ["csv"], str(tmp_path / "out")).run([str(tmp_path / "*")]) == 7


def test_category_ids_of_models_with_an_unused_score() -> None:
    assert default_category_ids(["a", "b"]) == [1, 2]
    assert default_category_ids(["class 0", "class 1"]) == [1, 2], "unknown names"
    assert default_category_ids(["class 0", "person"]) == [0, 1], "a score for each category id, of which 0 is unused"


def test_pil_images_equal_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 32), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    rotated = Image.fromarray((pixels >> 8).astype(np.uint8))
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "rotated.png", exif=exif)
    for name in ("deep.png", "rotated.png"):
        path = str(tmp_path / name)
        with Image.open(path) as image:
            assert np.array_equal(as_rgb(image), as_rgb(path)), name
    assert as_rgb(str(tmp_path / "rotated.png")).shape == (32, 24, 3)


def test_former_name_of_image_format_is_accepted(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(checkpoint), str(photos / "0.png"), "--output", str(tmp_path), "--device", "cpu"]
    assert main(["predict", *arguments, "--save", "pictures"]) == 0
    assert "--save pictures is deprecated: use --save images" in capsys.readouterr().err
    assert (tmp_path / "images" / "0.jpg").is_file()


def test_unreadable_file_is_skipped_and_reported(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    job = PredictionJob(predictor, ["csv"], str(tmp_path / "out"))
    with pytest.raises(DatasetError, match=r"1 of 6 images could not be read:\n  cannot read image .*broken.jpg"):
        job.run([str(tmp_path / "broken.jpg"), str(photos)])
    assert "4.png" in (tmp_path / "out" / "detections.csv").read_text(encoding="utf-8")


def test_class_filter(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    name = predictor(photos / "0.png").labels[0]
    PredictionJob(predictor, ["csv"], str(tmp_path), classes=[name]).run([str(photos)])
    with (tmp_path / "detections.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} == {name}
    with pytest.raises(ConfigError, match="no class unicorn"):
        PredictionJob(predictor, ["csv"], str(tmp_path), classes=["unicorn"])


def test_coco_image_ids_are_unique(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    writer, detections = CocoWriter(tmp_path, predictor.class_names), predictor(photos / "0.png")
    for name in ("2", "02", "street", "7", "²"):
        writer.add(detections, name)
    writer.close()
    assert [image["id"] for image in json.loads((tmp_path / "coco.json").read_text())["images"]] == [2, 3, 4, 7, 5]


def test_coco_file_names_images_of_several_folders(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    writer, detections = CocoWriter(tmp_path, predictor.class_names), predictor(photos / "0.png")
    for file in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        moved = Detections.from_instances(detections, predictor.class_names, detections.image, file)
        writer.add(moved, Path(file).stem)
    writer.close()
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["1.jpg", "b/1.jpg", "2.jpg"]


def test_existing_paths_named_by_digits_are_not_cameras(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "2024")
    shutil.copy(photos / "0.png", "7")
    assert PredictionJob(predictor, ["csv"], "out").run(["2024", "7"]) == 6
    assert (is_video("0"), is_video("2024"), is_video("clip.mp4"), is_video("a.jpg")) == (True, False, True, False)
    Path("frames.mov").mkdir()
    assert not is_video("frames.mov")


def test_unique_names() -> None:
    names = UniqueNames()
    assert [names.name_for(path, 3) for path in ("a/x.jpg", "b/x.jpg", "x_2.jpg", "X.jpg", None)] == [
        "x",
        "x_2",
        "x_2_2",
        "X_3",
        "000003",
    ]


def test_video_keeps_number_of_frames(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (128, 96))
    frame = cv2.imread(str(photos / "0.png"))
    for shift in range(7):
        writer.write(np.roll(frame, 4 * shift, axis=1))
    writer.release()
    job = PredictionJob(predictor, ["images", "csv"], str(tmp_path / "out"), batch_size=3)
    assert job.run([str(path)]) == 7
    video = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert video.read()[1].shape == frame.shape
    assert "film_000006" in (tmp_path / "out" / "detections.csv").read_text(encoding="utf-8")
    with pytest.raises(DatasetError, match=r"cannot open video nowhere\.mp4"):
        job.run(["nowhere.mp4"])
    job = PredictionJob(predictor, ["csv", "csv"], str(tmp_path / "next"))
    with pytest.raises(DatasetError, match=r"1 of 2 images and videos could not be read:\n  cannot open video nowhere"):
        job.run(["nowhere.mp4", str(path)])
    assert "film_000006" in (tmp_path / "next" / "detections.csv").read_text(encoding="utf-8")


def test_predict_tool_output_and_status(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    arguments = [str(checkpoint), str(photos), "--output", str(tmp_path), "--save", "csv", "yolo", "--device", "cpu"]
    process = tool("predict.py", *arguments, "--tile", "64", "--threshold", "0")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "6 classes, torch on cpu",
        f"wrote the detections of 5 images to {tmp_path} as csv, yolo",
    ]
    assert "image/s" in process.stderr
    failed_process = tool("predict.py", str(checkpoint), "nowhere.jpg", "--output", str(tmp_path))
    assert failed_process.returncode == 2
    assert failed_process.stderr.strip().endswith("cannot read image nowhere.jpg: No such file or directory")
