"""The D-FINE decoder: boxes as edge distributions that every layer refines (arXiv 2410.13842)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.decoder.layer import DecoderLayer
from deim.decoder.two_stage import TwoStageDecoder
from deim.distribution import expected_offsets, offsets_to_boxes, weighting_function
from deim.layers import MLP, ConvNorm
from deim.predictions import EdgeDistributions, Predictions
from deim.queries.denoising import ContrastiveDenoising, box_logits
from deim.queries.selection import QuerySelection, classification_head

# LayerNorm of values beyond float16's range gives NaN under autocast.
_HALF_RANGE = 65504.0


class Gate(nn.Module):
    """Learnt mixture of the residual and the cross-attention path (section 4.3, "target gating layer")."""

    def __init__(self, dim: int):
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, residual: Tensor, update: Tensor) -> Tensor:
        gates = self.gate(torch.cat([residual, update], dim=-1)).sigmoid()
        keep, take = gates.chunk(2, dim=-1)
        return self.norm(keep * residual + take * update)


class DFINEDecoderLayer(DecoderLayer):
    """A layer with gated cross-attention."""

    def build_fusion(self, dim: int) -> None:
        self.gateway = Gate(dim)

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        return self.gateway(queries, sampled)

    def normalize(self, queries: Tensor) -> Tensor:
        return super().normalize(queries.clamp(-_HALF_RANGE, _HALF_RANGE))


class LocationQualityEstimator(nn.Module):
    """Corrects class logits by how peaked the four edge distributions are (LQE; GFLv2's statistics)."""

    def __init__(self, top_k: int = 4, hidden_dim: int = 64, num_layers: int = 2, activation: str = "relu"):
        super().__init__()
        self.top_k = top_k
        self.reg_conf = MLP(4 * (top_k + 1), hidden_dim, 1, num_layers, activation=activation, zero_init=True)

    def forward(self, logits: Tensor, corners: Tensor) -> Tensor:
        """(..., K) class logits and (..., 4, reg_max + 1) corner logits -> (..., K)."""
        highest = corners.softmax(dim=-1).topk(self.top_k, dim=-1).values
        statistics = torch.cat([highest, highest.mean(dim=-1, keepdim=True)], dim=-1)
        return logits + self.reg_conf(statistics.flatten(-2).to(logits.dtype))


class DFINEDecoder(TwoStageDecoder):
    """Query selection, denoising and decoder layers with fine-grained distribution refinement.

    Layers beyond ``eval_layer`` only train the others and are skipped in evaluation; they may be
    wider by the factor ``layer_scale``.

    Args:
        num_classes: K.
        in_channels: widths of the encoder's maps.
        hidden_dim, num_heads, dim_feedforward, dropout, activation: of the layers.
        num_queries: Q.
        num_layers: L.
        num_points: deformable sampling points on each map.
        eval_layer: index of the layer whose output is the model's; negative counts from the end.
        layer_scale: width of the layers beyond ``eval_layer`` relative to the others, at least 1.
        denoising: makes denoising queries in training; None for none.
        reg_max, up, reg_scale: see :func:`deim.distribution.weighting_function`.
        mlp_activation: of the heads.

    Raises:
        ValueError: ``eval_layer`` is out of range or ``layer_scale`` below 1.
    """

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: Sequence[int] = (256, 256, 256),
        hidden_dim: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        mlp_activation: str = "relu",
        num_queries: int = 300,
        num_layers: int = 6,
        num_points: Sequence[int] = (3, 6, 3),
        eval_layer: int = -1,
        layer_scale: float = 1.0,
        denoising: ContrastiveDenoising | None = None,
        reg_max: int = 32,
        up: float = 0.5,
        reg_scale: float = 4.0,
    ):
        if layer_scale < 1:
            raise ValueError(f"layer_scale must be at least 1, got {layer_scale}")
        if len(num_points) != len(in_channels):
            raise ValueError(f"num_points has {len(num_points)} levels, in_channels {len(in_channels)}")
        super().__init__(
            nn.ModuleList(
                nn.Identity() if width == hidden_dim else ConvNorm(width, hidden_dim) for width in in_channels
            ),
            QuerySelection(hidden_dim, num_classes, num_queries, mlp_activation),
            denoising,
            num_layers,
            eval_layer,
        )
        self.reg_max = reg_max
        # Parameters that are never trained, since published checkpoints carry them.
        self.up = nn.Parameter(torch.tensor([up]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([reg_scale]), requires_grad=False)

        self.query_pos_head = MLP(4, 2 * hidden_dim, hidden_dim, 2, activation=mlp_activation)

        wide = round(layer_scale * hidden_dim)
        self.widths = [hidden_dim if i <= self.eval_layer else wide for i in range(num_layers)]
        feedforward = {wide: round(layer_scale * dim_feedforward), hidden_dim: dim_feedforward}
        self.layers = nn.ModuleList(
            DFINEDecoderLayer(width, num_heads, feedforward[width], num_points, dropout, activation)
            for width in self.widths
        )
        self.score_heads = nn.ModuleList(classification_head(width, num_classes) for width in self.widths)
        self.corner_heads = nn.ModuleList(
            MLP(width, width, 4 * (reg_max + 1), 3, activation=mlp_activation, zero_init=True) for width in self.widths
        )
        self.quality_heads = nn.ModuleList(LocationQualityEstimator(activation=activation) for _ in self.widths)
        self.initial_bbox_head = MLP(hidden_dim, hidden_dim, 4, 3, activation=mlp_activation, zero_init=True)
        for module in self.query_pos_head.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def reparameterize(self) -> None:
        """Drop what evaluation never uses: the later layers and the other layers' class heads."""
        last = self.eval_layer
        self.layers = self.layers[: last + 1]
        self.corner_heads = self.corner_heads[: last + 1]
        for name in ("score_heads", "quality_heads"):
            heads = getattr(self, name)
            setattr(self, name, nn.ModuleList([nn.Identity()] * last + [heads[last]]))

    def refine(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        attention_mask: Tensor | None,
    ) -> dict[str, Predictions]:
        """See :meth:`deim.decoder.two_stage.TwoStageDecoder.refine`; ``initial`` are the boxes of the plain
        head after the first layer, which the distributions refine."""
        bin_values = weighting_function(self.reg_max, self.up, self.reg_scale)
        outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        groups: dict[str, Predictions] = {}
        corners, previous = memory.new_zeros(()), memory.new_zeros(())
        last = len(self.layers) - 1 if self.training else self.eval_layer
        for index, layer in enumerate(self.layers[: last + 1]):
            position = self.query_pos_head(references).clamp(-10, 10)
            width = self.widths[index]
            if width != queries.shape[-1]:
                queries, memory = _widen(queries, width), _widen(memory, width)
                previous = queries.detach()
            queries = layer(queries, _widen(position, width), references, memory, spatial_shapes, attention_mask)
            if index == 0:
                plain = (self.initial_bbox_head(queries) + box_logits(references)).sigmoid()
                anchor = plain.detach()
                if self.training:
                    groups["initial"] = Predictions(self.score_heads[0](queries)[None], plain[None])
            step = self.corner_heads[index](queries + previous)
            corners = corners + step.unflatten(-1, (4, self.reg_max + 1))
            boxes = offsets_to_boxes(anchor, expected_offsets(corners, bin_values), self.reg_scale)
            if self.training or index == last:
                logits = self.quality_heads[index](self.score_heads[index](queries), corners)
                outputs.append((logits, boxes, corners))
            references, previous = boxes.detach(), queries.detach()
        logits, boxes, stacked = (torch.stack(parts) for parts in zip(*outputs, strict=True))
        edges = EdgeDistributions(stacked, anchor, bin_values, self.reg_scale)
        groups["main"] = Predictions(logits, boxes, edges)
        return groups


def _widen(x: Tensor, width: int) -> Tensor:
    """Repeat channels to ``width``, for layers wider than what comes before them."""
    return x if x.shape[-1] == width else F.interpolate(x, size=width)
