"""Conversion of ONNX files to OpenVINO."""

from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.metadata import METADATA_KEY, Metadata


def to_openvino(onnx_file: str | Path, path: str | Path, metadata: Metadata) -> None:
    """Write ``path`` (``.xml``) and its weights (``.bin``).

    If the metadata's dtype is float16, weights are stored in float16, which halves the file. The file does not
    fix the dtype of the computation: :class:`~deim.inference.exported_runner.OpenVINOSession` uses float32 on a CPU,
    and OpenVINO's default on other devices.

    Raises:
        ConfigError: if OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ConfigError("export to OpenVINO requires the package openvino: pip install 'deim[openvino]'") from error
    model = openvino.convert_model(str(onnx_file))
    model.set_rt_info(metadata.to_json(), METADATA_KEY)
    openvino.save_model(model, str(path), compress_to_fp16=metadata.dtype == "float16")
