"""From what an annotation file lists to records of detectron2: the part that all formats share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode
from tqdm import tqdm

from deim.data.datasets.checks import Content, Problem
from deim.data.datasets.image_files import ImageFiles
from deim.data.datasets.regions import Region
from deim.data.image import image_size
from deim.errors import DatasetError


@dataclass
class ListedObject:
    """
    Attributes:
        label: Name of the class.
        region: Where it is, in pixels.
        is_crowd: It stands for several objects and is not trained on.
        line: Of the annotation file.
    """

    label: str
    region: Region
    is_crowd: bool = False
    line: int | None = None


@dataclass
class ListedImage:
    """
    Attributes:
        name: Of the image, as the annotation file writes it.
        source: The annotation file.
        size: (height, width) in pixels; None if the annotation file does not state it.
        objects: In the image.
        image_id: In the annotation file; else images are counted from 0.
    """

    name: str
    source: str
    size: tuple[int, int] | None = None
    objects: list[ListedObject] = field(default_factory=list)
    image_id: int | None = None


def parsed(parse: Callable[..., ListedImage], place: str, *arguments: Any) -> ListedImage | Problem:
    """Parse one entry of an annotation file; return a problem if it is malformed.

    Args:
        parse: Is called with ``arguments``.
        place: File and entry, for the message.
    """
    try:
        return parse(*arguments)
    except KeyError as error:
        return Problem(place, f"there is no {error}", True)
    except (TypeError, AttributeError, IndexError) as error:
        return Problem(place, f"a value is of the wrong kind: {error}", True)
    except (OSError, SyntaxError, ValueError, OverflowError, DatasetError) as error:
        return Problem(place, str(error).removeprefix(f"{place} "), True)


def content_of(
    listed: Iterable[ListedImage | Problem],
    class_names: Sequence[str],
    files: ImageFiles,
    source: str,
    by_stem: bool = False,
) -> Content:
    """Make records of listed images.

    Sizes that are not stated are read from the headers of the images.

    Args:
        listed: Images, and problems of those that could not be parsed.
        class_names: In the order of their indices; a label that is not among them is a problem.
        files: Where the images are.
        source: For messages.
        by_stem: The names of images have no suffix.
    """
    content = Content([], class_names, [])
    indices = {name: index for index, name in enumerate(class_names)}
    find = files.find_stem if by_stem else files.find
    for number, image in enumerate(tqdm(listed, f"reading {source}", delay=2, mininterval=2, unit="image")):
        if isinstance(image, Problem):
            content.problems.append(image)
            continue
        path = find(image.name)
        if path is None:
            content.problems.append(missing_image(image.source, image.name, str(files.root)))
            continue
        try:
            height, width = image.size or image_size(str(path))
        except DatasetError as error:
            content.problems.append(Problem(str(path), str(error), True))
            continue
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
    content.notes += files.note(source)
    return content


def missing_image(source: str, name: str, folder: str) -> Problem:
    """The problem of an image whose file does not exist."""
    return Problem(source, f"the image {name!r} does not exist in {folder}", True, missing=True)


def _annotations(image: ListedImage, indices: dict[str, int], problems: list[Problem]) -> Iterable[dict]:
    for number, found in enumerate(image.objects, 1):
        if found.label not in indices:
            where = f":{found.line}" if found.line is not None else f", {image.name}, object {number}"
            known = ", ".join(list(indices)[:20]) + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")
            what = f"class {found.label!r} is none of {known}"
            problems.append(Problem(f"{image.source}{where}", what, True))
            continue
        annotation = {
            "bbox": list(found.region.box),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": indices[found.label],
            "iscrowd": int(found.is_crowd),
        }
        if found.region.segmentation is not None:
            annotation["segmentation"] = found.region.segmentation
        if found.line is not None:
            annotation["line"] = found.line
        yield annotation
