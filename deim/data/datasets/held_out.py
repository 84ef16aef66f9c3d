"""Holding out images for evaluation from a dataset without an evaluation split."""

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from deim.data.datasets.checks import Content
from deim.data.datasets.source import dataset_of


def held_out_part(
    names: str, dataset: Sequence[dict], whole: str, every: int, evaluated: bool, problems_allowed: int = 0
) -> list[dict]:
    """Return every ``every``-th image for evaluation, or the remaining images for training; deterministic.

    Args:
        names: name to register the part under.
        dataset: records of the full dataset.
        whole: registered name of the full dataset.
        every: one of ``every`` images is held out.
        evaluated: return the held-out images; otherwise the remaining images.
        problems_allowed: number of tolerated problems in the full dataset, the same as for ``dataset``.

    Raises:
        DatasetError: if there are fewer than ``every`` images, or no image of the part has an object.
    """
    records = [record for place, record in enumerate(dataset) if (place % every == every - 1) == evaluated]
    classes = MetadataCatalog.get(whole).thing_classes
    source = f"{whole}, {'one' if evaluated else 'all but one'} of {every}"
    return dataset_of(names, source, lambda: Content(list(records), classes, []), problems_allowed)
