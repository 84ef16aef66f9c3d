"""Configuration of DeepStream's ``nvinfer`` with the parser of DeepStream-Yolo."""

from pathlib import Path
from typing import Any

from deim.inference.export.formats import exporter_of
from deim.inference.export.servers.file import FileDescription
from deim.inference.export.servers.server import Server, write_labels

CONFIG_FILE = "config_infer_primary.txt"
# Folder of DeepStream-Yolo with the library of the parser.
_LIBRARY = "nvdsinfer_custom_impl_Yolo"
# network-mode and name of engines per dtype of a file.
_MODES = {"float32": (0, "fp32"), "float16": (2, "fp16")}
# Default of deim predict.
_THRESHOLD = 0.4


class DeepStream(Server):
    """DeepStream with the library of DeepStream-Yolo: ``model.onnx``, ``labels.txt`` and ``config_infer_primary.txt``."""

    interfaces = ("deepstream",)
    onnx_file = "model.onnx"
    # nvinfer builds a TensorRT engine.
    attention = exporter_of(".engine").support.attention[0]

    def write(self, folder: Path, file: FileDescription) -> list[str]:
        write_labels(folder, file.metadata.class_names)
        (folder / CONFIG_FILE).write_text(nvinfer_config(file), encoding="utf-8")
        return [
            f"wrote {folder / CONFIG_FILE}; put the folder {_LIBRARY} of DeepStream-Yolo beside it, compile it with make, "
            f"and set config-file={CONFIG_FILE} in the application's [primary-gie]"
        ]


def nvinfer_config(file: FileDescription) -> str:
    """Return the configuration of ``nvinfer`` for a file of the interface "deepstream"."""
    batch = file.batch or 1
    mode, precision = _MODES[file.metadata.dtype]
    keys = {
        "gpu-id": 0,
        "onnx-file": DeepStream.onnx_file,
        "model-engine-file": f"model_b{batch}_gpu0_{precision}.engine",
        "labelfile-path": "labels.txt",
        "batch-size": batch,
        "network-mode": mode,
        "num-detected-classes": len(file.metadata.class_names),
        "gie-unique-id": 1,
        # the whole frame, a detector
        "process-mode": 1,
        "network-type": 0,
        # RGB in [0, 1], resized without padding
        "net-scale-factor": repr(1 / 255),
        "model-color-format": 0,
        "maintain-aspect-ratio": 0,
        # no suppression of overlapping boxes
        "cluster-mode": 4,
        "parse-bbox-func-name": "NvDsInferParseYolo",
        "custom-lib-path": f"{_LIBRARY}/lib{_LIBRARY}.so",
        "engine-create-func-name": "NvDsInferYoloCudaEngineGet",
    }
    classes = {"pre-cluster-threshold": _THRESHOLD, "topk": file.outputs[0].shape[1]}
    sections: dict[str, dict[str, Any]] = {"property": keys, "class-attrs-all": classes}
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in entries.items())
        for section, entries in sections.items()
    )
