"""Decoder: a loop over layers, composed of exchangeable parts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from detectron2.config import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers import AttentionBlock
from deim.modeling.decoder.heads import HEAD_FIELDS, PredictionHead
from deim.modeling.decoder.layer import DecoderLayer
from deim.modeling.decoder.position import PositionEmbedding, QueryPosition
from deim.modeling.decoder.projection import MapProjection
from deim.modeling.decoder.refinement import Refinement
from deim.modeling.queries.denoising import Denoising, DenoisingGroups, DenoisingQueries
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.structures.memory import Memory
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions, Targets


def attention_pattern(
    denoising: DenoisingGroups | None, num_one_to_one: int, num_one_to_many: int, device: torch.device
) -> list[AttentionBlock]:
    """Return the self-attention pattern of denoising, one-to-one and one-to-many queries, in this order.

    Denoising queries attend to their own group and to the one-to-one queries (DN-DETR, arXiv 2203.01305, section 4.3).
    One-to-one and one-to-many queries attend only to their own kind (H-DETR, arXiv 2207.13080, section 3.2).

    Returns:
        blocks of queries with the keys that they attend to; empty if all queries attend to all queries.
    """
    num_denoising = 0 if denoising is None else len(denoising)
    end = num_denoising + num_one_to_one
    blocks = [
        AttentionBlock(num_one_to_one, slice(num_denoising, end)),
        AttentionBlock(num_one_to_many, slice(end, end + num_one_to_many)),
    ]
    if denoising is not None:
        blocks.insert(
            0,
            AttentionBlock(
                num_denoising, slice(0, end), F.pad(denoising.cross_group_mask(device), (0, num_one_to_one))
            ),
        )
    nonempty = [block for block in blocks if block.size]
    return nonempty if len(nonempty) > 1 else []


def check_references(parts: Sequence[nn.Module | None]) -> None:
    """Raise ValueError if some parts of a decoder refine keypoints, and others boxes or points."""
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for part in parts:
        if part is not None:
            kinds[getattr(part, "for_keypoints", False)].append(type(part).__name__)
    if all(kinds.values()):
        raise ValueError(
            f"{', '.join(kinds[True])} refine the keypoints of an object, but {', '.join(kinds[False])} its box: use the "
            "parts of a decoder for keypoints only together"
        )


class Decoder(nn.Module):
    """Decoder: layers that refine the boxes of queries, with additional denoising queries in training.

    Layers after ``eval_layer`` only contribute to training and are skipped in evaluation.

    Args:
        queries: source of the queries.
        layer: the first layer. ``layer.next_layer()`` makes the others, usually as copies of the first (as in DETR).
        refinement: update of the boxes from layer to layer, built for ``num_layers`` layers.
        input_proj: projection of the encoder's maps to the width of the queries; None for encoders that return a
            :class:`Memory`.
        position: boxes -> position embeddings, before each layer or once; None uses the embeddings of the query source.
        num_layers: L.
        eval_layer: index of the layer that gives the model's output; negative values count from the end.
        denoising: source of denoising queries in training; None for none.
        heads: {field of :class:`Predictions`: head} for predictions besides classes and boxes: ``masks`` or
            ``keypoints``. Nodes of a config are instantiated, and None disables a head.

    Raises:
        ValueError: if ``eval_layer`` is out of range, a head has no field, or parts do not fit each other.
    """

    def __init__(
        self,
        queries: QuerySource,
        layer: DecoderLayer,
        refinement: Refinement,
        input_proj: MapProjection | None = None,
        position: PositionEmbedding | None = None,
        num_layers: int = 6,
        eval_layer: int = -1,
        denoising: Denoising | None = None,
        heads: Mapping[str, PredictionHead | Any] | None = None,
    ):
        super().__init__()
        if not -num_layers <= eval_layer < num_layers:
            raise ValueError(f"eval_layer {eval_layer} is out of range for {num_layers} layers")
        if input_proj is not None and layer.num_levels not in (len(input_proj), None):
            raise ValueError(
                f"layer attends to {layer.num_levels} maps (num_points or num_levels), but input_proj.in_channels has "
                f"{len(input_proj)} entries"
            )
        if len(refinement.score_heads) != num_layers:
            raise ValueError(f"refinement is made for {len(refinement.score_heads)} layers, num_layers is {num_layers}")
        if position is None and not queries.provides_positions:
            raise ValueError(f"decoder.position is missing: {type(queries).__name__} has no position embeddings")
        if not queries.provides_boxes and (denoising is not None or position is not None or refinement.needs_boxes):
            raise ValueError(
                f"{type(queries).__name__} gives points, but decoder.denoising, decoder.position and "
                "DistributionRefinement need boxes: remove these parts, or use a query source with boxes"
            )
        check_references([queries, layer, refinement, position, denoising])
        self.eval_layer = eval_layer % num_layers
        self.input_proj, self.queries, self.denoising = input_proj, queries, denoising
        self.position, self.refinement = position, refinement
        self.layers = nn.ModuleList([layer, *(layer.next_layer() for _ in range(num_layers - 1))])
        unknown = [name for name in heads or {} if name not in HEAD_FIELDS]
        if unknown:
            raise ValueError(f"decoder.heads: unknown {', '.join(unknown)}; the fields are {', '.join(HEAD_FIELDS)}")
        # detectron2's instantiate does not build the values of a plain dict.
        built = {name: instantiate(head) for name, head in (heads or {}).items() if head is not None}
        self.heads = nn.ModuleDict(built)

    def remove_training_parts(self) -> None:
        """Remove the layers and prediction heads that evaluation does not use."""
        self.layers = self.layers[: self.eval_layer + 1]
        self.refinement.keep_layers(len(self.layers))
        for head in self._prediction_heads.values():
            head.keep_layers(len(self.layers))

    @property
    def predicted_fields(self) -> tuple[str, ...]:
        """Optional fields of the predictions, such as ``masks``, in the order of :data:`HEAD_FIELDS`."""
        predicted = {*self.refinement.predicted_fields, *self.heads}
        return tuple(field for field in HEAD_FIELDS if field in predicted)

    @property
    def num_keypoints(self) -> int | None:
        """Number of keypoints of an object; None if the decoder predicts no keypoints."""
        parts: list[Any] = [self.queries, *self.heads.values()]
        return next((part.num_keypoints for part in parts if hasattr(part, "num_keypoints")), None)

    @property
    def _prediction_heads(self) -> dict[str, PredictionHead]:
        return cast(dict[str, PredictionHead], dict(self.heads.items()))

    def forward(
        self, encoder_output: Memory | Sequence[Tensor], targets: Targets | None = None, padding: Tensor | None = None
    ) -> tuple[dict[str, Predictions], DenoisingQueries | None]:
        """Predict classes and boxes.

        Args:
            encoder_output: output of the encoder: a memory, or the maps (B, C, h, w) of all levels, finest first.
            targets: ground truth for the denoising queries; only in training.
            padding: (B, H, W) bool, True on padded pixels; only for maps, because a memory contains it.

        Returns:
            named predictions, and the denoising queries or None. In evaluation, the only predictions are ``main``, with
            one layer. In training, ``main`` has L layers. The query source adds its groups (:class:`InitialQueries`),
            and a refinement may add ``initial``. The predictions of denoising queries are ``denoising`` and
            ``denoising_initial``, those of one-to-many queries are ``hybrid`` and ``hybrid_initial``.

        Raises:
            ValueError: if the decoder does not support the output of the encoder.
        """
        memory = self._to_memory(encoder_output, padding)
        initial = self.queries(memory)
        denoising_queries = None
        if self.training and self.denoising is not None and targets is not None:
            denoising_queries = self.denoising(targets)
        refined = self._run_layers(*self._initial_inputs(initial, denoising_queries), memory)
        if not self.training:
            return refined, None
        return {
            **initial.groups,
            **self._split_groups(refined, denoising_queries, initial.num_one_to_many),
        }, denoising_queries

    def _to_memory(self, encoder_output: Memory | Sequence[Tensor], padding: Tensor | None) -> Memory:
        is_memory = isinstance(encoder_output, Memory)
        if is_memory == (self.input_proj is not None):
            raise ValueError(
                "set decoder.input_proj to null, because the encoder returns tokens instead of maps"
                if is_memory
                else "decoder.input_proj is missing: it projects the maps of the encoder to the width of the queries"
            )
        memory = (
            encoder_output
            if isinstance(encoder_output, Memory)
            else Memory.from_maps(self._project_maps(encoder_output), padding)
        )
        expected = self.layers[0].num_levels
        if expected not in (len(memory.spatial_shapes), None):
            raise ValueError(
                f"the decoder's layers attend to {expected} maps (layer.num_points or layer.num_levels), "
                f"the encoder returns {len(memory.spatial_shapes)}"
            )
        return memory

    def _project_maps(self, maps: Sequence[Tensor]) -> list[Tensor]:
        assert self.input_proj is not None
        return self.input_proj(maps)

    def _initial_inputs(
        self, initial: InitialQueries, denoising_queries: DenoisingQueries | None
    ) -> tuple[Tensor, Tensor, Tensor | None, list[AttentionBlock]]:
        """Return content, references (boxes or points), position and self-attention pattern of all queries."""
        content, references, position = initial.content, initial.references, initial.position
        num_one_to_one = content.shape[1] - initial.num_one_to_many
        if denoising_queries is not None:
            content = torch.cat([denoising_queries.content.to(content.dtype), content], dim=1)
            references = torch.cat([denoising_queries.references.to(references.dtype), references], dim=1)
            if position is not None:
                position = torch.cat(
                    [self.queries.embed_positions(denoising_queries.references).to(position.dtype), position], 1
                )
        blocks = attention_pattern(denoising_queries, num_one_to_one, initial.num_one_to_many, content.device)
        return content, references.sigmoid(), position, blocks

    def _split_groups(
        self, refined: dict[str, Predictions], denoising_queries: DenoisingQueries | None, num_one_to_many: int
    ) -> dict[str, Predictions]:
        """Split the predictions of denoising, one-to-one and one-to-many queries, which are in this order."""
        groups: dict[str, Predictions] = {}
        for name, predictions in refined.items():
            group = PredictionGroup(name)
            num_denoising, num_queries = (
                0 if denoising_queries is None else len(denoising_queries),
                predictions.logits.shape[2],
            )
            parts = predictions.split([num_denoising, num_queries - num_denoising - num_one_to_many, num_one_to_many])
            groups[group] = parts[1]
            if denoising_queries is not None and group.denoising is not None:
                groups[group.denoising] = parts[0]
            if self.queries.num_one_to_many and group.hybrid is not None:
                groups[group.hybrid] = parts[2]
        return groups

    def _run_layers(
        self,
        content: Tensor,
        references: Tensor,
        position: Tensor | None,
        blocks: Sequence[AttentionBlock],
        memory: Memory,
    ) -> dict[str, Predictions]:
        """Run the layers that are used in the current mode.

        Args:
            content: (B, Q, C) content of the queries; (B, Q, 1 + P, C) with keypoints.
            references: (B, Q, 4) cxcywh, (B, Q, 2), or (B, Q, 1 + P, 2) with keypoints.
            position: (B, Q, C) for all layers, or None.
            blocks: attention pattern of the self-attention.
            memory: output of the encoder.
        """
        last_layer = len(self.layers) - 1 if self.training else self.eval_layer
        collected: dict[str, list[Predictions]] = {}
        state = self.refinement.initial_state(references, memory)
        heads = self._prediction_heads
        head_states = {name: head.initial_state(memory) for name, head in heads.items()}
        query_position = None if position is None else QueryPosition(position)
        for index, layer in enumerate(self.layers[: last_layer + 1]):
            if self.position is not None and (index == 0 or not self.position.computed_once):
                query_position = self.position(index, content, state.references, memory)
            assert query_position is not None
            state = self.refinement.before_layer(state, query_position)
            content = layer(content, query_position, state.references, memory, blocks)
            predict = self.training or index == last_layer
            state, predicted = self.refinement(index, content, state, predict)
            for name, head in heads.items():
                main = predicted.get(PredictionGroup.MAIN)
                boxes = None if main is None else main.boxes[0]
                head_states[name], value = head(index, content, boxes, head_states[name])
                if main is not None:
                    predicted[PredictionGroup.MAIN] = replace(main, **{name: value})
            for name, predictions in predicted.items():
                collected.setdefault(name, []).append(predictions)
        self._share_masks(collected)
        return {name: Predictions.join(layers) for name, layers in collected.items()}

    @staticmethod
    def _share_masks(collected: dict[str, list[Predictions]]) -> None:
        """Give the initial predictions of a refinement the masks of the last layer (EdgeCrafter)."""
        for initial in collected.get(PredictionGroup.INITIAL, []):
            initial.masks = collected[PredictionGroup.MAIN][-1].masks
