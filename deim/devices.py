"""Choice of the device and of the precision. No other module decides them."""

import torch

from deim.errors import ConfigError

# Name in configs -> dtype for mixed precision.
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device for a name.

    Args:
        name: such as "cuda:1", "mps" or "cpu"; "auto" selects CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: if the device is not available.
    """
    if name == "auto":
        return torch.device(_best_device_type())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ConfigError(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


def training_device(name: str) -> torch.device:
    """Return the device for ``train.device``.

    Recipes request CUDA. If CUDA is not available, a CUDA device is treated as "auto".

    Raises:
        ConfigError: if the device is not available.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        name = "auto"
    return choose_device(name)


def supports_float64(device: torch.device) -> bool:
    """Return True if a device supports float64; Apple's MPS does not."""
    return device.type != "mps"


def amp_unsupported_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason why mixed precision in ``dtype`` is not useful on a device, or None if it is.

    A CPU without instructions for a dtype emulates it: training in bfloat16 is then more than ten times slower than in
    float32.
    """
    if device.type == "cpu":
        return None if _cpu_supports(dtype) else f"this CPU has no instructions for {_dtype_name(dtype)}"
    if device.type == "cuda":
        is_supported = dtype != torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)
        return None if is_supported else "this GPU does not support bfloat16"
    return f"mixed precision is supported on CUDA and the CPU, not on {device.type}"


def _best_device_type() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cpu_supports(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        # The check of torch.ops.mkldnn also accepts CPUs that emulate bfloat16 by AVX-512.
        checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
        return any(check is not None and check() for check in checks)
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported())


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
