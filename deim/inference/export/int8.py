"""Quantization of the convolutions in ONNX files to int8."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deim.errors import ConfigError
from deim.inference.export.graph import INPUT_NAME


class _CalibrationReader:
    """Calibration data reader: batches one at a time, in ONNX Runtime's interface."""

    def __init__(self, batches: Iterable[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT_NAME: batch}


def to_int8(path: str | Path, batches: Iterable[np.ndarray]) -> None:
    """Quantize the convolutions of an ONNX file (QDQ), in place.

    Everything else stays in float32: attention and heads are small, and quantizing them shifts boxes.

    Args:
        batches: uint8 (B, 3, H, W) calibration images, which determine the range of every value.

    Raises:
        ConfigError: if ONNX Runtime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ConfigError(f"int8 requires the package {error.name}: pip install 'deim[export]'") from error
    with tempfile.TemporaryDirectory() as folder:
        quantized = Path(folder, "int8.onnx")
        quantize_static(
            str(path),
            str(quantized),
            _CalibrationReader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        Path(path).write_bytes(quantized.read_bytes())
