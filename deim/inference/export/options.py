"""Options of an export."""

from collections.abc import Sequence
from dataclasses import dataclass

from deim.errors import ConfigError
from deim.inference.export.metadata import STRIDE
from deim.layers.ops import EXPORT_FORMS

# LayerNormalization is a single node since opset 17; torch's exporter starts at 18.
OPSETS = range(18, 24)
PRECISIONS = ("float32", "float16", "int8")
# Inputs and outputs of a file; see deim.inference.export.graph.
INTERFACES = ("deim", "official", "raw", "deepstream")


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        size: (height, width) of the images, multiples of 32; None for that of the recipe's test images.
        dynamic_batch: accept any batch size instead of only ``batch``.
        dynamic_size: accept any height and width that are multiples of 32.
        postprocess: see :class:`DetectionGraph`.
        attention: one of :data:`deim.layers.ops.EXPORT_FORMS`; None for the default of the format.
        opset: ONNX opset.
        batch: batch size, if it is fixed.
        precision: one of :data:`PRECISIONS`; see :mod:`deim.inference.export.float16` and
            :mod:`deim.inference.export.int8`.
        interface: one of :data:`INTERFACES`.
        include_normalization: whether the graph of the interfaces "official" and "raw" normalizes with mean and standard
            deviation, as those of "deim" and "deepstream" always do; otherwise the caller does, as for the official files.
    """

    size: tuple[int, int] | None = None
    dynamic_batch: bool = True
    dynamic_size: bool = False
    postprocess: bool = True
    attention: str | None = None
    opset: int = 18
    batch: int = 1
    precision: str = "float32"
    interface: str = "deim"
    include_normalization: bool = False

    def check(self) -> None:
        """Check the options.

        Raises:
            ConfigError: if an option is invalid.
        """
        if self.attention is not None and self.attention not in EXPORT_FORMS:
            raise ConfigError(f"attention={self.attention!r}; choose one of {', '.join(EXPORT_FORMS)}")
        if self.attention == "plugin" and self.precision == "int8":
            raise ConfigError("attention='plugin' is for TensorRT, but int8 for ONNX Runtime and OpenVINO: choose one")
        if self.opset not in OPSETS:
            raise ConfigError(f"opset={self.opset}; choose one from {OPSETS.start} to {OPSETS[-1]}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if self.batch < 1:
            raise ConfigError(f"batch={self.batch} must be at least 1")
        if self.size is not None and not is_supported(self.size):
            raise ConfigError(f"size={self.size[0]} x {self.size[1]}: height and width must be multiples of {STRIDE}")
        if self.interface not in INTERFACES:
            raise ConfigError(f"interface={self.interface!r}; choose one of {', '.join(INTERFACES)}")
        if self.interface != "deim" and not self.postprocess:
            raise ConfigError(f"--raw is an option of the interface deim, not of {self.interface}: omit one of them")
        if self.interface in ("deim", "deepstream") and self.include_normalization:
            raise ConfigError(
                f"the interface {self.interface} always normalizes in the graph: omit --include-normalization"
            )
        if self.interface == "deepstream":
            self._check_deepstream()

    def _check_deepstream(self) -> None:
        if self.dynamic_size:
            raise ConfigError("DeepStream resizes images to a fixed size: omit --dynamic-size")
        if self.precision == "int8":
            raise ConfigError("DeepStream calibrates int8 engines itself: export float32, and set network-mode=1")


def is_supported(size: Sequence[int]) -> bool:
    """Return whether a model accepts images of a (height, width)."""
    return all(side >= STRIDE and side % STRIDE == 0 for side in size)
