"""Our data loader, augmentation stages and backbones under models and training scripts of detectron2 and detrex."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.engine import SimpleTrainer

from deim.config import load_config
from deim.data import DetectionMapper, coco_dataset
from deim.data.augmentation import Resize
from deim.fallback import is_standalone
from deim.schedule import Stage
from tests.commands import RECIPE, data_overrides, metrics, script
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    is_standalone("detectron2") or is_standalone("detrex"), reason="needs the real detectron2 and detrex"
)

# This project's data loader, with mosaic and mixup from the first iteration. detectron2's configs also name it
# ``dataloader``.
OUR_CONFIG = """
from deim import model_zoo

_ours = model_zoo.get_config("deim_dfine/deim_dfine_n_shapes")
dataloader, schedule = _ours.dataloader, _ours.schedule
schedule.dense_epochs = [0, 8]
dataloader.image_size = [64, 64]
dataloader.train.mapper.mosaic_prob = 1.0
dataloader.train.mixup.prob = 1.0
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = dataloader.test.num_workers = 0
"""
RETINANET = """
from detectron2.config import LazyConfig
_theirs = LazyConfig.load("{detectron2}/configs/COCO-Detection/retinanet_R_50_FPN_1x.py")
model, optimizer, lr_multiplier, train = _theirs.model, _theirs.optimizer, _theirs.lr_multiplier, _theirs.train
model.num_classes = 6
dataloader.train.mapper.img_format = dataloader.test.mapper.img_format = "BGR"
"""
FASTER_RCNN = """
from detectron2.config import LazyConfig
model = LazyConfig.load("{detectron2}/configs/common/models/mask_rcnn_fpn.py").model
for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(_key)
_theirs = LazyConfig.load("{detectron2}/configs/COCO-Detection/retinanet_R_50_FPN_1x.py")
optimizer, lr_multiplier, train = _theirs.optimizer, _theirs.lr_multiplier, _theirs.train
model.roi_heads.num_classes = 6
dataloader.train.mapper.img_format = dataloader.test.mapper.img_format = "BGR"
"""
DINO = """
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from deim.config import get_detrex_config, with_deim_criterion
from deim.modeling.backbone import HGNetV2

_theirs = get_detrex_config("dino/configs/dino-resnet/dino_r50_4scale_12ep.py")
model, optimizer, lr_multiplier, train = _theirs.model, _theirs.optimizer, _theirs.lr_multiplier, _theirs.train
with_deim_criterion(model)  # DINO's own criterion needs a GPU, as do its denoising queries
model.num_classes, model.num_queries, model.dn_number, model.device = 6, 60, 0, "cpu"
model.backbone = L(HGNetV2)(name="B0", out_features=["stage2", "stage3", "stage4"])
model.neck.input_shapes = dict(
    stage2=ShapeSpec(channels=256), stage3=ShapeSpec(channels=512), stage4=ShapeSpec(channels=1024)
)
model.neck.in_features = ["stage2", "stage3", "stage4"]
model.pixel_mean, model.pixel_std = [0.0, 0.0, 0.0], [255.0, 255.0, 255.0]
train.model_ema.enabled = True
"""
SHORT_RUN = ["train.max_iter=3", "train.eval_period=3", "train.log_period=1", "train.checkpointer.period=3"]


def checkout(package: str) -> Path:
    return Path(__import__(package).__file__).parents[1]


def train(config_text: str, tool: list[str], shapes: Path, folder: Path) -> subprocess.CompletedProcess:
    """Train a model with this project's data loader.

    Args:
        config_text: text of the config, without the data loader.
        tool: the training script, or a wrapper followed by the training script.
        shapes: the dataset ``deim_shapes``.
        folder: folder for the config and the output.
    """
    path = Path(tool[-1])
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside its package")
    file = folder / "config.py"
    file.write_text(OUR_CONFIG + config_text.replace("{detectron2}", str(checkout("detectron2"))), encoding="utf-8")
    overrides = ["train.device=cpu", "train.init_checkpoint=''", f"train.output_dir={folder}/output"]
    return script(Path(tool[0]), *tool[1:], "--config-file", str(file), *overrides, *SHORT_RUN, *data_overrides(shapes))


@pytest.mark.parametrize("text", [RETINANET, FASTER_RCNN], ids=["retinanet", "faster_rcnn"])
def test_detectron2_script_trains_detectron2_models_with_dense_o2o(text: str, shapes: Path, tmp_path: Path) -> None:
    process = train(text, [str(checkout("detectron2") / "tools/lazyconfig_train_net.py")], shapes, tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    losses = metrics(tmp_path / "output")
    assert sorted(losses) == [0, 1, 2]
    assert all(np.isfinite(value) for value in losses.values())
    assert "bbox/AP" in (tmp_path / "output/metrics.json").read_text(encoding="utf-8")


def test_detrex_script_trains_dino_with_dense_o2o_and_our_backbone(shapes: Path, tmp_path: Path) -> None:
    tool = [str(ROOT / "tests/ecosystem/detrex_without_gpu.py"), str(checkout("detrex") / "tools/train_net.py")]
    process = train(DINO, tool, shapes, tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    losses = metrics(tmp_path / "output")
    assert sorted(losses) == [0, 1, 2]
    assert all(np.isfinite(value) for value in losses.values())
    assert "ema_state" in torch.load(tmp_path / "output/model_final.pth", weights_only=False)


def records(shapes: Path) -> list[dict]:
    return coco_dataset(
        f"shapes_{shapes}", str(shapes / "annotations/instances_train.json"), str(shapes / "train"), filter_empty=False
    )


AUGMENTATIONS = {
    "RandomRotation": lambda: T.RandomRotation([-30, 30]),
    "RandomCrop": lambda: T.RandomCrop("relative_range", (0.6, 0.6)),
    "RandomBrightness": lambda: T.RandomBrightness(0.5, 1.5),
    "RandomContrast": lambda: T.RandomContrast(0.5, 1.5),
    "RandomSaturation": lambda: T.RandomSaturation(0.5, 1.5),
    "RandomLighting": lambda: T.RandomLighting(25.0),
    "RandomExtent": lambda: T.RandomExtent((0.8, 1.2), (0.1, 0.1)),
    "ResizeShortestEdge": lambda: T.ResizeShortestEdge([48, 80], 100, "choice"),
    "ResizeScale": lambda: T.ResizeScale(0.5, 2.0, 64, 64),
    "FixedSizeCrop": lambda: T.FixedSizeCrop((64, 64)),
    "RandomApply": lambda: T.RandomApply(T.RandomRotation([-30, 30]), 0.9),
    "AugmentationList": lambda: T.AugmentationList([T.RandomFlip(prob=1.0), T.RandomRotation([-30, 30])]),
    "a transform": lambda: T.CropTransform(10, 10, 50, 50),
    "an argument of another name": lambda: Mirror(),
}


class Mirror(T.Augmentation):
    """Augmentation whose ``get_transform`` does not name its argument ``image``. detectron2 allows any name."""

    def get_transform(self, img: np.ndarray) -> T.Transform:
        return T.HFlipTransform(img.shape[1])


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_mapper_equals_detectron2_mapper(name: str, seed: int, shapes: Path) -> None:
    """Our mapper applies Resize lazily. An augmentation of detectron2 after Resize must receive the resized image."""
    from detectron2.data import DatasetMapper

    record, resize = records(shapes)[0], Resize((60, 90))
    augmentation = AUGMENTATIONS[name]()
    np.random.seed(seed)
    expected = DatasetMapper(True, augmentations=[resize, augmentation], image_format="RGB")(record)
    np.random.seed(seed)
    ours = DetectionMapper([resize, augmentation], is_train=True, min_box_size=1e-5)(record)
    assert torch.equal(ours["image"], expected["image"])
    boxes, expected_boxes = ours["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor
    torch.testing.assert_close(boxes, expected_boxes, rtol=0, atol=1e-4)
    assert torch.equal(ours["instances"].gt_classes, expected["instances"].gt_classes)


def test_mapper_accepts_albumentations(shapes: Path) -> None:
    """An albumentations pipeline in a color transform gives the same image as in detectron2's mapper."""
    albumentations = pytest.importorskip("albumentations")
    from detectron2.data import DatasetMapper

    pipeline = albumentations.Compose([albumentations.InvertImg(p=1.0)])

    class Colors(T.Augmentation):
        def get_transform(self, image: np.ndarray) -> T.Transform:
            return T.ColorTransform(lambda pixels: pipeline(image=pixels)["image"])

    record = records(shapes)[0]
    ours = DetectionMapper([Resize((60, 90)), Colors()], is_train=True)(record)
    expected = DatasetMapper(True, augmentations=[Resize((60, 90)), Colors()], image_format="RGB")(record)
    assert torch.equal(ours["image"], expected["image"])
    original = DetectionMapper([Resize((60, 90))], is_train=True)(record)
    assert torch.equal(ours["image"], 255 - original["image"])


@pytest.mark.parametrize("stage", list(Stage))
def test_stages_accept_detectron2_augmentations(stage: Stage, shapes: Path) -> None:
    cfg = load_config(RECIPE, [*data_overrides(shapes), "dataloader.image_size=[64,64]"])
    mapper = instantiate(cfg.dataloader.train.mapper)
    mapper.weak = [AUGMENTATIONS[name]() for name in ("RandomRotation", "RandomCrop", "RandomBrightness")]
    mapper.strong = [AUGMENTATIONS["RandomExtent"]()]
    mapper.mosaic_prob = 1.0
    data = records(shapes)
    for record in data[:6]:
        sample = mapper.mapper_for(stage, data)(record)
        assert tuple(sample["image"].shape) == (3, 64, 64)
        boxes = sample["instances"].gt_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()


def test_simple_trainer_trains_our_model(shapes: Path) -> None:
    cfg = load_config(
        RECIPE, [*data_overrides(shapes), "dataloader.train.num_workers=0", "dataloader.image_size=[64,64]"]
    )
    model = instantiate(cfg.model)
    initial = {name: value.clone() for name, value in model.named_parameters()}
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), torch.optim.SGD(model.parameters(), lr=0.01))
    trainer.train(0, 1)
    assert any(not torch.equal(value, initial[name]) for name, value in model.named_parameters())
