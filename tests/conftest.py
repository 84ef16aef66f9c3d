"""Fixtures that several tests share."""

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
    # Triton's kernels run in its interpreter; it wants to know before it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.checkpoint import download
from deim.cores import available_cores
from deim.data.datasets.shapes import write_shapes
from tests.web import redirect

ROOT = Path(__file__).resolve().parents[1]

# In a locale of plain ASCII, as `make test-all` has it once.
needs_utf8 = pytest.mark.skipif(
    codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8",
    reason="torch's compiler reads its own files, and the system names of files, in the locale's encoding",
)
# Workers of a parallel test run share the cores; their thread pools would only fight each other. Processes that tests start
# inherit it: runs are equal to the bit only with the same number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(ROOT))


def pytest_xdist_auto_num_workers() -> int:
    """How many processes ``-n auto`` means: one more than cores, since tests also wait for processes of their own."""
    return len(available_cores()) + 1


def long_but_for(kept: Iterable, names: Iterable) -> list:
    """Parameters of which every change tries these, and ``make test-all`` all."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """Tests never ask the network. Those that download ask a server on loopback; see :mod:`tests.web`."""
    with redirect(0), mock.patch.object(download, "_RETRIES", 0):
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ``deim_shapes``: 24 training and 6 validation images."""
    folder = tmp_path_factory.mktemp("data") / "deim_shapes"
    for _ in write_shapes(folder, train_images=24, val_images=6, size=96):
        pass
    return folder


@pytest.fixture
def several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a test are on the CPU where there are fewer GPUs than the largest of them has processes."""
    if torch.cuda.device_count() < 4:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
