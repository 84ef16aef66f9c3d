"""H-Deformable-DETR at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_hybrid_branch

from ...deformable_detr.configs.deformable_detr_r18_shapes import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    schedule,
    train,
)

train.output_dir = "output/h_deformable_detr_r18_shapes"

model = with_hybrid_branch(model, num_queries=150, repeats=4)
# The "tricks" of H-Deformable-DETR's authors.
model.decoder.queries.mixed_selection = True
model.decoder.refinement.look_forward_twice = True
