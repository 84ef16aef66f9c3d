"""Which device to compute on, and in which precision: the only place that decides it."""

import torch

from deim.errors import ConfigError

# Types of mixed precision, by their names in configs.
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device of a name.

    Args:
        name: such as "cuda:1", "mps" or "cpu"; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name == "auto":
        return torch.device(_best_type())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ConfigError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device


def device_for_training(name: str) -> torch.device:
    """Return the device of ``train.device``: recipes ask for CUDA, and take what there is where CUDA is missing.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        name = "auto"
    return choose_device(name)


def supports_float64(device: torch.device) -> bool:
    """Return whether a device has double precision; Apple's MPS has not."""
    return device.type != "mps"


def reason_against(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why mixed precision in ``dtype`` does not pay on a device; None if it does.

    A processor without instructions for a type emulates it: training in bfloat16 is then more than ten times slower
    than in float32.
    """
    if device.type == "cpu":
        return None if _cpu_computes(dtype) else f"this processor has no instructions for {_name(dtype)}"
    if device.type == "cuda":
        computes = dtype != torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)
        return None if computes else "this GPU has no bfloat16"
    return f"mixed precision is for CUDA and the CPU, not {device.type}"


def _best_type() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cpu_computes(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        # Not in torch.ops.mkldnn: that counts processors that emulate it by AVX-512.
        checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
        return any(check is not None and check() for check in checks)
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
