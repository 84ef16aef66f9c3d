"""Handling of invalid data: read, skipped with a warning, or rejected with a message that names the file or record.

By default, a run stops at the first rejected item; a limit allows it to skip some.
"""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deim.data.image import read_image
from deim.data.loader import build_train_loader
from deim.data.mapper import DetectionMapper
from deim.data.records import annotation_arrays
from deim.errors import DatasetError
from tests.commands import RECIPE, tool, train_net
from tests.conftest import needs_utf8
from tests.data.test_datasets import FORMATS, write_coco, write_images
from tests.faults.test_bad_input import expect_error

PIXELS = (np.arange(60 * 100 * 3) % 251).astype(np.uint8).reshape(60, 100, 3)


def save_as(**options) -> Callable[[Path], None]:
    """Return a function that writes an image of 100 x 60 with PIL."""
    return lambda path: Image.fromarray(PIXELS).save(path, **options)


def save_converted(mode: str, kind: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(PIXELS).convert(mode).save(path, kind)


def save_truncated(share: float, kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(PIXELS).save(path, kind)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def save_with_exif_orientation(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, "JPEG", exif=exif)


def save_animated(path: Path) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, 9 * i, axis=1)) for i in range(3)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def save_16_bit(path: Path) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path, "PNG")


def save_decompression_bomb(path: Path) -> None:
    """Write a file of a few kilobytes whose header declares 3 gigabytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 25_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(2**20)))
        + chunk(b"IEND", b"")
    )


def write_bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


SIZE = (60, 100)
# {case: (file name, writer, (height, width) of the image or error message)}
IMAGES: dict[str, tuple[str, Callable[[Path], object], tuple[int, int] | str]] = {
    "gray": ("a.jpg", save_converted("L", "JPEG"), SIZE),
    "CMYK": ("a.jpg", save_converted("CMYK", "JPEG"), SIZE),
    "palette": ("a.png", save_converted("P", "PNG"), SIZE),
    "transparent": ("a.png", save_converted("RGBA", "PNG"), SIZE),
    "one bit": ("a.png", save_converted("1", "PNG"), SIZE),
    "16 bits": ("a.png", save_16_bit, SIZE),
    "progressive": ("a.jpg", save_as(format="JPEG", progressive=True), SIZE),
    "WebP": ("a.webp", save_as(format="WEBP"), SIZE),
    "TIFF": ("a.tif", save_as(format="TIFF"), SIZE),
    "a PNG that is called JPEG": ("a.jpg", save_as(format="PNG"), SIZE),
    "no suffix": ("a", save_as(format="JPEG"), SIZE),
    "a name that is not ASCII": ("wört 图.jpg", save_as(format="JPEG"), SIZE),
    "animated": ("a.gif", save_animated, SIZE),
    "turned by EXIF": ("a.jpg", save_with_exif_orientation, (100, 60)),
    "bytes after the end": (
        "a.jpg",
        lambda p: (save_as(format="JPEG")(p), p.write_bytes(p.read_bytes() + b"\0" * 99)),
        SIZE,
    ),
    "empty": ("a.jpg", write_bytes(b""), "cannot read image .*a.jpg: cannot identify"),
    "HTML": ("a.jpg", write_bytes(b"<html>404</html>"), "cannot read image .*a.jpg: cannot identify"),
    "JPEG cut in half": ("a.jpg", save_truncated(0.5, "JPEG"), "cannot read image .*a.jpg: .*truncated"),
    "PNG cut in half": ("a.png", save_truncated(0.5, "PNG"), "cannot read image .*a.png: .*truncated"),
    "a header alone": ("a.jpg", save_truncated(0.02, "JPEG"), "cannot read image .*a.jpg: "),
    "a folder": ("a.jpg", lambda p: p.mkdir(), "cannot read image .*a.jpg: Is a directory"),
    "not there": ("a.jpg", lambda p: None, "cannot read image .*a.jpg: No such file"),
    "a link to nowhere": ("a.jpg", lambda p: p.symlink_to("nowhere"), "cannot read image .*a.jpg: No such file"),
    "a decompression bomb": (
        "a.png",
        save_decompression_bomb,
        "cannot read image .*a.png: it has more than 178,956,970 pixels",
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if IMAGES[case][0].isascii() else needs_utf8) for case in IMAGES]
)
def test_image_files(case: str, tmp_path: Path) -> None:
    name, write, outcome = IMAGES[case]
    write(tmp_path / name)
    if isinstance(outcome, str):
        with pytest.raises(DatasetError, match=outcome):
            read_image(str(tmp_path / name))
        return
    image = read_image(str(tmp_path / name))
    assert image.dtype == np.uint8
    assert image.shape == (*outcome, 3)


def change_entry(entry: str, **values: object) -> Callable[[SimpleNamespace], None]:
    """Return a function that changes the first entry of a list of a COCO file; a value of None removes the key."""

    def do(coco: SimpleNamespace) -> None:
        first = coco.content[entry][0]
        first.update(values)
        for key in [key for key, value in values.items() if value is None]:
            del first[key]

    return do


def duplicate_entry(entry: str) -> Callable[[SimpleNamespace], None]:
    return lambda coco: coco.content[entry].append(dict(coco.content[entry][0]))


def replace_content(content: object) -> Callable[[SimpleNamespace], None]:
    return lambda coco: setattr(coco, "content", content)


NAN, INF = float("nan"), float("inf")
# changes of a COCO file of three images and three objects -> objects that are read, or error message
ANNOTATIONS: dict[str, tuple[Callable[[SimpleNamespace], object], list[int] | str]] = {
    "nothing": (lambda coco: None, [2, 1, 0]),
    "a bbox of NaN": (change_entry("annotations", bbox=[NAN, 0, 5, 5]), "object 1: .* contains NaN/Inf"),
    "a bbox of infinity": (change_entry("annotations", bbox=[0, 0, INF, 5]), "object 1: .* contains NaN/Inf"),
    "a negative width": (change_entry("annotations", bbox=[50, 20, -5, 5]), [1, 1, 0]),
    "no area": (change_entry("annotations", bbox=[50, 20, 0, 5]), [1, 1, 0]),
    "no area in single precision": (change_entry("annotations", bbox=[50, 20, 1e-9, 5]), [1, 1, 0]),
    "outside of the image": (change_entry("annotations", bbox=[500, 20, 5, 5]), [1, 1, 0]),
    "half outside": (change_entry("annotations", bbox=[90, 20, 50, 5]), [2, 1, 0]),
    "a crowd": (change_entry("annotations", iscrowd=1), [1, 1, 0]),
    "nothing but crowds": (lambda coco: [a.update(iscrowd=1) for a in coco.content["annotations"]], [0, 0, 0]),
    "an unknown category": (change_entry("annotations", category_id=77), "1 annotations have a category_id"),
    "a bbox of three numbers": (change_entry("annotations", bbox=[1, 2, 3]), "annotation 0: bbox is .1, 2, 3."),
    "a bbox of text": (change_entry("annotations", bbox="1 2 3 4"), "annotation 0: bbox is '1 2 3 4'"),
    "no bbox": (change_entry("annotations", bbox=None), "entry 1 of 'annotations' has no bbox"),
    "no category": (change_entry("annotations", category_id=None), "entry 1 of 'annotations' has no category_id"),
    "no image_id": (change_entry("annotations", image_id=None), "entry 1 of 'annotations' has no image_id"),
    "no file name": (change_entry("images", file_name=None), "entry 1 of 'images' has no file_name"),
    "no size": (change_entry("images", height=None), "entry 1 of 'images' has no height"),
    "an image without an id": (change_entry("images", id=None), "entry 1 of 'images' has no id"),
    "a category without a name": (change_entry("categories", name=None), "entry 1 of 'categories' has no name"),
    # tools/check_dataset.py reports these two
    "the id of an image twice": (duplicate_entry("images"), [2, 1, 0]),
    "an annotation of no image": (change_entry("annotations", image_id=99), [1, 1, 0]),
    "the id of an annotation twice": (duplicate_entry("annotations"), "duplicate id 0 in 'annotations'"),
    "no annotations": (lambda coco: coco.content.update(annotations=[]), "images but no annotations"),
    "no images": (lambda coco: coco.content.update(images=[]), "no entries in images"),
    "no categories": (lambda coco: coco.content.update(categories=[]), "no entries in categories"),
    "a list": (replace_content([]), "not in COCO format"),
    "a number": (replace_content(3), "not in COCO format"),
    "half of a file": (lambda coco: coco.path.write_text('{"images": ['), "not valid JSON"),
    "bytes that are no UTF-8": (lambda coco: coco.path.write_bytes(b"\xff\xfe\xfa"), "not valid JSON"),
    "a name that leaves the folder": (change_entry("images", file_name="../../etc/passwd"), "which is outside of"),
    "an absolute name": (
        change_entry("images", file_name="/etc/passwd"),
        "references the image /etc/passwd, which is outside of",
    ),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_coco_annotations(case: str, tmp_path: Path) -> None:
    edit, outcome = ANNOTATIONS[case]
    source = write_coco(tmp_path)
    path = Path(source["json_file"])
    before = path.read_bytes()
    coco = SimpleNamespace(path=path, content=json.loads(before))
    edit(coco)
    if path.read_bytes() == before:
        path.write_text(json.dumps(coco.content))
    if isinstance(outcome, str):
        with pytest.raises(DatasetError, match=outcome) as raised:
            FORMATS["coco"][0](str(tmp_path), **source)
        assert str(path) in str(raised.value) or "object 1" in outcome
        return
    records = FORMATS["coco"][0](str(tmp_path), **source)
    assert [len(annotation_arrays(record)[0]) for record in records] == outcome


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("the id of an image twice", "duplicate id 7 in 'images'"),
        ("an annotation of no image", "1 annotations have an image_id that is missing in 'images'"),
    ],
)
def test_check_dataset_reports_problems_that_training_ignores(case: str, message: str, tmp_path: Path) -> None:
    source = write_coco(tmp_path)
    path = Path(source["json_file"])
    coco = SimpleNamespace(path=path, content=json.loads(path.read_text(encoding="utf-8")))
    ANNOTATIONS[case][0](coco)
    path.write_text(json.dumps(coco.content))
    done = tool(
        "check_dataset.py",
        "--config-file",
        RECIPE,
        "--output",
        str(tmp_path / "check"),
        "dataloader.train.dataset.names=checked",
        *(f"dataloader.train.dataset.{key}={value}" for key, value in source.items()),
    )
    assert done.returncode == 1, done.stderr
    assert message in (tmp_path / "check" / "problems.txt").read_text(encoding="utf-8")


# format, file, text in it, replacement, error message
OTHER_FORMATS: dict[str, tuple[str, str, Callable[[str], str | bytes], str]] = {
    "VOC, an unknown class": (
        "voc",
        "Annotations/0.xml",
        lambda t: t.replace("cat", "cow"),
        "0.xml:3: unknown class 'cow'",
    ),
    "VOC, no XML": ("voc", "Annotations/0.xml", lambda t: "hello", "0.xml: is not valid XML: syntax error"),
    "VOC, an entity of another file": (
        "voc",
        "Annotations/0.xml",
        lambda t: '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + t.replace("cat", "&b;"),
        "0.xml: is not valid XML: undefined entity",
    ),
    "VOC, a name that leaves the folder": (
        "voc",
        "ImageSets/Main/train.txt",
        lambda t: "../../../x\n" + t,
        "which is outside of",
    ),
    "VOC, no UTF-8": ("voc", "Annotations/0.xml", lambda t: b"\xff\xfe\xfa", "0.xml"),
    "YOLO, a word": ("yolo", "labels/train/0.txt", lambda t: "cat 0 0 1 1", "0.txt:1: .* is not a valid label"),
    "YOLO, no UTF-8": ("yolo", "labels/train/0.txt", lambda t: b"\xff\xfe\xfa", "0.txt"),
    "YOLO, a tag that runs code": (
        "yolo",
        "data.yaml",
        lambda t: t + "extra: !!python/object/apply:os.system ['touch pwned']\n",
        "data.yaml is not valid YAML",
    ),
    "YOLO, a list": ("yolo", "data.yaml", lambda t: "[1, 2]", "data.yaml does not define 'names'"),
    "YOLO, no UTF-8 in data.yaml": ("yolo", "data.yaml", lambda t: b"\xff\xfe\xfa", "data.yaml"),
    "CrowdHuman, no JSON": ("crowdhuman", "annotation_train.odgt", lambda t: t + "{", "odgt:4: "),
    "CrowdHuman, a list": ("crowdhuman", "annotation_train.odgt", lambda t: t + "[]", "odgt:4: "),
    "CrowdHuman, a box of text": (
        "crowdhuman",
        "annotation_train.odgt",
        lambda t: t.replace('"fbox": [10, 20, 40, 20]', '"fbox": "large"'),
        "odgt:1: ",
    ),
    "CrowdHuman, a name that leaves the folder": (
        "crowdhuman",
        "annotation_train.odgt",
        lambda t: t.replace('"ID": "0"', '"ID": "../../0"'),
        "odgt:1: .*which is outside of",
    ),
}


@pytest.mark.parametrize("case", OTHER_FORMATS)
def test_other_formats(case: str, tmp_path: Path) -> None:
    name, file, edit, message = OTHER_FORMATS[case]
    read, write = FORMATS[name]
    source = write(tmp_path)
    path = tmp_path / file
    changed = edit(path.read_text(encoding="utf-8"))
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(DatasetError, match=message):
        read(str(tmp_path), **source)
    assert not Path("pwned").exists()


def test_problems_are_skipped_up_to_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read, write = FORMATS["yolo"]
    source = write(tmp_path)
    labels = tmp_path / "labels" / "train" / "0.txt"
    labels.write_text(labels.read_text(encoding="utf-8") + "7 0.5 0.5 0.1 0.1\n0 nan 0.5 0.1 0.1\n0 0.5\n")
    (tmp_path / "images" / "train" / "2.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"to skip them, set \+dataloader.train.dataset.max_invalid_records=4"):
        read(f"{tmp_path}_all", **source, max_invalid_records=3)
    records = read(f"{tmp_path}_some", **source, max_invalid_records=4)
    assert [len(record["annotations"]) for record in records] == [2, 1]
    assert "skipping images and objects with 4 problems (4 allowed)" in caplog.text
    for place in ("0.txt:3", "0.txt:4", "0.txt:5", "2.jpg"):
        assert place in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_images_are_replaced_up_to_the_limit(num_workers: int, tmp_path: Path, caplog) -> None:
    write_images(tmp_path, count=6)
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "4.jpg").write_bytes(b"")
    records = [
        {"file_name": str(tmp_path / f"{i}.jpg"), "height": 60, "width": 100, "image_id": i, "annotations": []}
        for i in range(6)
    ]

    def batches(allowed: int) -> list[list[int]]:
        loader = build_train_loader(
            records,
            mapper=DetectionMapper([], is_train=True),
            total_batch_size=3,
            num_workers=num_workers,
            seed=0,
            shuffle=False,
            max_unreadable_images=allowed,
        )
        stream = iter(loader)
        return [[sample["image_id"] for sample in next(stream)] for _ in range(4)]

    assert batches(2) == [[0, 2, 2], [3, 5, 5]] * 2
    assert len([r for r in caplog.records if "using another image instead" in r.message]) == 2, "once for each image"
    for allowed in (0, 1):
        with pytest.raises(DatasetError, match=r"cannot read image .*jpg: cannot identify"):
            batches(allowed)


def test_many_unreadable_images_end_the_run(tmp_path: Path) -> None:
    write_images(tmp_path, count=30)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    records = [{"file_name": str(path), "annotations": []} for path in sorted(tmp_path.iterdir())]
    loader = build_train_loader(
        records,
        mapper=DetectionMapper([], is_train=True),
        total_batch_size=2,
        num_workers=0,
        max_unreadable_images=1000,
    )
    with pytest.raises(DatasetError, match="cannot read image"):
        next(iter(loader))


def test_run_skips_an_unreadable_image_with_a_warning(shapes: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for image in (shapes / "train").iterdir():
        (images / image.name).write_bytes(image.read_bytes())
    (images / "000003.jpg").write_bytes(b"")
    arguments = [f"dataloader.train.dataset.image_root={images}", "train.max_iter=6", "train.eval_period=0"]
    done = train_net(shapes, tmp_path / "a", *arguments, "dataloader.train.max_unreadable_images=1")
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stdout.splitlines() if "using another image instead (1 of 1 allowed)" in line]
    assert f"cannot read image {images}/000003.jpg" in warning
    assert "cannot read image" in expect_error(train_net(shapes, tmp_path / "b", *arguments))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_folder_is_an_error(shapes: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be" in expect_error(train_net(shapes, tmp_path / "run", "train.max_iter=1"))
