"""DN-DAB-Deformable-DETR with deformable attention in encoder and decoder (the authors' "v2"), R50, COCO, 50 epochs.

Published: 49.5 AP, from an ImageNet backbone, on 4 to 8 A100.

    deim train --config-file dn_detr/dn_deformable_detr_r50_50ep_coco --num-gpus 8
"""

from detectron2.config import LazyCall as L

from deim.modeling.decoder import AddNormDecoderLayer, AnchorPosition, IterativeRefinement

from .dn_deformable_encoder_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_deformable_detr_r50_50ep_coco"

model.encoder.temperature = 10000.0
model.encoder.position_offset = -0.5
model.decoder.queries.num_patterns = 0
model.decoder.queries.shared_content = False
model.decoder.denoising.spare_labels = 1
model.decoder.position = L(AnchorPosition)(dim="${..layer.dim}")
model.decoder.layer = L(AddNormDecoderLayer)(
    dim="${...encoder.dim}",
    num_heads=8,
    dim_feedforward="${...encoder.dim_feedforward}",
    num_points=[4, 4, 4, 4],
    dropout="${...encoder.dropout}",
    activation="${...encoder.activation}",
    project=True,
)
model.decoder.refinement = L(IterativeRefinement)(
    dim="${..layer.dim}",
    num_classes="${...num_classes}",
    num_layers="${..num_layers}",
    size_bias=-2.0,
    look_forward_twice=False,
    logit_eps=1e-3,
)
