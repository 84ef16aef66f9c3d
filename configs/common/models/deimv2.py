"""DEIMv2, size L with HGNetV2; the recipes of other sizes override it."""

from detectron2.config import LazyCall as L

from deim.layers import RMSNorm, SwiGLU
from deim.modeling.backbone import HGNetV2
from deim.modeling.decoder import Decoder, DistributionRefinement, GatedDecoderLayer, InitialBoxPosition, MapProjection
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import HybridEncoder
from deim.modeling.losses import (
    BoxGIoULoss,
    BoxL1Loss,
    Criterion,
    DistillationLoss,
    FineGrainedLocalizationLoss,
    MatchabilityAwareLoss,
    Supervision,
)
from deim.modeling.matching import HungarianMatcher, MatchingCost, ScoreIoUCost
from deim.modeling.queries import ContrastiveDenoising, QuerySelection

model = L(DEIMDetector)(
    backbone=L(HGNetV2)(
        name="B4",
        learnable_affine=False,
        out_features=["stage2", "stage3", "stage4"],
        freeze_at=0,
        freeze_norm=False,
        weights="imagenet",
    ),
    encoder=L(HybridEncoder.for_backbone)(
        # None: names and widths of all feature maps of the backbone
        in_features=None,
        in_channels=None,
        hidden_dim=256,
        dim_feedforward=1024,
        expansion=1.0,
        depth_multiplier=1.0,
        fusion="light_elan",
        merge="sum",
        skip_equal=True,
    ),
    decoder=L(Decoder)(
        input_proj=L(MapProjection)(
            in_channels=["${....encoder.hidden_dim}", "${....encoder.hidden_dim}", "${....encoder.hidden_dim}"],
            dim="${..layer.dim}",
            skip_equal=True,
        ),
        queries=L(QuerySelection)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_queries=300,
            anchor_size=0.05,
            activation="${..layer.activation}",
            project=False,
        ),
        denoising=L(ContrastiveDenoising)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_queries=100,
            label_noise_ratio=0.5,
            box_noise_scale=1.0,
        ),
        position=L(InitialBoxPosition)(dim="${..layer.dim}", activation="${..layer.activation}", limit=10.0),
        layer=L(GatedDecoderLayer)(
            dim="${...encoder.hidden_dim}",
            num_heads=8,
            dim_feedforward=None,
            num_points=[3, 6, 3],
            activation="silu",
            norm=L(RMSNorm)(dim="${..dim}"),
            feedforward=L(SwiGLU)(dim="${..dim}", hidden_dim=1024),
        ),
        refinement=L(DistributionRefinement)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_layers="${..num_layers}",
            activation="${..layer.activation}",
            reg_max=32,
            reg_scale=4.0,
            equal_heads=True,
            shared_corner_head=False,
        ),
        num_layers=6,
        eval_layer=-1,
    ),
    criterion=L(Criterion)(
        num_classes="${..num_classes}",
        matcher=L(HungarianMatcher)(
            cost=L(MatchingCost)(class_weight=2.0, bbox_weight=5.0, giou_weight=2.0, alpha=0.25, gamma=2.0),
            late_cost=L(ScoreIoUCost)(exponent=4.0),
            late_epoch=45,
        ),
        losses=dict(
            loss_mal=L(MatchabilityAwareLoss)(weight=1.0, gamma=1.5),
            loss_bbox=L(BoxL1Loss)(weight=5.0),
            loss_giou=L(BoxGIoULoss)(weight=2.0),
            loss_fgl=L(FineGrainedLocalizationLoss)(weight=0.15),
            loss_ddf=L(DistillationLoss)(weight=1.5, temperature=5.0),
        ),
        use_union=True,
        # In matching order; the suffixes give the loss names of the D-FINE and DEIM logs.
        supervision=[
            L(Supervision)(group="main", suffix="_aux_{}", last_suffix=""),
            L(Supervision)(group="initial", suffix="_pre"),
            L(Supervision)(group="encoder", suffix="_enc_{}"),
            L(Supervision)(group="denoising", suffix="_dn_{}", denoising=True),
            L(Supervision)(group="denoising_initial", suffix="_dn_pre", denoising=True),
        ],
    ),
    num_classes=80,
    num_detections=300,
    input_format="RGB",
)
