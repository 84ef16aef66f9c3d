"""This project's tools with detrex's data loader."""

from pathlib import Path

import pytest

from deim.fallback import is_standalone
from tests.commands import tool
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(is_standalone("detrex"), reason="needs the real detrex")

CONFIG = """
from detectron2.config import LazyConfig
from detrex.config import get_config

from deim.data import register_coco

for split in ("train", "val"):
    register_coco(f"loader_{{split}}", f"{shapes}/annotations/instances_{{split}}.json", f"{shapes}/{{split}}")

_recipe = LazyConfig.load("{recipe}")
model, optimizer, train = _recipe.model, _recipe.optimizer, _recipe.train
dataloader = get_config("common/data/coco_detr.py").dataloader
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_12ep

dataloader.train.dataset.names = "loader_train"
dataloader.test.dataset.names = "loader_val"
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = dataloader.test.num_workers = 0
for _mapper in (dataloader.train.mapper, dataloader.test.mapper):
    _mapper.augmentation_with_crop = None
    _mapper.augmentation[-1].short_edge_length = 96
train.max_iter, train.eval_period, train.checkpointer.period = 2, 10, 10
train.output_dir = "{output}"
"""


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a config file and the output folder of its run."""
    folder = tmp_path_factory.mktemp("detrex_loader")
    recipe = ROOT / "projects/deim_dfine/configs/deim_dfine_n_shapes.py"
    config = folder / "config.py"
    config.write_text(CONFIG.format(shapes=shapes, recipe=recipe, output=folder / "run"), encoding="utf-8")
    process = tool("train_net.py", "--config-file", str(config))
    assert process.returncode == 0, process.stderr
    return config, folder / "run"


def test_view_data_draws_batches(run: tuple[Path, Path], tmp_path: Path) -> None:
    process = tool("visualize_data.py", "--config-file", str(run[0]), "--output", str(tmp_path / "batch.png"))
    assert process.returncode == 0, process.stderr
    assert "the first batch; 2 images" in process.stdout
    assert (tmp_path / "batch.png").stat().st_size > 1000


def test_view_data_rejects_epochs(run: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ("--config-file", str(run[0]), "--output", str(tmp_path / "batch.png"), "--epoch", "3")
    process = tool("visualize_data.py", *arguments)
    assert process.returncode == 2
    assert "does not define epochs; use --epoch 0" in process.stderr
    assert "Traceback" not in process.stderr


def test_draw_predictions(run: tuple[Path, Path], tmp_path: Path) -> None:
    weights = f"train.init_checkpoint={run[1] / 'model_final.pth'}"
    process = tool(
        "draw_predictions.py", "--config-file", str(run[0]), "--output", str(tmp_path / "detections.png"), weights
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "detections.png").stat().st_size > 1000


def test_report_with_config_that_registers_datasets(run: tuple[Path, Path]) -> None:
    process = tool("report.py", str(run[1]))
    assert process.returncode == 2
    assert "names the dataset 'loader_val', which is not registered with detectron2" in process.stderr
    process = tool("report.py", str(run[1]), "--config-file", str(run[0]))
    assert process.returncode == 0, process.stderr
    assert "run: evaluation report" in (run[1] / "report.html").read_text(encoding="utf-8")


def test_check_data(run: tuple[Path, Path], tmp_path: Path) -> None:
    process = tool("check_dataset.py", "--config-file", str(run[0]), "--output", str(tmp_path))
    assert process.returncode == 0, process.stderr
    assert "loader_train" in process.stdout
