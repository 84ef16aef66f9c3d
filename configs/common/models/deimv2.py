"""DEIMv2, size L with HGNetV2; the recipes of other sizes override it."""

from detectron2.config import LazyCall as L

from deim.config import with_deim_loss
from deim.layers import RMSNorm, SwiGLU
from deim.modeling.decoder import InitialBoxPosition
from deim.modeling.matching import ScoreIoUCost

from .dfine import model

model.backbone.freeze_at = 0
model.backbone.freeze_norm = False
model.encoder.fusion = "light_elan"
model.encoder.merge = "sum"
model.encoder.skip_equal = True

model.decoder.queries.project = False
model.decoder.position = L(InitialBoxPosition)(dim="${..layer.dim}", activation="${..layer.activation}", limit=10.0)
model.decoder.layer.activation = "silu"
model.decoder.layer.norm = L(RMSNorm)(dim="${..dim}")
model.decoder.layer.dim_feedforward = None
model.decoder.layer.feedforward = L(SwiGLU)(dim="${..dim}", hidden_dim=1024)
model.decoder.refinement.equal_heads = True
model.decoder.refinement.shared_corner_head = False

model = with_deim_loss(model)
model.criterion.matcher.late_cost = L(ScoreIoUCost)(exponent=4.0)
model.criterion.matcher.late_epoch = 45
