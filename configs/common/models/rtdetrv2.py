"""RT-DETRv2, size R50; what the other sizes change is in their recipes."""

from detectron2.config import LazyCall as L

from deim.backbone import PResNet
from deim.decoder import RTDETRDecoder
from deim.detector import DEIMDetector
from deim.encoder import HybridEncoder
from deim.losses import Criterion, Supervision
from deim.matching import HungarianMatcher, MatchingCost
from deim.queries import ContrastiveDenoising

model = L(DEIMDetector)(
    backbone=L(PResNet)(
        depth=50,
        out_features=["stage2", "stage3", "stage4"],
        freeze_at=1,
        freeze_norm=True,
        # a file with weights pretrained on ImageNet
        weights="",
    ),
    encoder=L(HybridEncoder)(
        in_features="${..backbone.out_features}",
        in_channels=[512, 1024, 2048],
        hidden_dim=256,
        dim_feedforward=1024,
        expansion=1.0,
        depth_multiplier=1.0,
        fusion="csp",
    ),
    decoder=L(RTDETRDecoder)(
        num_classes="${..num_classes}",
        in_channels=["${...encoder.hidden_dim}", "${...encoder.hidden_dim}", "${...encoder.hidden_dim}"],
        hidden_dim=256,
        dim_feedforward=1024,
        num_queries=300,
        num_layers=6,
        num_points=[4, 4, 4],
        eval_layer=-1,
        activation="relu",
        mlp_activation="relu",
        position_layers=2,
        sampling="bilinear",
        denoising=L(ContrastiveDenoising)(
            dim="${..hidden_dim}",
            num_classes="${..num_classes}",
            num_queries=100,
            label_noise_ratio=0.5,
            box_noise_scale=1.0,
        ),
    ),
    criterion=L(Criterion)(
        num_classes="${..num_classes}",
        matcher=L(HungarianMatcher)(
            cost=L(MatchingCost)(class_weight=2.0, bbox_weight=5.0, giou_weight=2.0, alpha=0.25, gamma=2.0)
        ),
        classification="vfl",
        alpha=0.75,
        gamma=2.0,
        weights=dict(loss_vfl=1.0, loss_bbox=5.0, loss_giou=2.0),
        use_union=False,
        supervision=[
            L(Supervision)(group="main", suffix="_aux_{}", last_suffix=""),
            L(Supervision)(group="encoder", suffix="_enc_{}"),
            L(Supervision)(group="denoising", suffix="_dn_{}", denoising=True),
        ],
    ),
    num_classes=80,
    num_detections=300,
)
