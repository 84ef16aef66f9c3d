"""Runs of Deformable DETR, H-Deformable-DETR and DN-DETR: training, resuming, evaluation, two ranks."""

from pathlib import Path

import pytest
import torch

from tests.commands import metrics, train_net
from tests.conftest import long_except
from tests.distributed.test_two_processes import COMPARABLE, equal_counts  # noqa: F401 - a fixture
from tests.models import DETRS

# Overrides for the only family with denoising queries.
NOISE = ("model.decoder.denoising.label_noise_ratio=0", "model.decoder.denoising.box_noise_scale=0")
SHORT = ("schedule.epochs=2", "schedule.lr_gamma=1.0", "train.max_iter=6", "train.eval_period=0")


def config_of(family: str) -> str:
    folder = {"deformable": "deformable_detr", "hybrid": "h_deformable_detr", "dn": "dn_detr"}[family]
    return f"{folder}/{DETRS[family]}"


def noiseless(family: str) -> tuple[str, ...]:
    return NOISE if family == "dn" else ()


SAMPLED_DETRS = long_except(["deformable"], DETRS)


@pytest.mark.parametrize("family", SAMPLED_DETRS)
def test_a_run_is_resumed_and_evaluated(family: str, shapes: Path, tmp_path: Path) -> None:
    uninterrupted, resumed = tmp_path / "whole", tmp_path / "pieces"
    settings = [*SHORT, *noiseless(family), "train.checkpointer.period=4"]
    for output in (uninterrupted, resumed):
        done = train_net(shapes, output, *settings, config=config_of(family))
        assert done.returncode == 0, done.stderr
    assert sorted(metrics(uninterrupted)) == list(range(6))
    (resumed / "last_checkpoint").write_text("model_0000003.pth")
    (resumed / "metrics.json").unlink()
    done = train_net(shapes, resumed, "--resume", *settings, config=config_of(family))
    assert done.returncode == 0, done.stderr
    # The checkpoint is saved before the metrics of its iteration are written, so the resumed run writes them.
    assert sorted(metrics(resumed)) == [3, 4, 5]
    a, b = (torch.load(d / "model_final.pth", weights_only=True)["model"] for d in (uninterrupted, resumed))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
    weights = f"train.init_checkpoint={uninterrupted}/model_final.pth"
    done = train_net(shapes, tmp_path / "evaluated", "--eval-only", weights, config=config_of(family))
    assert done.returncode == 0, done.stderr
    assert "copypaste: AP,AP50,AP75,APs,APm,APl" in done.stdout


@pytest.mark.usefixtures("several_processes")
@pytest.mark.long
@pytest.mark.parametrize("family", DETRS)
def test_two_processes_train_like_one(
    family: str,
    shapes: Path,
    equal_counts: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    settings = [value for value in COMPARABLE if "denoising" not in value] + list(noiseless(family))
    curves = []
    for processes in (1, 2):
        done = train_net(
            shapes,
            tmp_path / str(processes),
            f"--num-gpus={processes}",
            "--dist-url=auto",
            *settings,
            f"dataloader.train.dataset.json_file={equal_counts}",
            config=config_of(family),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        curves.append(metrics(tmp_path / str(processes)))
    assert curves[0][9] < curves[0][0], "the loss decreases, so the weights of the model change noticeably"
    differences = sorted(abs(curves[1][iteration] - value) / value for iteration, value in curves[0].items())
    if family == "dn":  # its queries are learned, not selected from the tokens
        assert differences[-1] < 1e-4
    # In some iterations, rounding changes the order of two tokens with nearly equal scores, and so the selected queries.
    # Only the loss of that iteration differs noticeably.
    assert differences[len(differences) // 2] < 1e-5
    assert differences[-1] < 1e-2
