"""Names and connections of the keypoints of an object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Color of connections in drawings of detectron2.
_LINE_COLOR = (255, 128, 0)


@dataclass(frozen=True)
class Skeleton:
    """Names and connections of P keypoints.

    Attributes:
        names: names of the keypoints, in order.
        connections: pairs of indices of keypoints between which drawings have a line.
        flip_pairs: pairs of indices of keypoints that are swapped in a mirrored image; None if they follow from the names.
    """

    names: tuple[str, ...]
    connections: tuple[tuple[int, int], ...] = ()
    # Not compared: files of earlier versions lack them.
    flip_pairs: tuple[tuple[int, int], ...] | None = field(default=None, compare=False)

    @classmethod
    def for_count(cls, num_keypoints: int) -> "Skeleton":
        """Return COCO's person for 17 keypoints, otherwise numbered keypoints without connections."""
        if num_keypoints == len(COCO_PERSON.names):
            return COCO_PERSON
        return cls(tuple(f"keypoint {number}" for number in range(1, num_keypoints + 1)))

    @classmethod
    def from_metadata(cls, metadata: Any) -> "Skeleton | None":
        """Return the skeleton in the metadata of a detectron2 dataset; None if there is none."""
        names = metadata.get("keypoint_names")
        if not names:
            return None
        index_of = {name: index for index, name in enumerate(names)}
        rules, flip_map = metadata.get("keypoint_connection_rules") or (), metadata.get("keypoint_flip_map")
        connections, flip_pairs = (
            tuple((index_of[first], index_of[second]) for first, second, *_ in pairs)
            for pairs in (rules, flip_map or ())
        )
        return cls(tuple(names), connections, None if flip_map is None else flip_pairs)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Skeleton":
        """Return the skeleton of a dict that :meth:`to_dict` wrote."""
        connections, flip_pairs = (
            None if pairs is None else tuple((int(first), int(second)) for first, second in pairs)
            for pairs in (content["connections"], content.get("flip_pairs"))
        )
        return cls(tuple(content["names"]), connections or (), flip_pairs)

    def to_metadata(self) -> dict[str, Any]:
        """Return the skeleton as metadata of a detectron2 dataset, with which detectron2's ``Visualizer`` draws it."""
        rules = [(self.names[first], self.names[second], _LINE_COLOR) for first, second in self.connections]
        return {"keypoint_names": list(self.names), "keypoint_connection_rules": rules}

    def to_dict(self) -> dict[str, Any]:
        """Return the skeleton as plain data."""
        content: dict[str, Any] = {"names": list(self.names), "connections": [list(pair) for pair in self.connections]}
        if self.flip_pairs is not None:
            content["flip_pairs"] = [list(pair) for pair in self.flip_pairs]
        return content


_COCO_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
_COCO_CONNECTIONS: Sequence[tuple[int, int]] = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
COCO_PERSON = Skeleton(_COCO_NAMES, tuple(_COCO_CONNECTIONS))
