"""Holdout split: images for evaluation from a dataset without an evaluation split."""

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from deim.data.datasets.keypoints import keypoints_from_metadata
from deim.data.datasets.registration import register_dataset
from deim.data.datasets.validation import DatasetContent


def holdout_split(
    names: str,
    dataset: Sequence[dict],
    full_name: str,
    every_nth: int,
    held_out: bool,
    max_invalid_records: int = 0,
    min_keypoints: int = 0,
) -> list[dict]:
    """Return every ``every_nth``-th image for evaluation, or the remaining images for training; deterministic.

    Args:
        names: name to register the split under.
        dataset: records of the full dataset.
        full_name: registered name of the full dataset.
        every_nth: one of ``every_nth`` images is held out.
        held_out: return the held-out images; otherwise the remaining images.
        max_invalid_records: number of problems that are tolerated; the node of ``dataset`` in a config refers to this
            number.
        min_keypoints: see :func:`deim.data.coco_dataset`. It applies to the split: both splits of a dataset must get the
            same records of ``dataset``.

    Raises:
        DatasetError: if the split has no images (the held-out split of fewer than ``every_nth`` images), or none of
            its images has an object.
    """
    records = [record for index, record in enumerate(dataset) if (index % every_nth == every_nth - 1) == held_out]
    metadata = MetadataCatalog.get(full_name)
    classes, keypoints = metadata.thing_classes, keypoints_from_metadata(metadata)
    source = f"{full_name}, {'one' if held_out else 'all but one'} of {every_nth}"
    return register_dataset(
        names,
        source,
        lambda: DatasetContent(list(records), classes, [], keypoints=keypoints),
        max_invalid_records,
        min_keypoints=min_keypoints,
    )
