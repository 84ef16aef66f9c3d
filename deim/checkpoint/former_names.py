"""Parameter names of earlier versions of this package."""

import re
from collections.abc import Mapping

from torch import Tensor

# Names from before the decoder was split into parts.
_RENAMINGS = (
    (re.compile(r"^decoder\.selection\."), "decoder.queries."),
    (re.compile(r"^decoder\.query_pos_head\."), "decoder.position.mlp."),
    (
        re.compile(r"^decoder\.(score_heads|bbox_heads|corner_heads|quality_heads|initial_bbox_head|up|reg_scale)\b"),
        r"decoder.refinement.\1",
    ),
)


def current_name(name: str) -> str:
    """Return the current name of a parameter of an earlier version."""
    for pattern, replacement in _RENAMINGS:
        name = pattern.sub(replacement, name)
    return name


def with_current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of any version of this package under their current names."""
    return {current_name(name): value for name, value in weights.items()}
