"""Masks and keypoints are read from all formats that have them, and only on request."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image as matplotlib_image
import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from omegaconf import OmegaConf
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from deim.cli import main
from deim.config import load_config
from deim.config.annotations import trained_annotations
from deim.config.keypoints import with_keypoint_data, with_keypoints, without_keypoint_data
from deim.config.user_data import detect_dataset, with_data
from deim.data import coco_dataset
from deim.data.datasets.discovery import discover
from deim.data.datasets.holdout import holdout_split
from deim.data.datasets.keypoints import define_keypoints, find_flip_pairs, keypoints_of_categories
from deim.data.inspection import batches_from_epoch, draw_training_batch
from deim.errors import DatasetError
from deim.visualization import draw_objects
from tests.data import layouts
from tests.data.layouts import write_coco_file, write_images, write_json, write_lines
from tests.data.test_formats import read

PERSON = [
    "nose",
    *(f"{side}_{part}" for part in ("eye", "ear", "shoulder", "elbow", "wrist") for side in ("left", "right")),
    *(f"{side}_{part}" for part in ("hip", "knee", "ankle") for side in ("left", "right")),
]
POLYGON = [10.0, 20.0, 50.0, 20.0, 50.0, 40.0, 10.0, 40.0]
# COCO counts pixels, detectron2 measures from the corner of the image.
COCO_KEYPOINTS = [20, 25, 2, 0, 0, 0, 30, 30, 1]
KEYPOINT_NAMES = ["nose", "left_eye", "right_eye"]


def keypoint_category(number: int, name: str) -> dict:
    return {"id": number, "name": name, "keypoints": KEYPOINT_NAMES, "skeleton": [[1, 2], [1, 3]]}


def write_coco_data(root: Path, **changes: Any) -> None:
    write_images(root / "images")
    categories = [keypoint_category(1, "cat"), keypoint_category(2, "dog")]
    entries = {"segmentation": [POLYGON], "keypoints": COCO_KEYPOINTS, "num_keypoints": 2} | changes
    write_coco_file(root / "train.json", categories=categories, **entries)


def write_coco_with_text_ids(root: Path) -> None:
    """Write a file that detectron2 cannot read."""
    write_coco_data(root)
    content = json.loads((root / "train.json").read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    write_json(root / "train.json", content)


def write_yolo_pose(root: Path, shape: str = "[3, 3]", *settings: str) -> None:
    write_images(root / "images", ["0.jpg"])
    write_lines(root / "data.yaml", "names: [cat]", "train: images", f"kpt_shape: {shape}", *settings)
    points = "0.205 0.425 2 0 0 0 0.305 0.5083333 1"
    write_lines(root / "labels" / "0.txt", f"0 0.3 0.5 0.4 0.3333333 {points}")


def write_yolo_segmentation(root: Path) -> None:
    write_images(root / "images", ["0.jpg"])
    write_lines(root / "data.yaml", "names: [cat]", "train: images")
    corners = " ".join(f"{value / side:.9f}" for value, side in zip(POLYGON, [100, 60] * 4, strict=True))
    write_lines(root / "labels" / "0.txt", f"0 {corners}")


def write_labelme(root: Path) -> None:
    layouts.labelme(root)  # rectangles


MASKS: dict[str, Callable[[Path], None]] = {
    "COCO": write_coco_data,
    "COCO with text ids": write_coco_with_text_ids,
    "YOLO": write_yolo_segmentation,
    "labelme": write_labelme,
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_read(name: str, tmp_path: Path) -> None:
    MASKS[name](tmp_path)
    split = discover(str(tmp_path)).train
    annotation = read(split, masks=True)[0]["annotations"][0]
    ((*numbers,),) = annotation["segmentation"]
    corners = np.reshape(numbers, (-1, 2))
    np.testing.assert_allclose(corners, np.reshape(POLYGON, (-1, 2)), atol=1e-6)


KEYPOINTS_OF_FORMATS: dict[str, Callable[[Path], None]] = {
    "COCO": write_coco_data,
    "COCO with text ids": write_coco_with_text_ids,
    "YOLO": lambda root: write_yolo_pose(root, "[3, 3]", "kpt_names: {0: [nose, left_eye, right_eye]}"),
    "YOLO with flip_idx": lambda root: write_yolo_pose(root, "[3, 3]", "flip_idx: [0, 2, 1]"),
}


@pytest.mark.parametrize("name", KEYPOINTS_OF_FORMATS)
def test_keypoints_are_read(name: str, tmp_path: Path) -> None:
    KEYPOINTS_OF_FORMATS[name](tmp_path)
    dataset = discover(str(tmp_path))
    assert dataset.keypoints is not None
    records = read(dataset.train, keypoints=True)
    points = np.reshape(records[0]["annotations"][0]["keypoints"], (3, 3))
    np.testing.assert_allclose(points[[0, 2]], [[20.5, 25.5, 2], [30.5, 30.5, 1]], atol=1e-5)
    assert points[1, 2] == 0
    metadata = MetadataCatalog.get(f"{dataset.train.arguments}{ {'keypoints': True} }")
    names = ["0", "1", "2"] if "flip_idx" in name else KEYPOINT_NAMES
    assert list(metadata.keypoint_names) == names
    assert [tuple(pair) for pair in metadata.keypoint_flip_map] == [(names[1], names[2])]
    connections = [(first, second) for first, second, _ in metadata.keypoint_connection_rules]
    assert connections == ([] if "YOLO" in name else [("nose", "left_eye"), ("nose", "right_eye")])
    catalog = DatasetCatalog.get(metadata.name)
    assert catalog[0]["annotations"][0]["keypoints"] == records[0]["annotations"][0]["keypoints"]


@pytest.mark.parametrize("name", KEYPOINTS_OF_FORMATS)
def test_splits_and_conversions_keep_flip_pairs(name: str, tmp_path: Path) -> None:
    """Also those that do not follow from the names of the keypoints."""
    data = tmp_path / tmp_path.name  # datasets are registered by the name of their folder
    KEYPOINTS_OF_FORMATS[name](data)
    original = discover(str(data))
    assert original.keypoints is not None
    assert original.keypoints.flip_pairs
    options = ["--data", str(data), "--output", str(tmp_path / "check"), "--skip-images", "--images", "0"]
    assert main(["check-data", *options, "--to-coco", str(tmp_path / "coco")]) == 0
    converted = discover(str(tmp_path / "coco"), str(data))
    assert converted.keypoints == original.keypoints


def test_conversion_of_labelme_keeps_the_masks_of_rectangles(tmp_path: Path) -> None:
    data = tmp_path / tmp_path.name
    layouts.labelme(data)
    options = ["--data", str(data), "--output", str(tmp_path / "check"), "--skip-images", "--images", "0"]
    assert main(["check-data", *options, "--to-coco", str(tmp_path / "coco")]) == 0
    split = discover(str(tmp_path / "coco"), str(data)).train
    segmentation = read(split, masks=True)[0]["annotations"][0]["segmentation"]
    np.testing.assert_allclose(np.reshape(segmentation, (-1, 2)), np.reshape(POLYGON, (-1, 2)), atol=1e-6)


def test_a_model_of_boxes_ignores_masks_and_keypoints(tmp_path: Path) -> None:
    """Errors in masks and keypoints do not matter, and the reader of YOLO skips keypoints."""
    write_coco_data(tmp_path / "coco", keypoints=[1, 2, 9], segmentation=[[float("nan")] * 6])
    write_yolo_pose(tmp_path / "yolo")
    for folder in ("coco", "yolo"):
        dataset = discover(str(tmp_path / folder))
        (box,) = {tuple(np.round(a["bbox"])) for a in read(dataset.train)[0]["annotations"][:1]}
        assert len(box) == 4
    assert "keypoints" not in read(dataset.train)[0]["annotations"][0]
    assert MetadataCatalog.get(f"{dataset.train.arguments}{ {} }").get("keypoint_names") is None


def test_names_are_first_read_without_and_then_with_keypoints(tmp_path: Path) -> None:
    write_yolo_pose(tmp_path)
    split = discover(str(tmp_path)).train
    assert "keypoints" not in split.read(names="twice", **split.arguments)[0]["annotations"][0]
    assert "keypoints" in split.read(names="twice", **split.arguments, keypoints=True)[0]["annotations"][0]
    assert "keypoints" in DatasetCatalog.get("twice")[0]["annotations"][0]


def test_crowds_without_masks_are_no_part_of_a_holdout_split(tmp_path: Path) -> None:
    """The evaluation of masks needs the mask of every annotation."""
    write_coco_data(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": []}
    write_json(tmp_path / "train.json", content)
    split = discover(str(tmp_path)).train.annotated
    assert split is not None
    records = read(split, masks=True)
    assert sum(len(record["annotations"]) for record in records) == len(content["annotations"]) - 1
    holdout_split("held_out_masks", records, f"{split.arguments}{ {'masks': True} }", every_nth=1, held_out=True)
    assert all(a["segmentation"] for record in DatasetCatalog.get("held_out_masks") for a in record["annotations"])


def test_yolo_keypoints_without_visibility(tmp_path: Path) -> None:
    write_yolo_pose(tmp_path, "[2, 2]")
    write_lines(tmp_path / "labels" / "0.txt", "0 0.3 0.5 0.4 0.3333333 0.205 0.425 -1 -1")
    split = discover(str(tmp_path)).train
    (annotation,) = read(split, keypoints=True)[0]["annotations"]
    np.testing.assert_allclose(annotation["keypoints"], [20.5, 25.5, 2, 0, 0, 0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kpt_shape: [3, 4]", r"kpt_shape is \[3, 4\]; expected the number of keypoints and 2 or 3"),
        ("kpt_shape: 17", "kpt_shape is 17"),
        ("kpt_shape: [3, 3]\nflip_idx: [0, 1]", r"flip_idx is \[0, 1\]; expected, for each of the 3 keypoints"),
        ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", r"flip_idx is \[1, 2, 0\]"),
        ("kpt_shape: [3, 3]\nflip_idx: [0, 2, x]", "flip_idx is .*x"),
        ("", "defines no keypoints: kpt_shape is missing"),
    ],
)
def test_malformed_keypoints_in_data_yaml(setting: str, message: str, tmp_path: Path) -> None:
    write_yolo_segmentation(tmp_path)
    write_lines(tmp_path / "data.yaml", "names: [cat]", "train: images", setting)
    dataset = discover(str(tmp_path))
    assert dataset.keypoints is None
    assert any("the keypoints cannot be used" in note for note in dataset.notes) == bool(setting)
    assert len(read(dataset.train)[0]["annotations"]) == 1, "boxes can be used"
    with pytest.raises(DatasetError, match=message):
        read(dataset.train, keypoints=True)


def test_mixed_yolo_lines(tmp_path: Path) -> None:
    """A box in a dataset of polygons, and a polygon in a dataset of keypoints, are errors that name the line."""
    write_yolo_segmentation(tmp_path / "a")
    write_lines(tmp_path / "a" / "labels" / "0.txt", "0 0.1 0.1 0.2 0.1 0.2 0.2", "0 0.5 0.5 0.2 0.2")
    split = discover(str(tmp_path / "a")).train
    assert len(read(split)[0]["annotations"]) == 2
    with pytest.raises(DatasetError, match=r"0\.txt:2: the object has no mask"):
        read(split, masks=True)
    assert len(read(split, masks=True, max_invalid_records=1)[0]["annotations"]) == 1
    write_yolo_pose(tmp_path / "b")
    lines = (tmp_path / "b" / "labels" / "0.txt").read_text(encoding="utf-8").splitlines()
    write_lines(tmp_path / "b" / "labels" / "0.txt", *lines, "0 0.1 0.1 0.2 0.1 0.2 0.2", "0 0.5 0.5 0.2 0.2")
    split = discover(str(tmp_path / "b")).train
    assert len(read(split)[0]["annotations"]) == 3
    with pytest.raises(
        DatasetError, match=r"0\.txt:2: 6 numbers follow the class; expected 13 for a box and keypoints"
    ):
        read(split, keypoints=True)
    records = read(split, keypoints=True, max_invalid_records=1)
    assert [sum(a["keypoints"][2::3]) for a in records[0]["annotations"]] == [3, 0], "a box has no labeled keypoints"


def test_labelme_shapes_become_masks(tmp_path: Path) -> None:
    layouts.labelme(tmp_path)
    content = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    content["shapes"] = [
        {"label": "cat", "points": [[10, 20], [50, 20], [30, 40]], "shape_type": "polygon"},
        {"label": "dog", "points": [[50, 30], [50, 40]], "shape_type": "circle"},
        {"label": "dog", "points": [[10, 20], [50, 40]], "shape_type": "rectangle"},
    ]
    write_json(tmp_path / "0.json", content)
    annotations = read(discover(str(tmp_path)).train, masks=True)[0]["annotations"]
    areas = [
        coco_masks.area(coco_masks.merge(coco_masks.frPyObjects(annotation["segmentation"], 60, 100)))
        for annotation in annotations
    ]
    np.testing.assert_allclose(areas, [400, np.pi * 100, 800], rtol=0.05)


def test_holes_of_supervisely_polygons_are_no_part_of_the_mask(tmp_path: Path) -> None:
    layouts.supervisely(tmp_path)
    path = tmp_path / "ds0" / "ann" / "0.jpg.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    square, hole = ([[low, low], [high, low], [high, high], [low, high]] for low, high in ((10, 50), (20, 30)))
    points = {"exterior": square, "interior": [hole]}
    content["objects"] = [{"classTitle": "cat", "geometryType": "polygon", "points": points}]
    write_json(path, content)
    (annotation,) = read(discover(str(tmp_path)).train)[0]["annotations"]
    assert annotation["bbox"] == [10, 10, 50, 50]
    mask = coco_masks.decode(annotation["segmentation"])
    assert mask.shape == (layouts.HEIGHT, layouts.WIDTH)
    assert mask.sum() == pytest.approx(40 * 40 - 10 * 10, rel=0.02)
    assert (mask[15, 15], mask[25, 25]) == (1, 0)


def test_flip_pairs() -> None:
    pairs = find_flip_pairs(PERSON)
    assert pairs == tuple((name, name.replace("left", "right")) for name in PERSON if name.startswith("left"))
    assert find_flip_pairs(["L_Eye", "R_Eye", "Nose", "tail"]) == (("L_Eye", "R_Eye"),)
    assert find_flip_pairs(["EyeLeft", "EyeRight", "left", "lower"]) == (("EyeLeft", "EyeRight"),)


def test_categories_with_different_keypoints(tmp_path: Path) -> None:
    same, other = keypoint_category(1, "cat"), keypoint_category(2, "dog") | {"keypoints": ["tail"]}
    assert keypoints_of_categories([{"id": 3, "name": "box"}, same], "x") == define_keypoints(
        KEYPOINT_NAMES, [[1, 2], [1, 3]], "x"
    )
    assert define_keypoints(["a", "b"], [[0, 1], [1, 2], [1], "x", [1, 3]], "x").connections == (("a", "b"),)
    with pytest.raises(DatasetError, match="two keypoints have the same name: a, a"):
        define_keypoints(["a", "a"], None, "x")
    with pytest.raises(DatasetError, match="'cat' and 'dog' define different keypoints"):
        keypoints_of_categories([same, other], "x")


def test_builtin_datasets_with_keypoints() -> None:
    metadata = MetadataCatalog.get("keypoints_coco_2017_train")
    assert metadata.json_file.endswith("coco/annotations/person_keypoints_train2017.json")
    assert metadata.image_root.endswith("coco/train2017")
    assert list(metadata.keypoint_names) == PERSON
    assert tuple(metadata.keypoint_flip_map) == find_flip_pairs(PERSON)
    assert len(metadata.keypoint_connection_rules) == 14
    assert list(metadata.thing_classes) == ["person"]


def recipe(**mapper: bool) -> Any:
    return OmegaConf.create({"dataloader": {"train": {"dataset": {"names": "x"}, "mapper": mapper}}})


def test_a_recipe_states_what_it_trains_on(tmp_path: Path) -> None:
    assert trained_annotations(recipe()) == []
    assert trained_annotations(recipe(masks=True, keypoints=False)) == ["masks"]
    write_coco_data(tmp_path / "coco")
    _, nodes = detect_dataset(str(tmp_path / "coco"), annotations=["keypoints"])
    assert all(node.dataset.keypoints and "masks" not in node.dataset for node in nodes)
    layouts.cvat_voc(tmp_path / "voc")
    with pytest.raises(DatasetError, match=r"is in Pascal VOC format, from which masks cannot be read\. Formats with"):
        detect_dataset(str(tmp_path / "voc"), annotations=["masks"])


def test_conversion_to_coco_preserves_masks_and_keypoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / tmp_path.name
    write_yolo_pose(data, "[3, 3]", "kpt_names: {0: [nose, left_eye, right_eye]}")
    options = ["--data", str(data), "--output", str(tmp_path / "check"), "--images", "0"]
    assert main(["check-data", *options, "--to-coco", str(tmp_path / "train.json")]) == 0
    api = COCO(str(tmp_path / "train.json"))
    (annotation,) = api.loadAnns(api.getAnnIds())
    np.testing.assert_allclose(annotation["keypoints"], COCO_KEYPOINTS, atol=1e-5)
    assert annotation["num_keypoints"] == 2
    assert api.loadCats(1)[0]["keypoints"] == KEYPOINT_NAMES


def test_check_data_accepts_boxes_with_unusable_keypoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / tmp_path.name  # datasets are registered by the name of their folder
    write_coco_data(data, keypoints=[])
    options = ["--data", str(data), "--output", str(tmp_path / "check"), "--images", "0"]
    assert main(["check-data", *options]) == 0
    output = capsys.readouterr().out
    assert (
        f"note: the keypoints cannot be used: dataset '{data.name}_all' has no keypoints: none of its 3 objects"
        in output
    )
    assert "masks              3 of 3 objects: 3 as polygons, 0 as run lengths" in output


def test_masks_and_keypoints_are_drawn(tmp_path: Path) -> None:
    """A translucent mask in the color of the class, whether given as polygons or as pixels, and keypoints."""
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = (np.array([[10.0, 5, 50, 35]]), np.array([0]))
    pixels = np.zeros((40, 60), bool)
    pixels[10:30, 20:40] = True
    polygon = [20, 10, 40, 10, 40, 30, 20, 30]
    points = np.array([[[25.0, 15, 2], [35, 25, 1], [0, 0, 0]]])
    drawn = {}
    for name, options in {
        "boxes": {},
        "polygons": {"masks": [[[polygon]]]},
        "pixels": {"masks": [[pixels[::2, ::2]]]},
        "no mask": {"masks": [[None]]},
        "keypoints": {"keypoints": [points], "connections": [(0, 1), (0, 2)]},
    }.items():
        draw_objects([image], [boxes], ["cat"], tmp_path / "drawn.png", columns=1, **options)
        drawn[name] = matplotlib_image.imread(tmp_path / "drawn.png")[..., :3]
    assert (drawn["boxes"] == drawn["no mask"]).all()
    changed = (drawn["boxes"] != drawn["polygons"]).any(axis=2)
    # The image fills the width of the figure.
    expected_share = 20 * 20 / (60 * 60)
    assert changed.mean() == pytest.approx(expected_share, rel=0.15)
    assert np.unique(drawn["polygons"][changed], axis=0)[:, 0].max() < 0.75, "translucent"
    assert (np.abs(drawn["polygons"] - drawn["pixels"]) > 0.02).any(axis=2).mean() < 0.01
    assert 0.001 < (drawn["boxes"] != drawn["keypoints"]).any(axis=2).mean() < 0.05


def test_recipe_of_keypoints_on_own_data(tmp_path: Path) -> None:
    """The head gets the number of keypoints, and the loader the keypoints and those that a flip swaps."""
    data = tmp_path / tmp_path.name
    write_coco_data(data)
    cfg = load_config("deimv2/deimv2_hgnetv2_atto_shapes")
    with_keypoints(cfg.model)
    with_keypoint_data(cfg.dataloader)
    with_data(cfg, str(data))
    assert cfg.model.decoder.heads.keypoints.num_keypoints == 3
    cfg.dataloader.train.num_workers, cfg.dataloader.train.total_batch_size = 0, 2
    draw_training_batch(cfg, 0, str(tmp_path / "batch.png"), batches=1, images=2)
    instances = next(batches_from_epoch(cfg, 0))[0]["instances"]
    assert instances.gt_keypoints.tensor.shape[1:] == (3, 3)
    assert (tmp_path / "batch.png").stat().st_size > 2000


def test_readers_of_a_recipe_check_masks_and_keypoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A config without --data: the names of the keypoints come from the file, and problems are fatal."""
    write_coco_data(tmp_path, keypoints=[1, 2, 3])
    recipe_file = tmp_path / "recipe.py"
    recipe_file.write_text(
        "from deim.config import get_config\n"
        "from deim.config.keypoints import with_keypoint_data\n"
        'dataloader = get_config("common/data/coco.py").dataloader\n'
        "with_keypoint_data(dataloader)\n"
        f'paths = dict(json_file="{tmp_path}/train.json", image_root="{tmp_path}/images")\n'
        f'dataloader.train.dataset.update(names="{tmp_path.name}_recipe", **paths)\n'
    )
    node = OmegaConf.create({"dataloader": LazyConfig.load(str(recipe_file)).dataloader}, flags={"allow_objects": True})
    assert node.dataloader.train.dataset.keypoints
    assert node.dataloader.test.dataset.keypoints
    with pytest.raises(DatasetError, match="keypoints: 3 values; expected 9"):
        instantiate(node.dataloader.train.dataset)
    without_keypoint_data(node.dataloader)
    assert len(instantiate(node.dataloader.train.dataset)) == 3


@pytest.mark.parametrize("kind", ["masks", "keypoints"])
def test_evaluation_of_incomplete_coco_files(kind: str, tmp_path: Path) -> None:
    """pycocotools fails for annotations without masks or keypoints; the ground truth is completed."""
    write_coco_data(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    for key in ("segmentation", "keypoints", "num_keypoints"):
        del content["annotations"][0][key]
    write_json(tmp_path / "train.json", content)
    assert discover(str(tmp_path)).train.read is coco_dataset
    dataset, _ = detect_dataset(str(tmp_path), annotations=[kind])
    records = read(dataset.train, **{kind: True}, max_invalid_records=1)
    name = f"{dataset.train.arguments}{ {kind: True, 'max_invalid_records': 1} }"
    convert_to_coco_json(name, str(tmp_path / "converted.json"))
    api = COCO(str(tmp_path / "converted.json"))
    annotations = api.loadAnns(api.getAnnIds())
    assert len(annotations) == sum(len(record["annotations"]) for record in records) == (2 if kind == "masks" else 3)
    for annotation in annotations:
        if kind == "masks":
            assert api.annToMask(annotation).any()
        else:
            assert len(annotation["keypoints"]) == 9
            assert annotation["num_keypoints"] in (0, 2)
    assert sum(annotation.get("num_keypoints", 2) == 0 for annotation in annotations) == (kind == "keypoints")
