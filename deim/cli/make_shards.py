"""Pack the images of a COCO-format dataset into tar archives.

    deim make-shards annotations/instances_train.json train shards --megabytes 500

Also writes annotations that refer to the images in the archives. To train on them, set
dataloader.train.dataset.json_file=shards/instances_train.json dataloader.train.dataset.image_root=tar://shards
"""

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from deim.data.datasets.coco import find_format_error
from deim.data.shards import write_shards
from deim.errors import DatasetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("json_file", type=Path, help="COCO-format annotations")
    parser.add_argument("image_root", type=Path, help="image directory")
    parser.add_argument("output", type=Path, help="directory for the archives and the annotations")
    parser.add_argument("--megabytes", type=float, default=500, help="maximum size of an archive; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    json_file = args.output / args.json_file.name
    if json_file.resolve() == args.json_file.resolve():
        raise DatasetError(f"the new annotations would replace {args.json_file}: choose another output directory")
    content = _read(args.json_file, args.image_root)
    files = ((args.image_root / image["file_name"], image["file_name"]) for image in content["images"])
    packed_paths = tqdm(
        write_shards(files, args.output, int(args.megabytes * 2**20)),
        "packing",
        total=len(content["images"]),
        unit="image",
    )
    archives = set()
    for image, packed_path in zip(content["images"], packed_paths, strict=True):
        image["file_name"] = packed_path
        archives.add(packed_path.partition("/")[0])
    json_file.write_text(json.dumps(content), encoding="utf-8")
    print(f"wrote {len(archives)} archives and {json_file}. To train on them, set")
    print(f"  dataloader.train.dataset.json_file={json_file} dataloader.train.dataset.image_root=tar://{args.output}")


def _read(json_file: Path, image_root: Path) -> dict:
    """Read the annotations and check that all images exist."""
    if not json_file.is_file():
        raise DatasetError(f"annotation file {json_file} does not exist")
    problem = find_format_error(str(json_file))
    if problem is not None:
        raise DatasetError(f"{json_file}: {problem}")
    content = json.loads(json_file.read_text(encoding="utf-8"))
    missing = [image["file_name"] for image in content["images"] if not (image_root / image["file_name"]).is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} images do not exist in {image_root}; the first is {missing[0]}")
    return content
