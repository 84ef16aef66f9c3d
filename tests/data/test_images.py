"""Images of all kinds are decoded correctly, or an error names the file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deim.data import DetectionMapper
from deim.data.image import image_size, read_image
from deim.errors import DatasetError

HEIGHT, WIDTH = 48, 80


def make_image() -> np.ndarray:
    """Return an image with an orange left half, a blue right half, and a white bar on top."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, : WIDTH // 2], image[:, WIDTH // 2 :] = (220, 120, 40), (30, 60, 200)
    image[:8] = 255
    return image


def assert_images_close(decoded: np.ndarray, expected: np.ndarray, tolerance: float = 12) -> None:
    assert decoded.dtype == np.uint8
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < tolerance


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_gray_values_of_unknown_range_are_an_error(dtype: type, tmp_path: Path) -> None:
    """PIL would clip them to 8 bits: black or white images."""
    Image.fromarray(np.linspace(0, 1, 24 * 32, dtype=np.float64).reshape(24, 32).astype(dtype)).save(tmp_path / "x.tif")
    with pytest.raises(DatasetError, match="32-bit gray values"):
        read_image(str(tmp_path / "x.tif"))


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png"])
def test_size_of_a_rotated_file(suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / f"rotated{suffix}", exif=exif)
    path = str(tmp_path / f"rotated{suffix}")
    assert image_size(path) == read_image(path).shape[:2] == (60, 40)


def test_common_image_formats(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.bmp", "a.webp", "a.tiff"):
        Image.fromarray(make_image()).save(tmp_path / name)
        assert_images_close(read_image(str(tmp_path / name), (HEIGHT, WIDTH)), make_image(), 4)
        assert image_size(str(tmp_path / name)) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "L", "LA", "1"])
def test_other_color_models(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(make_image()).convert(mode)
    path = str(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    image.save(path)
    assert_images_close(read_image(path, (HEIGHT, WIDTH)), np.asarray(image.convert("RGB")))


def test_16_bit_images_become_8_bit(tmp_path: Path) -> None:
    gray = np.asarray(Image.fromarray(make_image()).convert("L"))
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert_images_close(read_image(str(tmp_path / "a.png")), np.repeat(gray[..., None], 3, axis=2), 2)


def write_with_exif_rotation(path: Path) -> None:
    """Write a file with rotated pixels and the EXIF orientation that reverts the rotation."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(make_image()).copy()).save(path, exif=exif, quality=95)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_with_exif_rotation(path)
    assert image_size(str(path)) == (HEIGHT, WIDTH)
    assert_images_close(read_image(str(path)), make_image(), 4)
    assert_images_close(read_image(str(path), (HEIGHT, WIDTH)), make_image(), 4)


def test_exif_rotation_is_ignored_if_annotations_refer_to_unrotated_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_with_exif_rotation(path)
    assert_images_close(read_image(str(path), (WIDTH, HEIGHT)), np.rot90(make_image()), 4)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_reduced_decoding(tmp_path: Path, name: str, factor: int) -> None:
    Image.fromarray(make_image()).save(tmp_path / name, quality=95)
    decoded = read_image(str(tmp_path / name), (HEIGHT, WIDTH), factor)
    expected = make_image().reshape(HEIGHT // factor, factor, WIDTH // factor, factor, 3).mean(axis=(1, 3))
    assert_images_close(decoded, expected.astype(np.uint8), 8)


def test_reduced_decoding_of_odd_sizes(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.fromarray(np.full((37, 53, 3), 99, np.uint8)).save(tmp_path / name)
        for factor in (2, 4, 8):
            assert read_image(str(tmp_path / name), (37, 53), factor).mean() == pytest.approx(99, abs=2)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_truncated_files_are_errors(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=name):
        read_image(str(path))


def test_trailing_bytes_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(make_image()).save(path, quality=95)
    path.write_bytes(path.read_bytes() + b"written by a camera")
    assert_images_close(read_image(str(path)), make_image(), 4)


@pytest.mark.parametrize(("content", "reason"), [(b"", "cannot identify"), (b"<html>404</html>", "cannot identify")])
def test_files_that_are_not_images_are_errors(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(DatasetError, match=reason):
            read(str(path))
    with pytest.raises(DatasetError, match=r"nowhere\.jpg"):
        read_image(str(tmp_path / "nowhere.jpg"))


def test_size_mismatch_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(make_image()).save(path)
    with pytest.raises(DatasetError, match=r"a\.png is 80 x 48 .*for 100 x 48"):
        read_image(str(path), (48, 100))
    Image.fromarray(make_image()).save(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match=r"a\.jpg is 80 x 48 .*for 97 x 48"):
        read_image(str(tmp_path / "a.jpg"), (48, 97), reduction=8)


def test_pixel_limit_of_the_user_applies_to_pil(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(make_image()).save(path)
    code = "import sys, deim; from deim.data.image import image_size; print(image_size(sys.argv[1]))"
    for limit, has_size in (("3839", False), ("3840", True)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "OPENCV_IO_MAX_IMAGE_PIXELS": limit},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ("(48, 80)" in done.stdout) == has_size, done.stderr
        assert ("DatasetError" in done.stderr) != has_size


def test_record_without_size_gets_the_size_of_the_image(tmp_path: Path) -> None:
    Image.fromarray(make_image()).save(tmp_path / "a.png")
    sample = DetectionMapper([], is_train=False)({"file_name": str(tmp_path / "a.png")})
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)
    assert sample["image"].shape == (3, HEIGHT, WIDTH)
    reversed_channels = DetectionMapper([], is_train=False, image_format="BGR")({"file_name": str(tmp_path / "a.png")})
    assert (reversed_channels["image"].flip(0) == sample["image"]).all()
