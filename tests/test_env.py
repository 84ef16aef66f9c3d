"""Choice between the installed and the bundled detectron2 and detrex, and the output of ``python -m deim.env``."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from deim import fallback
from deim.layers.ops import BACKENDS, native
from tests.conftest import ROOT

PRINT_ORIGIN = "import deim, detectron2; from deim import fallback; print(fallback.is_standalone('detectron2'), detectron2.__file__)"


def python(code: str, folder: Path, path: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path]))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_package_takes_precedence_over_the_subset(tmp_path: Path) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("__version__ = 'mine'\n")
    standalone, file = python(PRINT_ORIGIN, tmp_path, str(tmp_path)).split()
    assert standalone == "False"
    assert file.startswith(str(tmp_path))
    if "standalone" in python("import deim, detrex; print(detrex.__file__)", tmp_path):
        assert "True" in python(
            "import deim; from deim import fallback; print(fallback.is_standalone('detrex'))", tmp_path
        )


@pytest.mark.skipif(not fallback.is_standalone("detectron2"), reason="the real detectron2 is installed")
def test_checkout_in_the_current_folder_is_ignored(tmp_path: Path) -> None:
    """Python takes a folder without ``__init__.py`` for a namespace package."""
    (tmp_path / "detectron2" / "configs").mkdir(parents=True)
    assert "standalone" in python(PRINT_ORIGIN, tmp_path)


def test_env_command_prints_versions_and_backend() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deim.env"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    lines = dict(
        line.split(maxsplit=1) for line in done.stdout.replace("deformable attention", "attention").splitlines()
    )
    assert {"deim", "python", "torch", "detectron2", "detrex", "device", "attention"} <= set(lines)
    assert lines["attention"] in BACKENDS
    assert lines["normalization"] in ("c, in training", "torch")
    # Two lines start with "torch": its version, and the backend, which comes last.
    assert f"{'torch':22}{torch.__version__}\n" in done.stdout
    assert lines["torch"] == "can be used"


def test_torch_backend_is_used_without_a_compiler(tmp_path: Path) -> None:
    (tmp_path / "cc").write_text("#!/bin/sh\necho this compiler cannot >&2; exit 1\n")
    (tmp_path / "cc").chmod(0o755)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    for compiler, reason in (
        ("no-such-compiler", "no C compiler found: 'no-such-compiler' is not a command"),
        (str(tmp_path / "cc"), "failed: this compiler cannot\n"),
        (f"env {tmp_path / 'cc'}", "failed: this compiler cannot\n"),
    ):
        command = [sys.executable, "-m", "deim.env"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**environment, "CC": compiler}
        )
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("deformable attention")]
        assert line.split()[-1] == "torch"
        assert "normalization         torch" in done.stdout
        assert reason in done.stdout


def test_users_without_home_directory_compile_into_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert native._cache().parent == tmp_path
