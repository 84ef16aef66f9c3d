"""Accuracy of tracking on drawn videos with occlusions: HOTA, MOTA, IDF1 and identity switches, by TrackEval."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from deim import Predictor
from deim.data.datasets.moving_shapes import VisibleShape, draw_video
from deim.data.datasets.shapes import CLASSES
from deim.errors import ConfigError
from deim.inference.detections import Detections
from deim.inference.tracking import Tracker, TrackingSettings
from deim.measurement.timing import print_report
from deim.structures.boxes import pairwise_iou

# Frames per second of the drawn videos, and their size: that of the longer side of the images of the quick start.
FPS, SIZE = 25.0, (192, 192)
# Faults of the boxes without a model: fraction of missed shapes and of frames with a wrong box, standard deviation of the
# sides of the boxes in pixels.
MISSED, WRONG, JITTER = 0.1, 0.1, 1.0

# Seed of the first video. The default settings were chosen on the videos with seeds 0 to 4.
FIRST_SEED = 100
# Minimum score of a detection that starts a track.
THRESHOLD = 0.4

# Identities and boxes (N, 4) XYXY in one frame.
Tracks = tuple[np.ndarray, np.ndarray]


def run(model: str | None, weights: str | None, videos: int, frames: int, device: str, path: str | None) -> None:
    """Print a table of the metrics over all videos.

    Args:
        model: checkpoint of a model for the classes of ``deim_shapes``; None to track drawn boxes with faults.
        videos: number of videos; see :data:`FIRST_SEED`.
        frames: number of frames of each video.
        path: JSON file for the results; None for none.
    """
    predictor = None if model is None else Predictor(model, weights, device=device, threshold=THRESHOLD)
    if predictor is not None and tuple(predictor.class_names) != CLASSES:
        raise ConfigError(f"{model} must have the classes of deim make-shapes: {', '.join(CLASSES)}")
    rows: list[dict[str, Any]] = []
    for name, settings in (
        ("default settings", TrackingSettings()),
        ("without low scores", TrackingSettings(low_threshold=THRESHOLD)),
        ("with overlapping detections", TrackingSettings(max_overlap=1.0)),
    ):
        sequences = [_sequence(FIRST_SEED + n, frames, predictor, settings) for n in range(videos)]
        rows.append({"tracker": name} | evaluate(sequences))
    print_report(rows, path, torch.device(device))


def _sequence(
    seed: int, num_frames: int, predictor: Predictor | None, settings: TrackingSettings
) -> tuple[list[Tracks], list[Tracks]]:
    """Return the ground truth and the tracks in each frame of a video."""
    video = list(draw_video(seed, num_frames, size=SIZE))
    truth = [_tracks([s.identity for s in shapes], [s.box for s in shapes]) for _, shapes in video]
    if predictor is not None:
        stream = predictor.track([frame for frame, _ in video], fps=FPS, settings=settings)
    else:
        tracker = Tracker(THRESHOLD, FPS, settings)
        detections = drawn_detections(video, np.random.default_rng([seed, 1]), settings.low_threshold)
        stream = (tracker.update(item, number / FPS) for number, item in enumerate(detections))
    return truth, [_tracks(d.track_ids.tolist(), d.boxes.tolist()) for d in stream if d.track_ids is not None]


def drawn_detections(
    video: list[tuple[np.ndarray, list[VisibleShape]]], rng: np.random.Generator, threshold: float = 0.2
) -> Iterator[Detections]:
    """Yield the true boxes of each frame with the faults of a detector, and scores that fall with the visibility."""
    for image, shapes in video:
        objects = [s for s in shapes if rng.random() >= MISSED]
        boxes = [np.array(s.box) + rng.normal(0, JITTER, 4) for s in objects]
        scores = [float(np.clip(s.visibility * rng.uniform(0.6, 1.0), 0.05, 0.95)) for s in objects]
        classes = [s.class_index for s in objects]
        if rng.random() < WRONG:
            corner = rng.uniform(0, SIZE[0] / 2, 2)
            boxes.append(np.concatenate([corner, corner + rng.uniform(10, SIZE[0] / 2, 2)]))
            scores.append(float(rng.uniform(0.1, 0.7)))
            classes.append(int(rng.integers(len(CLASSES))))
        order = [index for index in np.argsort(scores)[::-1] if scores[index] >= threshold]
        instances = Instances(
            image.shape[:2],
            pred_boxes=Boxes(torch.tensor(np.array([boxes[i] for i in order]).reshape(-1, 4), dtype=torch.float32)),
            scores=torch.tensor([scores[i] for i in order]),
            pred_classes=torch.tensor([classes[i] for i in order], dtype=torch.int64),
        )
        yield Detections.from_instances(instances, CLASSES, image)


def _tracks(identities: list[int], boxes: list) -> Tracks:
    return np.array(identities, dtype=int), np.array(boxes, dtype=float).reshape(-1, 4)


def evaluate(sequences: list[tuple[list[Tracks], list[Tracks]]]) -> dict[str, float]:
    """Return the metrics of several videos, each given as ground truth and tracks of its frames; in percent.

    Raises:
        ConfigError: if TrackEval is not installed.
    """
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        raise ConfigError("this measurement requires TrackEval: pip install trackeval") from error
    data = [_trackeval_data(*sequence) for sequence in sequences]
    results = []
    for metric in (HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})):
        results.append(metric.combine_sequences({str(i): metric.eval_sequence(item) for i, item in enumerate(data)}))
    hota, clear, identity = results
    return {
        "HOTA": 100 * float(np.mean(hota["HOTA"])),
        "DetA": 100 * float(np.mean(hota["DetA"])),
        "AssA": 100 * float(np.mean(hota["AssA"])),
        "MOTA": 100 * float(clear["MOTA"]),
        "IDF1": 100 * float(identity["IDF1"]),
        "switches": int(clear["IDSW"]),
    }


def _trackeval_data(truth: list[Tracks], tracks: list[Tracks]) -> dict[str, Any]:
    """Return the frames of a video as TrackEval's metrics expect them: identities are numbered from 0."""
    data: dict[str, Any] = {"num_timesteps": len(truth)}
    for key, frames in (("gt", truth), ("tracker", tracks)):
        numbers = {identity: n for n, identity in enumerate(sorted(set(itertools.chain(*(ids for ids, _ in frames)))))}
        data[f"{key}_ids"] = [np.array([numbers[i] for i in ids], dtype=int) for ids, _ in frames]
        data[f"num_{key}_ids"] = len(numbers)
        data[f"num_{key}_dets"] = sum(len(ids) for ids, _ in frames)
    data["similarity_scores"] = [
        pairwise_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
        for (_, a), (_, b) in zip(truth, tracks, strict=True)
    ]
    return data
