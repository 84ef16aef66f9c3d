"""Keypoints of a dataset: their names, the pairs that a flip swaps, and their connections."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deim.errors import DatasetError
from deim.visualization.annotation import class_color

# Entry of a COCO category with the pairs of keypoint numbers, counted from 1, that a flip swaps. COCO's own files have none:
# the pairs then follow from the names.
FLIP_PAIRS_KEY = "keypoint_flip_pairs"


@dataclass(frozen=True)
class KeypointDefinition:
    """Names and connections of the keypoints of a dataset, which are the same for all classes.

    Attributes:
        names: names of the keypoints, in order.
        flip_pairs: pairs of names that are swapped when an image is mirrored.
        connections: pairs of names between which drawings have a line.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...] = ()
    connections: tuple[tuple[str, str], ...] = ()

    @property
    def values_per_object(self) -> int:
        """Length of ``keypoints`` in an annotation: x, y and visibility of each keypoint."""
        return 3 * len(self.names)

    def connected_indices(self) -> list[tuple[int, int]]:
        """Return the connections as pairs of indices."""
        return [(self.names.index(first), self.names.index(second)) for first, second in self.connections]

    def to_metadata(self) -> dict[str, Any]:
        """Return detectron2's metadata of the keypoints."""
        return {
            "keypoint_names": self.names,
            "keypoint_flip_map": self.flip_pairs,
            "keypoint_connection_rules": [
                (first, second, class_color(index)) for index, (first, second) in enumerate(self.connections)
            ],
        }


def keypoints_from_metadata(metadata: Any) -> KeypointDefinition | None:
    """Return the keypoints in the metadata of a detectron2 dataset; None if there are none."""
    names = metadata.get("keypoint_names")
    if names is None:
        return None
    rules = metadata.get("keypoint_connection_rules") or ()
    return KeypointDefinition(
        tuple(names),
        tuple((first, second) for first, second in metadata.get("keypoint_flip_map") or ()),
        tuple((first, second) for first, second, *_ in rules),
    )


def define_keypoints(names: Sequence[Any], skeleton: Any, source: str, flip_pairs: Any = None) -> KeypointDefinition:
    """Return the definition for names and a COCO ``skeleton``; names such as left_eye and right_eye are flip pairs.

    Args:
        names: names of the keypoints.
        skeleton: pairs of keypoint numbers, counted from 1; pairs of other values are ignored.
        source: description of the data, for the message.
        flip_pairs: pairs of keypoint numbers, counted from 1, that are swapped when an image is mirrored; None to derive
            them from the names.

    Raises:
        DatasetError: if two keypoints have the same name.
    """
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        raise DatasetError(f"{source}: two keypoints have the same name: {', '.join(texts)}")
    swapped = find_flip_pairs(texts) if flip_pairs is None else _named_pairs(flip_pairs, texts)
    return KeypointDefinition(texts, swapped, _named_pairs(skeleton, texts))


def _named_pairs(pairs: Any, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the names for pairs of numbers, counted from 1; pairs of other values are left out."""
    numbers = range(1, len(names) + 1)
    return tuple(
        (names[pair[0] - 1], names[pair[1] - 1])
        for pair in (pairs if isinstance(pairs, list) else [])
        if isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and n in numbers for n in pair)
    )


def find_flip_pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of names that differ only by left and right, or by the single letters l and r."""
    by_lowercase = {name.lower(): name for name in names}
    pairs = []
    for name in names:
        lowercase = name.lower()
        mirrored = re.sub(r"left|(?<![a-z])l(?![a-z])", lambda match: "right" if match[0] == "left" else "r", lowercase)
        if mirrored != lowercase and mirrored in by_lowercase:
            pairs.append((name, by_lowercase[mirrored]))
    return tuple(pairs)


def keypoints_of_categories(categories: Sequence[Any], source: str) -> KeypointDefinition | None:
    """Return the keypoints that the categories of a COCO file define; None if no category has ``keypoints``.

    Raises:
        DatasetError: if two categories define different keypoints, or ``keypoints`` is not a list.
    """
    definitions: dict[KeypointDefinition, str] = {}
    for category in categories:
        names = category.get("keypoints") if isinstance(category, Mapping) else None
        if not names:
            continue
        if not isinstance(names, list):
            raise DatasetError(f"{source}: category {category.get('name')!r}: keypoints is {names!r}, not a list")
        definition = define_keypoints(names, category.get("skeleton"), source, category.get(FLIP_PAIRS_KEY))
        definitions.setdefault(definition, str(category.get("name")))
    if len({definition.names for definition in definitions}) > 1:
        first, second = list(definitions.values())[:2]
        raise DatasetError(
            f"{source}: the categories {first!r} and {second!r} define different keypoints; all classes with keypoints "
            "must have the same ones. Split the file, or remove the keypoints of one category"
        )
    return next(iter(definitions), None)


def select_objects_with_keypoints(records: Sequence[dict], min_keypoints: int) -> list[dict]:
    """Return the records with only the objects that have at least ``min_keypoints`` labeled keypoints.

    Images without other objects than crowds are dropped. The given records are unchanged.
    """
    return records_with_objects(
        {
            **record,
            "annotations": [a for a in record["annotations"] if count_labeled_keypoints(a) >= min_keypoints],
        }
        for record in records
    )


def count_labeled_keypoints(annotation: Mapping[str, Any]) -> int:
    """Return the number of keypoints of an annotation whose visibility is not 0."""
    return sum(visibility > 0 for visibility in (annotation.get("keypoints") or ())[2::3])


def records_with_objects(records: Iterable[dict]) -> list[dict]:
    """Return the records that have an object; crowds do not count."""
    return [record for record in records if any(not a.get("iscrowd", 0) for a in record["annotations"])]


def fill_missing_keypoints(records: Sequence[dict], definition: KeypointDefinition) -> None:
    """Add keypoints with visibility 0 to all annotations without keypoints, in place."""
    for record in records:
        for annotation in record.get("annotations", ()):
            if not annotation.get("keypoints"):
                annotation["keypoints"] = [0.0] * definition.values_per_object
