"""DEIMv2-Pico with HGNetV2-Pico on COCO, 500 epochs.

Published: 38.5 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deimv2/deimv2_hgnetv2_pico_coco --num-gpus 4
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from deim.config import with_iterations
from deim.data.augmentation import DropSmallBoxes
from deim.modeling.decoder import ClampedAddNormDecoderLayer
from deim.modeling.encoder import LiteEncoder

from .deimv2_hgnetv2_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_pico_coco"

dataloader.train.total_batch_size = 128
dataloader.test.total_batch_size = 256
dataloader.train.mixup = None
dataloader.train.batch_operations = []
dataloader.train.mapper.multi_scale_repeat = None
# Small boxes are dropped before and after the resize.
dataloader.train.mapper.min_box_size = 8.0
dataloader.train.mapper.weak = [
    L(DropSmallBoxes)(min_size="${dataloader.train.mapper.min_box_size}"),
    L(T.RandomFlip)(prob=0.5),
]

model.backbone.name = "Pico"
model.backbone.learnable_affine = True
model.backbone.out_features = ["stage3"]
model.encoder = L(LiteEncoder.for_backbone)(
    in_features=None, in_channels=None, hidden_dim=112, expansion=0.34, depth_multiplier=0.5
)
model.decoder.input_proj.in_channels = ["${....encoder.hidden_dim}", "${....encoder.hidden_dim}"]
model.decoder.queries.num_queries = 200
model.decoder.layer._target_ = ClampedAddNormDecoderLayer
model.decoder.layer.num_points = [4, 2]
model.decoder.layer.feedforward.hidden_dim = 160
model.decoder.refinement.shared_corner_head = True
model.decoder.num_layers = 3
model.criterion.use_union = False
model.criterion.matcher.late_epoch = 450
model.criterion.losses.loss_fgl = None
model.criterion.losses.loss_ddf = None

optimizer.lr = 1.6e-3
optimizer.weight_decay = 1e-4
optimizer.params.rules.backbone.lr = 8e-4
# As in the official code, the norm weights of the encoder's two downsampling layers have weight decay.
optimizer.params.rules.no_weight_decay.pattern = (
    r"^(encoder|decoder)\.(?!(input_)?downsample\.norm\.weight).*(norm|bias)"
)

schedule.epochs = 500
schedule.warmup_iters = 4000
schedule.flat_epochs = 250
schedule.dense_epochs = [4, 250]
schedule.strong_end_epoch = 400
schedule.no_aug_epochs = 32

with_iterations(train, schedule, dataloader)
