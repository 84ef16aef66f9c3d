"""Command-line tools and short training runs in separate processes."""

import io
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

RECIPE = "projects/deim_dfine/configs/deim_dfine_n_shapes.py"
# {task: small recipe}
TASKS = {
    "boxes": RECIPE,
    "masks": "projects/deimv2/configs/deimv2_hgnetv2_atto_masks_shapes.py",
    "keypoints": "projects/deimv2/configs/deimv2_hgnetv2_atto_keypoints_shapes.py",
    "poses": "projects/ecpose/configs/ecpose_s_shapes.py",
}
# With larger constants, the AP of keypoints is not 0 after a few iterations.
_SIGMAS = "dataloader.evaluator.kpt_oks_sigmas=[0.3,0.3,0.3,0.3,0.3]"
TASK_SETTINGS: dict[str, list[str]] = {"boxes": [], "masks": [], "keypoints": [_SIGMAS], "poses": [f"+{_SIGMAS}"]}
SMALL = [
    "model.decoder.queries.num_queries=20",
    "dataloader.image_size=[64,64]",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.log_period=1",
]


def data_overrides(shapes: Path) -> list[str]:
    overrides = []
    for key, split in (("train", "train"), ("test", "val")):
        node = f"dataloader.{key}.dataset"
        overrides.append(f"{node}.json_file={shapes}/annotations/instances_{split}.json")
        overrides.append(f"{node}.image_root={shapes}/{split}")
    return overrides


def tool(name: str, *arguments: str, launcher: tuple[str, ...] = (), cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a script of ``tools`` in a separate process.

    The process is forked from one that has already imported torch and deim, since the imports take half of the time of
    a short run. With a ``launcher``, a new interpreter is started.
    """
    if launcher:
        command = [sys.executable, *launcher, str(ROOT / "tools" / name), *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT)
    return _forked(cwd, str(ROOT / "tools" / name), *arguments)


def script(path: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a script of another project as :func:`tool` runs ours."""
    return _forked(cwd, str(path), *arguments)


_TIMEOUT = 600
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.preloaded"])


def _forked(cwd: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _FORKING.Process(target=_run_script, args=(cwd, script, arguments, dict(os.environ), paths))
        process.start()
        process.join(_TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(script, _TIMEOUT)
        out, err = (path.read_text(encoding="utf-8") if path.is_file() else "" for path in paths)
        return subprocess.CompletedProcess([script, *arguments], process.exitcode, out, err)


def _run_script(
    cwd: Path, script: str, arguments: tuple[str, ...], environment: dict[str, str], outputs: list[Path]
) -> None:
    """Run a script in the forked process."""
    for stream, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    sys.stdin = io.StringIO()
    multiprocessing.set_start_method(None, force=True)  # workers start as in a normal run
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def train_arguments(shapes: Path, output: Path, *arguments: str, config: str = RECIPE) -> list[str]:
    """Return the arguments of ``tools/train_net.py`` for a short run."""
    flags = [a for a in arguments if a.startswith("--")]
    values = [a for a in arguments if not a.startswith("--")]
    return [
        "--config-file",
        config,
        *flags,
        *SMALL,
        *data_overrides(shapes),
        f"train.output_dir={output}",
        *values,
    ]


def train_net(
    shapes: Path, output: Path, *arguments: str, config: str = RECIPE, **options
) -> subprocess.CompletedProcess:
    return tool("train_net.py", *train_arguments(shapes, output, *arguments, config=config), **options)


def metrics(output: Path, name: str = "total_loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.json").read_text(encoding="utf-8").splitlines()]
    return {line["iteration"]: line[name] for line in lines if name in line}
