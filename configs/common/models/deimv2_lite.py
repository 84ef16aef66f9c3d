"""DEIMv2 with the lite encoder, size Pico; the recipes of Femto and Atto override it."""

from detectron2.config import LazyCall as L

from deim.modeling.decoder import ClampedAddNormDecoderLayer
from deim.modeling.encoder import LiteEncoder

from .deimv2 import model

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
model.criterion.losses.loss_fgl = None
model.criterion.losses.loss_ddf = None
