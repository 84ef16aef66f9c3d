"""Which group of predictions is matched how and trained by which losses."""

from collections.abc import Callable
from dataclasses import dataclass


def layered(last: str, others: str) -> Callable[[int, int], str]:
    """Suffix of layer i of L: ``last`` for the last one, ``others`` with the index for the others."""
    return lambda index, count: last if index == count - 1 else others.format(index)


def numbered(template: str) -> Callable[[int, int], str]:
    """Suffix of layer i: ``template`` with the index."""
    return lambda index, count: template.format(index)


@dataclass(frozen=True)
class Supervision:
    """How one group of predictions is trained.

    Attributes:
        group: its name in the decoder's output.
        suffix: (layer, number of layers) -> what its loss names end with.
        denoising: matched by construction, not by the Hungarian algorithm.
    """

    group: str
    suffix: Callable[[int, int], str]
    denoising: bool = False


# The order is that of the matching; the names are those of the D-FINE and DEIM logs.
DFINE_SUPERVISION = (
    Supervision("main", layered("", "_aux_{}")),
    Supervision("initial", numbered("_pre")),
    Supervision("encoder", numbered("_enc_{}")),
    Supervision("denoising", numbered("_dn_{}"), denoising=True),
    Supervision("denoising_initial", numbered("_dn_pre"), denoising=True),
)
