"""DN-DETR with R50; the recipes of other variants override it."""

from detectron2.config import LazyCall as L

from deim.modeling.backbone import build_resnet
from deim.modeling.decoder import ConditionalDecoderLayer, Decoder, ModulatedAnchorPosition, NormalizedRefinement
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import TransformerEncoder
from deim.modeling.losses import BoxGIoULoss, BoxL1Loss, Criterion, FocalLoss, Supervision
from deim.modeling.matching import HungarianMatcher, MatchingCost
from deim.modeling.queries import LearnedAnchors, QueryDenoising

model = L(DEIMDetector)(
    backbone=L(build_resnet)(
        depth=50,
        out_features=["res5"],
        # freeze the stem and the first stage
        freeze_at=2,
        norm="FrozenBN",
        dilated=False,
        weights="imagenet",
    ),
    encoder=L(TransformerEncoder.for_backbone)(
        # None: names and widths of all feature maps of the backbone
        in_features=None,
        in_channels=None,
        dim=256,
        num_layers=6,
        num_heads=8,
        dim_feedforward=2048,
        dropout=0.0,
        activation="prelu",
        temperature=20.0,
    ),
    decoder=L(Decoder)(
        queries=L(LearnedAnchors)(dim="${..layer.dim}", num_queries=300, num_patterns=0, shared_content=True),
        denoising=L(QueryDenoising)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_groups=5,
            label_noise_ratio=0.2,
            box_noise_scale=0.4,
        ),
        position=L(ModulatedAnchorPosition)(dim="${..layer.dim}"),
        layer=L(ConditionalDecoderLayer)(
            dim="${...encoder.dim}",
            num_heads=8,
            dim_feedforward="${...encoder.dim_feedforward}",
            dropout="${...encoder.dropout}",
            activation="${...encoder.activation}",
        ),
        refinement=L(NormalizedRefinement)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_layers="${..num_layers}",
            shared_heads=True,
            look_forward_twice=True,
            logit_eps=1e-3,
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
            loss_focal=L(FocalLoss)(weight=1.0, alpha=0.25, gamma=2.0),
            loss_bbox=L(BoxL1Loss)(weight=5.0),
            loss_giou=L(BoxGIoULoss)(weight=2.0),
        ),
        use_union=False,
        supervision=[
            L(Supervision)(group="main", suffix="_aux_{}", last_suffix=""),
            L(Supervision)(group="denoising", suffix="_dn_{}", denoising=True),
        ],
    ),
    num_classes=80,
    num_detections=300,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    size_divisibility=1,
    input_format="RGB",
)
