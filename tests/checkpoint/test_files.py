"""Files are either read or rejected with the reason, and their code is never run."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deim import model_zoo
from deim.checkpoint import read_weights
from deim.checkpoint.metadata import CheckpointMetadata
from deim.config import load_config
from deim.config.portable import to_portable
from deim.conversion import convert, identification
from deim.conversion.conversion import save_safetensors
from deim.errors import CheckpointError, ConfigError
from tests.checkpoint.test_formats import detector, to_external_layout
from tests.commands import tool

RECIPE = "dfine/dfine_n_coco"


@pytest.fixture(autouse=True)
def few_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare files with four recipes only: a comparison with all of them takes several seconds."""
    names = [f"{system}/{system}_{size}_coco" for system in ("dfine", "deim_dfine") for size in "ns"]
    assert set(names) <= set(identification.available())
    monkeypatch.setattr(identification, "available", lambda: names)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official checkpoint with EMA weights and trained weights."""
    path = tmp_path_factory.mktemp("official") / "dfine_n_coco.pth"
    averaged, raw = (to_external_layout(detector(RECIPE), RECIPE, "dfine")[0] for _ in range(2))
    raw["decoder.enc_score_head.bias"] = raw["decoder.enc_score_head.bias"] + 1
    raw = {f"module.{name}": value for name, value in raw.items()}
    arguments = argparse.Namespace(config="dfine.yml", resume=None, root=Path("data"))
    content = {"ema": {"module": averaged}, "model": raw, "args": arguments, "best": np.float64(42.8), "last_epoch": 3}
    torch.save(content, path)
    return path


class Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("was_run",)


class Config:
    """An object that a training script might store beside the weights."""


def write_truncated(path: Path, official: Path) -> None:
    path.write_bytes(official.read_bytes()[: official.stat().st_size // 2])


def write_damaged(path: Path, official: Path) -> None:
    content = bytearray(official.read_bytes())
    content[20:200] = bytes(180)
    path.write_bytes(content)


# fault -> (function that writes such a file, pattern of the message)
FAULTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing": (lambda path, official: None, "does not exist"),
    "empty": (lambda path, official: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path, official: path.write_text("weights"), "cannot be read as a checkpoint"),
    "truncated": (write_truncated, "cannot be read as a checkpoint"),
    "damaged": (write_damaged, "cannot be read as a checkpoint"),
    "number": (lambda path, official: torch.save(3, path), "contains an object of type int, not the weights"),
    "nothing": (lambda path, official: torch.save({"model": {}}, path), "contains no model weights: it is empty"),
    "no tensors": (lambda path, official: torch.save({"model": {"a": 1}}, path), "a has type int"),
    "malicious": (lambda path, official: torch.save({"model": Malicious()}, path), r"contains objects other than data \(.*mkdir"),
    "an object": (
        lambda path, official: torch.save({"model": {"a": torch.ones(1)}, "cfg": Config()}, path),
        "contains objects other than data \\(tests.checkpoint.test_files.Config.*\n.*weights_only=False",
    ),
    "of another library": (
        lambda path, official: torch.save({"roi_heads.box.fc1.weight": torch.ones(2)}, path),
        "has an unknown format .*roi_heads.box.fc1.weight",
    ),
    "of another size": (
        lambda path, official: torch.save({n: v[:2] if v.dim() == 4 else v for n, v in select_weights(official).items()}, path),
        "does not fit any of 4 recipes. Closest: .*\n(.*\n)*.*backbone.stem.stem1.conv.weight is \\(2, 3, 3, 3\\) in the file",
    ),
    "incomplete": (
        lambda path, official: torch.save({n: v for n, v in select_weights(official).items() if "enc_output" not in n}, path),
        "decoder.queries.projection.weight is missing from the file\n(.*\n)*.*decoder.queries.norm.bias is missing from the file",
    ),
    "with more": (
        lambda path, official: torch.save(select_weights(official) | {"decoder.extra": torch.ones(1)}, path),
        "decoder.extra does not exist in the model",
    ),
    "copies that differ": (
        lambda path, official: torch.save(select_weights(official) | {"decoder.decoder.up": torch.ones(1) * 9}, path),
        "decoder.decoder.up and decoder.up are one tensor",
    ),
    "other points": (
        lambda path, official: torch.save(
            {n: v * 2 if n.endswith("num_points_scale") else v for n, v in select_weights(official).items()}, path
        ),
        "num_points_scale is .* in the file, but .* in this model",
    ),
}  # fmt: skip


def select_weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_weights(str(path)).weights)


@pytest.mark.parametrize("fault", FAULTS)
def test_invalid_files_are_rejected(
    fault: str, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = FAULTS[fault]
    make(tmp_path / "dfine_n_coco.pth", official)
    with pytest.raises(CheckpointError, match=message):
        convert("dfine_n_coco.pth", "out.pth")
    assert not (tmp_path / "was_run").exists()
    assert not (tmp_path / "out.pth").exists()


def test_mismatch_lists_all_tensors(official: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        model_zoo.get("rtdetrv2/rtdetrv2_r18vd_120e_coco", weights=str(official))
    assert "backbone.conv#.conv#_#.conv.weight (3) is missing from the file" in str(caught.value)
    assert "decoder.refinement.quality_heads.#.reg_conf.layers.#.weight (6) does not exist in the model" in str(
        caught.value
    )


def test_ema_weights_are_read_by_default(official: Path, tmp_path: Path) -> None:
    for raw in (False, True):
        convert(str(official), str(tmp_path / "out.pth"), recipe=RECIPE, use_ema=not raw)
        bias = torch.load(tmp_path / "out.pth", weights_only=True)["model"]["decoder.queries.score_head.bias"]
        averaged = select_weights(official)["decoder.enc_score_head.bias"]
        assert torch.equal(bias, averaged + 1 if raw else averaged)


def test_unsupported_target_formats_are_rejected(official: Path, tmp_path: Path) -> None:
    for to in ("rtdetrv2", "detrex", "h_detr"):
        with pytest.raises(CheckpointError, match=f"cannot be written as '{to}': .* does not support recipes of dfine"):
            convert(str(official), str(tmp_path / "out"), to=to, recipe=RECIPE)
    with pytest.raises(CheckpointError, match="transformers has no equivalent of deim_dfine/deim_dfine_n_coco"):
        convert(str(official), str(tmp_path / "out"), to="hf", recipe="deim_dfine/deim_dfine_n_coco")


def test_unwritable_output_and_unknown_recipe_are_rejected(official: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for to in ("native", "dfine", "hf"):
        with pytest.raises(CheckpointError, match="cannot be written: "):
            convert(str(official), str(tmp_path / "file" / "out"), to=to, recipe=RECIPE)
    (tmp_path / "folder" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"folder/model\.safetensors cannot be written: "):
        convert(str(official), str(tmp_path / "folder"), to="hf", recipe=RECIPE)
    with pytest.raises(ConfigError, match="and no recipe has this name; the closest names are"):
        convert(str(official), str(tmp_path / "out"), recipe="dfine/dfine_q_coco")


def test_model_of_a_config_file_is_converted_if_it_names_its_recipe(official: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "config.py", str(tmp_path / "out.pth")
    config.write_text(
        "from deim import model_zoo\n"
        f"recipe = model_zoo.get_config({RECIPE!r})\n"
        "train, dataloader, model, optimizer = recipe.train, recipe.dataloader, recipe.model, recipe.optimizer\n"
    )
    for to in ("dfine", "hf"):
        with pytest.raises(CheckpointError, match=r"config\.py is not a recipe of this package: set train\.recipe"):
            convert(str(official), out, to=to, recipe=str(config))
    with config.open("a") as file:
        file.write(f"train.recipe = {RECIPE!r}\n")
    convert(str(official), out, to="dfine", recipe=str(config))
    assert torch.load(out, weights_only=True)["model"].keys() == select_weights(official).keys()


def test_suggested_command_extracts_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": Config()}, "model.pth")
    with pytest.raises(CheckpointError) as caught:
        read_weights("model.pth")
    exec(str(caught.value).partition('python -c "')[2].rstrip('"'), {})
    assert read_weights("weights.pth").weights.keys() == {"a"}


def test_empty_ema_weights_are_ignored(tmp_path: Path) -> None:
    for key in ("ema", "ema_model", "ema_state"):
        torch.save({"model": {"a": torch.ones(1)}, key: None}, tmp_path / "model.pth")
        assert read_weights(str(tmp_path / "model.pth")).weights.keys() == {"a"}


def test_anchors_of_another_image_size_are_accepted(official: Path, tmp_path: Path) -> None:
    """640 x 640 and 512 x 800 have equally many anchors."""
    convert(str(official), str(tmp_path / "dfine.pth"), to="dfine", recipe=RECIPE, image_size=(512, 800))
    anchors = [select_weights(path)["decoder.anchors"] for path in (official, tmp_path / "dfine.pth")]
    assert anchors[0].shape == anchors[1].shape
    assert not torch.equal(*anchors)
    convert(str(tmp_path / "dfine.pth"), str(tmp_path / "out.pth"), recipe=RECIPE)


def test_ambiguous_file_requires_the_recipe(official: Path, tmp_path: Path) -> None:
    """D-FINE and DEIM have the same tensors but different predictions."""
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(official.read_bytes())
    result = tool("convert_checkpoint.py", str(path), str(tmp_path / "out.pth"))
    assert result.returncode == 2
    assert "fits several recipes with different predictions, and the file does not identify" in result.stderr
    result = tool("convert_checkpoint.py", str(path), str(tmp_path / "out.pth"), "--from", "deim")
    assert result.returncode == 0, result.stderr
    assert (
        "recipe deim_dfine/deim_dfine_n_coco, 80 classes (person, bicycle, car, ...), in the form for training"
        in result.stdout
    )


def test_converted_checkpoint_stores_its_recipe(official: Path, tmp_path: Path) -> None:
    convert(str(official), str(tmp_path / "out.pth"))
    metadata = torch.load(tmp_path / "out.pth", weights_only=True)["deim"]
    assert (metadata["recipe"], metadata["form"], metadata["classes"][:2]) == (
        RECIPE,
        "training",
        ["person", "bicycle"],
    )
    identified = convert(str(tmp_path / "out.pth"), str(tmp_path / "again.pth"))
    assert (identified.source_format, identified.recipe) == (None, RECIPE)


def test_converted_checkpoint_of_a_run_keeps_the_size_of_its_images(tmp_path: Path) -> None:
    cfg = load_config(RECIPE, ["dataloader.image_size=[320,352]"])
    metadata = CheckpointMetadata("0", RECIPE, [str(number) for number in range(80)], config=to_portable(cfg))
    torch.save({"model": detector(RECIPE).state_dict(), "deim": metadata.state_dict()}, tmp_path / "run.pth")
    identified = convert(str(tmp_path / "run.pth"), str(tmp_path / "slim.pth"))
    assert list(identified.config.dataloader.image_size) == [320, 352]
    converted = torch.load(tmp_path / "slim.pth", weights_only=True)["deim"]["config"]
    assert converted == metadata.state_dict()["config"]


def test_safetensors_have_the_permissions_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_safetensors({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_sharded_safetensors(official: Path, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in select_weights(official).items()}
    save_file(weights, str(tmp_path / "dfine_n.safetensors"))
    assert convert(str(tmp_path / "dfine_n.safetensors"), str(tmp_path / "out.pth")).recipe == RECIPE
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, part_names in parts.items():
        save_file({name: weights[name] for name in part_names}, str(tmp_path / part))
    weight_map = ",".join(f'"{name}": "{part}"' for part, part_names in parts.items() for name in part_names)
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{weight_map}}}}}')
    assert read_weights(str(tmp_path)).weights.keys() == weights.keys()


def test_zoo_lists_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    assert model_zoo.list()["dfine/dfine_s_coco"] == ("coco", "objects365_coco", "objects365")
    with pytest.raises(CheckpointError, match=f"https://drive.google.com/.* save it as {tmp_path}/deim/deim_dfine_s"):
        model_zoo.get("deim_dfine/deim_dfine_s_coco", weights="coco")
    with pytest.raises(CheckpointError, match=r"no weights 'objects365' are published for .* \(available: coco\)"):
        model_zoo.get("dfine/dfine_n_coco", weights="objects365")


def test_model_zoo_has_the_signatures_of_detectron2() -> None:
    assert model_zoo.get_checkpoint_url("dfine/dfine_s_coco").startswith("https://github.com/Peterande/")
    assert model_zoo.get_config("dfine/dfine_s_coco").train.init_checkpoint == ""
    assert model_zoo.get_config("dfine/dfine_s_coco", trained=True).train.init_checkpoint == "coco"
    assert model_zoo.get("deim_dfine/deim_dfine_n_shapes", False, "cpu").device.type == "cpu"
    with pytest.raises(CheckpointError, match="no weights 'coco' are published"):
        model_zoo.get("deim_dfine/deim_dfine_n_shapes", trained=True)
    with pytest.raises(TypeError, match="to select weights, pass weights='coco'"):
        model_zoo.get("dfine/dfine_s_coco", "coco")


def test_cached_published_weights_are_used(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    (tmp_path / "deim").mkdir()
    (tmp_path / "deim" / "dfine_n_coco.pth").write_bytes(official.read_bytes())
    model = model_zoo.get(RECIPE, weights="coco")
    expected = select_weights(official)["decoder.enc_score_head.bias"]
    assert torch.equal(model.decoder.queries.score_head.bias, expected)
    few = model_zoo.get(RECIPE, weights="coco", classes=["dog", "unicorn"])
    assert torch.equal(few.decoder.queries.score_head.bias[0], expected[16])
