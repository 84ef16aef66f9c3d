"""Tiled inference: tiles cover the image, and duplicates across tiles are merged."""

import itertools

import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from deim import Predictor
from deim.errors import ConfigError
from deim.inference.tiling import Tiling, merge_views


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(64, 1000), st.floats(0, 0.8))
def test_tiles_cover_image_and_overlap(height: int, width: int, side: int, overlap: float) -> None:
    whole, *tiles = Tiling(side, overlap).views(height, width)
    assert whole == (0, 0, width, height)
    assert bool(tiles) == (height > side or width > side)
    for axis, length in ((0, width), (1, height)):
        spans = sorted({(tile[axis], tile[axis + 2]) for tile in tiles})
        if not tiles:
            continue
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end - start >= int(side * overlap)
        assert all(end - start == min(side, length) for start, end in spans)


def instances(*rows: tuple[float, float, float, float, float, int]) -> Instances:
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Instances((100, 100), pred_boxes=Boxes(values[:, :4]), scores=values[:, 4], pred_classes=values[:, 5].long())


def test_duplicates_across_views_are_merged() -> None:
    views = [(0, 0, 200, 100), (0, 0, 100, 100), (80, 0, 180, 100)]
    whole = instances((82, 10, 98, 30, 0.7, 1))
    left = instances((82, 10, 98, 30, 0.9, 1), (0, 0, 50, 50, 0.6, 0))
    right = instances((2, 10, 18, 30, 0.8, 1), (2, 10, 18, 30, 0.5, 2))
    result = merge_views([whole, left, right], views, (100, 200))
    assert result.image_size == (100, 200)
    assert result.scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert result.pred_classes.tolist() == [1, 0, 2]
    assert result.pred_boxes.tensor[0].tolist() == [82, 10, 98, 30]
    assert result.pred_boxes.tensor[2].tolist() == [82, 10, 98, 30]


def test_objects_of_one_view_are_not_merged() -> None:
    crowd = instances((10, 10, 40, 40, 0.9, 0), (12, 12, 38, 38, 0.8, 0))
    assert len(merge_views([crowd], [(0, 0, 100, 100)], (100, 100))) == 2


def test_views_without_detections() -> None:
    assert len(merge_views([instances(), instances()], [(0, 0, 100, 100), (0, 0, 50, 50)], (100, 100))) == 0


def test_predictor_with_tiling(checkpoint, photos) -> None:
    predictor = Predictor(checkpoint, threshold=0.0, device="cpu")
    untiled, tiled = predictor(photos / "4.png"), predictor.predict(photos / "4.png", tiling=Tiling(64))[0]
    assert len(tiled) > len(untiled)
    assert tiled.image_size == untiled.image_size
    assert (tiled.boxes[:, 2] <= 300).all()
    assert (tiled.scores.diff() <= 0).all()


@pytest.mark.parametrize("arguments", [(16, 0.2), (640, 1.0), (640, -0.1)])
def test_invalid_tiling_is_an_error(arguments: tuple[int, float]) -> None:
    with pytest.raises(ConfigError, match="at least 32 pixels"):
        Tiling(*arguments)
