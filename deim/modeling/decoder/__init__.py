"""Decoders: one loop over layers, and the parts that published decoders are put together from.

=================  ==================================================================================
part               choices
=================  ==================================================================================
``input_proj``     :class:`MapProjection`
``queries``        :class:`~deim.modeling.queries.QuerySelection` (two-stage),
                   :class:`~deim.modeling.queries.LearnedQueries`
``denoising``      :class:`~deim.modeling.queries.ContrastiveDenoising`, or None
``position``       :class:`BoxPosition`
``layer``          :class:`AddNormDecoderLayer` (Deformable DETR, RT-DETR),
                   :class:`GatedDecoderLayer` (D-FINE)
``refinement``     :class:`FixedBoxes` (none), :class:`IterativeRefinement` (Deformable DETR; looking
                   forward twice: DINO, RT-DETR), :class:`DistributionRefinement` (FDR: D-FINE)
=================  ==================================================================================
"""

from deim.modeling.decoder.decoder import Decoder
from deim.modeling.decoder.distribution_refinement import DistributionRefinement
from deim.modeling.decoder.layer import AddNormDecoderLayer, GatedDecoderLayer
from deim.modeling.decoder.position import BoxPosition
from deim.modeling.decoder.projection import MapProjection
from deim.modeling.decoder.refinement import FixedBoxes, IterativeRefinement

__all__ = [
    "AddNormDecoderLayer",
    "BoxPosition",
    "Decoder",
    "DistributionRefinement",
    "FixedBoxes",
    "GatedDecoderLayer",
    "IterativeRefinement",
    "MapProjection",
]
