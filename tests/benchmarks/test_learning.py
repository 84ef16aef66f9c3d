"""AP over training time: the clock, the settings of both codes and the tables."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import learning, learning_runs
from benchmarks.learning_runs import Code, DeimCode, OfficialCode, Point, Settings, TrainingClock
from deim.config import build, load_config
from deim.errors import ConfigError, DeimError
from deim.schedule import Stage

SETTINGS = Settings(
    recipe="deim_dfine/deim_dfine_n_coco",
    data="",
    image_root="",
    size=256,
    epochs=12,
    final_epochs=2,
    dense_epochs=(3, 6),
    batch_size=8,
    learning_rate=1e-3,
    backbone_rate=5e-4,
    warmup_iters=50,
    ema_decay=0.98,
    ema_warmup=70,
    workers=1,
)

# A program that "trains" for two epochs and writes the given scores.
PROGRAM = """
import json, sys
print("start")
for score in json.loads(sys.argv[1]):
    print("testing")
    print("testing again")
    print("tested")
    with open(sys.argv[2], "a") as file:
        print(score, file=file)
sys.exit(int(sys.argv[3]))
"""


class Script(Code):
    """The program above as a code to train."""

    name, started, evaluating, evaluated = "script", "^start", "^testing", "^tested"

    def __init__(self, scores: list[float], status: int = 0):
        self.written, self.status = scores, status

    def prepare(self, settings: Settings, start: Path, folder: Path, seed: int) -> list[str]:
        folder.mkdir()
        return [sys.executable, "-c", PROGRAM, json.dumps(self.written), str(folder / "scores"), str(self.status)]

    def environment(self) -> dict[str, str]:
        return {}

    def scores(self, folder: Path) -> list[float]:
        return [float(line) for line in (folder / "scores").read_text(encoding="utf-8").split()]

    def best_checkpoint(self, folder: Path) -> Path:
        return folder / "scores"


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        (
            DeimCode(),
            [
                "[11/30 16:00:00 d2.engine.train_loop]: Starting training from iteration 0",
                "[11/30 16:00:00 d2.evaluation.evaluator]: Start inference on 5 batches",
                "[11/30 16:00:00 d2.evaluation.testing]: copypaste: Task: bbox",
                "[11/30 16:00:00 d2.evaluation.testing]: copypaste: AP,AP50,AP75,APs,APm,APl",
                "[11/30 16:00:00 d2.evaluation.testing]: copypaste: 64.9163,84.1520,77.6670,60.3145,75.8327,nan",
            ],
        ),
        (
            OfficialCode("DEIM", "python"),
            [
                "------------------------------------------Start training-------------------------------------------",
                "Test:  [0/9]  eta: 0:00:13  time: 1.4529",
                "Test:  [8/9]  eta: 0:00:01  time: 1.4529",
                "Accumulating evaluation results...",
                "best_stat: {'epoch': 0, 'coco_eval_bbox': 0.5}",
            ],
        ),
    ],
    ids=["deim", "official"],
)
def test_clock_stands_still_during_evaluations(code: Code, lines: list[str]) -> None:
    start, *evaluation = lines
    output = ["imports", start, "step 1", *evaluation, "step 2", *evaluation]
    seconds = iter(range(0, 1000, 10))
    clock = TrainingClock(code, lambda: next(seconds))
    clock.read(output)
    # The clock is asked at the start, and at the start and the end of each evaluation.
    assert clock.evaluations == [10, 20]


def test_settings_are_those_of_this_projects_config(shapes: Path) -> None:
    settings = replace(SETTINGS, data=str(shapes / "annotations"))
    config = load_config(settings.recipe, [f"{k}={v}" for k, v in learning_runs.our_settings(settings).items()])
    schedule = build(config, "schedule")
    dense = [epoch for epoch in range(12) if schedule.stage(epoch) is Stage.DENSE]
    assert dense == [3, 4, 5]
    assert schedule.final_epoch == 10
    # The rates are constant after the warm-up.
    assert {schedule.learning_rate(iteration, 600) for iteration in range(50, 600)} == {1.0}
    assert (config.optimizer.lr, config.optimizer.params.rules.backbone.lr) == (1e-3, 5e-4)
    assert (config.train.model_ema.decay, config.train.model_ema.warmup_iters) == (0.98, 70)
    assert list(config.dataloader.image_size) == [256, 256]
    assert config.dataloader.train.mapper.mosaic.tile_size == 128


def test_settings_of_the_official_config(shapes: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, data=str(shapes / "annotations"), image_root=str(shapes))
    official = learning_runs.official_settings(settings, tmp_path)
    loader = official["train_dataloader"]
    # Dense O2O starts, it ends, and the final epochs start.
    assert loader["dataset"]["transforms"]["policy"]["epoch"] == [3, 6, 10]
    assert loader["collate_fn"]["mixup_epochs"] == [3, 6]
    assert loader["collate_fn"]["stop_epoch"] == 10
    assert official["epoches"] == 12
    assert official["num_classes"] == 6
    assert official["optimizer"]["lr"] == 1e-3
    assert [group.get("lr") for group in official["optimizer"]["params"]] == [5e-4, 5e-4, None]
    assert official["ema"] == {"decay": 0.98, "warmups": 70}


def test_official_class_ids_count_from_zero(tmp_path: Path) -> None:
    content = {
        "images": [],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [{"category_id": 7}, {"category_id": 3}],
    }
    (tmp_path / "ids.json").write_text(json.dumps(content), encoding="utf-8")
    learning_runs.write_zero_based(tmp_path / "ids.json", tmp_path / "zero.json")
    written = json.loads((tmp_path / "zero.json").read_text(encoding="utf-8"))
    assert written["categories"] == [{"id": 1, "name": "b"}, {"id": 0, "name": "a"}]
    assert [annotation["category_id"] for annotation in written["annotations"]] == [1, 0]


def test_runs_start_from_random_or_given_weights(shapes: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, data=str(shapes / "annotations"))
    starts = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        learning_runs.write_start(settings, seed, tmp_path / f"{name}.pth")
        starts[name] = torch.load(tmp_path / f"{name}.pth", weights_only=True)["model"]
    key = next(name for name, value in starts["first"].items() if value.dim() == 4)
    assert torch.equal(starts["first"][key], starts["again"][key])
    assert not torch.equal(starts["first"][key], starts["other"][key])
    given = replace(settings, initial_weights=str(tmp_path / "other.pth"))
    learning_runs.write_start(given, 0, tmp_path / "given.pth")
    loaded = torch.load(tmp_path / "given.pth", weights_only=True)["model"]
    assert all(torch.equal(loaded[name], value) for name, value in starts["other"].items())


def test_a_program_is_trained(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=2)
    points = learning_runs.train(Script([10.0, 20.0]), settings, tmp_path, tmp_path / "run", 0)
    assert [(point.epoch, point.ap) for point in points] == [(1, 10.0), (2, 20.0)]
    assert 0 <= points[0].seconds <= points[1].seconds


def test_interrupted_run_starts_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores").write_text("5.0\n", encoding="utf-8")
    points = learning_runs.train(Script([10.0, 20.0]), replace(SETTINGS, epochs=2), tmp_path, tmp_path / "run", 0)
    assert [point.ap for point in points] == [10.0, 20.0]


def test_failure_of_a_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeimError, match=r"(?s)failed with status 3; the last lines of .*run\.log:\nstart\ntesting"):
        learning_runs.train(Script([10.0], status=3), SETTINGS, tmp_path, tmp_path / "run", 0)
    with pytest.raises(DeimError, match="expected 12 evaluations, found 1 in the output and 1 results"):
        learning_runs.train(Script([10.0]), SETTINGS, tmp_path, tmp_path / "other", 0)


def test_table_has_the_time_to_the_same_scores() -> None:
    fast = [Point(1, 60, 20), Point(2, 120, 40), Point(3, 180, 39)]
    slow = [Point(1, 180, 10), Point(2, 360, 25), Point(3, 540, 50)]
    rows = learning.time_rows({"deim": {0: fast, 1: fast}, "official": {0: slow, 1: slow}})
    # Half, 80 %, 90 % and 95 % of 40, the lowest best AP.
    assert [row["AP"] for row in rows] == [20, 32, 36, 38]
    assert rows[0]["deim, min"] == "1.0 (1.0 to 1.0)"
    assert rows[0]["official, epochs"] == "2 (2 to 2)"
    assert rows[0]["time / official"] == pytest.approx(60 / 360)
    assert rows[3]["time / official"] == pytest.approx(120 / 540)


def test_curves_are_drawn(tmp_path: Path) -> None:
    learning.draw_curves({"deim": {0: [Point(1, 60, 20), Point(2, 120, 40)]}}, tmp_path / "learning.png")
    assert (tmp_path / "learning.png").stat().st_size > 10_000


def test_folder_with_other_settings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="has runs with other settings"):
        learning.run(SETTINGS, [0], str(tmp_path), None, sys.executable, None)
