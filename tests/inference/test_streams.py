"""Live streams: broken connections, dropped frames, segments, signals, addresses and playlists."""

import csv
import itertools
import json
import logging
import os
import signal
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from deim import Predictor
from deim.cli import main
from deim.errors import ConfigError, DatasetError
from deim.inference import addresses, frames
from deim.inference.addresses import read_playlist, stream_name, without_password
from deim.inference.batch_predict import PredictionJob
from deim.inference.detections import Detections
from deim.inference.display import Display
from deim.inference.frames import open_frames, open_video
from deim.inference.live import LiveStream, ReconnectPolicy
from deim.inference.live_predict import LiveJob, StreamOptions
from deim.inference.recording import SegmentedRecorder, SegmentLimits
from deim.inference.stopping import Limits
from deim.inference.video import LiveVideoWriter, Video
from tests.inference.rtsp_server import rtsp_camera
from tests.inference.web_server import Connection, Server, moving_dot

CLASSES = ["dot"]
FAST = ReconnectPolicy(max_attempts=3, first_delay=0.02, timeout=1.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().running() as running:
        yield running


def detect_dots(images: Sequence[np.ndarray]) -> list[Detections]:
    """Return one detection, in the center of each image."""
    results = []
    for image in images:
        height, width = image.shape[:2]
        box = torch.tensor([[width / 4, height / 4, width / 2, height / 2]])
        instances = Instances(
            (height, width), pred_boxes=Boxes(box), scores=torch.tensor([0.9]), pred_classes=torch.tensor([0])
        )
        results.append(Detections.from_instances(instances, CLASSES, image))
    return results


def live_job(address: str, folder: Path | None, options: StreamOptions, formats=("images", "csv", "coco")) -> LiveJob:
    job = LiveJob(detect_dots, formats, folder, CLASSES, options)
    job.add(address, "camera")
    return job


def read_segments(folder: Path) -> list[tuple[int, list[dict], dict]]:
    """Return the number of frames of the video, the rows of the CSV file and the COCO dataset of each segment."""
    segments = []
    for segment in sorted((folder / "camera").iterdir()):
        video = cv2.VideoCapture(str(segment / "camera.mp4"))
        count = 0
        while video.read()[0]:
            count += 1
        rows = list(csv.DictReader((segment / "detections.csv").open(encoding="utf-8")))
        segments.append((count, rows, json.loads((segment / "coco.json").read_text(encoding="utf-8"))))
        assert not list(segment.glob("*.part"))
    return segments


def test_rtsp_stream(tmp_path: Path) -> None:
    with rtsp_camera(moving_dot, 50) as address:
        options = StreamOptions(Limits(frames=5), ReconnectPolicy(timeout=5))
        job = live_job(address, tmp_path, options)
        assert job.run() == 5
    ((num_frames, rows, coco),) = read_segments(tmp_path)
    assert num_frames >= 1
    assert len(rows) == len(coco["images"]) == 5
    assert coco["images"][0] | {"file_name": ""} == {"id": 1, "file_name": "", "height": 96, "width": 128}


def test_stream_is_connected_again_and_may_change_its_size(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.connections = [Connection(num_frames=30), Connection((64, 96), num_frames=10), Connection((64, 96))]
    job = live_job(f"{server.address}/camera", tmp_path, StreamOptions(Limits(frames=45), FAST))
    assert job.run() == 45
    first, second = read_segments(tmp_path)  # the size starts a new segment, the connection alone does not
    assert first[2]["images"][0]["height"] == 96
    assert {image["height"] for image in second[2]["images"]} == {64}
    assert "broke off: connecting again in 0.02 s (attempt 1 of 3)" in caplog.text
    assert "is connected again" in caplog.text


def test_stream_that_does_not_come_back_ends_with_an_error(server: Server, tmp_path: Path) -> None:
    server.connections = [Connection(num_frames=5)]
    job = live_job(f"{server.address}/camera", tmp_path, StreamOptions(reconnect=FAST))
    server.files["/camera"] = ("text/plain", b"gone")
    count = job.run()
    assert 1 <= count <= 5
    assert "broke off, and 3 attempts to connect again failed" in str(job.errors[0])
    assert len(read_segments(tmp_path)[0][1]) == count


def test_stream_without_reconnection_ends_without_an_error(server: Server) -> None:
    server.connections = [Connection(num_frames=5)]
    job = live_job(f"{server.address}/camera", None, StreamOptions(reconnect=ReconnectPolicy(0, timeout=1)))
    assert 1 <= job.run() <= 5
    assert job.errors == []


def test_damaged_frames_are_skipped(server: Server) -> None:
    server.connections = [Connection(num_frames=20, garbage_every=5)]
    video = Video(f"{server.address}/camera", 1.0)
    assert [int(frame[0, 0, 0]) for frame in video] == [n for n in range(20) if n % 5 != 4]


def test_camera_that_sends_nothing_more_is_connected_again(server: Server) -> None:
    server.connections = [Connection(num_frames=10, stalls=True), Connection((64, 96))]
    stream = LiveStream(f"{server.address}/camera", ReconnectPolicy(first_delay=0.02, timeout=0.5))
    try:
        start = time.monotonic()
        while (frame := stream.wait()) is not None and frame.image.shape[0] != 64:
            assert time.monotonic() - start < 20
        assert stream.num_reconnects == 1
    finally:
        stream.close()


def test_server_that_never_answers_is_an_error(server: Server) -> None:
    server.silent = {"/camera"}
    start = time.monotonic()
    with pytest.raises(DatasetError, match=r"cannot open stream .*/camera: no video within 0.3 s"):
        LiveStream(f"{server.address}/camera", ReconnectPolicy(timeout=0.3))
    assert time.monotonic() - start < 10


def test_slow_consumer_gets_the_newest_frame_and_memory_is_bounded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fps = 400
    references: list[weakref.ref] = []
    read = Video.read

    def recording_read(video: Video) -> np.ndarray | None:
        frame = read(video)
        if frame is not None:
            references.append(weakref.ref(frame))
        return frame

    monkeypatch.setattr(Video, "read", recording_read)
    stream, numbers, most = LiveStream(f"{server.address}/camera", FAST), [], 0
    try:
        for _ in range(5):
            time.sleep(0.1)
            most = max(most, sum(reference() is not None for reference in list(references)))
            num_arrived = stream.num_frames
            frame = stream.wait()
            assert frame is not None
            assert frame.number >= num_arrived - 1
            assert frame.image[0, 0, 0] == frame.number % 200
            numbers.append(frame.number)
    finally:
        stream.close()
    assert numbers == sorted(set(numbers))
    assert stream.num_dropped > 0
    assert most <= 3
    assert abs(stream.num_dropped - (stream.num_frames - 5)) <= 1


def test_streams_are_read_at_the_same_time(server: Server, tmp_path: Path) -> None:
    job = LiveJob(detect_dots, ["csv"], tmp_path, CLASSES, StreamOptions(Limits(frames=8), FAST))
    for name in ("camera_a", "camera_b"):
        job.add(f"{server.address}/{name}", name)
    assert job.run() == 16
    for name in ("camera_a", "camera_b"):
        (segment,) = (tmp_path / name).iterdir()
        assert len(list(csv.DictReader((segment / "detections.csv").open()))) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_close_the_files(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    previous = signal.getsignal(number)
    job = live_job(f"{server.address}/camera", tmp_path, StreamOptions(reconnect=FAST))
    calls = itertools.count(1)

    def detect_and_stop(images: Sequence[np.ndarray]) -> list[Detections]:
        if next(calls) == 3:
            os.kill(os.getpid(), number)
        return detect_dots(images)

    job.detect = detect_and_stop
    assert job.run() == 3
    ((num_frames, rows, coco),) = read_segments(tmp_path)
    assert num_frames > 0
    assert len(rows) == len(coco["annotations"]) == 3
    assert signal.getsignal(number) == previous


def test_segments_are_split_by_duration_and_size(tmp_path: Path) -> None:
    (detections,) = detect_dots([np.zeros((96, 128, 3), np.uint8)])
    recorder = SegmentedRecorder(["csv"], tmp_path / "camera", CLASSES, 25, SegmentLimits(minutes=1))
    for second in range(0, 180, 20):
        recorder.add(detections, None, second, float(second))
    recorder.close()
    assert recorder.num_segments == 3
    recorder = SegmentedRecorder(["csv"], tmp_path / "sized", CLASSES, 25, SegmentLimits(megabytes=0.001))
    for second in range(200):
        recorder.add(detections, None, second, float(second))
    recorder.close()
    sizes = [path.stat().st_size for path in (tmp_path / "sized").rglob("*.csv")]
    assert len(sizes) == recorder.num_segments > 5
    assert max(sizes) < 1300
    with pytest.raises(ConfigError, match="must be positive"):
        SegmentLimits(minutes=0)


def test_results_of_a_stream_are_on_disk_before_the_end(tmp_path: Path) -> None:
    (detections,) = detect_dots([np.zeros((96, 128, 3), np.uint8)])
    recorder = SegmentedRecorder(["csv", "coco"], tmp_path / "camera", CLASSES, 25, SegmentLimits())
    for number in range(200):
        recorder.add(detections, None, number, number / 25)
    (segment,) = (tmp_path / "camera").iterdir()
    assert len((segment / "detections.csv").read_text().splitlines()) == 201
    assert len((segment / "coco.annotations.part").read_text(encoding="utf-8").splitlines()) == 200
    recorder.close()
    assert len(json.loads((segment / "coco.json").read_text())["annotations"]) == 200


def test_live_video_plays_as_fast_as_the_frames_arrived(tmp_path: Path) -> None:
    writer, frame = LiveVideoWriter(tmp_path / "a.mp4", 10), np.zeros((64, 64, 3), np.uint8)
    # 5 frames per second for 2 seconds, 40 for 1 second, and a frame after a pause of 100 seconds
    for arrival in [*np.arange(0, 2, 0.2), *np.arange(2, 3, 0.025), 103.0]:
        writer.add(frame, float(arrival))
    writer.close()
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(40, abs=2)


def test_show_without_screen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ConfigError, match=r"requires a screen|requires Tk"):
        Display()


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, threshold=0.0, device="cpu")


def encoded_video(path: Path, num_frames: int = 12) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (128, 96))
    for frame, _ in zip(moving_dot(), range(num_frames), strict=False):
        writer.write(frame)
    writer.release()
    return path.read_bytes()


def test_videos_and_images_of_a_web_server(server: Server, predictor: Predictor, tmp_path: Path) -> None:
    server.files = {
        "/film": ("video/mp4", encoded_video(tmp_path / "film.mp4")),
        "/segment.ts": ("video/mp2t", encoded_video(tmp_path / "film.ts")),
        "/hls.m3u8": (
            "application/vnd.apple.mpegurl",
            b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsegment.ts\n#EXT-X-ENDLIST\n",
        ),
        "/photo.jpg": ("image/jpeg", cv2.imencode(".jpg", next(moving_dot()))[1].tobytes()),
        "/snapshot": ("image/png", cv2.imencode(".png", next(moving_dot()))[1].tobytes()),
    }
    entries = [
        "# a comment",
        *(f"{server.address}{path}" for path in server.files if path != "/segment.ts"),
        "film.mp4",
    ]
    (tmp_path / "list.m3u").write_text("\n".join(entries))
    job = PredictionJob(predictor, ["csv"], str(tmp_path / "out"), options=StreamOptions(reconnect=FAST))
    assert job.run([str(tmp_path / "list.m3u")]) == 3 * 12 + 2
    files = {row["file"] for row in csv.DictReader((tmp_path / "out/detections.csv").open())}
    assert {f"{server.address}/photo.jpg", "127.0.0.1_film_000011", "127.0.0.1_hls.m3u8_000011", "film_000011"} <= files
    assert len(list(open_frames(f"{server.address}/film", FAST))) == 12


def test_stream_in_python_and_from_the_command_line(
    server: Server, predictor: Predictor, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    frames = open_frames(f"{server.address}/camera", FAST)
    images = (frame.image for frame in frames)
    assert next(predictor.stream(images, batch_size=1)).image_size == (96, 128)
    frames.close()
    arguments = [str(checkpoint), f"{server.address}/camera", "--device", "cpu", "--max-frames", "2", "--save", "csv"]
    assert main(["predict", *arguments, "--output", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert f"{server.address}/camera: 2 frames processed, " in output.err
    assert f"wrote the detections of 2 images to {tmp_path} as csv" in output.out
    assert logging.getLogger("detectron2.deim").handlers == []
    assert main(["predict", *arguments]) == 2
    assert "--output DIRECTORY is missing" in capsys.readouterr().err


def test_live_hls_is_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Static web servers state the length of its playlist, like that of a file."""
    video = SimpleNamespace(num_frames=None)
    monkeypatch.setattr(frames, "Video", lambda *arguments: video)
    monkeypatch.setattr(frames, "request_content", lambda address: SimpleNamespace(has_length=True))
    assert open_video("http://host/live.m3u8?token=1", FAST) == (video, True)
    assert open_video("http://host/film.mkv", FAST) == (video, False)
    video.num_frames = 12
    assert open_video("http://host/finished.m3u8", FAST) == (video, False)


def test_unreachable_sources_are_listed(server: Server, predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    sources = [f"{server.address}/nothing", "ftp://host/a.jpg", "rtsp://u:secret@127.0.0.1:9/x", str(photos / "0.png")]
    job = PredictionJob(predictor, ["csv"], str(tmp_path), options=StreamOptions(reconnect=FAST))
    with pytest.raises(DatasetError) as error:
        job.run(sources)
    message = str(error.value)
    assert message.startswith("3 of 4 sources could not be read:\n")
    assert "/nothing: the server answers 404" in message
    assert "ftp://host/a.jpg: addresses start with http://, https://, rtsp://" in message
    assert "rtsp://u:***@127.0.0.1:9/x: no video within 1 s" in message
    assert "secret" not in message
    assert "0.png" in (tmp_path / "detections.csv").read_text()


def test_images_are_downloaded_within_limits(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    server.files = {
        "/a.png": ("image/png", image),
        "/page.png": ("text/html", b"<html>"),
        "/b.png": ("image/png", b"no"),
    }
    (tmp_path / "private.png").write_bytes(image)
    server.redirects = {
        "/moved": "/a.png",
        "/file": (tmp_path / "private.png").as_uri(),
        "/ftp": "ftp://host/a.png",
        "/loop": "/loop",
    }
    server.silent = {"/silent"}
    monkeypatch.setattr(addresses, "_TIMEOUT_S", 0.3)
    assert addresses.download_image(f"{server.address}/moved").shape == (8, 8, 3)
    errors = {
        "/page.png": "page.png is not an image: its content type is text/html",
        "/b.png": r"cannot read image http://127.*/b.png",
        "/file": "Redirection to url 'file:///.*' is not allowed",
        "/ftp": r"/ftp redirects to ftp://host/a\.png, which is not opened",
        "/loop": "infinite loop",
        "/silent": "timed out",
    }
    for path, message in errors.items():
        with pytest.raises(DatasetError, match=message):
            addresses.download_image(f"{server.address}{path}")
    monkeypatch.setattr(addresses, "MAX_IMAGE_BYTES", 50)
    with pytest.raises(DatasetError, match="has more than 0 MiB: download the file"):
        addresses.download_image(f"{server.address}/a.png")
    monkeypatch.setattr(addresses, "_MAX_DOWNLOAD_S", -1.0)
    monkeypatch.setattr(addresses, "MAX_IMAGE_BYTES", 2**20)
    with pytest.raises(DatasetError, match="the download was stopped"):
        addresses.download_image(f"{server.address}/a.png")


def test_streams_do_not_open_local_files(server: Server, tmp_path: Path) -> None:
    encoded_video(tmp_path / "private.mp4")
    target = (tmp_path / "private.mp4").as_uri()
    server.redirects = {"/moved.mp4": target}
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"
    server.files = {"/hls.m3u8": ("application/vnd.apple.mpegurl", playlist.encode())}
    for path in ("/moved.mp4", "/hls.m3u8"):
        with pytest.raises(DatasetError, match="no video within"):
            Video(f"{server.address}{path}", 1.0)


def test_playlists(tmp_path: Path) -> None:
    path = tmp_path / "cameras.txt"
    path.write_text("\ufeff#EXTM3U\n\nrtsp://a/b \nfilms/c.mp4\n0\n", encoding="utf-8")
    assert read_playlist(str(path)) == ["rtsp://a/b", str(tmp_path / "films/c.mp4"), "0"]
    for content, message in [
        (b"# none\n", "is empty"),
        (b"\xff\xfe", "not a text file"),
        (b"cameras.txt", "names the playlist"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read_playlist(str(path))


def test_names_of_streams() -> None:
    assert (
        stream_name("rtsp://user:secret@10.0.0.5:554/Streaming/Channels/101?x=1") == "10.0.0.5_Streaming_Channels_101"
    )
    assert stream_name("http://host/../../etc") == "host_.._.._etc"
    assert without_password("rtsp://user:se:cret@host/a:b@c") == "rtsp://user:***@host/a:b@c"
    assert without_password("a:b@c.jpg") == "a:b@c.jpg"
    assert without_password("a.jpg?password=b") == "a.jpg?password=b"
    address = "http://cam/snap.jpg?user=a&{}={}&size=2#now"
    for key in ("password", "PWD", "token"):
        assert without_password(address.format(key, "b")) == address.format(key, "***")
