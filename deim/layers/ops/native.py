"""Compilation of this package's C files on first use.

The library does not depend on the versions of torch or Python. It is built in about a second and stored in the user's
cache by an atomic rename, so that concurrent processes need no lock.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FLAGS = ("-O3", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden")
# By the CPU capability that torch reports. With -march=native, machines that share a home directory would load libraries
# built for another CPU.
INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
}
_TIMEOUT_SECONDS = 120


@functools.cache
def library(source: str) -> ctypes.CDLL | str:
    """Return the library of a C file in this folder, or the reason why it cannot be built."""
    if sys.platform == "win32":
        return "compiled kernels are supported only on Linux and macOS"
    file = Path(__file__).with_name(source)
    compiler = os.environ.get("CC") or "cc"
    # CC may contain arguments, such as "ccache gcc".
    command = [compiler] if shutil.which(compiler) else compiler.split()
    flags = (*FLAGS, *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ()))
    try:
        digest = hashlib.sha256(file.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
        path = _cache() / f"{file.stem}-{digest}.so"
        if not path.is_file():
            if not command or shutil.which(command[0]) is None:
                return f"no C compiler found: {compiler!r} is not a command; install a compiler, or set CC"
            _compile([*command, *flags, str(file), "-lm"], path)
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {''.join(error.stderr.strip().splitlines()[-1:])}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def unavailable_reason(source: str) -> str | None:
    """Return why the library of a C file cannot be used; None if it can."""
    loaded = library(source)
    return loaded if isinstance(loaded, str) else None


def call(source: str, function: str, tensors: Sequence[Tensor], *others: Any) -> None:
    """Call a C function with pointers to dense tensors, further arguments, and the number of threads as the last one.

    Raises:
        RuntimeError: if the library cannot be used; see :func:`unavailable_reason`.
    """
    loaded = library(source)
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(loaded, function)(*pointers, *others, ctypes.c_int(torch.get_num_threads()))


def _cache() -> Path:
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deim"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home directory
        return Path(tempfile.mkdtemp(prefix="deim-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="deim-"))


def _compile(command: list[str], out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        partial = Path(folder) / out.name
        subprocess.run(
            [*command, "-o", str(partial)], check=True, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
        partial.replace(out)
