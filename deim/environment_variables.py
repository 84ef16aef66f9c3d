"""Environment variables that must be set before torch is imported."""

import os

_DEFAULTS = {
    # Waiting threads of GNU OpenMP spin, by default 300,000 times. If another process is busy, they occupy cores that
    # have work to do. A lower limit has no measurable cost on an idle machine and a large gain on a busy one
    # (docs/benchmarks.md).
    "GOMP_SPINCOUNT": "10000",
    # Operators that Apple's MPS does not implement run on the CPU.
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
}


def prepare_environment() -> None:
    """Set the environment variables that torch and OpenMP read at import; variables set by the user are kept.

    Every entry point calls this before it imports torch. Later calls have no effect on the running process.
    """
    for name, value in _DEFAULTS.items():
        if name == "GOMP_SPINCOUNT" and "OMP_WAIT_POLICY" in os.environ:
            continue  # the user has set the standard OpenMP variable for the same purpose
        os.environ.setdefault(name, value)
