"""The RT-DETRv2 decoder: boxes that every layer corrects (arXiv 2304.08069 and 2407.17140)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.decoder.layer import DecoderLayer
from deim.decoder.two_stage import TwoStageDecoder
from deim.layers import MLP, ConvNorm
from deim.predictions import Predictions
from deim.queries.denoising import ContrastiveDenoising, box_logits
from deim.queries.selection import QuerySelection, classification_head


class RTDETRDecoderLayer(DecoderLayer):
    """A layer whose cross-attention is added to the queries."""

    def build_fusion(self, dim: int) -> None:
        self.norm2 = nn.LayerNorm(dim)

    def fuse(self, queries: Tensor, sampled: Tensor) -> Tensor:
        return self.norm2(queries + sampled)


class RTDETRDecoder(TwoStageDecoder):
    """Query selection, denoising and decoder layers with iterative box refinement.

    The gradient of a layer's box also reaches the box head before it (DINO, section 3.5, "look forward
    twice").

    Args:
        num_classes: K.
        in_channels: widths of the encoder's maps.
        hidden_dim, num_heads, dim_feedforward, dropout, activation: of the layers.
        num_queries: Q.
        num_layers: L.
        num_points: deformable sampling points on each map.
        eval_layer: index of the layer whose output is the model's; negative counts from the end.
        denoising: makes denoising queries in training; None for none.
        mlp_activation: of the heads.
        position_layers: of the MLP that makes position embeddings of boxes: 2, twice as wide inside
            (RT-DETR), or 3 of one width (DEIM).
        sampling: "bilinear", or "nearest", RT-DETRv2's discrete sampling.

    Raises:
        ValueError: ``eval_layer`` is out of range, or another value makes no sense.
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
        num_points: Sequence[int] = (4, 4, 4),
        eval_layer: int = -1,
        denoising: ContrastiveDenoising | None = None,
        position_layers: int = 2,
        sampling: str = "bilinear",
    ):
        if len(num_points) != len(in_channels):
            raise ValueError(f"num_points has {len(num_points)} levels, in_channels {len(in_channels)}")
        if position_layers not in (2, 3):
            raise ValueError(f"position_layers must be 2 or 3, got {position_layers}")
        projections = [ConvNorm(width, hidden_dim) for width in in_channels]
        super().__init__(
            nn.ModuleList(projections),
            QuerySelection(hidden_dim, num_classes, num_queries, mlp_activation),
            denoising,
            num_layers,
            eval_layer,
        )
        inside = 2 * hidden_dim if position_layers == 2 else hidden_dim
        self.query_pos_head = MLP(4, inside, hidden_dim, position_layers, activation=mlp_activation)
        self.layers = nn.ModuleList(
            RTDETRDecoderLayer(
                hidden_dim,
                num_heads,
                dim_feedforward,
                num_points,
                dropout,
                activation,
                project=True,
                sampling=sampling,
            )
            for _ in range(num_layers)
        )
        self.score_heads = nn.ModuleList(classification_head(hidden_dim, num_classes) for _ in range(num_layers))
        self.bbox_heads = nn.ModuleList(
            MLP(hidden_dim, hidden_dim, 4, 3, activation=mlp_activation, zero_init=True) for _ in range(num_layers)
        )
        linears = [module for module in self.query_pos_head.modules() if isinstance(module, nn.Linear)]
        for linear in linears[:2]:
            nn.init.xavier_uniform_(linear.weight)
        for projection in projections:
            nn.init.xavier_uniform_(projection.conv.weight)

    def reparameterize(self) -> None:
        """Drop the layers beyond ``eval_layer``."""
        for name in ("layers", "score_heads", "bbox_heads"):
            setattr(self, name, getattr(self, name)[: self.eval_layer + 1])

    def refine(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        attention_mask: Tensor | None,
    ) -> dict[str, Predictions]:
        """See :meth:`deim.decoder.two_stage.TwoStageDecoder.refine`."""
        last = len(self.layers) - 1 if self.training else self.eval_layer
        logits, boxes = [], []
        start = references  # where the layer's correction begins, with gradient after the first layer
        for index, layer in enumerate(self.layers[: last + 1]):
            position = self.query_pos_head(references)
            queries = layer(queries, position, references, memory, spatial_shapes, attention_mask)
            correction = self.bbox_heads[index](queries)
            if self.training or index == last:
                logits.append(self.score_heads[index](queries))
                boxes.append((correction + box_logits(start)).sigmoid())
            start = (correction + box_logits(references)).sigmoid()
            references = start.detach()
        return {"main": Predictions(torch.stack(logits), torch.stack(boxes))}
