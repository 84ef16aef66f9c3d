"""ECPose, size L; the recipes of other sizes override it."""

from detectron2.config import LazyCall as L

from deim.modeling.decoder import Decoder, KeypointPosition, KeypointRefinement, PoseDecoderLayer
from deim.modeling.losses import (
    Criterion,
    KeypointL1Loss,
    KeypointOKSLoss,
    KeypointQuality,
    Supervision,
    VarifocalLoss,
)
from deim.modeling.matching import ClassCost, HungarianMatcher, KeypointCost
from deim.modeling.queries import PoseDenoising, PoseSelection

from .ecdet import model

model.backbone.weights = "ecpose"
model.decoder = L(Decoder)(
    input_proj=model.decoder.input_proj,
    queries=L(PoseSelection)(
        dim="${..layer.dim}",
        num_classes="${...num_classes}",
        num_queries=60,
        num_keypoints=17,
        activation="${..layer.activation}",
    ),
    denoising=L(PoseDenoising)(
        dim="${..layer.dim}",
        num_classes="${...num_classes}",
        num_keypoints="${..queries.num_keypoints}",
        num_queries=20,
        num_labels=80,
        label_noise_ratio=0.5,
        sigmas="${...criterion.quality.sigmas}",
        # True for the intended noise; see docs/fidelity.md
        unit_directions=False,
    ),
    position=L(KeypointPosition)(dim="${..layer.dim}", activation="${..layer.activation}"),
    layer=L(PoseDecoderLayer)(
        dim="${...encoder.hidden_dim}",
        num_heads=8,
        dim_feedforward=1024,
        num_points=[4, 4, 4],
        activation="relu",
    ),
    refinement=L(KeypointRefinement)(
        dim="${..layer.dim}",
        num_classes="${...num_classes}",
        num_layers="${..num_layers}",
        num_keypoints="${..queries.num_keypoints}",
        activation="${..layer.activation}",
        reg_max=32,
        reg_scale=4.0,
    ),
    num_layers=4,
    eval_layer=-1,
)
model.criterion = L(Criterion)(
    num_classes="${..num_classes}",
    matcher=L(HungarianMatcher)(
        cost=L(ClassCost)(weight=2.0, alpha=0.25, gamma=2.0),
        further_costs=[
            L(KeypointCost)(l1_weight=10.0, oks_weight=4.0, sigmas="${....quality.sigmas}"),
        ],
    ),
    # sigmas: constants of the keypoints; None for those of COCO's 17 keypoints, or equal ones for other keypoints
    quality=L(KeypointQuality)(sigmas=None),
    losses=dict(
        loss_vfl=L(VarifocalLoss)(weight=2.0, alpha=0.25, gamma=2.0),
        loss_keypoints=L(KeypointL1Loss)(weight=10.0, localization=True),
        loss_oks=L(KeypointOKSLoss)(weight=4.0, sigmas="${...quality.sigmas}", localization=True),
    ),
    use_union=True,
    # In matching order; the suffixes give the loss names of EdgeCrafter's logs.
    supervision=[
        L(Supervision)(group="main", suffix="_{}", last_suffix=""),
        L(Supervision)(group="initial", suffix="_pre"),
        L(Supervision)(group="encoder", suffix="_enc_{}"),
        L(Supervision)(group="denoising", suffix="_dn_{}", denoising=True),
        L(Supervision)(group="denoising_initial", suffix="_dn_pre", denoising=True),
    ],
)
model.num_classes = 1
model.num_detections = 60
