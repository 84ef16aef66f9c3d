"""AdamW with a separate learning rate for the backbone."""

import torch
from detectron2.config import LazyCall as L

from deim.engine import param_groups

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(
        model=None,  # set before the optimizer is built
        rules=dict(
            backbone=dict(pattern=r"^backbone\.", lr=1.25e-5),
            no_weight_decay=dict(pattern=r"^(encoder|decoder)\..*norm", weight_decay=0.0),
        ),
        # factor between the learning rates of successive blocks of a vision transformer
        backbone_layer_decay=None,
    ),
    lr=2.5e-4,
    betas=(0.9, 0.999),
    weight_decay=1.25e-4,
    fused=True,
)
