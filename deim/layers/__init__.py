"""Layers shared by backbones, encoders and decoders."""

from deim.layers.activation import build_activation
from deim.layers.attention import AttentionBlock, SelfAttention, attend, attend_in_blocks
from deim.layers.conv import ConvBNAct, RepConvBNAct, fuse_conv_norm
from deim.layers.deformable_attention import MultiScaleDeformableAttention
from deim.layers.linear import Linear
from deim.layers.mlp import MLP
from deim.layers.position_embedding import map_coordinates, sine_embedding, sine_position_embedding
from deim.layers.rep_blocks import CSPRepLayer, LightRepELAN, RepELAN, RepVGGBlock, SplitCSPRepLayer, SplitRepELAN
from deim.layers.rms_norm import RMSNorm
from deim.layers.rotary_attention import RotaryAttention, rotary_angles, rotate
from deim.layers.swiglu import SwiGLU

__all__ = [
    "MLP",
    "AttentionBlock",
    "CSPRepLayer",
    "ConvBNAct",
    "LightRepELAN",
    "Linear",
    "MultiScaleDeformableAttention",
    "RMSNorm",
    "RepConvBNAct",
    "RepELAN",
    "RepVGGBlock",
    "RotaryAttention",
    "SelfAttention",
    "SplitCSPRepLayer",
    "SplitRepELAN",
    "SwiGLU",
    "attend",
    "attend_in_blocks",
    "build_activation",
    "fuse_conv_norm",
    "map_coordinates",
    "rotary_angles",
    "rotate",
    "sine_embedding",
    "sine_position_embedding",
]
