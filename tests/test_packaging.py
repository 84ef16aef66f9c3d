"""The wheel holds the package, the bundled subset, the configs and the recipes."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    # A copy: building leaves files beside setup.py.
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    source = tmp_path / "source"
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    archived = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=300)
    assert archived.returncode == 0, archived.stderr
    # From the archive, as a release is: what it lacks the wheel lacks.
    archive_file = tmp_path / archived.stdout.split()[-1]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, archive_file],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {name for name in files if name.startswith("deim/") and (ROOT / name).is_file()} <= names
    assert {
        "deim/standalone/detectron2/engine/train_loop.py",
        "deim/standalone/detrex/modeling/ema.py",
        "deim/configs/common/train.py",
        "deim/projects/deim_dfine/configs/deim_dfine_s_coco.py",
        "deim/projects/deim_dfine/README.md",
    } <= names
    code = "from deim import model_zoo; print(model_zoo.get_config('deim_dfine/deim_dfine_x_coco').model.backbone.name)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "B5", run.stderr
