"""Repositories of the Hugging Face Hub: loading, pushing, and folders that are broken or malicious."""

import builtins
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from safetensors.torch import load_file, save_file

from deim import Predictor
from deim.checkpoint.class_lists import COCO
from deim.checkpoint.hub import pretrained_path
from deim.checkpoint.metadata import CheckpointMetadata
from deim.checkpoint.reading import read_weights
from deim.cli import main
from deim.config import load_config
from deim.config.portable import to_portable
from deim.conversion import convert
from deim.conversion.hub_folder import write_hub_folder
from deim.data.datasets.shapes import CLASSES
from deim.errors import CheckpointError, ConfigError
from deim.inference.detections import Detections
from deim.reporting.publication import _scores
from tests.conftest import long_except
from tests.hub import Hub
from tests.inference.conftest import SKELETON
from tests.models import randomize, recipe

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "shapes"
    write_hub_folder(str(checkpoint), folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> Detections:
    return detect(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with Hub().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def detect(source: str | Path) -> Detections:
    return Predictor.from_pretrained(source, device="cpu", threshold=0.0)(IMAGE)


def assert_same(first: Detections, second: Detections) -> None:
    assert len(first)
    assert first.class_names == second.class_names
    for name, value in first.get_fields().items():
        other = second.get(name)
        assert torch.equal(getattr(value, "tensor", value), getattr(other, "tensor", other)), name


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """Return a copy of a folder with other metadata; None removes a key."""
    shutil.copytree(folder, target)
    content = json.loads((target / "config.json").read_text(encoding="utf-8"))
    content["deim"].update(changes)
    (target / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def test_folder_predicts_as_its_checkpoint(checkpoint: Path, folder: Path, expected: Detections) -> None:
    assert_same(Predictor(checkpoint, device="cpu", threshold=0.0)(IMAGE), expected)
    metadata = json.loads((folder / "config.json").read_text(encoding="utf-8"))["deim"]
    assert metadata["classes"] == list(CLASSES)


def test_folder_keeps_masks_and_keypoints(checkpoint_with_heads: Path, tmp_path: Path) -> None:
    write_hub_folder(str(checkpoint_with_heads), tmp_path)
    detections = detect(tmp_path)
    assert_same(Predictor(checkpoint_with_heads, device="cpu", threshold=0.0)(IMAGE), detections)
    assert detections.skeleton == SKELETON


def test_folder_does_not_need_the_recipe(folder: Path, expected: Detections, tmp_path: Path) -> None:
    assert_same(expected, detect(edited(folder, tmp_path / "renamed", recipe="my_config.py")))


def test_repository_is_downloaded_once(folder: Path, expected: Detections, hub: Hub) -> None:
    hub.add("user/shapes", folder)
    hub.repositories["user/shapes"]["pytorch_model.bin"] = b"a pickle"
    assert_same(expected, detect("user/shapes"))
    assert not any("pytorch_model.bin" in request for request in hub.requests)
    requests = len([request for request in hub.requests if "/resolve/" in request])
    read_weights("hf://user/shapes@main")
    assert len([request for request in hub.requests if "/resolve/" in request]) == requests


def test_repository_is_accepted_as_a_checkpoint_path(folder: Path, hub: Hub) -> None:
    hub.add("user/shapes", folder)
    stored = read_weights("hf://user/shapes")
    assert stored.metadata["classes"] == list(CLASSES)
    assert stored.weights.keys() == load_file(folder / "model.safetensors").keys()


def test_push_uploads_model_and_card(checkpoint: Path, hub: Hub, photos: Path, capsys: pytest.CaptureFixture) -> None:
    image = str(photos / "0.png")
    assert main(["push", str(checkpoint), "user/mine", "--image", image, "--private", "--license", "mit"]) == 0
    assert f"uploaded {checkpoint} to {hub.endpoint}/user/mine" in capsys.readouterr().out
    files = hub.repositories["user/mine"]
    assert set(files) == {"model.safetensors", "config.json", "README.md", "detections.jpg"}
    assert hub.private == ["user/mine"]
    _, header, text = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "mit"
    assert yaml.safe_load(header)["pipeline_tag"] == "object-detection"
    assert "`circle`, `square`" in text
    assert 'Predictor.from_pretrained("user/mine")' in text
    assert read_weights("hf://user/mine").metadata["classes"] == list(CLASSES)


def test_push_uploads_only_the_model(checkpoint: Path, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {output_dir: /home/me}")
    shutil.copy(checkpoint, tmp_path / "model_best.pth")
    (tmp_path / "detections.jpg").write_text("of an earlier model")
    assert main(["push", str(checkpoint), "user/mine", "--folder", str(tmp_path)]) == 0
    assert set(hub.repositories["user/mine"]) == {"model.safetensors", "config.json", "README.md"}


def test_card_of_a_run_has_scores_and_data(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(checkpoint, run / "model_best.pth")
    LazyConfig.save(load_config("deim_dfine/deim_dfine_n_shapes"), str(run / "config.yaml"))
    rows = [
        {"iteration": 9, "total_loss": 3.0, "lr": 0.1, "bbox/AP": 12.0, "bbox/AP50": 34.56, "bbox/APs": float("nan")},
        {"iteration": 19, "total_loss": 2.0, "lr": 0.1, "bbox/AP": 11.0, "bbox/AP50": 40.0},
    ]
    (run / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert main(["push", str(run), "--folder", str(tmp_path / "out")]) == 0
    _, header, text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    (result,) = yaml.safe_load(header)["model-index"][0]["results"]
    assert {row["type"]: row["value"] for row in result["metrics"]} == {"AP": 12.0, "AP50": 34.56}
    assert "Trained on `deim_shapes_train`, and evaluated on `deim_shapes_val`" in text
    assert (tmp_path / "out" / "curves.png").is_file()


def test_scores_of_a_card_are_those_of_its_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    rows = [{"iteration": 9, "bbox/AP": 12.0}, {"iteration": 19, "bbox/AP": 10.0}, {"iteration": 20, "bbox/AP": 11.0}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    expected = {"model_best.pth": 12.0, "model_final.pth": 11.0, "model_0000019.pth": 10.0}
    for name, value in expected.items():
        assert _scores(file, "bbox/AP", name) == {"bbox": {"AP": value}}
    for name in ("model_0000014.pth", "converted.pth"):
        assert _scores(file, "bbox/AP", name) == {}, "no evaluation of these weights"


def test_local_paths_are_not_published(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["deim"]["recipe"] = "/home/someone/secret/config.py"
    torch.save(content, tmp_path / "model.pth")
    assert main(["push", str(tmp_path / "model.pth"), "--folder", str(tmp_path / "out")]) == 0
    published = "".join((tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("README.md", "config.json"))
    assert "secret" not in published
    assert "config.py" in published


def test_push_needs_a_target(checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["push", str(checkpoint)]) == 2
    assert "give a repository such as user/model, or --folder" in capsys.readouterr().err
    assert main(["push", str(checkpoint), "model"]) == 2
    assert "expected user/model" in capsys.readouterr().err


def test_unknown_repository_is_an_error(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="hf://user/nothing cannot be downloaded"):
        detect("user/nothing")


def test_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="Without a network, copy the repository to a folder"):
        detect("user/nowhere")


@pytest.mark.parametrize("name", ["model", "a/b/c", "hf://a", "../a/b", "user/model@"])
def test_name_must_be_that_of_a_repository_or_a_folder(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor the name of a repository"):
        pretrained_path(name)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_hub(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(ConfigError, match=r"pip install 'deim\[hub\]'"):
        detect("user/model")


class Exploit:
    """Object whose unpickling creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickle_is_refused(folder: Path, hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "pickle"
    shutil.copytree(folder, target)
    torch.save({"model": Exploit(tmp_path / "executed")}, target / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        detect(target)
    (target / "model.safetensors").rename(target / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors.*pickles, are not read"):
        detect(target)
    hub.add("user/pickle", target)
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors.*pickles, are not read"):
        detect("user/pickle")
    assert not (tmp_path / "executed").exists()


def test_truncated_weights_are_an_error(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "short")
    file = tmp_path / "short" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors: the file is damaged, incomplete"):
        detect(tmp_path / "short")


def test_missing_tensors_are_an_error(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "fewer")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("decoder.layers.0."))
    del weights[name]
    save_file(weights, tmp_path / "fewer" / "model.safetensors")
    with pytest.raises(CheckpointError, match="is missing from the file"):
        detect(tmp_path / "fewer")


@pytest.mark.parametrize("part", ["../model.safetensors", "weights.bin", "/etc/model.safetensors"])
def test_index_names_only_safetensors_files_of_its_folder(folder: Path, tmp_path: Path, part: str) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path.parent)
    index = {"weight_map": {"decoder.up": part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not the index of safetensors files in its folder"):
        detect(tmp_path)


def test_weights_in_several_files_are_joined(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    weights = load_file(folder / "model.safetensors")
    index = {}
    for number, part in enumerate((list(weights)[::2], list(weights)[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    joined = read_weights(pretrained_path(tmp_path)).weights
    assert joined.keys() == weights.keys()
    assert all(torch.equal(joined[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"model": {"_target_": "os.system"}}}, "config has an unexpected value"),
        ({"config": {"model": {"_target_": "os.system"}, "mapper": {"_target_": "os.system"}}}, "calls os.system"),
        ({"classes": "circle"}, "classes has an unexpected value"),
        ({"classes": ["circle"]}, "names 1 classes, but its model has 6"),
        ({"keypoints": {"names": ["a"], "connections": [[0, 5]]}}, "keypoints has an unexpected value"),
        ({"version": 3}, "version has an unexpected value"),
    ],
)
def test_malformed_metadata(folder: Path, tmp_path: Path, changes: dict, message: str) -> None:
    target = edited(folder, tmp_path / "edited", **changes)
    with pytest.raises(CheckpointError, match=message):
        detect(target)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"deim": 3}', "[" * 100_000])
def test_malformed_config_file(folder: Path, tmp_path: Path, content: str) -> None:
    target = edited(folder, tmp_path / "edited")
    (target / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError):
        detect(target)


def test_config_reads_nothing_else(
    folder: Path, expected: Detections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config of a folder neither downloads weights nor reads environment variables."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["deim"]["config"]
    config["model"]["backbone"]["weights"] = "http://127.0.0.1:9/weights.pth"
    monkeypatch.setattr("deim.checkpoint.download.local_path", lambda url: pytest.fail(f"{url} was read"))
    assert_same(expected, detect(edited(folder, tmp_path / "url", config=config)))
    config["model"]["backbone"]["name"] = "${oc.env:HOME}"
    with pytest.raises(CheckpointError, match="contains an interpolation"):
        detect(edited(folder, tmp_path / "interpolation", config=config))


# Repository -> recipe whose model it has. The names are those of the authors and of transformers.
FOREIGN = {
    "Intellindust/DEIMv2_HGNetv2_ATTO_COCO": "deimv2_hgnetv2_atto_coco",
    "Intellindust/ECDet_S": "ecdet_s_coco",
    "ustc-community/dfine-nano-coco": "dfine_n_coco",
    "PekingU/rtdetr_v2_r18vd": "rtdetrv2_r18vd_120e_coco",
}


@pytest.mark.parametrize("name", long_except(["Intellindust/DEIMv2_HGNetv2_ATTO_COCO"], FOREIGN))
def test_repositories_of_other_code_are_loaded_by_name(name: str, hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    cfg = recipe(FOREIGN[name], "dataloader.image_size=[64,64]")
    model = randomize(instantiate(cfg.model))
    metadata = CheckpointMetadata("1", cfg.train.recipe, COCO, config=to_portable(cfg))
    torch.save({"model": model.state_dict(), "deim": metadata.state_dict()}, tmp_path / "model.pth")
    convert(str(tmp_path / "model.pth"), str(tmp_path / "folder"), "hf")
    hub.add(name, tmp_path / "folder")
    predictor = Predictor.from_pretrained(name, device="cpu", threshold=0.0)
    assert predictor.class_names == list(COCO)
    weights = predictor.runner.model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items() if key in weights)
