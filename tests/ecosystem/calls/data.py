"""Catalogs, datasets in COCO format, loaders and images."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import copy
import itertools
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.catalog import Metadata
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.data.detection_utils import SizeMismatchError, check_image_size, read_image
from detectron2.data.samplers import InferenceSampler
from detectron2.structures import BoxMode
from PIL import Image

from tests.ecosystem.calls import messages

FOLDER = Path(tempfile.mkdtemp())
NUMBER = itertools.count()


def unused_name(prefix: str = "set") -> str:
    """Return an unused dataset name."""
    return f"{prefix}_{next(NUMBER)}"


CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 8, "name": "hippopotamuses"}]
IMAGES = [{"id": i, "file_name": f"{i}.jpg", "height": 50, "width": 60 + i} for i in (7, 2, 5)]
ANNOTATION = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
POLYGON = [[1, 2, 8, 2, 8, 9.5]]
RLE = {"counts": [10, 20, 30], "size": [6, 10]}


def write_coco_file(*annotations: dict, prefix: str = "file", **content: Any) -> str:
    """Write an annotation file; each annotation is a dict of differences from ANNOTATION."""
    records = [ANNOTATION | {"id": number} | changes for number, changes in enumerate(annotations, start=1)]
    path = FOLDER / f"{unused_name(prefix)}.json"
    path.write_text(json.dumps({"images": IMAGES, "annotations": records, "categories": CATEGORIES} | content))
    return str(path)


def load_records(*annotations: dict, name: str | None = None, **options: Any) -> list[dict]:
    """Write an annotation file and load it. ``options`` replace parts of the file."""
    extra = options.pop("extra", None)
    return load_coco_json(write_coco_file(*annotations, **options), "root", name, extra)


def metadata_and_log_levels(*annotations: dict, prefix: str = "set", **options: Any) -> tuple:
    """Load an annotation file; return the added metadata and the levels of the log messages."""
    name = unused_name(prefix)
    with messages("detectron2.data.datasets.coco") as lines:
        load_records(*annotations, name=name, **options)
    metadata = MetadataCatalog.get(name).as_dict()
    return {k: v for k, v in metadata.items() if k != "name"}, [line.split(":")[0] for line in lines]


def records(*annotations: Any, **changes: Any) -> list[dict]:
    """Return records in detectron2's format. Each argument lists the classes of one image."""
    return [
        {
            "file_name": f"{number}.jpg",
            "height": 10,
            "width": 20,
            "image_id": number,
            "annotations": [
                {"bbox": [1.0, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, "iscrowd": 0} | changes
                for c in classes
            ],
        }
        for number, classes in enumerate(annotations)
    ]


def register_dataset(items: Any, classes: Any = ("cat", "dog"), **metadata: Any) -> str:
    """Register a dataset with metadata and return its name."""
    name = unused_name()
    DatasetCatalog.register(name, lambda: copy.deepcopy(items))
    if classes is not None:
        metadata["thing_classes"] = list(classes)
    MetadataCatalog.get(name).set(**metadata)
    return name


def dataset_messages(items: Any, classes: Any) -> list[str]:
    """Return the messages logged about a dataset."""
    name = register_dataset(items, classes)
    with messages("detectron2.data.build") as lines:
        get_detection_dataset_dicts(name)
    return lines


def coco_content(items: Any, classes: Any = ("cat", "dog"), **metadata: Any) -> dict:
    """Return the content of the COCO file written for a dataset."""
    path = FOLDER / f"{unused_name('converted')}" / "new.json"
    convert_to_coco_json(register_dataset(items, classes, **metadata), str(path))
    content = json.loads(path.read_text())
    info = content.get("info")
    return content | {"info": info and sorted(info)}


def overwrites_coco_file(**options: Any) -> bool:
    """Return True if a second conversion writes the file again."""
    path = FOLDER / unused_name("converted") / "new.json"
    convert_to_coco_json(register_dataset(records([0])), str(path))
    path.write_text("{}")
    convert_to_coco_json(register_dataset(records([1])), str(path), **options)
    return path.read_text() != "{}"


def metadata(**entries: Any) -> Metadata:
    return MetadataCatalog.get(unused_name()).set(**entries)


def metadata_of(name: str) -> dict:
    """Return the metadata of a dataset, without the root folder of the datasets."""
    return {k: v for k, v in MetadataCatalog.get(name).as_dict().items() if k not in ("json_file", "image_root")}


def register_coco_file(**changes: Any) -> tuple:
    arguments = {
        "name": unused_name(),
        "metadata": {},
        "json_file": write_coco_file({}),
        "image_root": "root",
    } | changes
    register_coco_instances(**arguments)
    return metadata_of(arguments["name"]).keys() - {"name"}, len(DatasetCatalog.get(arguments["name"]))


def register_names(*names: Any) -> None:
    for name in names:
        register_coco_instances(name, {}, write_coco_file({}), "root")


def remove_dataset(catalog: Any, name: str) -> tuple:
    catalog.remove(name)
    return name in catalog, name in catalog.list()


def image_file(mode: str, orientation: int = 1, malformed: bool = False) -> str:
    """Write an image of 4 x 6 pixels with an EXIF orientation tag and, if ``malformed``, text as resolution."""
    path = FOLDER / f"{unused_name('image')}.png"
    image = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)).convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    # Tags in little-endian TIFF: number, type (3: 16-bit integer, 2: text), count, value.
    tags = [struct.pack("<HHIHH", 274, 3, 1, orientation, 0), struct.pack("<HHI4s", 282, 2, 2, b"a")]
    directory = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(tags) + bytes(4)
    image.save(path, exif=directory if malformed else exif)
    return str(path)


def fill_image_size(record: dict) -> dict:
    """Check a record against an image of 4 x 6 pixels, which also adds a missing size to the record."""
    check_image_size(record, np.zeros((4, 6, 3)))
    return record


class Squares(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> int:
        return index * index


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(3))


def map_dataset(function: Any, size: int = 6) -> list:
    dataset = MapDataset(list(range(size)), function)
    return [dataset[index] for index in range(size)]


def same_object(**options: Any) -> tuple[bool, bool]:
    """Return whether reading returns the list's own entry, and whether two reads return the same object."""
    entries = [{"a": 1}]
    dataset = DatasetFromList(entries, **options)
    return dataset[0] is entries[0], dataset[0] is dataset[0]


def odd_or_none(value: int) -> int | None:
    return value if value % 2 else None


LOADER = "build_detection_test_loader"
ANNOTATIONS = (
    "",
    "{}",
    "{}, {'image_id': 2}, {'image_id': 5, 'category_id': 8}",
    "{'iscrowd': 1}",
    "{'bbox': []}",
    "{'bbox': [1.5, 2, 0, 0]}",
    "{'category_id': 99}",
    "{'image_id': 99}",
    "{}, {'id': 1}",
    "{'ignore': 1}",
    "{'ignore': 0}",
    "{'attributes': 1}",
    "{'segmentation': POLYGON}",
    "{'segmentation': []}",
    "{'segmentation': [[1, 2, 3, 4]]}",
    "{'segmentation': None}",
    "{'segmentation': [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]}",
    "{'segmentation': RLE}",
    "{'segmentation': RLE | {'counts': 'PPYo0'}}",
    "{'keypoints': [1, 2, 2, 3, 4, 0]}",
    "{'keypoints': []}",
)
OMITTED_KEYS = ("bbox", "category_id", "iscrowd")

CALLS = [
    *(f"load_records({a})" for a in ANNOTATIONS),
    *(f"load_records({a}{', ' if a else ''}name=unused_name())" for a in ANNOTATIONS),
    *(f"metadata_and_log_levels({a})" for a in ANNOTATIONS[:4]),
    *(f"load_coco_json(coco_file_without({key!r}), 'root', {name})" for key in OMITTED_KEYS for name in ("None", "unused_name()")),
    "load_records({'attributes': 1}, {}, extra=['attributes'])",
    "load_records({}, images=[])",
    "load_records({}, categories=[])",
    "load_records({}, categories=[], name=unused_name())",
    "metadata_and_log_levels(categories=[{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}])",
    "metadata_and_log_levels({'category_id': 0}, categories=[{'id': 0, 'name': 'a'}])",
    "metadata_and_log_levels({}, prefix='coco_like')",
    "load_records(images=IMAGES[:1] + [IMAGES[0] | {'file_name': 'twice.jpg'}])",
    "load_coco_json('/nothing.json', 'root')",
    "load_coco_json(Path(write_coco_file({})), Path('root'))",
    "load_coco_json(write_coco_file({}, {'id': 1}, prefix='minival'), 'root')",
    "register_coco_file()",
    "register_coco_file(metadata={'thing_colors': [1]})",
    "register_coco_file(metadata={'evaluator_type': 'x'})",
    "register_coco_file(name=3)",
    "register_coco_file(json_file=None)",
    "register_coco_file(json_file=Path(write_coco_file({})))",
    "register_coco_file(image_root=3)",
    "register_names('again', 'again')",
    *(f"metadata_of('coco_2017_{split}')" for split in ("train", "val")),
    *(f"metadata_of('keypoints_coco_2017_{split}')" for split in ("train", "val")),
    *(f"MetadataCatalog.get('coco_2017_{split}').json_file" for split in ("train", "val")),
    *(f"MetadataCatalog.get('keypoints_coco_2017_{split}').json_file" for split in ("train", "val")),
    "MetadataCatalog.get('coco_2017_val').image_root, 'coco_2017_val' in DatasetCatalog",
    "MetadataCatalog.get('coco_2017_val').set(thing_classes=['a'])",
    "DatasetCatalog.get('nothing')",
    "DatasetCatalog['nothing']",
    "DatasetCatalog.register(unused_name(), 3)",
    "DatasetCatalog.register(register_dataset([]), list)",
    "DatasetCatalog.get(register_dataset([1]))",
    "register_dataset([]) in DatasetCatalog.list(), register_dataset([]) in DatasetCatalog, register_dataset([]) in DatasetCatalog.keys()",
    "remove_dataset(DatasetCatalog, register_dataset([]))",
    "remove_dataset(MetadataCatalog, register_dataset([]))",
    "DatasetCatalog.remove('nothing'), 1",
    "MetadataCatalog.remove('nothing')",
    "str(DatasetCatalog).split(':')[0], repr(MetadataCatalog).split(':')[0], repr(DatasetCatalog)[-1]",
    "type(DatasetCatalog.list()), type(MetadataCatalog.list())",
    "MetadataCatalog.get('')",
    "MetadataCatalog.get(None)",
    "metadata_of('never heard of'), 'never heard of' in MetadataCatalog.list()",
    "MetadataCatalog.get('x') is MetadataCatalog.get('x'), MetadataCatalog['x'] is MetadataCatalog.get('x')",
    "MetadataCatalog['never asked']",
    "metadata(a=1).a, metadata(a=1).get('a'), metadata().get('b'), metadata().get('b', 3)",
    "metadata().nothing",
    "metadata(a=1).nothing",
    "hasattr(metadata(a=1), 'b')",
    "metadata(a=1).set(a=1).a",
    "metadata(a=1).set(a=2)",
    "metadata(a=1).set(name='other')",
    "metadata(a=1).__setattr__('a', 2)",
    "metadata(a=[1]).set(a=(1,))",
    "metadata(thing_classes=['a']).class_names",
    "metadata(class_names=['a']).thing_classes",
    "sorted(metadata(a=1).as_dict())",
    "(lambda entries: (entries.as_dict().update(a=2), entries.a))(metadata(a=1))",
    "Metadata(name='x') == Metadata(name='x'), repr(Metadata(name='x', a=1)), Metadata().name",
    "get_detection_dataset_dicts(register_dataset(records([0], [1, 1])))",
    "get_detection_dataset_dicts(names=[register_dataset(records([0])), register_dataset(records([1]))])",
    "get_detection_dataset_dicts((register_dataset(records([0])),))",
    "get_detection_dataset_dicts([])",
    "get_detection_dataset_dicts('nothing')",
    "get_detection_dataset_dicts(register_dataset([]))",
    "get_detection_dataset_dicts(register_dataset(records([], [0])))",
    "get_detection_dataset_dicts(register_dataset(records([], [0])), filter_empty=False)",
    "get_detection_dataset_dicts(register_dataset(records([], [0])), False)",
    "get_detection_dataset_dicts(register_dataset(records([])))",
    "get_detection_dataset_dicts(register_dataset(records([0], iscrowd=1)))",
    "get_detection_dataset_dicts(register_dataset([{'file_name': 'a'}]))",
    "get_detection_dataset_dicts(register_dataset(records([0]), None))",
    "get_detection_dataset_dicts(register_dataset(records([5])))",
    "get_detection_dataset_dicts(register_dataset(records([-1])))",
    "get_detection_dataset_dicts(register_dataset(records([5])), check_consistency=False)",
    "get_detection_dataset_dicts([register_dataset(records([0])), register_dataset(records([0]), ['other'])])",
    "get_detection_dataset_dicts([register_dataset(records([0])), register_dataset(records([0]), ['other'])], check_consistency=False)",
    "get_detection_dataset_dicts([register_dataset(records([0])), register_dataset(records([0]), None)])",
    "get_detection_dataset_dicts(register_dataset(records([0], keypoints=[1, 2, 2]) + records([0])), min_keypoints=1)",
    "get_detection_dataset_dicts(register_dataset(records([0], keypoints=[1, 2, 0])), min_keypoints=1)",
    "get_detection_dataset_dicts(register_dataset(Squares()))",
    "len(get_detection_dataset_dicts([register_dataset(Squares()), register_dataset(Squares())]))",
    "dataset_messages(records([0], [1, 1], [1]), ['cat', 'dog'])",
    "dataset_messages(records([0], [2, 6], iscrowd=0), ['one', 'two', 'a long name of a class', 'four', 'five', 'six', 'seven'])",
    "dataset_messages(records([0, 0]), ['only'])",
    "dataset_messages(records([0]) + records([0], [1], iscrowd=1), ['a', 'b', 'c'])",
    "dataset_messages(records([3], [1]), list('abcdef'))",
    "coco_content(records([0], [1, 1]))",
    "coco_content(records([0]), thing_dataset_id_to_contiguous_id={7: 0, 4: 1})",
    "coco_content(records([0]), None)",
    "coco_content(records([5]))",
    "coco_content(records([5]), thing_dataset_id_to_contiguous_id={7: 0, 4: 1})",
    "coco_content(records([]))",
    "coco_content([])",
    "coco_content([{'file_name': Path('a.jpg'), 'height': 3.0, 'width': 4.0}])",
    "coco_content([{'file_name': 'a.jpg', 'height': 3}])",
    *(
        f"coco_content(records([0], bbox={box}, bbox_mode=BoxMode.{mode}))"
        for box in ("[1, 2, 5, 7]", "np.array([1.23456, 2, 5, 7])", "(0.1, 0.2, 0.7, 0.9)", "np.array([[1, 2, 5, 7]])", "[1, 2]", "torch.tensor([1, 2, 5, 7])")
        for mode in ("XYXY_ABS", "XYWH_ABS")
    ),
    "coco_content(records([0], segmentation=POLYGON))",
    "coco_content(records([0], segmentation=POLYGON + POLYGON))",
    "coco_content(records([0], segmentation=[np.array([1, 2, 8, 2, 8, 9.5])]))",
    "coco_content(records([0], segmentation={'counts': 'PPYo0', 'size': [6, 10]}))",
    "coco_content(records([0], segmentation={'counts': b'PPYo0', 'size': [6, 10]}))",
    "coco_content(records([0], segmentation='x'))",
    "coco_content(records([0], keypoints=[1.5, 2.5, 2, 3, 4, 0]))",
    "coco_content(records([0], keypoints=[1.5, 2.5, 2, 3, 4, 0], num_keypoints=9))",
    "overwrites_coco_file(), overwrites_coco_file(allow_cached=False), overwrites_coco_file(allow_cached=True)",
    *(f"DatasetFromList([1, 'x', {{'a': [1]}}])[{i}]" for i in ("0", "2", "-1", "-3", "3", "np.int64(1)", "torch.tensor(1)", "slice(0, 2)", "'a'")),
    *(f"DatasetFromList([1, 'x', {{'a': [1]}}], serialize=False)[{i}]" for i in ("0", "2", "-1", "3", "slice(0, 2)")),
    "len(DatasetFromList([1, 2])), list(DatasetFromList([1, 2], serialize=False))",
    *(f"DatasetFromList([], serialize={s}).__len__()" for s in ("True", "False")),
    *(f"same_object({o})" for o in ("", "copy=False", "serialize=False", "copy=False, serialize=False", "copy=True, serialize=True")),
    "len(DatasetFromList([1, 2], serialize=tuple)), DatasetFromList([1, 2], serialize=tuple)[1]",
    "DatasetFromList([1, 2], serialize='x')",
    "DatasetFromList([1, 2], serialize=None)",
    "DatasetFromList(range(3))[1]",
    "map_dataset(odd_or_none)",
    "map_dataset(lambda x: x if x == 3 else None)",
    "map_dataset(lambda x: None)",
    "map_dataset(str)",
    "MapDataset([1, 2], str)[5]",
    "MapDataset([1, 2], str)[1.0]",
    "len(MapDataset([1, 2], str))",
    *(f"list(InferenceSampler({n}))" for n in ("3", "0", "-1", "1")),
    "len(InferenceSampler(3)), list(InferenceSampler(size=2))",
    f"list({LOADER}([1, 2, 3], mapper=str))",
    f"list({LOADER}([1, 2, 3], mapper=None, batch_size=2))",
    f"list({LOADER}(dataset=Squares(), mapper=None, batch_size=2))",
    f"list({LOADER}(Squares(), mapper=lambda x: -x, batch_size=3, collate_fn=sum))",
    f"list({LOADER}([1, 2, 3], mapper=None, sampler=[2, 0]))",
    f"list({LOADER}((4, 5), mapper=str))",
    f"{LOADER}([1, 2, 3])",
    f"{LOADER}([1, 2, 3], str)",
    f"{LOADER}([], mapper=None)",
    f"list({LOADER}([1, 2, 3], mapper=odd_or_none))",
    f"len({LOADER}([1, 2, 3], mapper=None, batch_size=2)), {LOADER}([1], mapper=None).drop_last",
    *(f"read_image(image_file({m!r}), {f!r})" for m in ("RGB", "L", "RGBA", "P", "1", "I;16") for f in (None, "RGB", "BGR", "L")),
    *(f"read_image(image_file('RGB', {o}))" for o in range(10)),
    *(f"read_image(image_file('RGB', {o}, malformed=True))" for o in (1, 6)),
    "read_image(image_file('RGB'), 'nothing')",
    "read_image('/nothing.png')",
    "read_image(write_coco_file({}))",
    "read_image(Path(image_file('RGB')))",
    *(f"fill_image_size({r})" for r in ("{}", "{'height': 4}", "{'width': 6}", "{'height': 4, 'width': 6}", "{'height': 6, 'width': 4}", "{'height': 5}", "{'height': 4, 'width': 6.0}")),
    "fill_image_size({'height': 6, 'width': 4, 'file_name': 'a.jpg'})",
    "issubclass(SizeMismatchError, ValueError)",
]  # fmt: skip


def coco_file_without(key: str) -> str:
    """Write an annotation file whose only annotation lacks a key."""
    annotation = {name: value for name, value in ANNOTATION.items() if name != key}
    path = FOLDER / f"{unused_name('file')}.json"
    path.write_text(json.dumps({"images": IMAGES, "annotations": [annotation], "categories": CATEGORIES}))
    return str(path)
