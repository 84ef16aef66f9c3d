"""Everything that does not need POSIX works without POSIX; the rest logs what it ignores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import train_arguments
from tests.conftest import ROOT

FOLDER = Path(__file__).parent
# Optional packages, which are not installed everywhere.
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
for module in pkgutil.walk_packages(deim.__path__, "deim."):
    if module.name.startswith("deim.standalone"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in {OPTIONAL}:
            raise
print("imported")
"""


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(FOLDER), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_simulation_hides_posix_names(tmp_path: Path) -> None:
    package = tmp_path / "deim"
    package.mkdir()
    (package / "__init__.py").write_text("import os, signal\nassert not hasattr(os, 'fork')\nassert hasattr(os, 'kill')\n"
        "assert not hasattr(signal, 'SIGUSR1')\nfrom signal import SIGTERM\nimport fcntl\n")  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), str(tmp_path)])}
    process = subprocess.run(
        [sys.executable, "-c", "import deim"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'fcntl'"), process.stderr


def test_all_modules_can_be_imported() -> None:
    process = run("-c", IMPORT_ALL)
    assert process.stdout == "imported\n", process.stderr


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train three steps with spawned workers; return the output folder and the log."""
    output = tmp_path_factory.mktemp("windows")
    settings = ["train.max_iter=3", "train.eval_period=3", "dataloader.train.num_workers=2",
                "dataloader.test.num_workers=1", "dataloader.train.image_cache_gb=0.1"]  # fmt: skip
    process = run("-m", "deim", "train", *train_arguments(shapes, output, *settings))
    assert process.returncode == 0, process.stderr[-3000:]
    return output, process.stdout + process.stderr


def test_training_logs_ignored_settings(trained: tuple[Path, str]) -> None:
    output, log = trained
    assert (output / "model_final.pth").is_file()
    assert "image_cache_gb is ignored" in log
    assert "copypaste: AP,AP50" in log


def test_predict(trained: tuple[Path, str], shapes: Path, tmp_path: Path) -> None:
    images = sorted((shapes / "val").iterdir())[:2]
    process = run("-m", "deim", "predict", str(trained[0] / "model_final.pth"), *map(str, images),
               "--output", str(tmp_path), "--threshold", "0")  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "wrote the detections of 2 images" in process.stdout


@pytest.mark.long
def test_export(trained: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    process = run("-m", "deim", "export", str(trained[0] / "model_final.pth"), "--output", str(tmp_path / "model.onnx"))
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "model.onnx").is_file()
