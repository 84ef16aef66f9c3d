#!/usr/bin/env python
"""Pack the images of a COCO-format data set into tar archives, and write annotations that name them there.

python tools/make_shards.py annotations/instances_train.json train shards --megabytes 500

Then train with dataloader.train.dataset.json_file=shards/instances_train.json
dataloader.train.dataset.image_root=tar://shards
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from tqdm import tqdm

from deim.command_line import run_tool
from deim.data.datasets.coco import what_is_wrong
from deim.data.shards import write_shards
from deim.errors import DatasetError


def main(json_file: Path, image_root: Path, output: Path, max_bytes: int) -> None:
    if not json_file.is_file():
        raise DatasetError(f"annotation file {json_file} does not exist")
    problem = what_is_wrong(str(json_file))
    if problem is not None:
        raise DatasetError(f"{json_file}: {problem}")
    content = json.loads(json_file.read_text(encoding="utf-8"))
    missing = [image["file_name"] for image in content["images"] if not (image_root / image["file_name"]).is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} images are not in {image_root}, the first: {missing[0]}")
    files = ((image_root / image["file_name"], image["file_name"]) for image in content["images"])
    places = tqdm(write_shards(files, output, max_bytes), "packing", total=len(content["images"]), unit="image")
    for image, place in zip(content["images"], places, strict=True):
        image["file_name"] = place
    written = output / json_file.name
    written.write_text(json.dumps(content), encoding="utf-8")
    print(f"wrote {len(list(output.glob('*.tar')))} archives and {written}: train with")
    print(f"  dataloader.train.dataset.json_file={written} dataloader.train.dataset.image_root=tar://{output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json_file", type=Path)
    parser.add_argument("image_root", type=Path)
    parser.add_argument("output", type=Path, help="folder for the archives and the annotations")
    parser.add_argument("--megabytes", type=float, default=500, help="of an archive")
    args = parser.parse_args()
    sys.exit(run_tool(lambda: main(args.json_file, args.image_root, args.output, int(args.megabytes * 2**20))))
