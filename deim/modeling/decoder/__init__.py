"""Decoders: a loop over layers, and the parts of the published decoders.

=================  ==================================================================================
part               choices
=================  ==================================================================================
``input_proj``     :class:`MapProjection`; None after an encoder that returns a memory
``queries``        two-stage: :class:`~deim.modeling.queries.QuerySelection` (RT-DETR, D-FINE),
                   :class:`~deim.modeling.queries.RegionProposals` (Deformable DETR, H-DETR);
                   learned: :class:`~deim.modeling.queries.LearnedPoints` (Deformable DETR),
                   :class:`~deim.modeling.queries.LearnedAnchors` (DAB-DETR),
                   :class:`~deim.modeling.queries.LearnedQueries`
``denoising``      :class:`~deim.modeling.queries.ContrastiveDenoising` (DINO),
                   :class:`~deim.modeling.queries.QueryDenoising` (DN-DETR), or None
``position``       :class:`BoxPosition` (RT-DETR, D-FINE), :class:`InitialBoxPosition` (DEIMv2),
                   :class:`AnchorPosition`, :class:`ModulatedAnchorPosition` (DAB-DETR); None uses the
                   positions of the queries
``layer``          :class:`AddNormDecoderLayer` (Deformable DETR, RT-DETR),
                   :class:`GatedDecoderLayer` (D-FINE, DEIMv2), :class:`ClampedAddNormDecoderLayer`
                   (DEIMv2 Atto, Femto and Pico), :class:`ConditionalDecoderLayer` (DAB-DETR)
``refinement``     :class:`FixedBoxes` (none), :class:`IterativeRefinement` (Deformable DETR; with
                   look forward twice: DINO, RT-DETR), :class:`NormalizedRefinement` (DAB-DETR),
                   :class:`DistributionRefinement` (FDR: D-FINE, DEIMv2)
``heads``          ``masks``: :class:`MaskHead` (EdgeCrafter), ``keypoints``: :class:`KeypointHead`, or none
=================  ==================================================================================

Decoders for poses have their own parts: :class:`~deim.modeling.queries.PoseSelection`,
:class:`~deim.modeling.queries.PoseDenoising`, :class:`KeypointPosition`, :class:`PoseDecoderLayer` and
:class:`KeypointRefinement` (DETRPose, EdgeCrafter).
"""

from deim.modeling.decoder.conditional import ConditionalDecoderLayer
from deim.modeling.decoder.decoder import Decoder
from deim.modeling.decoder.distribution_refinement import DistributionRefinement
from deim.modeling.decoder.heads import PredictionHead
from deim.modeling.decoder.keypoint_head import KeypointHead
from deim.modeling.decoder.layer import AddNormDecoderLayer, ClampedAddNormDecoderLayer, GatedDecoderLayer
from deim.modeling.decoder.mask_head import MaskHead
from deim.modeling.decoder.pose import KeypointPosition, KeypointRefinement, PoseDecoderLayer
from deim.modeling.decoder.position import AnchorPosition, BoxPosition, InitialBoxPosition, ModulatedAnchorPosition
from deim.modeling.decoder.projection import MapProjection
from deim.modeling.decoder.refinement import FixedBoxes, IterativeRefinement, NormalizedRefinement

__all__ = [
    "AddNormDecoderLayer",
    "AnchorPosition",
    "BoxPosition",
    "ClampedAddNormDecoderLayer",
    "ConditionalDecoderLayer",
    "Decoder",
    "DistributionRefinement",
    "FixedBoxes",
    "GatedDecoderLayer",
    "InitialBoxPosition",
    "IterativeRefinement",
    "KeypointHead",
    "KeypointPosition",
    "KeypointRefinement",
    "MapProjection",
    "MaskHead",
    "ModulatedAnchorPosition",
    "NormalizedRefinement",
    "PoseDecoderLayer",
    "PredictionHead",
]
