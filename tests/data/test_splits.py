"""Near-duplicate images: found between splits, and kept together by new splits."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from deim.cli import main
from deim.data import duplicates
from deim.data.datasets.discovery import discover
from deim.data.duplicates import MAX_DISTANCE, Fingerprints, compute_fingerprints, find_nearest, group_duplicates
from deim.data.image import read_image
from deim.data.splitting import split_groups


def copies(image: np.ndarray) -> list[np.ndarray]:
    """Return an image compressed, at half its size, brighter, and without its outermost pixels."""
    compressed = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return [compressed, small, cv2.convertScaleAbs(image, alpha=1.1, beta=5), image[1:-1, 1:-1]]


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return int((duplicates.perceptual_hash(first) != duplicates.perceptual_hash(second)).sum())


def test_hashes_of_copies_are_similar_and_those_of_other_images_are_not(shapes: Path) -> None:
    images = [read_image(str(path)) for path in sorted((shapes / "train").iterdir())[:8]]
    for image in images:
        assert max(distance(image, copy) for copy in copies(image)) <= MAX_DISTANCE
        assert min(distance(image, other) for other in images if other is not image) > 2 * MAX_DISTANCE


def test_hashes_are_those_of_imagehash(shapes: Path) -> None:
    imagehash = pytest.importorskip("imagehash")
    from PIL import Image

    for path in sorted((shapes / "train").iterdir())[:8]:
        image = read_image(str(path))
        expected = imagehash.phash(Image.fromarray(image), hash_size=16).hash.ravel()
        assert (duplicates.perceptual_hash(image) != expected).sum() <= 12, "only the filter of the scaling differs"


def fingerprints(*num_ones: int | None) -> Fingerprints:
    """Return fingerprints whose hashes start with so many ones; None for an unreadable image."""
    hashes = np.array([np.arange(256) < (count or 0) for count in num_ones])
    return Fingerprints([None if count is None else bytes([count]) for count in num_ones], hashes)


@pytest.mark.parametrize("block_rows", [1, 2, 512])
def test_groups_contain_indirect_duplicates(block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK_ROWS", block_rows)
    groups = group_duplicates(fingerprints(0, 200, 30, None, 60, 201, 120), max_distance=30)
    assert groups[0] == groups[2] == groups[4]
    assert groups[1] == groups[5]
    assert len(set(groups)) == 4


def test_nearest_image_prefers_identical_files() -> None:
    indices, distances = find_nearest(fingerprints(7, 100, None), fingerprints(None, 6, 7, 90))
    assert indices[:2].tolist() == [2, 3]
    assert distances.tolist() == [-1, 10, 257]
    assert find_nearest(fingerprints(1), fingerprints(None))[1].tolist() == [257]


def test_unreadable_images_have_no_digest(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    names = [tmp_path / "broken.jpg", tmp_path / "missing.jpg", *sorted((shapes / "train").iterdir())[:1]]
    computed = compute_fingerprints([{"file_name": str(name)} for name in names])
    assert computed.readable_indices().tolist() == [2]


@pytest.mark.parametrize("shares", [[0.2] * 5, [0.9, 0.1]])
def test_parts_have_their_share_of_every_class(shares: list[float]) -> None:
    random = np.random.default_rng(0)
    counts = random.poisson([5.0, 0.5, 0.1], size=(1000, 3))
    groups = random.integers(0, 700, 1000)
    parts = split_groups(groups, counts, shares)
    assert all(len(set(parts[groups == group])) == 1 for group in set(groups))
    per_part = np.array([[*counts[parts == part].sum(axis=0), (parts == part).sum()] for part in range(len(shares))])
    expected = np.outer(shares, [*counts.sum(axis=0), 1000])
    assert (abs(per_part - expected) <= np.maximum(0.05 * expected, 1.5)).all()
    assert (parts == split_groups(groups, counts, shares)).all(), "deterministic"
    assert (parts != split_groups(groups, counts, shares, seed=1)).any()


def leaky_shapes(shapes: Path, folder: Path) -> Path:
    """Copy the shapes dataset, with training images 3 (identical) and 5 (compressed) as the first validation images."""
    shutil.copytree(shapes, folder)
    train, val = (sorted((folder / split).iterdir()) for split in ("train", "val"))
    shutil.copy(train[3], val[0])
    cv2.imwrite(str(val[1]), cv2.imread(str(train[5])), [cv2.IMWRITE_JPEG_QUALITY, 40])
    return folder


def test_check_data_reports_leaks(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These drawings take most of the time, and are tested elsewhere.
    monkeypatch.setattr("deim.data.dataset_statistics.draw_statistics", lambda *args: None)
    monkeypatch.setattr("deim.data.dataset_statistics.draw_objects", lambda *args, **options: None)
    data, output = leaky_shapes(shapes, tmp_path / "leaky"), tmp_path / "check"
    options = ["check-data", "--images", "0", "--output", str(output)]
    assert main([*options, "--data", str(data)]) == 0, "leaks do not prevent training"
    printed = capsys.readouterr().out
    assert "2 of 6 evaluation images are also among the training images (identical files: 1, near-dupl" in printed
    assert (output / "leaks.png").is_file()
    identical, similar = (output / "leaks.txt").read_text(encoding="utf-8").splitlines()
    assert "000000.jpg" in identical
    assert "000003.jpg: identical files" in identical
    assert "000005.jpg: near-duplicates" in similar
    assert main([*options, "--data", str(shapes)]) == 0
    assert "no evaluation image is a near-duplicate of a training image (6 compared with 24)" in capsys.readouterr().out
    assert not (output / "leaks.txt").exists()


def test_folds_keep_near_duplicates_together(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, output = leaky_shapes(shapes, tmp_path / "data"), tmp_path / "folds"
    options = ["split", "--data", str(data), "--output", str(output), "--folds", "3", "--pool"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "4 of 30 images have near-duplicates, in 2 groups that stay together" in printed
    held_out = []
    for fold in range(3):
        names = {}
        for split in ("train", "val"):
            file = output / f"fold{fold}" / f"instances_{split}.json"
            names[split] = [image["file_name"] for image in json.loads(file.read_text(encoding="utf-8"))["images"]]
        assert len({*names["train"], *names["val"]}) == len(names["train"] + names["val"]) == 30
        held_out += names["val"]
        for first, second in (("train/000003.jpg", "val/000000.jpg"), ("train/000005.jpg", "val/000001.jpg")):
            assert (first in names["val"]) == (second in names["val"])
    assert len(set(held_out)) == len(held_out) == 30
    dataset = discover(str(output / "fold0"), str(data))
    assert dataset.test is not None
    assert len(dataset.test.read(names="fold0_val", **dataset.test.arguments)) == 10
    assert main(options) == 2
    assert "instances_train.json exists: choose another --output" in capsys.readouterr().err


def test_split_without_validation_images(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["split", "--data", str(shapes), "--output", str(tmp_path), "--val-share", "0.25"]
    assert main(options) == 0
    assert "| images    |      18 |     6 |" in capsys.readouterr().out, "the validation split is not included"


def test_existing_file_leaves_the_folder_unchanged(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    original = tmp_path / "instances_val.json"
    original.write_text("{}", encoding="utf-8")
    assert main(["split", "--data", str(shapes), "--output", str(tmp_path), "--max-distance", "-1"]) == 2
    assert "instances_val.json exists: choose another --output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [original], "no training file beside an evaluation file of another split"
    assert original.read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "at least 2 folds"),
        (["--val-share", "1"], "between 0 and 1"),
        (["--folds", "25", "--max-distance", "-1"], "cannot be split into 25 parts"),
    ],
)
def test_impossible_splits_are_errors(
    options: list[str], message: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["split", "--data", str(shapes), "--output", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
