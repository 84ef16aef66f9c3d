"""Mask head: masks from the encoder's finest map."""

from torch import Tensor, nn

from deim.modeling.decoder.heads import PredictionHead
from deim.structures.masks import MaskPredictions
from deim.structures.memory import Memory


class PixelBlock(nn.Module):
    """Residual block on the map of pixel embeddings: depthwise convolution, normalization, pointwise layer (ConvNeXt
    without its expansion)."""

    def __init__(self, dim: int):
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pointwise = nn.Linear(dim, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, dim, h, w) to the same shape."""
        update = self.norm(self.depthwise(pixels).permute(0, 2, 3, 1))
        return pixels + nn.functional.gelu(self.pointwise(update)).permute(0, 3, 1, 2)


class QueryBlock(nn.Module):
    """Residual two-layer network on the queries."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)

    def forward(self, queries: Tensor) -> Tensor:
        """Map (..., dim) to the same shape."""
        return queries + self.linear2(nn.functional.gelu(self.linear1(self.norm(queries))))


class MaskHead(PredictionHead):
    """Masks from the encoder's finest map (RF-DETR; EdgeCrafter, arXiv 2603.18739).

    The map is upsampled and refined by one :class:`PixelBlock` per decoder layer. A mask is the dot product of a pixel's
    and a query's projected embeddings. The projection of the pixels is applied to the queries instead, by its
    transpose: a layer has thousands of pixels, but only hundreds of queries.

    Args:
        dim: width of the queries and of the map.
        num_layers: number of decoder layers.
        upsampling: size of the masks relative to the finest map.
        inference_blocks: number of pixel blocks that inference applies; None for the blocks of all layers, as in
            training.
    """

    def __init__(self, dim: int, num_layers: int, upsampling: int = 2, inference_blocks: int | None = None):
        super().__init__()
        self.upsampling, self.inference_blocks = upsampling, inference_blocks
        self.pixel_blocks = nn.ModuleList(PixelBlock(dim) for _ in range(num_layers))
        self.pixel_proj = nn.Conv2d(dim, dim, kernel_size=1)
        self.query_block = QueryBlock(dim)
        self.query_proj = nn.Linear(dim, dim)
        self.bias = nn.Parameter(self.query_proj.weight.new_zeros(1))

    def initial_state(self, memory: Memory) -> Tensor:
        """Return the upsampled finest map, (B, dim, h, w)."""
        return nn.functional.interpolate(
            memory.finest_map, scale_factor=float(self.upsampling), mode="bilinear", align_corners=False
        )

    def forward(
        self, index: int, queries: Tensor, boxes: Tensor | None, state: Tensor
    ) -> tuple[Tensor, MaskPredictions | None]:
        """Refine the map, which is the state, and predict masks; see :class:`PredictionHead`."""
        if self.training or self.inference_blocks is None or index < self.inference_blocks:
            state = self.pixel_blocks[index](state)
        if boxes is None:
            return state, None
        embeddings = self.query_proj(self.query_block(queries))
        offsets = (embeddings * self.pixel_proj.bias).sum(dim=-1) + self.bias
        embeddings = embeddings @ self.pixel_proj.weight.flatten(1)
        return state, MaskPredictions(embeddings[None], offsets[None], [state])

    def keep_layers(self, count: int) -> None:
        self.pixel_blocks = self.pixel_blocks[:count]
