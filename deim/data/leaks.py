"""Images of the evaluation split that also occur in the training split, identically or nearly so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deim.data.dataset_statistics import read_content
from deim.data.duplicates import MAX_DISTANCE, compute_fingerprints, find_nearest
from deim.data.image import read_image
from deim.data.records import annotation_arrays, record_size
from deim.errors import DatasetError
from deim.visualization import draw_objects

_NUM_DRAWN_PAIRS = 8


@dataclass(frozen=True)
class Leak:
    """Image of the evaluation split with its most similar training image.

    Attributes:
        test, train: detectron2 records of the two images.
        distance: number of different bits of the perceptual hashes; -1 for identical files.
    """

    test: dict
    train: dict
    distance: int

    def __str__(self) -> str:
        kind = "identical files" if self.distance < 0 else f"near-duplicates, {self.distance} of 256 bits differ"
        return f"{self.test['file_name']} and {self.train['file_name']}: {kind}"


def find_leaks(train: Sequence[dict], test: Sequence[dict], max_distance: int = MAX_DISTANCE) -> list[Leak]:
    """Return the evaluation images that are identical or nearly identical to a training image, the most similar first.

    Args:
        train, test: detectron2 records of the splits. Images that cannot be read are ignored.
        max_distance: number of bits of the perceptual hashes in which near-duplicates may differ.
    """
    indices, distances = find_nearest(compute_fingerprints(test), compute_fingerprints(train))
    leaks = [
        Leak(test[number], train[index], int(distance))
        for number, (index, distance) in enumerate(zip(indices, distances, strict=True))
        if distance <= max_distance
    ]
    return sorted(leaks, key=lambda leak: leak.distance)


def check_leaks(train: Mapping[str, Any], test: Mapping[str, Any], output: Path) -> None:
    """Read the splits and report their leaks; see :func:`report_leaks`.

    Args:
        train, test: ``dataset`` nodes of a config. If one cannot be read, the reason is printed.
        output: directory of the files.
    """
    try:
        contents = read_content(train), read_content(test)
    except DatasetError as error:
        print(f"note: images that occur in both splits are not searched: {error}")
        return
    report_leaks(contents[0].records, contents[1].records, contents[0].classes, output)


def report_leaks(train: Sequence[dict], test: Sequence[dict], classes: Sequence[str], output: Path) -> list[Leak]:
    """Print the number of leaks with examples; write ``leaks.txt`` and draw the first pairs in ``leaks.png``.

    Args:
        train, test: detectron2 records of the splits.
        classes: class names in index order.
        output: directory of the files. Files of an earlier report are deleted if there are no leaks.

    Returns:
        all leaks; see :func:`find_leaks`.
    """
    leaks = find_leaks(train, test)
    listing, drawing = output / "leaks.txt", output / "leaks.png"
    if not leaks:
        listing.unlink(missing_ok=True)
        drawing.unlink(missing_ok=True)
        print(f"no evaluation image is a near-duplicate of a training image ({len(test)} compared with {len(train)})")
        return leaks
    num_identical = sum(leak.distance < 0 for leak in leaks)
    print(
        f"warning: {len(leaks)} of {len(test)} evaluation images are also among the training images (identical files: "
        f"{num_identical}, near-duplicates: {len(leaks) - num_identical}). AP on them overestimates the AP on new images; "
        "deim split makes splits without near-duplicates"
    )
    for leak in leaks[:5]:
        print(f"  {leak}")
    output.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{leak}\n" for leak in leaks), encoding="utf-8")
    _draw_leaks(leaks[:_NUM_DRAWN_PAIRS], classes, drawing)
    print(f"  full list: {listing}; drawn: {drawing}")
    return leaks


def _draw_leaks(leaks: Sequence[Leak], classes: Sequence[str], output: Path) -> None:
    """Draw the two images of each leak side by side, two leaks per row."""
    records, titles = [], []
    for leak in leaks:
        kind = "identical files" if leak.distance < 0 else f"{leak.distance} of 256 bits differ"
        records += [leak.test, leak.train]
        titles += [
            f"evaluation: {Path(leak.test['file_name']).name}",
            f"training: {Path(leak.train['file_name']).name}",
        ]
        titles[-1] += f"\n{kind}"
    images = [_read_for_drawing(record) for record in records]
    draw_objects(images, [annotation_arrays(record) for record in records], classes, output, titles)


def _read_for_drawing(record: dict) -> np.ndarray:
    try:
        return read_image(record["file_name"], record_size(record))
    except DatasetError:  # the image has another size than its record, which check-data reports
        return read_image(record["file_name"])
