"""Training from images in tar archives equals training from files."""

import tarfile
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager

from deim.data import coco_dataset
from deim.data.image import image_size, read_image
from deim.data.loader import build_train_loader
from deim.data.mapper import DetectionMapper
from deim.data.shards import write_shards
from deim.errors import DatasetError
from tests.commands import metrics, tool, train_net
from tests.faults.test_bad_input import expect_error


@pytest.fixture(scope="module")
def shards(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    done = tool(
        "make_shards.py",
        str(shapes / "annotations" / "instances_train.json"),
        str(shapes / "train"),
        str(folder),
        "--megabytes=0.01",
    )
    assert done.returncode == 0, done.stderr
    assert f"image_root=tar://{folder}" in done.stdout
    return folder


def test_shard_sizes(shards: Path) -> None:
    archives = sorted(shards.glob("*.tar"))
    assert len(archives) > 3
    names = []
    for archive in archives:
        with tarfile.open(archive) as opened:
            members = opened.getmembers()
        assert len(members) == 1 or sum(member.size for member in members) <= 0.01 * 2**20
        names += [member.name for member in members]
    assert names == sorted(names)


def test_links_are_stored_as_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"pixels")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    assert list(write_shards([(tmp_path / "b.jpg", "b.jpg")], tmp_path / "out", 100)) == ["00000.tar/b.jpg"]
    with tarfile.open(tmp_path / "out" / "00000.tar") as archive:
        member = archive.extractfile("b.jpg")
        assert member is not None
        assert member.read() == b"pixels"


def test_archives_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"of other annotations")
    with pytest.raises(DatasetError, match="already has archives"):
        list(write_shards([], tmp_path, 100))
    assert (tmp_path / "00000.tar").read_bytes() == b"of other annotations"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_give_the_same_samples(shapes: Path, shards: Path, num_workers: int) -> None:
    def batches(json_file: Path, image_root: str) -> list[list[dict]]:
        records = coco_dataset(f"{image_root}_{num_workers}", str(json_file), image_root)
        loader = build_train_loader(
            records, mapper=DetectionMapper([], is_train=True), total_batch_size=5, num_workers=num_workers, seed=3
        )
        stream = iter(loader)
        return [next(stream) for _ in range(6)]

    from_files = batches(shapes / "annotations" / "instances_train.json", str(shapes / "train"))
    from_shards = batches(shards / "instances_train.json", f"tar://{shards}")
    for batch, shard_batch in zip(from_files, from_shards, strict=True):
        assert [sample["image_id"] for sample in batch] == [sample["image_id"] for sample in shard_batch]
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(batch, shard_batch, strict=True))


def test_training_from_shards(shapes: Path, shards: Path, tmp_path: Path) -> None:
    node = "dataloader.train.dataset"
    packed = [f"{node}.json_file={shards}/instances_train.json", f"{node}.image_root=tar://{shards}"]
    settings = ["train.max_iter=4", "train.eval_period=0", "dataloader.train.num_workers=1"]
    for output, more in ((tmp_path / "files", []), (tmp_path / "shards", packed)):
        done = train_net(shapes, output, *settings, *more)
        assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "files") == metrics(tmp_path / "shards")


def test_shard_errors(shapes: Path, shards: Path, tmp_path: Path) -> None:
    name = f"tar://{shards}/00000.tar/nowhere.jpg"
    with pytest.raises(DatasetError, match=r"00000\.tar has no member nowhere\.jpg"):
        read_image(name)
    for path in (f"tar://{shards}/99999.tar/000000.jpg", f"tar://{shards}/000000.jpg"):
        with pytest.raises(DatasetError, match="cannot read image"):
            read_image(path)
    for path in (f"tar://{shards}/99999.tar/000000.jpg", f"tar://{shards}/nowhere", name):
        assert not PathManager.exists(path)
    (tmp_path / "damaged.tar").write_bytes((shards / "00000.tar").read_bytes()[:3000])
    with pytest.raises(DatasetError, match=r"damaged\.tar is not a complete tar archive"):
        read_image(f"tar://{tmp_path}/damaged.tar/000000.jpg")
    assert image_size(f"tar://{shards}/00000.tar/000000.jpg") == image_size(str(shapes / "train" / "000000.jpg"))
    arguments = (str(shapes / "annotations" / "instances_train.json"), str(shapes / "val"), str(tmp_path))
    assert "images do not exist in" in expect_error(tool("make_shards.py", *arguments))
    assert "does not exist" in expect_error(tool("make_shards.py", "nowhere.json", *arguments[1:]))
