"""Affine maps give the pixels of their definition, in every fast path."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from fvcore.transforms.transform import HFlipTransform, VFlipTransform

from deim.data.geometry import AffineTransform, LazyImage, PixelTransform, as_affine

FILL = 77


def gradient_image(height: int, width: int, dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    """Return an image whose values rise by two per pixel: along x, along y and along both."""
    y, x = np.mgrid[:height, :width]
    planes = [100 + 2 * x, 100 + 2 * y, 100 + x + y, np.full_like(x, 255)]
    return np.stack(planes[:channels], axis=-1).astype(dtype)


def by_definition(transform: AffineTransform, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected canvas (H, W, C) float64, and how far inside the image each of its pixels lies, (H, W).

    The center of each canvas pixel is mapped back to the image, whose values are interpolated there. The distance to
    the border of the image is in canvas pixels; it is negative outside.
    """
    inverse = np.linalg.inv(np.vstack([transform.matrix, [0, 0, 1]]))
    height, width = transform.canvas
    centers = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    x, y = np.moveaxis(centers @ inverse[:2, :2].T + inverse[:2, 2], -1, 0)
    rows, columns = image.shape[:2]
    stretch_x, stretch_y = np.linalg.norm(inverse[:2, :2], axis=1)
    distance = np.minimum(np.minimum(x, columns - x) / stretch_x, np.minimum(y, rows - y) / stretch_y)
    left, top = (np.clip(at - 0.5, 0, last) for at, last in ((x, columns - 1), (y, rows - 1)))
    i, j = np.floor(left).astype(int), np.floor(top).astype(int)
    right, bottom = np.minimum(i + 1, columns - 1), np.minimum(j + 1, rows - 1)
    u, v = (left - i)[..., None], (top - j)[..., None]
    pixels = image.astype(np.float64)
    upper = pixels[j, i] * (1 - u) + pixels[j, right] * u
    lower = pixels[bottom, i] * (1 - u) + pixels[bottom, right] * u
    return upper * (1 - v) + lower * v, distance


def check(transform: AffineTransform, image: np.ndarray, case: object = None) -> None:
    drawn = transform.apply_image(image)
    expected, distance = by_definition(transform, image)
    assert drawn.shape == expected.shape, case
    assert drawn.dtype == image.dtype, case
    upright = not transform.matrix[0, 1] and not transform.matrix[1, 0]
    # An axis-aligned image ends at a pixel border; the border of a rotated image blends over half an image pixel.
    edge = 0.55 if upright else 1.05 + 0.5 * np.linalg.norm(transform.matrix[:, :2], 2)
    assert (drawn[distance < -edge] == FILL).all(), case
    # The position error is up to 0.75 canvas pixels for an axis-aligned image, and 1/32 image pixel (OpenCV) for a
    # rotated image.
    shift = 0.8 if upright else 0.1
    levels = 2 * shift * np.abs(np.linalg.inv(transform.matrix[:, :2])).sum(axis=1).max()
    assert np.abs(drawn.astype(np.float64) - expected)[distance > edge].max(initial=0) <= levels + 1.5, case


def random_maps(seed: int, count: int) -> Iterator[AffineTransform]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        size, canvas = (tuple(int(side) for side in rng.integers(1, 60, 2)) for _ in range(2))
        scale = np.diag(rng.choice([-1, 1], 2) * rng.uniform(0.4, 2.5, 2))
        if rng.uniform() < 0.5:
            angle, shear = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            scale = turn @ np.array([[1, shear], [0, 1]]) @ scale
        # the center of the image falls somewhere on the canvas, or a little beside it
        shift = rng.uniform(-0.3, 1.3, 2) * canvas[::-1] - scale @ (np.array(size[::-1]) / 2)
        yield AffineTransform(np.column_stack([scale, shift]), size, canvas, FILL)


@pytest.mark.parametrize("seed", range(4))
def test_affine_maps_follow_the_definition(seed: int) -> None:
    for case, transform in enumerate(random_maps(seed, 150)):
        check(transform, gradient_image(*transform.size), (case, transform.matrix, transform.size, transform.canvas))


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 4), (np.float32, 3), (np.float32, 1)])
def test_dtypes_and_channel_counts(dtype: type, channels: int) -> None:
    for transform in random_maps(9, 60):
        image = gradient_image(*transform.size, dtype, channels)
        if channels == 1:  # a plane, as OpenCV has it
            image = image[..., 0]
        drawn = transform.apply_image(image)
        assert drawn.dtype == dtype
        three = transform.apply_image(gradient_image(*transform.size))
        planes = three[..., 0] if channels == 1 else three
        np.testing.assert_allclose(drawn if channels == 1 else drawn[..., :3], planes, atol=1.01)


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("shift", [(0, 0), (13, -7), (-30, 5)])
def test_integer_shifts_and_flips_copy_pixels(flips: tuple[int, int], shift: tuple[int, int], monkeypatch) -> None:
    monkeypatch.setattr(cv2, "warpAffine", None)  # these maps must not use the slower interpolation
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    flipped = image[:: flips[1], :: flips[0]]
    offset = [shift[0] + 50 * (flips[0] < 0), shift[1] + 40 * (flips[1] < 0)]
    transform = AffineTransform(np.column_stack([np.diag(flips), offset]), (40, 50), (45, 60), FILL)
    expected = np.full((45 + 200, 60 + 200, 3), FILL, np.uint8)
    expected[100 + shift[1] : 140 + shift[1], 100 + shift[0] : 150 + shift[0]] = flipped
    assert (transform.apply_image(image) == expected[100:145, 100:160]).all()


def test_images_outside_of_the_canvas_are_not_drawn() -> None:
    for shift in ((100, 0), (0, 100), (-100, 0), (0, -100), (20, 0), (-20, 0), (0, 20), (0, -20)):
        for turn in (np.eye(2), np.array([[1, 0.01], [0.01, 1]])):
            transform = AffineTransform(np.column_stack([turn, np.array(shift) * 1.05]), (20, 20), (20, 20), FILL)
            assert (transform.apply_image(gradient_image(20, 20)) == FILL).all()


def test_rotated_downscaling_averages() -> None:
    image = (np.indices((160, 160)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    turn = np.array([[0.1, -0.05], [0.05, 0.1]])
    drawn = AffineTransform(np.column_stack([turn, [8, 0]]), (160, 160), (24, 24), FILL).apply_image(image)
    assert np.abs(drawn[8:14, 8:14].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_downscaling_is_the_mean_of_all_pixels(factor: int) -> None:
    rng = np.random.default_rng(1)
    for rows, columns in ((8, 8), (8, 80), (48, 80)):
        image = rng.integers(0, 256, (rows, columns, 3), np.uint8)
        size = rows // factor, columns // factor
        transform = AffineTransform(np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]]), (rows, columns), size)
        mean = image.reshape(size[0], factor, size[1], factor, 3).mean(axis=(1, 3))
        assert np.abs(transform.apply_image(image) - mean).max() <= 1


def test_downscaling_of_thin_images() -> None:
    for size in ((1, 64), (64, 1), (2, 64)):
        transform = AffineTransform(np.array([[0.2, 0, 0], [0, 0.2, 0]]), size, (13, 13), FILL)
        image = np.full((*size, 3), 200, np.uint8)
        assert set(np.unique(transform.apply_image(image))) <= {FILL, 200}


def test_maps_of_crops_and_reduced_images_give_the_same_result() -> None:
    """The map of a crop draws nearly the same pixels, and the map of a reduced image gives the same positions."""
    for transform in random_maps(5, 100):
        image = gradient_image(*transform.size)
        left, top, right, bottom = window = transform.visible_window()
        assert 0 <= left < right <= transform.size[1]
        assert 0 <= top < bottom <= transform.size[0]
        part = transform.for_crop(window)
        assert part.size == (bottom - top, right - left)
        expected = transform.apply_image(image).astype(int)
        levels = 4 * np.abs(np.linalg.inv(transform.matrix[:, :2])).sum(axis=1).max()
        assert np.abs(part.apply_image(image[top:bottom, left:right]) - expected).max() <= levels + 1
        assert part.fill == FILL
        reduced = transform.for_reduced_image(4)
        assert reduced.size == tuple(-(-side // 4) for side in transform.size)
        assert (reduced.canvas, reduced.fill) == (transform.canvas, FILL)
        np.testing.assert_allclose(
            reduced.apply_coords(np.array([[3.0, 5.0]])), transform.apply_coords(np.array([[12.0, 20.0]]))
        )


def test_visible_window_has_a_margin_of_one_pixel() -> None:
    def window(shift: tuple[float, float], canvas: tuple[int, int]) -> tuple[int, int, int, int]:
        return AffineTransform(np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (40, 50), canvas).visible_window()

    assert window((-10, -5), (20, 30)) == (9, 4, 41, 26)
    assert window((-10.5, -5.5), (20, 30)) == (9, 4, 42, 27)
    assert window((0, 0), (100, 100)) == (0, 0, 50, 40)
    assert window((60, 0), (20, 30)) == (0, 0, 50, 40), "no pixel is visible: the whole image, not an empty window"
    assert window((0, 60), (20, 30)) == (0, 0, 50, 40)
    assert window((31, 0), (20, 30)) == (0, 0, 50, 40), "only the margin would be visible"
    assert window((0, 21), (20, 30)) == (0, 0, 50, 40)
    turned = AffineTransform(np.array([[0, -1, 30], [1, 0, -10]]), (40, 50), (20, 15))
    assert turned.visible_window() == (9, 14, 31, 31)


def test_fvcore_flips_are_affine() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    for flip in (HFlipTransform(9), VFlipTransform(6)):
        affine = as_affine(flip, (6, 9))
        assert affine is not None
        assert (affine.apply_image(image) == flip.apply_image(image)).all()
        np.testing.assert_allclose(
            affine.apply_coords(np.array([[2.0, 1.0]])), flip.apply_coords(np.array([[2.0, 1.0]]))
        )


class SubtractMean(PixelTransform):
    """Transform that subtracts the mean of the whole image and records the image sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: float | None = None
        self.seen_shapes: list[tuple[int, ...]] = []

    def fix_statistics(self, img: np.ndarray) -> "SubtractMean":
        self.mean = float(img.mean())
        return self

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        self.seen_shapes.append(img.shape[:2])
        mean = img.mean() if self.mean is None else self.mean
        return np.clip(img.astype(np.float64) - mean + 128, 0, 255).astype(np.uint8)


CROP = np.array([[1, 0, -20], [0, 1, -10]])


def test_color_transform_uses_whole_image_statistics_for_the_visible_part() -> None:
    image, subtract_mean = gradient_image(60, 80), SubtractMean()
    lazy_image = LazyImage(image, (60, 80), np.zeros((0, 4)))
    lazy_image.transform(subtract_mean)
    lazy_image.transform(AffineTransform(CROP, (60, 80), (20, 30)))
    expected = SubtractMean().apply_image(image)[10:30, 20:50]
    assert (lazy_image.render() == expected).all()
    assert subtract_mean.seen_shapes == [(22, 32)], "with a margin of one pixel"


def test_second_color_transform_receives_the_whole_image() -> None:
    image, first, second = gradient_image(60, 80), SubtractMean(), SubtractMean()
    lazy_image = LazyImage(image, (60, 80), np.zeros((0, 4)))
    for transform in (first, second, AffineTransform(CROP, (60, 80), (20, 30))):
        lazy_image.transform(transform)
    expected = SubtractMean().apply_image(SubtractMean().apply_image(image))[10:30, 20:50]
    assert (lazy_image.render() == expected).all()
    assert second.seen_shapes == [(60, 80)]


def test_source_is_decoded_at_the_lowest_sufficient_resolution() -> None:
    image, factors = np.full((80, 120, 3), 9, np.uint8), []

    def read(factor: int) -> np.ndarray:
        factors.append(factor)
        return image[::factor, ::factor]

    for side, factor in ((1.0, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.1, 8)):
        lazy_image = LazyImage(read, (80, 120), np.zeros((0, 4)))
        lazy_image.transform(AffineTransform(np.array([[side, 0, 0], [0, side, 0]]), (80, 120), (8, 12)))
        assert (lazy_image.render() == 9).all()
        assert factors.pop() == factor
    whole = LazyImage(read, (80, 120), np.zeros((0, 4)))
    assert whole.render().shape == (80, 120, 3)
    assert factors == [1]
