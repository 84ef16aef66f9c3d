"""What works where POSIX is missing: everything but what needs it, which says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import train_arguments
from tests.conftest import ROOT

HERE = Path(__file__).parent
# They need packages that are no requirement.
OPTIONAL = (
    "gradio",
    "submitit",
    "wandb",
    "triton",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
)

IMPORT_ALL = f"""
import importlib, pkgutil, deim
for found in pkgutil.walk_packages(deim.__path__, "deim."):
    if found.name.startswith("deim.standalone"):
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in {OPTIONAL}:
            raise
print("imported")
"""


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(HERE), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_stand_in_lacks_what_windows_lacks(tmp_path: Path) -> None:
    package = tmp_path / "deim"
    package.mkdir()
    (package / "__init__.py").write_text("import os, signal\nassert not hasattr(os, 'fork')\nassert hasattr(os, 'kill')\n"
        "assert not hasattr(signal, 'SIGUSR1')\nfrom signal import SIGTERM\nimport fcntl\n")  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", "import deim"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'fcntl'"), done.stderr


def test_every_module_can_be_imported() -> None:
    done = run("-c", IMPORT_ALL)
    assert done.stdout == "imported\n", done.stderr


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the log of three steps with spawned workers."""
    output = tmp_path_factory.mktemp("windows")
    settings = ["train.max_iter=3", "train.eval_period=3", "dataloader.train.num_workers=2",
                "dataloader.test.num_workers=1", "dataloader.train.image_cache_gb=0.1"]  # fmt: skip
    done = run("-m", "deim", "train", *train_arguments(shapes, output, *settings))
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout + done.stderr


def test_training_works_and_names_what_it_leaves_out(trained: tuple[Path, str]) -> None:
    output, log = trained
    assert (output / "model_final.pth").is_file()
    assert "image_cache_gb is ignored" in log
    assert "copypaste: AP,AP50" in log


def test_predicting_works(trained: tuple[Path, str], shapes: Path, tmp_path: Path) -> None:
    pictures = sorted((shapes / "val").iterdir())[:2]
    done = run("-m", "deim", "predict", str(trained[0] / "model_final.pth"), *map(str, pictures),
               "--output", str(tmp_path), "--threshold", "0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wrote images of 2" in done.stdout


@pytest.mark.long
def test_exporting_works(trained: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    done = run("-m", "deim", "export", str(trained[0] / "model_final.pth"), "--output", str(tmp_path / "model.onnx"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").is_file()
