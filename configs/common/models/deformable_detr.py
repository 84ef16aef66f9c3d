"""Deformable DETR with R50, multi-scale, without box refinement; the recipes of other variants override it."""

from detectron2.config import LazyCall as L

from deim.modeling.backbone import build_resnet
from deim.modeling.decoder import AddNormDecoderLayer, Decoder, FixedBoxes
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import DeformableEncoder
from deim.modeling.losses import BoxGIoULoss, BoxL1Loss, Criterion, FocalLoss, Supervision
from deim.modeling.matching import HungarianMatcher, MatchingCost
from deim.modeling.queries import LearnedPoints

model = L(DEIMDetector)(
    backbone=L(build_resnet)(
        depth=50,
        out_features=["res3", "res4", "res5"],
        # freeze the stem and the first stage
        freeze_at=2,
        norm="FrozenBN",
        dilated=False,
        weights="imagenet",
    ),
    encoder=L(DeformableEncoder.for_backbone)(
        # None: names and widths of all feature maps of the backbone
        in_features=None,
        in_channels=None,
        dim=256,
        num_levels=4,
        num_layers=6,
        num_heads=8,
        num_points=4,
        dim_feedforward=1024,
        dropout=0.1,
    ),
    decoder=L(Decoder)(
        queries=L(LearnedPoints)(dim="${..layer.dim}", num_queries=300),
        denoising=None,
        position=None,
        layer=L(AddNormDecoderLayer)(
            dim="${...encoder.dim}",
            num_heads=8,
            dim_feedforward="${...encoder.dim_feedforward}",
            num_points=[4, 4, 4, 4],
            dropout="${...encoder.dropout}",
            activation="relu",
            project=True,
        ),
        refinement=L(FixedBoxes)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_layers="${..num_layers}",
            activation="${..layer.activation}",
            shared_heads=True,
            # negative, so that boxes are small at initialization
            size_bias=-2.0,
        ),
        num_layers=6,
        eval_layer=-1,
    ),
    criterion=L(Criterion)(
        num_classes="${..num_classes}",
        matcher=L(HungarianMatcher)(
            cost=L(MatchingCost)(class_weight=2.0, bbox_weight=5.0, giou_weight=2.0, alpha=0.25, gamma=2.0)
        ),
        losses=dict(
            loss_focal=L(FocalLoss)(weight=2.0, alpha=0.25, gamma=2.0),
            loss_bbox=L(BoxL1Loss)(weight=5.0),
            loss_giou=L(BoxGIoULoss)(weight=2.0),
        ),
        use_union=False,
        supervision=[L(Supervision)(group="main", suffix="_aux_{}", last_suffix="")],
    ),
    num_classes=80,
    num_detections=100,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    size_divisibility=1,
    input_format="RGB",
)
