"""Settings of the process environment that must be made before torch is imported."""

import os

_SETTINGS = {
    # Threads of GNU OpenMP spin while they wait for work, by default 300,000 times. Beside another busy process they
    # spin on cores that the work needs. Fewer turns cost an idle machine nothing that can be measured, and a busy one
    # far less (docs/benchmarks.md).
    "GOMP_SPINCOUNT": "10000",
    # Operators that Apple's MPS lacks run on the CPU.
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
}


def prepare_environment() -> None:
    """Set the variables that torch and OpenMP read when they are loaded; a variable that the user has set is kept.

    Every entry point calls this before it imports torch. Later calls have no effect on the running process.
    """
    for name, value in _SETTINGS.items():
        if name == "GOMP_SPINCOUNT" and "OMP_WAIT_POLICY" in os.environ:
            continue  # which says the same in the standard's words
        os.environ.setdefault(name, value)
