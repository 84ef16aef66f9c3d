"""D-FINE, size L; what the other sizes change is in their recipes."""

from detectron2.config import LazyCall as L

from deim.backbone import HGNetV2
from deim.decoder import DFINEDecoder
from deim.detector import DEIMDetector
from deim.encoder import HybridEncoder
from deim.losses import Criterion
from deim.matching import HungarianMatcher, MatchingCost
from deim.queries import ContrastiveDenoising

model = L(DEIMDetector)(
    backbone=L(HGNetV2)(
        name="B4",
        learnable_affine=False,
        out_features=["stage2", "stage3", "stage4"],
        freeze_at=1,
        freeze_norm=True,
    ),
    encoder=L(HybridEncoder)(
        in_features="${..backbone.out_features}",
        in_channels=[512, 1024, 2048],
        hidden_dim=256,
        dim_feedforward=1024,
        expansion=1.0,
        depth_multiplier=1.0,
    ),
    decoder=L(DFINEDecoder)(
        num_classes="${..num_classes}",
        in_channels=["${...encoder.hidden_dim}", "${...encoder.hidden_dim}", "${...encoder.hidden_dim}"],
        hidden_dim="${..encoder.hidden_dim}",
        dim_feedforward=1024,
        num_queries=300,
        num_layers=6,
        num_points=[3, 6, 3],
        eval_layer=-1,
        layer_scale=1.0,
        reg_max=32,
        reg_scale=4.0,
        activation="relu",
        mlp_activation="relu",
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
        weights=dict(loss_vfl=1.0, loss_bbox=5.0, loss_giou=2.0, loss_fgl=0.15, loss_ddf=1.5),
        use_union=True,
    ),
    num_classes=80,
    num_detections=300,
)
