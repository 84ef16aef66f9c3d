"""An ONNX file as one of OpenVINO."""

from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.metadata import KEY, Metadata


def to_openvino(onnx_file: str | Path, path: str | Path, metadata: Metadata) -> None:
    """Write ``path`` (``.xml``) and its weights beside it (``.bin``), in float16 if the metadata say so, which
    halves the file; what OpenVINO computes in is its own choice, and on a CPU that of
    :class:`~deim.inference.exported.OpenVINOSession`.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ConfigError("this needs the package openvino: pip install openvino") from error
    model = openvino.convert_model(str(onnx_file))
    model.set_rt_info(metadata.to_json(), KEY)
    openvino.save_model(model, str(path), compress_to_fp16=metadata.dtype == "float16")
