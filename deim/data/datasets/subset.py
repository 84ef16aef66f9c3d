"""Part of a dataset."""

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from deim.data.datasets.keypoints import keypoints_from_metadata
from deim.data.datasets.registration import register_dataset
from deim.data.datasets.validation import DatasetContent


def evenly_spaced_images(names: str, dataset: Sequence[dict], full_name: str, count: int) -> list[dict]:
    """Return up to ``count`` evenly spaced images of a dataset, the same in every run, and register them.

    Args:
        names: name to register the images under.
        dataset: records of the full dataset.
        full_name: registered name of the full dataset.
        count: number of images, at least 1.

    Raises:
        DatasetError: if none of the images has an object.
    """
    count = min(count, len(dataset))
    records = [dataset[index * len(dataset) // count] for index in range(count)]
    metadata = MetadataCatalog.get(full_name)
    classes, keypoints = metadata.thing_classes, keypoints_from_metadata(metadata)
    return register_dataset(
        names,
        f"{full_name}, {count} images",
        lambda: DatasetContent(list(records), classes, [], keypoints=keypoints),
    )
