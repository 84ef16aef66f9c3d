"""Detect objects in images, videos and streams.

    deim predict output/deim_dfine_s_coco/model_best.pth photos --output found
    deim predict deim_dfine_s.onnx traffic.mp4 --output found --save images csv
    deim predict deim_dfine/deim_dfine_s_coco 'photos/*.jpg' --weights coco --output found
    deim predict deim_dfine_s.onnx rtsp://user:password@camera/stream --output found --segment 10
    deim predict first/model_best.pth photos --ensemble second/model_best.pth --tta --output found

Streams run until Ctrl-C, SIGTERM, --max-frames or --max-seconds; the files are then complete.

Files that cannot be read are skipped and listed at the end; the exit status is then 2.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from deim.cli.arguments import add_device, add_fusion, add_model
from deim.errors import ConfigError
from deim.inference.batch_predict import PredictionJob
from deim.inference.ensemble import requested_augmentation
from deim.inference.live import ReconnectPolicy
from deim.inference.live_predict import StreamOptions
from deim.inference.predictor import Predictor
from deim.inference.recording import SegmentLimits
from deim.inference.stopping import Limits
from deim.inference.tiling import Tiling
from deim.inference.tracking import TrackingSettings
from deim.inference.video import DEFAULT_FPS
from deim.inference.writers import WRITERS

_FORMER_IMAGES = "pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, exported=True)
    parser.add_argument(
        "sources",
        nargs="+",
        help="images, directories, glob patterns, videos, camera indices such as 0, addresses (rtsp://, http:// and others) "
        "of streams or images, or playlists (.m3u, .m3u8, .txt) with one of these per line",
    )
    parser.add_argument("--output", help="output directory; required without --show")
    parser.add_argument(
        "--save",
        nargs="+",
        type=_output_format,
        choices=tuple(WRITERS),
        default=["images"],
        help="output formats; default: images, which are annotated JPEG files (or a video)",
    )
    parser.add_argument("--threshold", type=float, default=0.4, help="minimum score; default: %(default)s")
    parser.add_argument("--classes", nargs="+", default=[], help="names of the classes to keep; default: all")
    parser.add_argument("--tile", type=int, help="tile side in pixels: also detect in tiles, to find small objects")
    parser.add_argument(
        "--overlap", type=float, default=0.2, help="overlap of tiles, as a fraction of --tile; default: %(default)s"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images per forward pass; default: 8")
    add_fusion(parser)
    _add_stream_options(parser)
    add_device(parser)
    parser.add_argument("--half", action="store_true", help="use float16 autocast (GPU only)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--cuda-graph", action="store_true", help="replay the model as a CUDA graph (GPU only)")


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("videos and streams")
    group.add_argument(
        "--track",
        action="store_true",
        help="give the objects in videos, streams and directories of frames identities (pip install 'deim[track]')",
    )
    group.add_argument(
        "--max-lost",
        type=float,
        default=TrackingSettings.max_lost_seconds,
        metavar="S",
        help="seconds without detections after which a track ends; default: %(default)g",
    )
    group.add_argument(
        "--fps",
        type=float,
        default=DEFAULT_FPS,
        help="frames per second of directories of frames; default: %(default)g",
    )
    group.add_argument("--show", action="store_true", help="show the frames of videos and streams in windows; q stops")
    group.add_argument("--max-frames", type=int, metavar="N", help="stop each video or stream after N frames")
    group.add_argument(
        "--max-seconds", type=float, metavar="S", help="stop each video, and all streams, after S seconds"
    )
    group.add_argument(
        "--segment",
        type=float,
        default=SegmentLimits.minutes,
        metavar="MINUTES",
        help="duration after which the files of a stream are closed and new ones begin; default: %(default)g",
    )
    group.add_argument("--segment-size", type=float, metavar="MB", help="also begin new files at this size")
    group.add_argument(
        "--reconnects",
        type=int,
        default=ReconnectPolicy.max_attempts,
        metavar="N",
        help="attempts to connect a broken stream again; 0 ends it; default: %(default)s",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=ReconnectPolicy.timeout,
        metavar="S",
        help="seconds without a frame after which a stream counts as broken; default: %(default)g",
    )


def run(args: argparse.Namespace) -> None:
    if args.output is None and not args.show:
        raise ConfigError("--output DIRECTORY is missing: give it to save the results, or --show to only see them")
    options = StreamOptions(
        Limits(args.max_frames, args.max_seconds),
        ReconnectPolicy(args.reconnects, timeout=args.timeout),
        SegmentLimits(args.segment, args.segment_size),
        args.show,
    )
    if "mot" in args.save and not args.track:
        raise ConfigError("--save mot writes the tracks of objects: add --track")
    tracking = TrackingSettings(max_lost_seconds=args.max_lost) if args.track else None
    tiling = None if args.tile is None else Tiling(args.tile, args.overlap)
    predictor = _load_predictor(args)
    print(f"{len(predictor.class_names)} classes, {predictor.runner.description}")
    job = PredictionJob(
        predictor, args.save, args.output, args.classes, args.batch_size, tiling, options, tracking, args.fps
    )
    with _log_to_stderr():
        count = job.run(args.sources)
    if args.output is not None:
        print(f"wrote the detections of {count} images to {args.output} as {', '.join(args.save)}")


def _load_predictor(args: argparse.Namespace) -> Predictor:
    tta = requested_augmentation(args)
    options = {name: getattr(args, name) for name in ("device", "threshold", "half", "compile", "cuda_graph")}
    if args.ensemble:
        return Predictor.ensemble([args.model, *args.ensemble], weights=args.weights, tta=tta, **options)
    return Predictor(args.model, args.weights, tta=tta, **options)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Print the log of streams, such as broken connections, with the time of each line."""
    logger, handler = logging.getLogger("detectron2.deim"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _output_format(name: str) -> str:
    """Return the present name of an output format; print a note for the former name of ``images``."""
    if name != _FORMER_IMAGES:
        return name
    print(f"note: --save {_FORMER_IMAGES} is deprecated: use --save images", file=sys.stderr)
    return "images"
