"""A data set without a split for evaluation: some of its images are kept back."""

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from deim.data.datasets.checks import Content
from deim.data.datasets.source import dataset_of


def held_out_part(
    names: str, dataset: Sequence[dict], whole: str, every: int, evaluated: bool, problems_allowed: int = 0
) -> list[dict]:
    """Return every so-many-th image for evaluation, or all the others for training; the same ones each time.

    Args:
        names: To register the part by.
        dataset: The records of the whole.
        whole: The name that these are registered by.
        every: One of so many images is kept back.
        evaluated: Return the images that are kept back; else the others.
        problems_allowed: The number of problems of the whole that are not an error; ``dataset`` refers to it.

    Raises:
        DatasetError: There are not as many images, or none of the part has an object.
    """
    records = [record for place, record in enumerate(dataset) if (place % every == every - 1) == evaluated]
    classes = MetadataCatalog.get(whole).thing_classes
    source = f"{whole}, {'one' if evaluated else 'all but one'} of {every}"
    return dataset_of(names, source, lambda: Content(list(records), classes, []), problems_allowed)
