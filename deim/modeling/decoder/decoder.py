"""The decoder: a loop over layers between exchangeable parts."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim.modeling.decoder.layer import DecoderLayer
from deim.modeling.decoder.projection import MapProjection
from deim.modeling.decoder.refinement import Refinement
from deim.modeling.queries.denoising import ContrastiveDenoising, DenoisingQueries
from deim.modeling.queries.initial import QuerySource
from deim.structures.predictions import Predictions, Targets

# What the predictions of the denoising and of the one-to-many queries are called.
_NOISED = {"main": "denoising", "initial": "denoising_initial"}
_ONE_TO_MANY = {"main": "hybrid", "initial": "hybrid_initial"}


def isolate_last(mask: Tensor | None, total: int, count: int, device: torch.device) -> Tensor:
    """Forbid attention between the last ``count`` of ``total`` queries and all others.

    Args:
        mask: (total, total) bool, True where attention is forbidden already; None for nowhere.
    """
    last = torch.arange(total, device=device) >= total - count
    apart = last[:, None] != last[None, :]
    return apart if mask is None else mask | apart


class Decoder(nn.Module):
    """Queries from a source, and noised ones beside them in training, go through layers that refine
    their boxes.

    Layers beyond ``eval_layer`` only train the others and are skipped in evaluation.

    Args:
        input_proj: makes the encoder's maps as wide as the queries.
        queries: where the queries come from.
        position: boxes -> position embeddings, before each layer.
        layer: the first layer; the others begin as copies of it (as in DETR).
        refinement: how boxes change from layer to layer; of ``num_layers`` layers.
        num_layers: L.
        eval_layer: index of the layer whose output is the model's; negative counts from the end.
        denoising: makes denoising queries in training; None for none.

    Raises:
        ValueError: ``eval_layer`` is out of range, or parts do not fit each other.
    """

    def __init__(
        self,
        input_proj: MapProjection,
        queries: QuerySource,
        position: nn.Module,
        layer: DecoderLayer,
        refinement: Refinement,
        num_layers: int = 6,
        eval_layer: int = -1,
        denoising: ContrastiveDenoising | None = None,
    ):
        super().__init__()
        if not -num_layers <= eval_layer < num_layers:
            raise ValueError(f"eval_layer {eval_layer} is out of range for {num_layers} layers")
        if layer.num_levels != len(input_proj):
            raise ValueError(
                f"layer.num_points has {layer.num_levels} levels, input_proj.in_channels {len(input_proj)}"
            )
        if len(refinement.score_heads) != num_layers:
            raise ValueError(f"refinement is made for {len(refinement.score_heads)} layers, num_layers is {num_layers}")
        self.eval_layer = eval_layer % num_layers
        self.input_proj, self.queries, self.denoising = input_proj, queries, denoising
        self.position, self.refinement = position, refinement
        self.layers = nn.ModuleList([layer, *(copy.deepcopy(layer) for _ in range(num_layers - 1))])

    def reparameterize(self) -> None:
        """Drop what evaluation never uses."""
        self.layers = self.layers[: self.eval_layer + 1]
        self.refinement.keep_layers(len(self.layers))

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
            with one layer. In training ``main`` (L layers), what the query source and the refinement
            predict on the way, the same of the denoising queries, and as ``hybrid`` that of the
            one-to-many queries, where there are any.
        """
        projected = self.input_proj(maps)
        spatial_shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in projected]
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in projected], dim=1)
        initial = self.queries(memory, spatial_shapes, padding)
        content, references = initial.content, initial.references
        noised, mask = None, None
        if self.training and self.denoising is not None and targets is not None:
            noised = self.denoising(targets, content.shape[1])
            content = torch.cat([noised.content.to(content.dtype), content], dim=1)
            references = torch.cat([noised.references.to(references.dtype), references], dim=1)
            mask = noised.attention_mask
        if initial.num_one_to_many:
            mask = isolate_last(mask, content.shape[1], initial.num_one_to_many, content.device)
        refined = self._run_layers(content, references.sigmoid(), memory, spatial_shapes, mask)
        if not self.training:
            return refined, None
        return {**initial.groups, **self._by_kind(refined, noised, initial.num_one_to_many)}, noised

    def _by_kind(
        self, refined: dict[str, Predictions], noised: DenoisingQueries | None, one_to_many: int
    ) -> dict[str, Predictions]:
        """Predictions of denoising, one-to-one and one-to-many queries, which stand in this order, apart."""
        groups = {}
        for name, predictions in refined.items():
            before, total = 0 if noised is None else len(noised), predictions.logits.shape[2]
            parts = predictions.split([before, total - before - one_to_many, one_to_many])
            groups[name] = parts[1]
            if noised is not None:
                groups[_NOISED[name]] = parts[0]
            if self.queries.num_one_to_many:
                groups[_ONE_TO_MANY[name]] = parts[2]
        return groups

    def _run_layers(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        attention_mask: Tensor | None,
    ) -> dict[str, Predictions]:
        """
        Args:
            queries: (B, Q, C).
            references: (B, Q, 4) cxcywh.
            memory: (B, S, C) tokens of all levels.
            attention_mask: (Q, Q) bool, True where self-attention is forbidden.
        """
        last = len(self.layers) - 1 if self.training else self.eval_layer
        collected: dict[str, list[Predictions]] = {}
        state = self.refinement.start(references)
        for index, layer in enumerate(self.layers[: last + 1]):
            position = self.position(state.references)
            queries = layer(queries, position, state.references, memory, spatial_shapes, attention_mask)
            state, predicted = self.refinement(index, queries, state, predict=self.training or index == last)
            for name, predictions in predicted.items():
                collected.setdefault(name, []).append(predictions)
        return {name: Predictions.join(layers) for name, layers in collected.items()}
