"""Conversion of parsed annotation entries to detectron2 records, shared by all formats."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode
from tqdm import tqdm

from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.regions import Region
from deim.data.datasets.validation import DatasetContent, Problem
from deim.data.image import image_size
from deim.errors import DatasetError


@dataclass
class ParsedObject:
    """Annotated object.

    Attributes:
        label: class name.
        region: box and segmentation in pixels.
        is_crowd: whether the annotation covers several objects; crowds are not trained on.
        line: line number in the annotation file.
        keypoints: x, y and visibility of each keypoint; None if the keypoints are missing or not read.
    """

    label: str
    region: Region
    is_crowd: bool = False
    line: int | None = None
    keypoints: list[float] | None = None


@dataclass
class ParsedImage:
    """Image listed in an annotation file, with its objects.

    Attributes:
        name: image name in the annotation file.
        source: the annotation file.
        size: (height, width) in pixels; None if the annotation file does not contain it.
        objects: objects in the image.
        image_id: id in the annotation file; None numbers the images from 0.
    """

    name: str
    source: str
    size: tuple[int, int] | None = None
    objects: list[ParsedObject] = field(default_factory=list)
    image_id: int | None = None


def parse_entry(parse: Callable[..., ParsedImage], location: str, *arguments: Any) -> ParsedImage | Problem:
    """Parse one entry of an annotation file; return a :class:`Problem` if it is malformed.

    Args:
        parse: called with ``arguments``.
        location: file and entry, for the message.
    """
    try:
        return parse(*arguments)
    except KeyError as error:
        return Problem(location, f"the key {error} is missing", True)
    except (TypeError, AttributeError, IndexError) as error:
        return Problem(location, f"a value has the wrong type: {error}", True)
    except (OSError, SyntaxError, ValueError, OverflowError, DatasetError) as error:
        return Problem(location, str(error).removeprefix(f"{location} "), True)


def build_content(
    images: Iterable[ParsedImage | Problem],
    class_names: Sequence[str],
    files: ImageFiles,
    source: str,
    by_stem: bool = False,
) -> DatasetContent:
    """Convert parsed images to detectron2 records.

    Missing image sizes are read from the image headers.

    Args:
        images: images, and problems of entries that could not be parsed.
        class_names: class names in index order; any other label is a problem.
        files: index of the image files.
        source: description of the data, for messages.
        by_stem: whether image names have no suffix.
    """
    content = DatasetContent([], class_names, [])
    names: list[tuple[str, str]] = []  # of each record, with the source of its annotations
    indices = {name: index for index, name in enumerate(class_names)}
    find = files.find_by_stem if by_stem else files.find
    for number, image in enumerate(tqdm(images, f"reading {source}", delay=2, mininterval=2, unit="image")):
        if isinstance(image, Problem):
            content.problems.append(image)
            continue
        path = find(image.name)
        if path is None:
            content.problems.append(unresolved_image_problem(image.source, image.name, files, by_stem))
            continue
        try:
            height, width = image.size or image_size(str(path))
        except DatasetError as error:
            content.problems.append(Problem(str(path), str(error), True))
            continue
        names.append((image.name, image.source))
        content.records.append(
            {
                "file_name": str(path),
                "image_id": number if image.image_id is None else image.image_id,
                "height": height,
                "width": width,
                "annotation_file": image.source,
                "annotations": list(_annotations(image, indices, content.problems)),
            }
        )
    _remove_shared_images(content, names, files)
    content.notes += files.describe_inexact_matches(source)
    return content


def _remove_shared_images(content: DatasetContent, names: Sequence[tuple[str, str]], files: ImageFiles) -> None:
    """Turn records whose image was found by its file name, but belongs to another name as well, into problems; in place.

    For example, ``cam1/000.jpg`` does not exist, and ``cam2/000.jpg`` has its own entry.
    """
    names_of: dict[str, set[str]] = {}
    for record, (name, _) in zip(content.records, names, strict=True):
        names_of.setdefault(record["file_name"], set()).add(name)
    kept = []
    for record, (name, source) in zip(content.records, names, strict=True):
        if len(names_of[record["file_name"]]) > 1 and name in files.inexact_matches:
            content.problems.append(missing_image_problem(source, name, str(files.root)))
        else:
            kept.append(record)
    content.records[:] = kept


def missing_image_problem(source: str, name: str, folder: str) -> Problem:
    """Return the problem for an image whose file does not exist."""
    return Problem(source, f"the image {name!r} does not exist in {folder}", True, is_missing_image=True)


def unresolved_image_problem(source: str, name: str, files: ImageFiles, by_stem: bool = False) -> Problem:
    """Return the problem for a name that ``files`` does not resolve: no image has it, or several."""
    if files.is_ambiguous(name, by_stem):
        message = f"several images in {files.root} match the image {name!r}; add its folder to the name"
        return Problem(source, message, True)
    return missing_image_problem(source, name, str(files.root))


def _annotations(image: ParsedImage, indices: dict[str, int], problems: list[Problem]) -> Iterable[dict]:
    for number, parsed_object in enumerate(image.objects, 1):
        if parsed_object.label not in indices:
            location = (
                f":{parsed_object.line}" if parsed_object.line is not None else f", {image.name}, object {number}"
            )
            class_list = ", ".join(list(indices)[:20]) + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")
            message = f"unknown class {parsed_object.label!r}; the classes are {class_list}"
            problems.append(Problem(f"{image.source}{location}", message, True))
            continue
        annotation = {
            "bbox": list(parsed_object.region.box),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": indices[parsed_object.label],
            "iscrowd": int(parsed_object.is_crowd),
        }
        if parsed_object.region.segmentation is not None:
            annotation["segmentation"] = parsed_object.region.segmentation
        if parsed_object.keypoints is not None:
            annotation["keypoints"] = parsed_object.keypoints
        if parsed_object.line is not None:
            annotation["line"] = parsed_object.line
        yield annotation
