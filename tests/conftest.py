"""Shared fixtures."""

import codecs
import locale
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

if not torch.cuda.is_available():
    # Run Triton's kernels in its interpreter; must be set before triton is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import deim  # noqa: F401 - imported first: makes the bundled detectron2 and detrex importable if they are missing
from deim.checkpoint import download
from deim.cores import available_cores
from deim.data.datasets.shapes import write_shapes
from tests.web import redirect

ROOT = Path(__file__).resolve().parents[1]

# `make test-all` runs the suite once in an ASCII locale.
needs_utf8 = pytest.mark.skipif(
    codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8",
    reason="needs a UTF-8 locale: its encoding applies to file names, and torch's compiler reads its own files in it",
)
# Parallel test workers share the cores, so each must use one thread. Processes started by tests inherit the setting:
# runs are bit-identical only with the same number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(ROOT))


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for ``-n auto``: one more than cores, since tests also wait for subprocesses."""
    return len(available_cores()) + 1


def long_except(always_run: Iterable, names: Iterable) -> list:
    """Return test parameters: those in ``always_run`` always run, the others only in ``make test-all``."""
    return [name if name in always_run else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """Refuse requests of this process to other hosts, made with ``requests``, as downloads of weights are.

    Tests of downloads use a server on loopback; see :mod:`tests.web`.
    """
    with redirect(0), mock.patch.object(download, "_RETRIES", 0):
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate a small ``deim_shapes`` dataset: 24 training and 6 validation images."""
    folder = tmp_path_factory.mktemp("data") / "deim_shapes"
    for _ in write_shapes(folder, train_images=24, val_images=6, size=96):
        pass
    return folder


@pytest.fixture(scope="session")
def annotated_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the images of ``shapes`` with masks and keypoints."""
    folder = tmp_path_factory.mktemp("data") / "deim_shapes"
    for _ in write_shapes(folder, train_images=24, val_images=6, size=96, masks=True, keypoints=True):
        pass
    return folder


@pytest.fixture
def several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run multi-process tests on the CPU if the machine has fewer than four GPUs."""
    if torch.cuda.device_count() < 4:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Set float64 as the default dtype for comparisons of gradients and of values after a ReLU, a sort or a top-k.

    In float32, rounding, which differs between CPUs, sometimes moves a value across zero or swaps two tokens with nearly
    equal scores. Gradients then differ in the fourth digit.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
