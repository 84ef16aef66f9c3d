"""Handling of invalid masks and keypoints: read, left out with a warning, or rejected with a message."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from deim.data import coco_dataset
from deim.data.dataset_statistics import check_dataset
from deim.data.datasets.formats.coco_export import coco_export_dataset
from deim.data.datasets.regions import compress_runs
from deim.data.drawing import object_shapes
from deim.errors import DatasetError
from tests.data.test_datasets import write_coco

SQUARE = [10, 20, 40, 20, 40, 40, 10, 40]
NAN, INF = float("nan"), float("inf")
LEFT_OUT = "left out"


def run_lengths(height: int = 60, width: int = 100, filled: bool = True) -> dict:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[20:40, 10:40] = filled
    runs = coco_masks.encode(mask)
    return {"size": runs["size"], "counts": runs["counts"].decode()}


# {case: (segmentation, None if the mask is read, LEFT_OUT, or message)}
MASKS: dict[str, tuple[Any, str | None]] = {
    "a polygon": ([SQUARE], None),
    "several polygons": ([SQUARE, [50, 20, 60, 20, 60, 30]], None),
    "a self-intersecting polygon": ([[10, 20, 40, 40, 40, 20, 10, 40]], None),
    "one pixel": ([[10, 20, 11, 20, 11, 21, 10, 21]], None),
    "less than a pixel": ([[10.2, 20.2, 10.6, 20.2, 10.6, 20.6]], None),
    "half outside": ([[90, 20, 140, 20, 140, 40, 90, 40]], None),
    "run lengths": (run_lengths(), None),
    "uncompressed run lengths": ({"size": [60, 100], "counts": [620, 20, 5360]}, None),
    "outside": ([[110, 20, 140, 20, 140, 40, 110, 40]], LEFT_OUT),
    "above": ([[10, -20, 40, -20, 40, -5, 10, -5]], LEFT_OUT),
    "two points": ([[10, 20, 40, 20]], LEFT_OUT),
    "no area": ([[10, 20, 40, 20, 30, 20]], LEFT_OUT),
    "empty run lengths": (run_lengths(filled=False), LEFT_OUT),
    "missing": (None, "object 1: the object has no mask"),
    "no polygons": ([], "object 1: the object has no mask"),
    "NaN": ([[10, 20, NAN, 20, 40, 40]], "object 1: the mask contains NaN/Inf"),
    "Inf": ([[10, 20, INF, 20, 40, 40]], "object 1: the mask contains NaN/Inf"),
    "a word": ([[10, 20, "x", 20, 40, 40]], "object 1: a polygon of the mask contains a value that is not a number"),
    "another size": (run_lengths(100, 60), "object 1: the mask is 60 x 100 pixels large, the image 100 x 60"),
    "run lengths of a larger mask": (run_lengths(200, 200) | {"size": [60, 100]}, "object 1: the mask is malformed"),
    "truncated run lengths": ({"size": [60, 100], "counts": "P"}, "object 1: the mask is malformed"),
    "a number as run lengths": ({"size": [60, 100], "counts": 3}, "object 1: the mask is malformed"),
}


@pytest.mark.parametrize("seed", range(3))
def test_malformed_run_lengths_never_reach_pycocotools(seed: int) -> None:
    """pycocotools writes outside of its memory for some of them."""
    rng = np.random.default_rng(seed)
    for _ in range(300):
        text = "".join(map(chr, rng.integers(46, 113, rng.integers(0, 12))))
        with pytest.raises(ValueError, match="counts"):
            compress_runs({"size": [60, 100], "counts": text})
    for density in (0.0, 0.01, 0.5, 1.0):
        mask = np.asfortranarray(rng.random((37, 41)) < density, dtype=np.uint8)
        runs = coco_masks.encode(mask)
        assert (coco_masks.decode(compress_runs(runs)) == mask).all()
        with pytest.raises(ValueError, match="counts"):
            compress_runs(runs | {"size": [37, 42]})


def write(root: Path, **changes: Any) -> dict:
    """Write the COCO dataset of three images and three objects, and change the first object."""
    source = write_coco(root)
    path = Path(source["json_file"])
    content = json.loads(path.read_text(encoding="utf-8"))
    content["categories"][0] |= {"keypoints": ["a", "b"], "skeleton": [[1, 2]]}
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        annotation["keypoints"] = [x, y, 2, x + width, y + height, 1]
    for key, value in changes.items():
        content["annotations"][0][key] = value
        if value is None:
            del content["annotations"][0][key]
    path.write_text(json.dumps(content))
    return source


def read(root: Path, reader: str, source: dict, **options: Any) -> list[dict]:
    name = f"{root}_{reader}_{options}"
    if reader == "coco":
        return coco_dataset(name, **source, **options)
    return coco_export_dataset(name, **source, class_names=["cat", "dog"], **options)


@pytest.mark.parametrize("reader", ["coco", "export"])
@pytest.mark.parametrize("case", MASKS)
def test_masks(case: str, reader: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    segmentation, outcome = MASKS[case]
    source = write(tmp_path, segmentation=segmentation)
    if outcome is not None and outcome is not LEFT_OUT:
        with pytest.raises(DatasetError, match=outcome):
            read(tmp_path, reader, source, masks=True)
        outcome = LEFT_OUT
        records = read(tmp_path, reader, source, masks=True, max_invalid_records=1)
    else:
        records = read(tmp_path, reader, source, masks=True)
    counts = [len(record["annotations"]) for record in records]
    assert counts == [1 if outcome is LEFT_OUT else 2, 1, 0]
    if outcome is LEFT_OUT:
        assert "left out" in caplog.text or "skipping" in caplog.text or "filtered out" in caplog.text.lower()
    assert all(annotation["segmentation"] for record in records for annotation in record["annotations"])


# {case: (keypoints, number of labeled keypoints that are read, or message)}
KEYPOINTS: dict[str, tuple[Any, int | str]] = {
    "two": ([10, 20, 2, 40, 40, 1], 2),
    "all invisible": ([0, 0, 0, 0, 0, 0], 0),
    "outside of the image": ([-10, 20, 2, 140, 40, 2], 2),
    "missing": (None, 0),
    "an empty list": ([], 0),
    "one": ([10, 20, 2], r"object 1: keypoints: 3 values; expected 6 \(x, y and visibility of 2\)"),
    "no visibility": ([10, 20, 40, 40], "object 1: keypoints: 4 values; expected 6"),
    "NaN": ([NAN, 20, 2, 40, 40, 1], "object 1: keypoints: a value is NaN/Inf"),
    "a visibility of 3": ([10, 20, 3, 40, 40, 1], "object 1: keypoints: the visibility 3 is not 0"),
    "a confidence": ([10, 20, 0.5, 40, 40, 1], "object 1: keypoints: the visibility 0.5 is not 0"),
}


@pytest.mark.parametrize("reader", ["coco", "export"])
@pytest.mark.parametrize("case", KEYPOINTS)
def test_keypoints(case: str, reader: str, tmp_path: Path) -> None:
    keypoints, outcome = KEYPOINTS[case]
    source = write(tmp_path, keypoints=keypoints)
    if isinstance(outcome, str):
        with pytest.raises(DatasetError, match=outcome):
            read(tmp_path, reader, source, keypoints=True)
        records = read(tmp_path, reader, source, keypoints=True, max_invalid_records=1)
        assert [len(record["annotations"]) for record in records] == [1, 1, 0]
        return
    records = read(tmp_path, reader, source, keypoints=True)
    values = [annotation["keypoints"] for record in records for annotation in record["annotations"]]
    assert [len(points) for points in values] == [6, 6, 6]
    assert sum(visibility > 0 for visibility in values[0][2::3]) == outcome


def test_word_as_a_keypoint(tmp_path: Path) -> None:
    source = write(tmp_path, keypoints=[10, 20, 2, 40, "x", 1])
    with pytest.raises(DatasetError, match="object 1: keypoints: a value is not a number"):
        read(tmp_path, "export", source, keypoints=True)


@pytest.mark.parametrize("reader", ["coco", "export"])
def test_some_categories_have_keypoints(reader: str, tmp_path: Path) -> None:
    """Objects of the other categories have no labeled keypoints; different keypoints are rejected."""
    source = write(tmp_path)
    path = Path(source["json_file"])
    content = json.loads(path.read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        if annotation["category_id"] == content["categories"][1]["id"]:
            del annotation["keypoints"]
    path.write_text(json.dumps(content))
    records = read(tmp_path, reader, source, keypoints=True)
    for annotation in (a for record in records for a in record["annotations"]):
        assert any(annotation["keypoints"][2::3]) == (annotation["category_id"] == 0)
    content["categories"][1]["keypoints"] = ["c", "d"]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="'cat' and 'dog' define different keypoints"):
        read(tmp_path / "different", reader, source, keypoints=True)
    for category in content["categories"]:
        category.pop("keypoints", None)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="defines no keypoints"):
        read(tmp_path / "none", reader, source, keypoints=True)


@pytest.mark.parametrize("reader", ["coco", "export"])
def test_dataset_without_any_masks_or_keypoints(reader: str, tmp_path: Path) -> None:
    source = write(tmp_path)
    path = Path(source["json_file"])
    content = json.loads(path.read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        del annotation["keypoints"], annotation["segmentation"]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="has no masks: none of its 3 objects has a segmentation"):
        read(tmp_path, reader, source, masks=True)
    with pytest.raises(DatasetError, match="has no keypoints: none of its 3 objects has any"):
        read(tmp_path, reader, source, keypoints=True)


@pytest.mark.parametrize("case", [*MASKS, *KEYPOINTS])
@pytest.mark.parametrize("reader", ["coco", "export"])
def test_a_model_of_boxes_does_not_check_masks_and_keypoints(case: str, reader: str, tmp_path: Path) -> None:
    source = (
        write(tmp_path, segmentation=MASKS[case][0]) if case in MASKS else write(tmp_path, keypoints=KEYPOINTS[case][0])
    )
    records = read(tmp_path, reader, source)
    # detectron2 itself leaves out an object without a polygon.
    assert [len(record["annotations"]) for record in records] == [
        1 if (reader, case) == ("coco", "two points") else 2,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("required", "changes", "is_usable", "line"),
    [
        ((), {}, True, "0 problems, 0 of them must be fixed"),
        (
            (),
            {"segmentation": MASKS["another size"][0]},
            True,
            "1 problems, 0 of them must be fixed; 1 matter only for",
        ),
        (("masks",), {"segmentation": MASKS["another size"][0]}, False, "1 problems, 1 of them must be fixed"),
        ((), {"segmentation": None}, True, "0 problems"),
        (("masks",), {"segmentation": None}, False, "1 problems, 1 of them must be fixed"),
        (("masks",), {"segmentation": MASKS["outside"][0]}, True, "1 problems, 0 of them must be fixed; the remaining"),
        ((), {"keypoints": [1, 2, 3]}, True, "1 problems, 0 of them must be fixed; 1 matter only for"),
        (("keypoints",), {"keypoints": [1, 2, 3]}, False, "1 problems, 1 of them must be fixed"),
        (("keypoints",), {"keypoints": [1, 2, 2, NAN, 5, 2]}, False, "1 problems, 1 of them must be fixed"),
    ],
)
def test_check_data_reports_masks_and_keypoints(
    required: Sequence[str], changes: dict, is_usable: bool, line: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write(tmp_path, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deim.data.dataset_statistics.draw_statistics", lambda *args: None)
        patch.setattr("deim.data.dataset_statistics.draw_objects", lambda *args, **options: None)
        node = {
            "_target_": "deim.data.coco_dataset",
            "names": f"{tmp_path}_checked",
            **source,
            "masks": "masks" in required,
            "keypoints": "keypoints" in required or not required,
        }
        assert check_dataset(node, str(tmp_path / "check"), False, 0, required=required) == is_usable
    output = capsys.readouterr().out
    assert line in output
    assert ("visibility" in output) == ("keypoints" in required or not required)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reader=st.sampled_from(["coco", "export"]), segmentation=JSON_VALUES, keypoints=JSON_VALUES)
def test_any_json_value_gives_records_or_an_error(
    reader: str, segmentation: Any, keypoints: Any, tmp_path: Path
) -> None:
    source = write(tmp_path, segmentation=segmentation, keypoints=keypoints)
    name = f"{tmp_path}_{reader}_fuzzed"
    options = {} if reader == "coco" else {"class_names": ["cat", "dog"]}
    read_dataset = coco_dataset if reader == "coco" else coco_export_dataset
    for kinds in ({"masks": True}, {"keypoints": True}):
        with contextlib.suppress(DatasetError):
            for record in read_dataset(name, **source, **options, **kinds):
                for annotation in record["annotations"]:
                    if "masks" in kinds:
                        object_shapes(record, None)
                        assert annotation["segmentation"]
                    else:
                        assert len(annotation["keypoints"]) == 6
