"""Names of the groups of predictions, and the relations between the groups."""

from enum import Enum


class PredictionGroup(str, Enum):
    """Group of predictions that the decoder returns and the criterion supervises.

    The members are strings, so that ``predictions["main"]`` and ``predictions[PredictionGroup.MAIN]`` are the same
    entry. Configs contain the values, such as ``"main"``.

    Attributes:
        MAIN: predictions of the decoder layers for the one-to-one queries.
        INITIAL: initial boxes that the distributions of ``MAIN`` refine (FDR).
        ENCODER: predictions of encoder tokens, from which the queries are selected.
        DENOISING: like ``MAIN``, for the denoising queries.
        DENOISING_INITIAL: like ``INITIAL``, for the denoising queries.
        HYBRID: like ``MAIN``, for the one-to-many queries of the hybrid branch.
        HYBRID_INITIAL: like ``INITIAL``, for the one-to-many queries of the hybrid branch.
    """

    MAIN = "main"
    INITIAL = "initial"
    ENCODER = "encoder"
    DENOISING = "denoising"
    DENOISING_INITIAL = "denoising_initial"
    HYBRID = "hybrid"
    HYBRID_INITIAL = "hybrid_initial"

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def _missing_(cls, value: object) -> "PredictionGroup":
        """Return the member of the name ``value``. OmegaConf converts members to their names.

        Raises:
            ValueError: if no member has this name; lists the groups.
        """
        if isinstance(value, str) and value in cls.__members__:
            return cls[value]
        raise ValueError(f"unknown group of predictions {value!r}; choose one of {', '.join(cls)}")

    @property
    def initial(self) -> "PredictionGroup | None":
        """Group of the initial boxes that the distributions of this group refine; None if the group has none."""
        return _INITIAL_GROUPS.get(self)

    @property
    def denoising(self) -> "PredictionGroup | None":
        """Group of the same predictions for the denoising queries; None if the group has none."""
        return _DENOISING_GROUPS.get(self)

    @property
    def hybrid(self) -> "PredictionGroup | None":
        """Group of the same predictions for the one-to-many queries; None if the group has none."""
        return _HYBRID_GROUPS.get(self)


_INITIAL_GROUPS = {
    PredictionGroup.MAIN: PredictionGroup.INITIAL,
    PredictionGroup.DENOISING: PredictionGroup.DENOISING_INITIAL,
    PredictionGroup.HYBRID: PredictionGroup.HYBRID_INITIAL,
}
_DENOISING_GROUPS = {
    PredictionGroup.MAIN: PredictionGroup.DENOISING,
    PredictionGroup.INITIAL: PredictionGroup.DENOISING_INITIAL,
}
_HYBRID_GROUPS = {
    PredictionGroup.MAIN: PredictionGroup.HYBRID,
    PredictionGroup.INITIAL: PredictionGroup.HYBRID_INITIAL,
}
