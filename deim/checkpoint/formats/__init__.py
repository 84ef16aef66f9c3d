"""Weight layouts of other libraries, one module per library."""

from collections.abc import Iterable

from deim.checkpoint.formats import (
    deformable_detr,
    deimv2,
    detrex,
    dfine,
    dn_detr,
    edgecrafter,
    rtdetrv2,
    transformers,
)
from deim.checkpoint.formats.format import Format

# The first format whose signature matches is used.
FORMATS: tuple[Format, ...] = (
    *deimv2.FORMATS,
    edgecrafter.EDGECRAFTER,
    edgecrafter.ECPOSE,
    dfine.DFINE,
    dfine.DEIM,
    rtdetrv2.RTDETRV2,
    dn_detr.DN_DETR,
    dn_detr.DN_DEFORMABLE_ENCODER,
    dn_detr.DN_DEFORMABLE,
    deformable_detr.H_DETR,
    deformable_detr.DEFORMABLE_DETR,
    detrex.DN_DETR_DC5,
    detrex.DN_DETR,
    detrex.DN_DEFORMABLE,
    detrex.H_DETR,
    detrex.DEFORMABLE_DETR,
    transformers.DFINE,
    transformers.RTDETRV2,
    transformers.RTDETR,
    transformers.DEFORMABLE_DETR,
    transformers.DEFORMABLE_DETR_TIMM,
)


def recognize(names: Iterable[str]) -> Format | None:
    """Return the format of a file with these tensor names; None if no format matches."""
    listed = list(names)
    return next((layout for layout in FORMATS if layout.recognizes(listed)), None)


__all__ = ["FORMATS", "Format", "recognize"]
