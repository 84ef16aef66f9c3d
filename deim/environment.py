"""Settings of the process environment that must be made before torch is imported."""

import os

# OpenMP's threads spin while they wait for work. On a machine with another busy process, such as a worker of the data
# loader, they spin on cores that the work needs: training is up to fifteen times slower (docs/benchmarks.md).
_SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    # Operators that Apple's MPS lacks run on the CPU.
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
}


def prepare_environment() -> None:
    """Set the variables that torch and OpenMP read when they are loaded; a variable that the user has set is kept.

    Every entry point calls this before it imports torch. Later calls have no effect on the running process.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
