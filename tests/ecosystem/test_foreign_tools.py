"""Public tools, evaluators and predictors of detectron2 and detrex on our recipes; docs/ecosystem.md lists the results."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg, instantiate

from deim.config import load_config
from deim.config.yacs import add_deim_config
from deim.data import DetectionMapper, build_test_loader, coco_dataset
from deim.data.datasets.coco import register_coco
from deim.data.datasets.shapes import CLASSES
from deim.fallback import is_standalone
from tests.commands import RECIPE, data_overrides, metrics, script, tool
from tests.conftest import ROOT
from tests.models import randomize, recipe, tiny_model

pytestmark = pytest.mark.skipif(
    is_standalone("detectron2") or is_standalone("detrex"), reason="needs the real detectron2 and detrex"
)

DN_DETR = "projects/dn_detr/configs/dn_deformable_detr_r18_shapes.py"
SMALL = [
    "dataloader.image_size=[64,64]",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.test.mapper.augmentations.0.shape=[64,64]",
    "train.log_period=1",
]
FEW_ITERATIONS = ["train.max_iter=4", "train.eval_period=4", "train.checkpointer.period=2"]


def checkout(package: str) -> Path:
    """The folder of a package's repository."""
    return Path(__import__(package).__file__).parents[1]


def foreign(package: str, name: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a script of detectron2 or detrex. Skips the test if the package is not in its checkout."""
    path = checkout(package) / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the package {package}")
    return script(path, *arguments, cwd=cwd or ROOT)


def detrex_train_net(*arguments: str) -> subprocess.CompletedProcess:
    path = checkout("detrex") / "tools/train_net.py"
    if not path.is_file():
        pytest.skip("tools/train_net.py is not beside the package detrex")
    return script(ROOT / "tests/ecosystem/detrex_without_gpu.py", str(path), *arguments)


def succeeded(done: subprocess.CompletedProcess) -> str:
    """What a script has printed."""
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def config(shapes: Path, output: Path, *overrides: str, file: str = RECIPE) -> list[str]:
    """Arguments of a script that takes a LazyConfig and runs on ``shapes``."""
    small = [one for one in SMALL if "augmentations" not in one or file == RECIPE]
    return ["--config-file", file, *small, *data_overrides(shapes), f"train.output_dir={output}", *overrides]


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of our trainer whose averages differ from its weights."""
    output = tmp_path_factory.mktemp("trained")
    averaging = ["train.model_ema.decay=0.9", "train.model_ema.warmup_iters=1"]
    length = ["train.max_iter=8", "train.eval_period=8", "train.checkpointer.period=8", "optimizer.lr=0.05"]
    succeeded(tool("train_net.py", *config(shapes, output, *averaging, *length)))
    return output / "model_final.pth"


@pytest.fixture(scope="module")
def averaged(trained: Path) -> Path:
    """The averages of ``trained`` as plain weights."""
    succeeded(tool("convert_checkpoint.py", str(trained), str(trained.with_name("averaged.pth"))))
    return trained.with_name("averaged.pth")


class Evaluation:
    """Runs an evaluation and reads what it wrote."""

    def __init__(self, shapes: Path, output: Path):
        self.shapes, self.output = shapes, output

    def arguments(self, checkpoint: Path, *overrides: str) -> list[str]:
        where = f"+dataloader.evaluator.output_dir={self.output}"
        weights = f"train.init_checkpoint={checkpoint}"
        return ["--eval-only", *config(self.shapes, self.output, where, weights, *overrides)]

    def by_ours(self, checkpoint: Path, *overrides: str) -> tuple[str, list[dict]]:
        """What our script finds. In the memory format of their scripts, sums are rounded alike."""
        overrides = ("train.memory_format=contiguous", *overrides)
        return self.detections(tool("train_net.py", *self.arguments(checkpoint, *overrides)))

    def detections(self, done: subprocess.CompletedProcess) -> tuple[str, list[dict]]:
        """The line of average precisions and all detections."""
        printed = succeeded(done)
        scores = re.findall(r"copypaste: ([\d.,nan]+)$", printed, re.MULTILINE)
        file = self.output / "coco_instances_results.json"
        found = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
        assert len(found) > 100
        return scores[-1], found


# --- training scripts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [RECIPE, DN_DETR], ids=["deim_dfine", "dn_detr"])
def test_the_training_script_of_detectron2_trains_evaluates_and_resumes(
    file: str, shapes: Path, tmp_path: Path
) -> None:
    arguments = config(shapes, tmp_path, *FEW_ITERATIONS, file=file)
    succeeded(foreign("detectron2", "tools/lazyconfig_train_net.py", *arguments))
    longer = ["train.max_iter=6", "train.eval_period=6"]
    succeeded(foreign("detectron2", "tools/lazyconfig_train_net.py", "--resume", *arguments, *longer))
    assert sorted(metrics(tmp_path)) == list(range(6))
    assert sorted(metrics(tmp_path, "bbox/AP")) == [4, 6]
    assert all(np.isfinite(value) for value in metrics(tmp_path).values())


def test_a_run_goes_on_under_the_other_trainer(shapes: Path, tmp_path: Path) -> None:
    """Ours after detectron2's, then detectron2's again."""
    arguments = config(shapes, tmp_path, *FEW_ITERATIONS)
    succeeded(foreign("detectron2", "tools/lazyconfig_train_net.py", *arguments))
    ours = ["train.max_iter=6", "train.eval_period=6", "train.checkpointer.period=6"]
    succeeded(tool("train_net.py", "--resume", *arguments, *ours))
    theirs = ["train.max_iter=8", "train.eval_period=8"]
    succeeded(foreign("detectron2", "tools/lazyconfig_train_net.py", "--resume", *arguments, *theirs))
    assert sorted(metrics(tmp_path)) == list(range(8))


def test_the_training_script_of_detrex_keeps_averages_that_ours_evaluates(shapes: Path, tmp_path: Path) -> None:
    printed = succeeded(
        detrex_train_net(*config(shapes, tmp_path, *FEW_ITERATIONS, "train.model_ema.decay=0.5", "optimizer.lr=0.05"))
    )
    assert "Run evaluation with EMA" in printed
    assert sorted(metrics(tmp_path)) == list(range(4))
    content = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert set(content["model"]) <= set(content["ema_state"])
    evaluation = Evaluation(shapes, tmp_path)
    theirs = evaluation.detections(
        foreign("detrex", "tools/train_net.py", *evaluation.arguments(tmp_path / "model_final.pth"))
    )
    ours = evaluation.by_ours(tmp_path / "model_final.pth")
    assert ours == theirs


def test_the_lines_on_the_page_keep_clipping_and_averages(shapes: Path, tmp_path: Path) -> None:
    """In a copy of detectron2's script, which then trains as our own does."""
    lines = python_of("Keep gradient clipping, EMA and bfloat16")
    path = checkout("detectron2") / "tools/lazyconfig_train_net.py"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the package detectron2")
    text = path.read_text(encoding="utf-8")
    text, replaced = re.subn(
        r"    trainer = \(AMPTrainer.*?checkpointer = DetectionCheckpointer\(.*?\n    \)\n",
        lambda _: "".join(f"    {line}\n" if line else "\n" for line in lines.splitlines()),
        text,
        flags=re.DOTALL,
    )
    assert replaced == 1
    copy = tmp_path / "train.py"
    copy.write_text(text.replace("lambda: do_test(cfg, model)", "test_averages"), encoding="utf-8")
    options = ["train.model_ema.decay=0.5", "optimizer.lr=0.01", "train.memory_format=contiguous", *FEW_ITERATIONS]
    succeeded(script(copy, *config(shapes, tmp_path / "theirs", *options)))
    succeeded(tool("train_net.py", *config(shapes, tmp_path / "ours", *options)))
    assert metrics(tmp_path / "theirs") == pytest.approx(metrics(tmp_path / "ours"), rel=1e-4)
    assert metrics(tmp_path / "theirs", "grad_norm") == pytest.approx(metrics(tmp_path / "ours", "grad_norm"), rel=1e-3)
    states = [
        torch.load(tmp_path / run / "model_final.pth", weights_only=False)["ema_state"] for run in ("theirs", "ours")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)


# --- evaluation of checkpoints ----------------------------------------------------------------------------------------


def test_both_scripts_find_what_ours_finds_with_the_averages(
    trained: Path, averaged: Path, shapes: Path, tmp_path: Path
) -> None:
    """detrex's reads them from ``ema_state``, detectron2's needs the converted file."""
    evaluation = Evaluation(shapes, tmp_path)
    ours = evaluation.by_ours(trained)
    script_of_detectron2 = "tools/lazyconfig_train_net.py"
    assert evaluation.detections(foreign("detrex", "tools/train_net.py", *evaluation.arguments(trained))) == ours
    converted = evaluation.detections(foreign("detectron2", script_of_detectron2, *evaluation.arguments(averaged)))
    assert converted == ours
    raw = evaluation.detections(foreign("detectron2", script_of_detectron2, *evaluation.arguments(trained)))
    assert raw[1] != ours[1]


def test_the_script_of_detrex_takes_weights_without_averages_if_told_so(
    averaged: Path, shapes: Path, tmp_path: Path
) -> None:
    evaluation = Evaluation(shapes, tmp_path)
    done = foreign("detrex", "tools/train_net.py", *evaluation.arguments(averaged))
    assert "available names dict_keys([])" in done.stderr
    without = [*evaluation.arguments(averaged), "train.model_ema.enabled=False"]
    ours = evaluation.by_ours(averaged)
    assert evaluation.detections(foreign("detrex", "tools/train_net.py", *without)) == ours


# --- the page ---------------------------------------------------------------------------------------------------------


def python_of(section: str) -> str:
    """The Python of a section of the page."""
    page = (ROOT / "docs/ecosystem.md").read_text(encoding="utf-8")
    (lines,) = re.findall(rf"## {section}.*?```py\n(.*?)```", page, re.DOTALL)
    return lines


@torch.no_grad()
def test_a_model_is_traced_by_the_lines_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "model": tiny_model().eval(), "image": torch.rand(3, 64, 96) * 255}
    exec(compile(python_of("Trace a model"), "ecosystem.md", "exec"), names)
    assert len(names["traced"](torch.rand(3, 50, 70) * 255)) == 4
    assert (tmp_path / "model.onnx").is_file()


def test_the_length_is_that_of_other_data_by_the_lines_on_the_page() -> None:
    names = {"train": SimpleNamespace()}
    exec(compile(python_of("The data loader under their trainers"), "ecosystem.md", "exec"), names)
    loader, schedule = names["dataloader"].train, names["schedule"]
    assert names["train"].max_iter == schedule.epochs * (5_000 // loader.total_batch_size)


@pytest.mark.parametrize("package", ["detectron2", "detrex"])
def test_the_page_lists_every_tool(package: str) -> None:
    page = (ROOT / "docs/ecosystem.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {package}\n")[1].split("\n## ")[0]
    scripts = [
        path for folder in ("tools", "tools/deploy", "demo") for path in checkout(package).glob(f"{folder}/*.py")
    ]
    if not scripts:
        pytest.skip(f"the tools are not beside the package {package}")
    names = {str(path.relative_to(checkout(package))) for path in scripts if path.name != "__init__.py"}
    helpers = {"demo/mot_predictors.py"}
    assert names - helpers <= {name.split()[0] for name in re.findall(r"`((?:tools|demo)/[^`]+)`", section)}


# --- tools that analyze, measure and draw -----------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "file"), [("detectron2", RECIPE), ("detrex", DN_DETR)])
def test_models_are_analyzed(package: str, file: str, shapes: Path, tmp_path: Path) -> None:
    tasks = ["--tasks", "parameter", "structure", "flop", "activation", "--num-inputs", "2"]
    arguments = config(shapes, tmp_path, "dataloader.test.total_batch_size=1", file=file)
    printed = succeeded(foreign(package, "tools/analyze_model.py", *tasks, *arguments))
    parameters = sum(one.numel() for one in instantiate(recipe(Path(file).stem).model).parameters())
    assert re.search(rf"model +\| +{parameters / 1e6:.1f}M", printed), "as many as there are"
    assert float(re.search(r"Total \(Million\) Activations: ([\d.]+)", printed)[1]) > 0
    assert "Total GFlops" in printed


def test_inference_is_measured(shapes: Path, tmp_path: Path) -> None:
    arguments = config(shapes, tmp_path, "dataloader.test.total_batch_size=1")
    printed = succeeded(foreign("detectron2", "tools/benchmark.py", "--task", "eval", *arguments))
    assert re.search(r"300 iters in [\d.]+ seconds", printed)


def test_our_data_are_measured(shapes: Path) -> None:
    """By the class behind ``tools/benchmark.py --task data``, whose own report fails with numpy 2.4."""
    from detectron2.data.benchmark import DataLoaderBenchmark, iter_benchmark

    cfg = load_config(RECIPE, [*SMALL, *data_overrides(shapes)])
    loader = cfg.dataloader.train
    for key in set(loader) - {"_target_", "dataset", "mapper", "sampler", "total_batch_size", "num_workers"}:
        del loader[key]
    loader.mapper.dataset, loader.mapper.total_batch_size = loader.dataset, loader.total_batch_size
    loader._target_ = DataLoaderBenchmark
    benchmark = instantiate(loader)
    samples = (benchmark.mapper(benchmark.dataset[index]) for index in benchmark.sampler)
    average, times = iter_benchmark(samples, 4, warmup=1)
    assert average > 0
    assert len(times) == 4


def test_the_demo_of_detrex_draws_what_a_model_finds(averaged: Path, shapes: Path, tmp_path: Path) -> None:
    """It imports its neighbors from the folder that it is started in."""
    size = ["--min_size_test", "64", "--max_size_test", "64", "--confidence-threshold", "0.0"]
    pictures = ["--input", f"{shapes}/val/*.jpg", "--output", str(tmp_path), "--metadata_dataset", "coco_2017_val"]
    arguments = ["--config-file", str(ROOT / RECIPE), *pictures, *size, "--opts", f"train.init_checkpoint={averaged}"]
    printed = succeeded(foreign("detrex", "demo/demo.py", *arguments, cwd=checkout("detrex")))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in (shapes / "val").iterdir())
    assert set(re.findall(r"detected (\d+) instances", printed)) == {"100"}


def test_the_predictor_of_detrex_finds_what_ours_finds(averaged: Path, shapes: Path) -> None:
    import importlib.util

    import cv2

    from deim import Predictor

    path = checkout("detrex") / "demo/predictors.py"
    if not path.is_file():
        pytest.skip("demo/predictors.py is not beside the package detrex")
    spec = importlib.util.spec_from_file_location("detrex_predictors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours = Predictor(averaged, device="cpu", threshold=0.0)
    size = load_config(RECIPE).dataloader.image_size[0]
    theirs = module.DefaultPredictor(ours.runner.model, size, size)
    image = cv2.imread(str(next((shapes / "val").iterdir())))
    square = np.ascontiguousarray(image[:64, :64])
    found, wanted = theirs(square)["instances"], ours(square, channels="BGR")
    np.testing.assert_allclose(found.scores.numpy(), wanted.scores, rtol=1e-5)
    np.testing.assert_allclose(found.pred_boxes.tensor.numpy(), wanted.boxes, atol=1e-3)


def registering_first(package: str, name: str, shapes: Path, folder: Path) -> Path:
    """A script that registers ``shapes`` as ``mine_train`` and ``mine_val`` and then runs another."""
    path = checkout(package) / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the package {package}")
    lines = ["import runpy", "import deim", "from deim.data.datasets.coco import register_coco"]
    lines += [
        f"register_coco('mine_{split}', r'{shapes}/annotations/instances_{split}.json', r'{shapes}/{split}')"
        for split in ("train", "val")
    ]
    lines.append(f"runpy.run_path(r'{path}', run_name='__main__')")
    wrapper = folder / path.name
    wrapper.write_text("\n".join(lines), encoding="utf-8")
    return wrapper


@pytest.mark.parametrize("package", ["detectron2", "detrex"])
def test_saved_detections_are_drawn(package: str, trained: Path, shapes: Path, tmp_path: Path) -> None:
    """For a dataset that is not registered by detectron2, a script registers it first."""
    registering = registering_first(package, "tools/visualize_json_results.py", shapes, tmp_path)
    evaluation = Evaluation(shapes, tmp_path)
    _, found = evaluation.by_ours(trained)
    (tmp_path / "found.json").write_text(json.dumps(found), encoding="utf-8")
    arguments = ["--input", str(tmp_path / "found.json"), "--output", str(tmp_path / "drawn"), "--dataset", "mine_val"]
    succeeded(script(registering, *arguments, "--conf-threshold", "0.0"))
    assert len(list((tmp_path / "drawn").iterdir())) == 6


def test_training_data_are_drawn_by_detrex(shapes: Path, tmp_path: Path) -> None:
    registering = registering_first("detrex", "tools/visualize_data.py", shapes, tmp_path)
    arguments = ["--config-file", RECIPE, "--source", "annotation", "--output-dir", str(tmp_path / "drawn")]
    succeeded(script(registering, *arguments, "dataloader.train.dataset.names=mine_train"))
    assert len(list((tmp_path / "drawn").iterdir())) == 24


# --- scripts that read old-style configs ------------------------------------------------------------------------------


@pytest.fixture
def old_style(shapes: Path, tmp_path: Path) -> Path:
    """An old-style config of the recipe that ``averaged`` was trained by."""
    file = tmp_path / "deim.yaml"
    file.write_text(
        "MODEL:\n  META_ARCHITECTURE: DEIMDetector\n  DEVICE: cpu\n"
        "  DEIM: {RECIPE: deim_dfine/deim_dfine_n_shapes, NUM_CLASSES: 6}\n"
        "DATASETS: {TRAIN: [mine_train], TEST: [mine_val]}\n"
        "INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64, MIN_SIZE_TRAIN: [64]}\n"
        "DATALOADER: {NUM_WORKERS: 0}\n"
        "SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 3, BASE_LR: 0.0001}\n"
        f"OUTPUT_DIR: {tmp_path}/output\n",
        encoding="utf-8",
    )
    return file


def own_copy(name: str, shapes: Path, folder: Path) -> Path:
    """A copy of a script of detectron2 that knows our keys and data, as docs/ecosystem.md says."""
    path = checkout("detectron2") / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the package detectron2")
    text = path.read_text(encoding="utf-8")
    line = re.search(r"^( +)cfg = get_cfg\(\)\n", text, re.MULTILINE)
    assert line is not None
    added = [
        "from deim.config.yacs import add_deim_config",
        "from deim.data.datasets.coco import register_coco",
        "add_deim_config(cfg)",
        *(
            f"register_coco('mine_{split}', r'{shapes}/annotations/instances_{split}.json', r'{shapes}/{split}')"
            for split in ("train", "val")
        ),
    ]
    copy = folder / path.name
    lines = "".join(f"{line[1]}{one}\n" for one in added)
    copy.write_text(text.replace(line[0], line[0] + lines), encoding="utf-8")
    return copy


@pytest.mark.parametrize("name", ["train_net.py", "plain_train_net.py"])
def test_old_style_training_scripts_train_and_evaluate(
    name: str, old_style: Path, shapes: Path, tmp_path: Path
) -> None:
    copy = own_copy(f"tools/{name}", shapes, tmp_path)
    printed = succeeded(script(copy, "--config-file", str(old_style)))
    assert "copypaste: AP,AP50,AP75" in printed
    assert (tmp_path / "output/model_final.pth").is_file()


def test_old_style_evaluation_finds_what_ours_finds(
    averaged: Path, old_style: Path, shapes: Path, tmp_path: Path
) -> None:
    """With images resized as by detectron2's mapper."""
    evaluation = Evaluation(shapes, tmp_path)
    resize = "_target_:detectron2.data.transforms.ResizeShortestEdge,short_edge_length:64,max_size:64"
    alike = ["dataloader.test.mapper.augmentations=[{" + resize + "}]", "dataloader.test.total_batch_size=1"]
    ours = evaluation.by_ours(averaged, *alike)
    copy = own_copy("tools/train_net.py", shapes, tmp_path)
    evaluation.output = tmp_path / "output/inference"
    done = script(copy, "--eval-only", "--config-file", str(old_style), "MODEL.WEIGHTS", str(averaged))
    assert evaluation.detections(done) == ours


def test_the_export_tool_writes_torchscript_that_finds_what_the_model_finds(
    averaged: Path, old_style: Path, shapes: Path, tmp_path: Path
) -> None:
    copy = own_copy("tools/deploy/export_model.py", shapes, tmp_path)
    arguments = ["--config-file", str(old_style), "--output", str(tmp_path / "exported")]
    printed = succeeded(script(copy, *arguments, "MODEL.WEIGHTS", str(averaged)))
    assert "Success." in printed
    traced = torch.jit.load(str(tmp_path / "exported/model.ts"))
    model = instantiate(recipe("deim_dfine_n_shapes").model).eval()
    model.load_state_dict(torch.load(averaged, weights_only=False)["model"], strict=False)
    image = torch.rand(3, 48, 80) * 255
    with torch.no_grad():
        wanted = model([{"image": image}])[0]["instances"]
        boxes, _, scores, _ = traced(image)
    torch.testing.assert_close(scores, wanted.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(boxes, wanted.pred_boxes.tensor, rtol=1e-2, atol=1e-1)


def test_the_demo_class_of_detectron2_draws(averaged: Path, old_style: Path, shapes: Path) -> None:
    """``demo/demo.py`` itself imports a module that is not published."""
    import importlib.util

    import cv2

    path = checkout("detectron2") / "demo/predictor.py"
    if not path.is_file():
        pytest.skip("demo/predictor.py is not beside the package detectron2")
    spec = importlib.util.spec_from_file_location("detectron2_demo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    register_coco("demo_val", f"{shapes}/annotations/instances_val.json", f"{shapes}/val")
    cfg = get_cfg()
    add_deim_config(cfg)
    cfg.merge_from_file(str(old_style))
    cfg.DATASETS.TEST, cfg.MODEL.WEIGHTS = ("demo_val",), str(averaged)
    image = cv2.imread(str(next((shapes / "val").iterdir())))
    predictions, drawn = module.VisualizationDemo(cfg).run_on_image(image)
    assert len(predictions["instances"]) == 100
    assert drawn.get_image().shape == image.shape
    assert not np.array_equal(drawn.get_image(), image[..., ::-1])


@torch.no_grad()
def test_a_converted_resnet_of_torchvision_is_a_backbone_of_ours(tmp_path: Path) -> None:
    import torchvision

    path = checkout("detectron2") / "tools/convert-torchvision-to-d2.py"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the package detectron2")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    succeeded(script(path, str(tmp_path / "resnet18.pth"), str(tmp_path / "r18.pkl")))
    node = recipe("deformable_detr_r18_shapes").model.backbone
    node.weights = str(tmp_path / "r18.pkl")
    ours = instantiate(node).eval()
    image = torch.rand(1, 3, 64, 64)
    wanted = torch.nn.Sequential(*list(theirs.children())[:6])(image)
    torch.testing.assert_close(ours(image)["res3"], wanted, rtol=1e-3, atol=1e-4)


# --- classes that scripts are made of ---------------------------------------------------------------------------------


def test_hooks_of_detectron2_run_with_our_model_and_loader(shapes: Path, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import SimpleTrainer, hooks

    cfg = load_config(RECIPE, [*SMALL, *data_overrides(shapes)])
    model = instantiate(cfg.model)
    loader = instantiate(cfg.dataloader.train)
    trainer = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.0))
    checkpointer = DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
    before = {name: value.clone() for name, value in model.named_buffers() if name.endswith("running_mean")}
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.PreciseBN(2, model, loader, 2),
            hooks.EvalHook(2, lambda: {"bbox": {"AP": 1.0}}),
            hooks.BestCheckpointer(2, checkpointer, "bbox/AP"),
            hooks.TorchProfiler(lambda one: one.iter == 1, str(tmp_path), save_tensorboard=False),
        ]
    )
    trainer.train(0, 2)
    assert (tmp_path / "model_best.pth").is_file()
    assert any(not torch.equal(value, dict(model.named_buffers())[name]) for name, value in before.items())


def write_voc(shapes: Path, root: Path) -> None:
    """``shapes`` in the layout of Pascal VOC 2007."""
    content = json.loads((shapes / "annotations/instances_train.json").read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in content["categories"]}
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "JPEGImages").symlink_to(shapes / "train")
    stems = []
    for image in content["images"]:
        stems.append(Path(image["file_name"]).stem)
        objects = ""
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, width, height = one["bbox"]
                edges = {"xmin": int(x) + 1, "ymin": int(y) + 1, "xmax": int(x + width), "ymax": int(y + height)}
                box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
                objects += (
                    f"<object><name>{names[one['category_id']]}</name><pose>x</pose><truncated>0</truncated>"
                    f"<difficult>0</difficult><bndbox>{box}</bndbox></object>"
                )
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        (root / "Annotations" / f"{stems[-1]}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (root / "ImageSets/Main/test.txt").write_text("\n".join(stems))


class Oracle(torch.nn.Module):
    """Finds what is annotated in images of their original size."""

    def forward(self, batch: list[dict]) -> list[dict]:
        from detectron2.structures import Instances

        found = []
        for sample in batch:
            boxes, classes = sample["instances"].gt_boxes, sample["instances"].gt_classes
            size = (sample["height"], sample["width"])
            instances = Instances(size, pred_boxes=boxes, pred_classes=classes, scores=torch.ones(len(classes)))
            found.append({"instances": instances})
        return found


def evaluated(name: str, evaluator: Any, model: torch.nn.Module) -> float:
    """The AP50 of a model on a registered dataset, whose images come from our loader."""
    from detectron2.evaluation import inference_on_dataset

    mapper = DetectionMapper([], is_train=True)
    loader = build_test_loader(coco_dataset(name), mapper=mapper, total_batch_size=2, num_workers=0)
    return inference_on_dataset(model.eval(), loader, evaluator)["bbox"]["AP50"]


def test_the_evaluator_of_pascal_voc_takes_our_loader_and_detections(shapes: Path, tmp_path: Path) -> None:
    from detectron2.data.datasets import register_pascal_voc
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    write_voc(shapes, tmp_path / "VOC")
    name = f"voc_{tmp_path}_test"
    register_pascal_voc(name, str(tmp_path / "VOC"), "test", 2007, list(CLASSES))
    assert evaluated(name, PascalVOCDetectionEvaluator(name), Oracle()) == pytest.approx(100)
    assert evaluated(name, PascalVOCDetectionEvaluator(name), randomize(tiny_model())) < 50


def test_the_evaluator_of_lvis_takes_our_loader_and_detections(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 uses a name that numpy 1.24 has removed
    pytest.importorskip("lvis", reason="LVISEvaluator needs the package lvis")
    from detectron2.data.datasets import register_lvis_instances
    from detectron2.evaluation import LVISEvaluator

    content = json.loads((shapes / "annotations/instances_train.json").read_text(encoding="utf-8"))
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        image["coco_url"] = f"http://images.cocodataset.org/images/{image['file_name']}"
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        one["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    for category in content["categories"]:
        category |= {"frequency": "f", "image_count": 1}
    (tmp_path / "lvis.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "images").symlink_to(shapes / "train")
    name = f"lvis_v1_{tmp_path}"  # detectron2 reads LVIS under such names alone
    register_lvis_instances(name, {}, str(tmp_path / "lvis.json"), f"{tmp_path}/")
    evaluator = LVISEvaluator(name, tasks=("bbox",), output_dir=str(tmp_path))
    assert evaluated(name, evaluator, Oracle()) == pytest.approx(100)
    assert evaluated(name, evaluator, randomize(tiny_model())) < 50


@torch.no_grad()
@pytest.mark.parametrize("family", ["dfine", "deformable"])
def test_a_traced_model_becomes_onnx(family: str, tmp_path: Path) -> None:
    """By the exporter of torch that reads traces, for images of one size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from detectron2.export import TracingAdapter

    model = randomize(tiny_model(family=family)).eval()
    image = torch.rand(3, 90, 128, generator=torch.Generator().manual_seed(0)) * 255
    adapter = TracingAdapter(model, [{"image": image}]).eval()
    torch.onnx.export(adapter, (image,), str(tmp_path / "model.onnx"), opset_version=16, dynamo=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    wanted = model([{"image": image}])[0]["instances"]
    np.testing.assert_allclose(found[2], wanted.scores.numpy(), atol=1e-4)
    # Detections of nearly the same score may change places.
    distances = torch.cdist(torch.from_numpy(found[0][:50]), wanted.pred_boxes.tensor, p=1)
    assert distances.min(dim=1).values.max() < 0.01


def test_test_time_augmentation_is_for_models_of_detectron2() -> None:
    from detectron2.modeling import GeneralizedRCNNWithTTA

    with pytest.raises(AssertionError, match="TTA is only supported on GeneralizedRCNN"):
        GeneralizedRCNNWithTTA(get_cfg(), tiny_model())
