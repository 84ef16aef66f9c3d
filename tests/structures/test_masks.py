"""Masks as dot products of embeddings, compared with full logits; masks at the resolution of images."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch.nn import functional as F

from deim.structures.mask_images import batch_masks, resize_masks
from deim.structures.masks import MaskPredictions, nearest_pixels, sample_bilinear


def random_masks(layers: int = 2, images: int = 2, queries: int = 5, dim: int = 3) -> MaskPredictions:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pixels = [draw(images, dim, 4, 6) for _ in range(layers)]
    return MaskPredictions(draw(layers, images, queries, dim), draw(layers, images, queries), pixels)


def full_logits(masks: MaskPredictions) -> torch.Tensor:
    """Return the (L, B, Q, h, w) logits of all queries."""
    logits = torch.einsum("lbqc,lbchw->lbqhw", masks.queries, torch.stack(masks.pixels))
    return logits + masks.offsets[..., None, None]


def test_selected_logits_equal_full_logits() -> None:
    masks, queries = random_masks(), torch.tensor([[4, 0, 4], [1, 2, 3]])
    full = full_logits(masks)
    expected = torch.stack([full[1, image, queries[image]] for image in range(2)])
    torch.testing.assert_close(masks.select(1, queries), expected)
    torch.testing.assert_close(masks.select(-1, queries), expected)


def test_logits_at_points_equal_sampled_full_logits() -> None:
    masks = random_masks()
    points = torch.rand(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    full = full_logits(masks).flatten(0, 1)
    expected = F.grid_sample(full, (2 * points - 1).expand(len(full), 1, -1, -1), align_corners=False)[:, :, 0]
    torch.testing.assert_close(masks.at_points(points), expected.unflatten(0, (2, 2)))


def test_join_and_split_keep_layers_and_queries() -> None:
    masks = random_masks()
    layers = [
        MaskPredictions(masks.queries[i : i + 1], masks.offsets[i : i + 1], masks.pixels[i : i + 1]) for i in range(2)
    ]
    torch.testing.assert_close(full_logits(MaskPredictions.join(layers)), full_logits(masks))
    parts = masks.split([2, 3])
    torch.testing.assert_close(torch.cat([full_logits(part) for part in parts], dim=2), full_logits(masks))


def test_half_precision_embeddings_give_float32_logits() -> None:
    masks = random_masks()
    half = MaskPredictions(masks.queries.float(), masks.offsets.float(), [maps.bfloat16() for maps in masks.pixels])
    assert half.select(0, torch.zeros(2, 1, dtype=torch.int64)).dtype == torch.float32
    assert half.at_points(torch.rand(3, 2)).dtype == torch.float32


def test_nearest_pixels_equal_nearest_sampling() -> None:
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = torch.arange(5 * 7, dtype=torch.float64).view(1, 1, 5, 7)
    expected = F.grid_sample(image, (2 * points - 1)[None, None], mode="nearest", align_corners=False)[0, 0, 0]
    rows, columns = nearest_pixels(points, (5, 7))
    assert torch.equal(image[0, 0, rows, columns], expected)
    assert [index.tolist() for index in nearest_pixels(torch.ones(1, 2), (5, 7))] == [[4], [6]]


def test_bilinear_samples_at_pixel_centers_are_the_pixels() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    centers = torch.tensor([[(x + 0.5) / 3, (y + 0.5) / 2] for y in range(2) for x in range(3)])
    torch.testing.assert_close(sample_bilinear(image, centers[None])[0, 0], image.flatten())


@pytest.mark.parametrize("padded_size", [(40, 60), (64, 96), (41, 75)])
def test_resized_masks_equal_interpolation_by_scipy(padded_size: tuple[int, int]) -> None:
    image_size, result_size = (40, 60), (33, 70)
    logits = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns = (
        (np.arange(count) + 0.5) / count * side / padded * cells - 0.5
        for count, side, padded, cells in zip(result_size, image_size, padded_size, (16, 24), strict=True)
    )
    grid = np.meshgrid(rows, columns, indexing="ij")
    expected = [map_coordinates(mask.numpy(), grid, order=1, mode="nearest") > 0 for mask in logits]
    actual = resize_masks(logits, image_size, padded_size, result_size)
    assert actual.dtype == torch.bool
    assert np.array_equal(actual.numpy(), np.stack(expected))


def test_resizing_no_masks() -> None:
    assert resize_masks(torch.zeros(0, 4, 4), (8, 8), (8, 8), (5, 6)).shape == (0, 5, 6)


def test_batch_masks_pads_objects_and_images() -> None:
    first = torch.zeros(2, 4, 6, dtype=torch.bool)
    first[0, 1, 2] = first[1, 3, 5] = True
    batch = batch_masks([(first, (16, 24)), (torch.ones(1, 2, 3, dtype=torch.bool), (8, 12))], (16, 28))
    assert batch.shape == (2, 2, 4, 7)
    assert batch.dtype == torch.uint8
    assert batch.nonzero().tolist()[:2] == [[0, 0, 1, 2], [0, 1, 3, 5]]
    assert batch[1].sum() == 6
    assert batch[1, 0, :2, :3].all()


def test_batch_masks_of_images_of_one_row() -> None:
    """The reduction follows from the longer side: a mask has at least one row."""
    for size, mask_size in (((1, 64), (1, 16)), ((64, 1), (16, 1))):
        batch = batch_masks([(torch.ones(1, *mask_size, dtype=torch.bool), size)], (64, 64))
        assert batch.shape == (1, 1, 16, 16)
        assert batch[0, 0, : mask_size[0], : mask_size[1]].all()
        assert batch.sum() == 16


def test_batch_masks_without_objects() -> None:
    empty = torch.zeros(0, 4, 4, dtype=torch.bool)
    assert batch_masks([(empty, (16, 16))] * 2, (16, 16)).shape == (2, 0, 4, 4)
