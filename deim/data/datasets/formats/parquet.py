"""Hugging Face datasets in Parquet files with embedded images."""

import functools
import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock, get_cache_dir
from tqdm import tqdm

from deim.data.datasets.dataset_format import SPLITS, DiscoveredDataset, Format, Split, assemble_dataset
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.parsed_images import ParsedImage, ParsedObject, build_content, parse_entry
from deim.data.datasets.regions import Region
from deim.data.datasets.registration import register_dataset
from deim.data.datasets.validation import DatasetContent, Problem
from deim.errors import DatasetError

_CLASS_KEYS = ("category", "categories", "label", "labels", "category_id", "class", "classes")
_BOX_KEYS = ("bbox", "bboxes", "boxes")
_OBJECT_COLUMNS = ("objects", "annotations")
_SIGNATURES = {b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}
_ROWS = 64  # rows in memory at a time, with their images


def parquet_dataset(
    names: str, files: Sequence[str], class_names: Sequence[str], corners: bool = False, max_invalid_records: int = 0
) -> list[dict]:
    """Read Parquet files with a column ``image`` (bytes and path) and a column ``objects``.

    The images are extracted once to a cache folder (``$FVCORE_CACHE``) and read from there.

    Args:
        names: name to register the dataset under.
        files: files of the split, in order.
        class_names: class names in index order.
        corners: whether boxes are XYXY; otherwise they are XYWH, as in COCO.
        max_invalid_records: number of problems that are tolerated; the affected images and objects are skipped.

    Returns:
        detectron2 records.

    Raises:
        DatasetError: if files are missing or malformed, or pyarrow is not installed. The message names file and row.
    """
    classes = [str(name) for name in class_names]
    read = functools.partial(read_parquet, list(files), classes, corners)
    return register_dataset(names, f"{list(files)}, {classes}, corners: {corners}", read, max_invalid_records)


def read_parquet(files: Sequence[str], class_names: Sequence[str], corners: bool) -> DatasetContent:
    """Read the files; see :func:`parquet_dataset`."""
    folders = {file: _extract_images(Path(file)) for file in files}

    def parse_images() -> Iterator[ParsedImage | Problem]:
        for file, folder in folders.items():
            columns = _Columns(Path(file))
            for row, value in enumerate(columns.rows(columns.objects)):
                location, stem = f"{file}, row {row}", f"{folder.name}/{row:08d}"
                if images.find_exact_stem(stem) is None:
                    yield Problem(location, "the row contains no image", True)
                else:
                    yield parse_entry(_image, location, stem, file, value, columns, class_names, corners)

    images = ImageFiles(next(iter(folders.values())).parent)
    return build_content(parse_images(), class_names, images, ", ".join(files), by_stem=True)


def _image(
    stem: str, file: str, value: Any, columns: "_Columns", class_names: Sequence[str], corners: bool
) -> ParsedImage:
    parsed_image = ParsedImage(stem, file)
    for box, label in _box_class_pairs(value, columns):
        x, y, a, b = (float(number) for number in box)
        region = Region([x, y, a, b] if corners else [x, y, x + a, y + b])
        if isinstance(label, int):
            label = class_names[label] if 0 <= label < len(class_names) else str(label)
        parsed_image.objects.append(ParsedObject(str(label), region))
    return parsed_image


def _box_class_pairs(value: Any, columns: "_Columns") -> Iterable[tuple[Any, Any]]:
    """Return the (box, class) pairs of a row, which is a dict of lists or a list of dicts."""
    if isinstance(value, dict):
        return zip(value[columns.box] or (), value[columns.label] or (), strict=True)
    return [(entry[columns.box], entry[columns.label]) for entry in value or ()]


class _Columns:
    """The columns of a Parquet file.

    Attributes:
        objects: name of the object column.
        box, label: keys of boxes and classes in the object column.
        names: class names; None if the file does not contain them.
    """

    def __init__(self, file: Path):
        self.path, self.file = file, _open(file)
        schema = self.file.schema_arrow
        if "image" not in schema.names:
            raise DatasetError(f"{file}: the column 'image' is missing; the columns are {', '.join(schema.names)}")
        self.objects = self._find_name(_OBJECT_COLUMNS, schema.names, "columns")
        inner = schema.field(self.objects).type
        while hasattr(inner, "value_type"):
            inner = inner.value_type
        keys = [inner.field(i).name for i in range(getattr(inner, "num_fields", 0))]
        self.box, self.label = self._find_name(_BOX_KEYS, keys, "keys"), self._find_name(_CLASS_KEYS, keys, "keys")
        self.names = _class_names((schema.metadata or {}).get(b"huggingface"), self.objects, self.label)

    def _find_name(self, candidates: Sequence[str], present: Sequence[str], kind: str) -> str:
        name = next((candidate for candidate in candidates if candidate in present), None)
        if name is None:
            raise DatasetError(
                f"{self.path}: expected one of {', '.join(candidates)}; the {kind} are {', '.join(present) or 'none'}"
            )
        return name

    def rows(self, column: str) -> Iterator[Any]:
        """Yield the values of a column, row by row."""
        try:
            for batch in self.file.iter_batches(batch_size=_ROWS, columns=[column]):
                yield from batch.column(0).to_pylist()
        except (OSError, ValueError) as error:  # base classes of pyarrow's errors
            raise DatasetError(f"{self.path} cannot be read: {error}") from error


def _open(file: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DatasetError(f"reading {file} requires pyarrow: pip install 'deim[parquet]'") from error
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is not a valid Parquet file: {error}") from error


def _class_names(metadata: bytes | None, column: str, key: str) -> list[str] | None:
    """Return the names of a ``ClassLabel`` in the Hugging Face features; None if there are none."""
    try:
        node = json.loads(metadata or b"{}")["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return None
    return _find_class_names(node, key, False)


def _find_class_names(node: Any, key: str, is_inside: bool) -> list[str] | None:
    if isinstance(node, dict):
        if is_inside and isinstance(node.get("names"), list):
            return [str(name) for name in node["names"]]
        results = (_find_class_names(value, key, is_inside or name == key) for name, value in node.items())
    elif isinstance(node, list):
        results = (_find_class_names(value, key, is_inside) for value in node)
    else:
        return None
    return next((names for names in results if names), None)


def _extract_images(file: Path) -> Path:
    """Return the cache folder with the images of a file; extract them if necessary."""
    state = file.stat()
    key = hashlib.blake2b(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode(), digest_size=8).hexdigest()
    folder = Path(get_cache_dir()) / "deim" / "parquet" / f"{file.stem}-{key}"
    done = folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(folder)):  # only one process writes
        if not done.is_file():
            folder.mkdir(exist_ok=True)
            for row, image in enumerate(tqdm(_Columns(file).rows("image"), f"unpacking {file}", delay=2, unit="image")):
                data = image.get("bytes") if isinstance(image, dict) else image
                if isinstance(data, bytes):
                    (folder / f"{row:08d}{_suffix(data)}").write_bytes(data)
            done.touch()
    return folder


def _suffix(data: bytes) -> str:
    return next((suffix for start, suffix in _SIGNATURES.items() if data.startswith(start)), ".jpg")


def _find_matches(dataset_path: Path) -> list[Path]:
    if dataset_path.is_file():
        return [dataset_path] if dataset_path.suffix.lower() == ".parquet" else []
    return sorted(path for levels in ("", "*/", "*/*/") for path in dataset_path.glob(f"{levels}*.parquet"))


def _describe(dataset_path: Path, matches: list[Path], image_root: Path | None) -> DiscoveredDataset:
    groups: dict[str, list[str]] = {}
    for file in matches:
        groups.setdefault(_split_name(file), []).append(str(file))
    columns = _Columns(matches[0])
    notes: list[str] = []
    classes = columns.names or _classes_in_objects(matches, notes)
    corners = _boxes_are_xyxy(columns)
    if corners:
        notes.append(
            "reading boxes as left, top, right, bottom: as left, top, width, height they would exceed the images"
        )
    splits = {
        name: Split(parquet_dataset, {"files": files, "class_names": classes, "corners": corners})
        for name, files in groups.items()
    }
    return assemble_dataset("Parquet", dataset_path, classes, splits, notes)


def _split_name(file: Path) -> str:
    """Return the split of a file such as ``train-00000-of-00002.parquet`` or ``train/0000.parquet``."""
    words = (re.split(r"[^a-z]+", file.stem.lower())[0], file.parent.name.lower())
    return next((word for word in words if word in SPLITS), "all")


def _classes_in_objects(files: Sequence[Path], notes: list[str]) -> list[str]:
    """Return the classes that occur in the objects: names, or all numbers up to the highest."""
    values = set()
    for file in files:
        columns = _Columns(file)
        for row, value in enumerate(columns.rows(columns.objects)):
            try:
                values |= {label for _, label in _box_class_pairs(value, columns)}
            except (TypeError, ValueError, KeyError) as error:
                raise DatasetError(f"{file}, row {row}: {error}") from error
    if values and all(isinstance(value, int) for value in values):
        notes.append("the files contain no class names; using class numbers as names")
        return [str(number) for number in range(max(values) + 1)]
    notes.append("the files contain no class list; using the names that occur in the objects, in alphabetical order")
    return sorted(str(value) for value in values)


def _boxes_are_xyxy(columns: _Columns) -> bool:
    """Return whether boxes are XYXY: as XYXY all have positive sides, and as XYWH some exceed their images."""
    column_names = columns.file.schema_arrow.names
    if not {"width", "height"} <= set(column_names):
        return False
    exceeds_image = False
    rows = zip(*(columns.rows(column) for column in (columns.objects, "width", "height")), strict=True)
    for row, (value, width, height) in enumerate(rows):
        try:
            for box, _ in _box_class_pairs(value, columns):
                x, y, a, b = box
                if a <= x or b <= y:
                    return False
                exceeds_image |= x + a > width + 1 or y + b > height + 1
        except (TypeError, ValueError, KeyError) as error:
            raise DatasetError(f"{columns.path}, row {row}: {error}") from error
    return exceeds_image


PARQUET = Format("Parquet", "Hugging Face's train-*.parquet, in the folder or in data/", _find_matches, _describe)
