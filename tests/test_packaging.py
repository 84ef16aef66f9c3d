"""Contents of the wheel: the package, the bundled subset, the configs and the recipes."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import SMALL
from tests.conftest import ROOT


def test_wheel_is_complete(tmp_path: Path) -> None:
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
    # The wheel is built from the archive, as in a release, so that it lacks any file that the archive lacks.
    archive_file = tmp_path / archived.stdout.split()[-1]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, archive_file],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    editable = f"from setuptools import build_meta; print(build_meta.build_editable({str(tmp_path / 'editable')!r}))"
    editable_build = subprocess.run(
        [sys.executable, "-c", editable], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert editable_build.returncode == 0, editable_build.stderr
    (link,) = (tmp_path / "editable").glob("*.whl")
    with zipfile.ZipFile(link) as archive:
        links = [name for name in archive.namelist() if ".dist-info/" not in name]
        content = archive.read(links[0]).decode()
    # The install adds the folder to sys.path. A folder named deim in the current folder would shadow an import finder.
    assert (len(links), Path(content.strip())) == (1, source)
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
    assert "deim/py.typed" in names
    assert not [name for name in names if name.startswith(("benchmarks/", "tests/", "tools/"))]
    (points,) = (tmp_path / "installed").glob("*.dist-info/entry_points.txt")
    assert "deim = deim.cli:main" in points.read_text(encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()

    def deim(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "deim", *words],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # The subcommands that read files beside the package; tools/try_release.py runs all that a user needs.
    assert "deim_dfine/deim_dfine_x_coco " in deim("zoo")
    deim("make-shapes", "shapes", "--train-images", "8", "--val-images", "2", "--size", "96")
    few = [*SMALL, "train.max_iter=2", "train.eval_period=2", "train.device=cpu", "train.output_dir=run"]
    deim("train", "--config-file", "deim_dfine/deim_dfine_n_shapes", "--data", "shapes", *few)
    deim("predict", "run/model_final.pth", "shapes/val", "--output", "found", "--threshold", "0")
    assert len(list((empty / "found").rglob("*.jpg")) or list((empty / "found").rglob("*.png"))) == 2


@pytest.mark.parametrize("for_pypi", [False, True])
def test_packages_for_pypi_depend_on_no_addresses(tmp_path: Path, for_pypi: bool) -> None:
    (tmp_path / "deim").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "deim/__init__.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    environment = {**os.environ, "DEIM_FOR_PYPI": "1" if for_pypi else ""}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info"], cwd=tmp_path, env=environment, check=True, timeout=300
    )
    required = (tmp_path / "deim.egg-info/requires.txt").read_text(encoding="utf-8")
    assert ("git+https://" in required) is not for_pypi
    assert "[export]" in required
