"""Recipes and saved configs can be read by programs that do not depend on this project."""

import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate

from deim.fallback import is_standalone
from tests.conftest import ROOT
from tests.models import recipe

RECIPES = sorted(ROOT.glob("projects/*/configs/*.py"))
# Number of training images by dataset in the recipe's name; COCO otherwise.
IMAGES = {"coco": 118_287, "shapes": 600, "voc": 11_540, "crowdhuman": 15_000, "objects365": 1_817_289}


def _load(path: Path):
    if path.parts[-3] in ("dino_deim", "dab_detr_deim") and is_standalone("detrex"):
        pytest.skip("needs the real detrex")
    return LazyConfig.load(str(path))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_define_max_iter_for_other_trainers(path: Path) -> None:
    cfg = _load(path)
    images = IMAGES.get(path.stem.rsplit("_", 1)[1], IMAGES["coco"])
    if path.stem.startswith("ecpose") and images == IMAGES["coco"]:
        images = 56_599  # images with persons that have labeled keypoints
    per_epoch = images // cfg.dataloader.train.total_batch_size
    assert cfg.train.max_iter == cfg.schedule.epochs * per_epoch
    assert cfg.train.eval_period == cfg.schedule.eval_epochs * per_epoch
    assert dict(cfg.train.checkpointer)["period"] == cfg.schedule.checkpoint_epochs * per_epoch
    assert cfg.train.model_ema.device == cfg.train.device
    assert instantiate(cfg.lr_multiplier)(1.0) > 0


@pytest.mark.parametrize("name", ["deim_dfine_n_shapes", "dn_deformable_detr_r18_shapes"])
def test_saved_config_resolves_without_importing_deim(name: str, tmp_path: Path) -> None:
    cfg = recipe(name)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists(), "detectron2 pickles what YAML cannot hold"
    code = (
        "import sys; from omegaconf import OmegaConf\n"
        "cfg = OmegaConf.load(sys.argv[1]); OmegaConf.to_container(cfg, resolve=True)\n"
        "assert 'deim' not in sys.modules; print(cfg.train.max_iter, cfg.model.encoder._target_)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.yaml")], capture_output=True, text=True, check=True
    )
    iterations, target = process.stdout.split()
    assert int(iterations) == cfg.train.max_iter
    assert target.endswith(".for_backbone")
    model = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    assert type(model.encoder).__name__ == target.split(".")[-2]
