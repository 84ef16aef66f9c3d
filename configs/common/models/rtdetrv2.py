"""RT-DETRv2, size R50; the recipes of other sizes override it."""

from detectron2.config import LazyCall as L

from deim.modeling.backbone import PResNet
from deim.modeling.decoder import AddNormDecoderLayer, BoxPosition, Decoder, IterativeRefinement, MapProjection
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import HybridEncoder
from deim.modeling.losses import BoxGIoULoss, BoxL1Loss, Criterion, Supervision, VarifocalLoss
from deim.modeling.matching import HungarianMatcher, MatchingCost
from deim.modeling.queries import ContrastiveDenoising, QuerySelection

model = L(DEIMDetector)(
    backbone=L(PResNet)(
        depth=50,
        out_features=["stage2", "stage3", "stage4"],
        freeze_at=1,
        freeze_norm=True,
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
        fusion="csp",
    ),
    decoder=L(Decoder)(
        input_proj=L(MapProjection)(
            in_channels=["${....encoder.hidden_dim}", "${....encoder.hidden_dim}", "${....encoder.hidden_dim}"],
            dim="${..layer.dim}",
        ),
        queries=L(QuerySelection)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_queries=300,
            anchor_size=0.05,
            activation="${..layer.activation}",
        ),
        denoising=L(ContrastiveDenoising)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_queries=100,
            label_noise_ratio=0.5,
            box_noise_scale=1.0,
        ),
        position=L(BoxPosition)(dim="${..layer.dim}", num_layers=2, activation="${..layer.activation}"),
        layer=L(AddNormDecoderLayer)(
            dim=256,
            num_heads=8,
            dim_feedforward=1024,
            num_points=[4, 4, 4],
            activation="relu",
            project=True,
            sampling="bilinear",
        ),
        refinement=L(IterativeRefinement)(
            dim="${..layer.dim}",
            num_classes="${...num_classes}",
            num_layers="${..num_layers}",
            activation="${..layer.activation}",
            look_forward_twice=True,
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
            loss_vfl=L(VarifocalLoss)(weight=1.0, alpha=0.75, gamma=2.0),
            loss_bbox=L(BoxL1Loss)(weight=5.0),
            loss_giou=L(BoxGIoULoss)(weight=2.0),
        ),
        use_union=False,
        supervision=[
            L(Supervision)(group="main", suffix="_aux_{}", last_suffix=""),
            L(Supervision)(group="encoder", suffix="_enc_{}"),
            L(Supervision)(group="denoising", suffix="_dn_{}", denoising=True),
        ],
    ),
    num_classes=80,
    num_detections=300,
    input_format="RGB",
)
