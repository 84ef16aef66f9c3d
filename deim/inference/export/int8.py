"""Quantization of the convolutions in ONNX files to int8."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deim.errors import ConfigError


class _CalibrationReader:
    """Calibration data reader: batches one at a time, in ONNX Runtime's interface."""

    def __init__(self, batches: Iterable[dict[str, np.ndarray]]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def to_int8(path: str | Path, batches: Iterable[dict[str, np.ndarray]]) -> None:
    """Quantize the convolutions of an ONNX file (QDQ), in place.

    Everything else stays in float32: attention and heads are small, and quantizing them shifts boxes.

    Args:
        batches: inputs of the file by name, made from calibration images, which determine the range of every value.

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
