"""The data loader with trainers, samplers and loaders of detectron2."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage

from deim.config import load_config
from deim.data import build_train_loader, coco_dataset
from deim.data.staged import StagedMapper
from deim.errors import ConfigError
from deim.fallback import is_standalone
from deim.schedule import Schedule, Stage
from tests.models import recipe


class Recorder(torch.nn.Module):
    """A model that records the ids and mean pixel values of its training images."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[list[tuple]] = []

    def forward(self, batch: list[dict]) -> dict:
        self.batches.append([(sample["image_id"], float(sample["image"].float().mean())) for sample in batch])
        return {"loss": self.weight * 0}


def records(shapes: Path) -> list[dict]:
    return coco_dataset(
        f"shapes_{shapes}", str(shapes / "annotations/instances_train.json"), str(shapes / "train"), filter_empty=False
    )


def mapper(**options) -> StagedMapper:
    """Return a mapper with two epochs each of the stages plain, dense and strong, then without augmentation."""
    schedule = Schedule(epochs=8, dense_epochs=(2, 4), no_aug_epochs=2, warmup_iters=0)
    loader = recipe("deim_dfine_n_shapes").dataloader.train.mapper
    from detectron2.config import instantiate

    return StagedMapper(schedule, (64, 64), mosaic=instantiate(loader.mosaic), mosaic_prob=1.0, **options)


def run(shapes: Path, start: int, stop: int, **options) -> list:
    """Train with detectron2's trainer, which does not depend on this project; return the recorded images."""
    loader = build_train_loader(records(shapes), mapper=mapper(), total_batch_size=4, num_workers=0, **options)
    model = Recorder()
    trainer = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(start, stop)
    return model.batches


@pytest.mark.parametrize("sampled", [False, True])
def test_detectron2_trainer_resumes_data_loader(shapes: Path, sampled: bool) -> None:
    """With six iterations per epoch, the second run starts in the middle of the third epoch, with mosaics."""
    indices = [int(i) for i in np.random.default_rng(0).integers(24, size=100)]
    options = {"sampler": indices} if sampled else {}
    uninterrupted = run(shapes, 0, 18, **options)
    assert run(shapes, 15, 18, **options) == uninterrupted[15:]
    assert len({image for batch in uninterrupted for image in batch}) > 40, "mosaics differ from single images"


def test_loader_starts_at_first_batch_outside_training_loop(shapes: Path) -> None:
    loader = build_train_loader(records(shapes), mapper=mapper(), total_batch_size=4, num_workers=0)
    first_ids = [sample["image_id"] for sample in next(iter(loader))]
    with EventStorage(start_iter=5):
        resumed_ids = [sample["image_id"] for sample in next(iter(loader))]
        loader.start_iter = 0
        assert [sample["image_id"] for sample in next(iter(loader))] == first_ids
    assert resumed_ids != first_ids


def test_sampler_selects_images(shapes: Path) -> None:
    """The batches consist of the images that the sampler selects, in its order."""
    loader = build_train_loader(
        records(shapes), mapper=mapper(), total_batch_size=4, num_workers=1, sampler=itertools.cycle([3, 5, 3, 7])
    )
    expected = [records(shapes)[i]["image_id"] for i in (3, 5, 3, 7)]
    assert [[sample["image_id"] for sample in batch] for batch in itertools.islice(loader, 2)] == [expected, expected]


def test_mapper_estimates_stage_without_iteration(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = records(shapes)
    staged = mapper(dataset=data, total_batch_size=4)
    stages: list[Stage] = []
    monkeypatch.setattr(staged, "stage_of", lambda epoch: stages.append(staged.schedule.stage(epoch)) or stages[-1])
    samples = [staged(record) for _ in range(8) for record in data]
    assert stages == [Stage.PLAIN] * 48 + [Stage.DENSE] * 48 + [Stage.STRONG] * 48 + [Stage.FINAL] * 48
    objects = [len(sample["instances"]) for sample in samples]
    assert sum(objects[48:96]) > 1.5 * sum(objects[:48]), "mosaics contain more objects"
    with EventStorage(start_iter=12):
        resumed = mapper(dataset=data, total_batch_size=4)
        resumed(data[0])
    assert resumed._external_loader.estimator.count_sample() == 12


def test_mapper_without_dataset_is_an_error(shapes: Path) -> None:
    with pytest.raises(ConfigError, match="pass dataset= and total_batch_size= to StagedMapper"):
        mapper()(records(shapes)[0])


def test_ignored_masks_are_logged(shapes: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = records(shapes)
    data[0]["annotations"][0]["segmentation"] = [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]
    with caplog.at_level("INFO", logger="detectron2.deim"):
        build_train_loader(data, mapper=mapper(), total_batch_size=4, num_workers=0)
    assert "have segmentation, which this loader does not read. To read them, set masks=True" in caplog.text


def test_loader_seed_equals_train_seed() -> None:
    cfg = load_config("deim_dfine/deim_dfine_n_shapes", ["train.seed=7"])
    assert cfg.dataloader.train.seed == 7
    assert load_config("deim_dfine/deim_dfine_n_shapes", ["dataloader.train.seed=3"]).dataloader.train.seed == 3


@pytest.mark.skipif(is_standalone("detectron2"), reason="needs the real detectron2")
def test_detectron2_loader(shapes: Path) -> None:
    from detectron2.data import build_detection_train_loader

    data = records(shapes)
    loader = build_detection_train_loader(
        data, mapper=mapper(dataset=data, total_batch_size=4), total_batch_size=4, num_workers=1
    )
    batches = list(itertools.islice(loader, 14))
    assert {tuple(sample["image"].shape) for batch in batches for sample in batch} == {(3, 64, 64)}


@pytest.mark.skipif(is_standalone("detectron2"), reason="needs the real detectron2")
def test_repeat_factor_sampling(shapes: Path) -> None:
    from detectron2.data.samplers import RepeatFactorTrainingSampler as Sampler

    data = records(shapes)
    factors = Sampler.repeat_factors_from_category_frequency(data, 1.0)
    loader = build_train_loader(
        data, mapper=mapper(), total_batch_size=4, num_workers=0, sampler=Sampler(factors, seed=0)
    )
    image_ids = [sample["image_id"] for batch in itertools.islice(loader, 60) for sample in batch]
    counts = np.array([image_ids.count(record["image_id"]) for record in data])
    assert np.corrcoef(counts, factors.numpy())[0, 1] > 0.3, "images of rare classes are used more often"
