"""What the decoders have in common: queries from encoder tokens, and noised ones beside them in training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.predictions import Predictions, Targets
from deim.queries.denoising import ContrastiveDenoising, DenoisingQueries
from deim.queries.selection import QuerySelection

# What the predictions of the denoising queries are called.
_NOISED = {"main": "denoising", "initial": "denoising_initial"}


class TwoStageDecoder(nn.Module):
    """Selects queries, adds denoising queries, and lets a subclass refine both.

    Args:
        input_proj: makes the encoder's maps as wide as the queries.
        selection: takes the queries from the tokens of the maps.
        denoising: makes denoising queries in training; None for none.
        num_layers: L.
        eval_layer: index of the layer whose output is the model's; negative counts from the end.

    Raises:
        ValueError: ``eval_layer`` is out of range.
    """

    def __init__(
        self,
        input_proj: nn.ModuleList,
        selection: QuerySelection,
        denoising: ContrastiveDenoising | None,
        num_layers: int,
        eval_layer: int,
    ):
        super().__init__()
        if not -num_layers <= eval_layer < num_layers:
            raise ValueError(f"eval_layer {eval_layer} is out of range for {num_layers} layers")
        self.eval_layer = eval_layer % num_layers
        self.input_proj, self.selection, self.denoising = input_proj, selection, denoising

    def forward(
        self, maps: Sequence[Tensor], targets: Targets | None = None, padding: Tensor | None = None
    ) -> tuple[dict[str, Predictions], DenoisingQueries | None]:
        """
        Args:
            maps: (B, C, h, w) of each level, finest first.
            targets: ground truth, for the denoising queries; only in training.
            padding: (B, H, W) bool, True on padded pixels.

        Returns:
            named predictions and the denoising queries behind them. In evaluation only ``main``,
            with one layer. In training ``main`` (L layers), ``encoder``, what else the subclass
            predicts, and with denoising the same of the denoising queries.
        """
        projected = [proj(x) for proj, x in zip(self.input_proj, maps, strict=True)]
        spatial_shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in projected]
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in projected], dim=1)
        selected = self.selection(memory, spatial_shapes, padding)
        noised = None
        if self.training and self.denoising is not None and targets is not None:
            noised = self.denoising(targets, self.selection.num_queries)
        content, references = selected.content, selected.references
        if noised is not None:
            content = torch.cat([noised.content.to(content.dtype), content], dim=1)
            references = torch.cat([noised.references.to(references.dtype), references], dim=1)
        mask = None if noised is None else noised.attention_mask
        refined = self.refine(content, references.sigmoid(), memory, spatial_shapes, mask)
        if not self.training:
            return refined, None

        groups = {"encoder": Predictions(selected.logits[None], selected.boxes[None])}
        for name, predictions in refined.items():
            if noised is None:
                groups[name] = predictions
            else:
                sizes = [len(noised), self.selection.num_queries]
                groups[_NOISED[name]], groups[name] = predictions.split(sizes)
        return groups, noised

    def refine(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        attention_mask: Tensor | None,
    ) -> dict[str, Predictions]:
        """Run the layers.

        Args:
            queries: (B, Q, C).
            references: (B, Q, 4) cxcywh, without gradient.
            memory: (B, S, C) tokens of all levels.
            spatial_shapes: (h, w) of each level.
            attention_mask: (Q, Q) bool, True where self-attention is forbidden.

        Returns:
            ``main``: in training of all layers, else of ``eval_layer``; and other predictions in
            training.
        """
        raise NotImplementedError
