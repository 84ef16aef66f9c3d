"""An ONNX file whose convolutions are computed in 8-bit integers."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deim.errors import ConfigError
from deim.inference.export.graph import INPUT


class _Feed:
    """Batches, one at a time, as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterable[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def to_int8(path: str | Path, batches: Iterable[np.ndarray]) -> None:
    """Rewrite an ONNX file with its convolutions quantized (QDQ), in place; all else stays in float32: attention and the
    heads are small, and coarse numbers there move boxes.

    Args:
        batches: uint8 (B, 3, H, W) pictures, from which the range of every value is taken.

    Raises:
        ConfigError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ConfigError(f"int8 needs the package {error.name}: pip install '.[export]'") from error
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "int8.onnx")
        quantize_static(
            str(path),
            str(written),
            _Feed(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        Path(path).write_bytes(written.read_bytes())
