"""Heads that predict further properties of the objects, such as masks, from the queries of each layer."""

from typing import Any

from torch import Tensor, nn

from deim.structures.memory import Memory

# Optional fields of Predictions that a head can predict.
HEAD_FIELDS = ("masks", "keypoints")


class PredictionHead(nn.Module):
    """Base class of heads. A decoder has one head for each optional field of its predictions.

    A head has a state, which it can update in every layer.
    """

    def initial_state(self, memory: Memory) -> Any:
        """Return the state before the first layer.

        Args:
            memory: output of the encoder, projected to the width of the queries.
        """
        raise NotImplementedError

    def forward(self, index: int, queries: Tensor, boxes: Tensor | None, state: Any) -> tuple[Any, Any]:
        """Predict from the output of a layer and update the state.

        Args:
            index: index of the layer.
            queries: (B, Q, dim), output of the layer.
            boxes: (B, Q, 4) cxcywh, the boxes that the layer predicts; None if the layer predicts nothing.
            state: state before the layer.

        Returns:
            state for the next layer; and the predictions of this layer, with L = 1, or None without ``boxes``.
        """
        raise NotImplementedError

    def keep_layers(self, count: int) -> None:
        """Keep the parts that the first ``count`` layers need for inference."""
        raise NotImplementedError
