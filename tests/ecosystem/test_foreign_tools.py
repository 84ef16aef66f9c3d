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
SMALL_RUN = [
    "dataloader.image_size=[64,64]",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.test.mapper.augmentations.0.shape=[64,64]",
    "train.log_period=1",
]
FEW_ITERATIONS = ["train.max_iter=4", "train.eval_period=4", "train.checkpointer.period=2"]


def checkout(package: str) -> Path:
    """Return the folder of a package's repository."""
    return Path(__import__(package).__file__).parents[1]


def run_foreign_script(
    package: str, name: str, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess:
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


def output_of(process: subprocess.CompletedProcess) -> str:
    """Check that a script succeeded and return its output."""
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout + process.stderr


def config(shapes: Path, output: Path, *overrides: str, file: str = RECIPE) -> list[str]:
    """Return the arguments of a script that takes a LazyConfig and runs on ``shapes``."""
    overrides_of_run = [override for override in SMALL_RUN if "augmentations" not in override or file == RECIPE]
    return ["--config-file", file, *overrides_of_run, *data_overrides(shapes), f"train.output_dir={output}", *overrides]


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of our trainer whose EMA weights differ from its weights."""
    output = tmp_path_factory.mktemp("trained")
    averaging = ["train.model_ema.decay=0.9", "train.model_ema.warmup_iters=1"]
    length = ["train.max_iter=8", "train.eval_period=8", "train.checkpointer.period=8", "optimizer.lr=0.05"]
    output_of(tool("train_net.py", *config(shapes, output, *averaging, *length)))
    return output / "model_final.pth"


@pytest.fixture(scope="module")
def ema_checkpoint(trained: Path) -> Path:
    """Return a checkpoint with the EMA weights of ``trained`` as its weights."""
    output_of(tool("convert_checkpoint.py", str(trained), str(trained.with_name("averaged.pth"))))
    return trained.with_name("averaged.pth")


class Evaluation:
    """Evaluation of a checkpoint by a script, and its results."""

    def __init__(self, shapes: Path, output: Path):
        self.shapes, self.output = shapes, output

    def arguments(self, checkpoint: Path, *overrides: str) -> list[str]:
        output_override = f"+dataloader.evaluator.output_dir={self.output}"
        weights = f"train.init_checkpoint={checkpoint}"
        return ["--eval-only", *config(self.shapes, self.output, output_override, weights, *overrides)]

    def by_our_script(self, checkpoint: Path, *overrides: str) -> tuple[str, list[dict]]:
        """Return the results of our script, in the memory format of the other scripts, so that sums round equally."""
        overrides = ("train.memory_format=contiguous", *overrides)
        return self.detections(tool("train_net.py", *self.arguments(checkpoint, *overrides)))

    def detections(self, process: subprocess.CompletedProcess) -> tuple[str, list[dict]]:
        """Return the line of average precisions and all detections."""
        printed = output_of(process)
        scores = re.findall(r"copypaste: ([\d.,nan]+)$", printed, re.MULTILINE)
        file = self.output / "coco_instances_results.json"
        results = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
        assert len(results) > 100
        return scores[-1], results


# --- training scripts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [RECIPE, DN_DETR], ids=["deim_dfine", "dn_detr"])
def test_detectron2_script_trains_evaluates_and_resumes(file: str, shapes: Path, tmp_path: Path) -> None:
    arguments = config(shapes, tmp_path, *FEW_ITERATIONS, file=file)
    output_of(run_foreign_script("detectron2", "tools/lazyconfig_train_net.py", *arguments))
    longer = ["train.max_iter=6", "train.eval_period=6"]
    output_of(run_foreign_script("detectron2", "tools/lazyconfig_train_net.py", "--resume", *arguments, *longer))
    assert sorted(metrics(tmp_path)) == list(range(6))
    assert sorted(metrics(tmp_path, "bbox/AP")) == [4, 6]
    assert all(np.isfinite(value) for value in metrics(tmp_path).values())


def test_run_resumes_with_other_trainer(shapes: Path, tmp_path: Path) -> None:
    """Train with detectron2's script, then with ours, then with detectron2's again."""
    arguments = config(shapes, tmp_path, *FEW_ITERATIONS)
    output_of(run_foreign_script("detectron2", "tools/lazyconfig_train_net.py", *arguments))
    our_length = ["train.max_iter=6", "train.eval_period=6", "train.checkpointer.period=6"]
    output_of(tool("train_net.py", "--resume", *arguments, *our_length))
    their_length = ["train.max_iter=8", "train.eval_period=8"]
    output_of(run_foreign_script("detectron2", "tools/lazyconfig_train_net.py", "--resume", *arguments, *their_length))
    assert sorted(metrics(tmp_path)) == list(range(8))


def test_detrex_script_saves_ema_weights_that_our_script_evaluates(shapes: Path, tmp_path: Path) -> None:
    printed = output_of(
        detrex_train_net(*config(shapes, tmp_path, *FEW_ITERATIONS, "train.model_ema.decay=0.5", "optimizer.lr=0.05"))
    )
    assert "Run evaluation with EMA" in printed
    assert sorted(metrics(tmp_path)) == list(range(4))
    content = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert set(content["model"]) <= set(content["ema_state"])
    evaluation = Evaluation(shapes, tmp_path)
    theirs = evaluation.detections(
        run_foreign_script("detrex", "tools/train_net.py", *evaluation.arguments(tmp_path / "model_final.pth"))
    )
    ours = evaluation.by_our_script(tmp_path / "model_final.pth")
    assert ours == theirs


def test_page_example_keeps_gradient_clipping_and_ema(shapes: Path, tmp_path: Path) -> None:
    """A copy of detectron2's script with the example of the page trains like our own script."""
    lines = page_example("Keep gradient clipping, EMA and bfloat16")
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
    copy.write_text(text.replace("lambda: do_test(cfg, model)", "evaluate_ema"), encoding="utf-8")
    options = ["train.model_ema.decay=0.5", "optimizer.lr=0.01", "train.memory_format=contiguous", *FEW_ITERATIONS]
    output_of(script(copy, *config(shapes, tmp_path / "theirs", *options)))
    output_of(tool("train_net.py", *config(shapes, tmp_path / "ours", *options)))
    assert metrics(tmp_path / "theirs") == pytest.approx(metrics(tmp_path / "ours"), rel=1e-4)
    assert metrics(tmp_path / "theirs", "grad_norm") == pytest.approx(metrics(tmp_path / "ours", "grad_norm"), rel=1e-3)
    states = [
        torch.load(tmp_path / run / "model_final.pth", weights_only=False)["ema_state"] for run in ("theirs", "ours")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)


# --- evaluation of checkpoints ----------------------------------------------------------------------------------------


def test_scripts_evaluate_ema_weights_equally(
    trained: Path, ema_checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    """detrex's script reads EMA weights from ``ema_state``; detectron2's script needs the converted file."""
    evaluation = Evaluation(shapes, tmp_path)
    ours = evaluation.by_our_script(trained)
    script_of_detectron2 = "tools/lazyconfig_train_net.py"
    assert (
        evaluation.detections(run_foreign_script("detrex", "tools/train_net.py", *evaluation.arguments(trained)))
        == ours
    )
    converted = evaluation.detections(
        run_foreign_script("detectron2", script_of_detectron2, *evaluation.arguments(ema_checkpoint))
    )
    assert converted == ours
    raw = evaluation.detections(run_foreign_script("detectron2", script_of_detectron2, *evaluation.arguments(trained)))
    assert raw[1] != ours[1]


def test_detrex_script_evaluates_weights_without_ema(ema_checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(shapes, tmp_path)
    process = run_foreign_script("detrex", "tools/train_net.py", *evaluation.arguments(ema_checkpoint))
    assert "available names dict_keys([])" in process.stderr
    arguments = [*evaluation.arguments(ema_checkpoint), "train.model_ema.enabled=False"]
    ours = evaluation.by_our_script(ema_checkpoint)
    assert evaluation.detections(run_foreign_script("detrex", "tools/train_net.py", *arguments)) == ours


# --- the page ---------------------------------------------------------------------------------------------------------


def page_example(section: str) -> str:
    """Return the Python example in a section of the page."""
    page = (ROOT / "docs/ecosystem.md").read_text(encoding="utf-8")
    (lines,) = re.findall(rf"## {section}.*?```py\n(.*?)```", page, re.DOTALL)
    return lines


@torch.no_grad()
def test_page_example_traces_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "model": tiny_model().eval(), "image": torch.rand(3, 64, 96) * 255}
    exec(compile(page_example("Trace a model"), "ecosystem.md", "exec"), names)
    assert len(names["traced"](torch.rand(3, 50, 70) * 255)) == 4
    assert (tmp_path / "model.onnx").is_file()


def test_page_example_sets_max_iter_of_other_dataset() -> None:
    names = {"train": SimpleNamespace()}
    exec(compile(page_example("The data loader with other trainers"), "ecosystem.md", "exec"), names)
    loader, schedule = names["dataloader"].train, names["schedule"]
    assert names["train"].max_iter == schedule.epochs * (5_000 // loader.total_batch_size)


@pytest.mark.parametrize("package", ["detectron2", "detrex"])
def test_page_lists_all_tools(package: str) -> None:
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
def test_analyze_model(package: str, file: str, shapes: Path, tmp_path: Path) -> None:
    tasks = ["--tasks", "parameter", "structure", "flop", "activation", "--num-inputs", "2"]
    arguments = config(shapes, tmp_path, "dataloader.test.total_batch_size=1", file=file)
    printed = output_of(run_foreign_script(package, "tools/analyze_model.py", *tasks, *arguments))
    parameters = sum(parameter.numel() for parameter in instantiate(recipe(Path(file).stem).model).parameters())
    assert re.search(rf"model +\| +{parameters / 1e6:.1f}M", printed), "the number of parameters of the model"
    assert float(re.search(r"Total \(Million\) Activations: ([\d.]+)", printed)[1]) > 0
    assert "Total GFlops" in printed


def test_benchmark_eval(shapes: Path, tmp_path: Path) -> None:
    arguments = config(shapes, tmp_path, "dataloader.test.total_batch_size=1")
    printed = output_of(run_foreign_script("detectron2", "tools/benchmark.py", "--task", "eval", *arguments))
    assert re.search(r"300 iters in [\d.]+ seconds", printed)


def test_data_loader_benchmark(shapes: Path) -> None:
    """Use the class of ``tools/benchmark.py --task data``; the report of that tool fails with numpy 2.4."""
    from detectron2.data.benchmark import DataLoaderBenchmark, iter_benchmark

    cfg = load_config(RECIPE, [*SMALL_RUN, *data_overrides(shapes)])
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


def test_detrex_demo_draws_detections(ema_checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    """Run the demo in its own repository, since it imports modules from the current folder."""
    size = ["--min_size_test", "64", "--max_size_test", "64", "--confidence-threshold", "0.0"]
    images = ["--input", f"{shapes}/val/*.jpg", "--output", str(tmp_path), "--metadata_dataset", "coco_2017_val"]
    arguments = [
        "--config-file",
        str(ROOT / RECIPE),
        *images,
        *size,
        "--opts",
        f"train.init_checkpoint={ema_checkpoint}",
    ]
    printed = output_of(run_foreign_script("detrex", "demo/demo.py", *arguments, cwd=checkout("detrex")))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in (shapes / "val").iterdir())
    assert set(re.findall(r"detected (\d+) instances", printed)) == {"100"}


def test_detrex_predictor_equals_our_predictor(ema_checkpoint: Path, shapes: Path) -> None:
    import importlib.util

    import cv2

    from deim import Predictor

    path = checkout("detrex") / "demo/predictors.py"
    if not path.is_file():
        pytest.skip("demo/predictors.py is not beside the package detrex")
    spec = importlib.util.spec_from_file_location("detrex_predictors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predictor = Predictor(ema_checkpoint, device="cpu", threshold=0.0)
    size = load_config(RECIPE).dataloader.image_size[0]
    detrex_predictor = module.DefaultPredictor(predictor.runner.model, size, size)
    image = cv2.imread(str(min((shapes / "val").iterdir())))
    square = np.ascontiguousarray(image[:64, :64])
    actual, expected = detrex_predictor(square)["instances"], predictor(square, channels="BGR")
    np.testing.assert_allclose(actual.scores.numpy(), expected.scores, rtol=1e-5)
    np.testing.assert_allclose(actual.pred_boxes.tensor.numpy(), expected.boxes, atol=1e-3)


def write_registering_script(package: str, name: str, shapes: Path, folder: Path) -> Path:
    """Write a script that registers ``shapes`` as ``mine_train`` and ``mine_val`` and then runs another script."""
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
def test_visualize_json_results(package: str, trained: Path, shapes: Path, tmp_path: Path) -> None:
    """Draw detections of a dataset that a script registers first."""
    wrapper = write_registering_script(package, "tools/visualize_json_results.py", shapes, tmp_path)
    evaluation = Evaluation(shapes, tmp_path)
    _, results = evaluation.by_our_script(trained)
    file = tmp_path / "detections.json"
    file.write_text(json.dumps(results), encoding="utf-8")
    arguments = ["--input", str(file), "--output", str(tmp_path / "drawn"), "--dataset", "mine_val"]
    output_of(script(wrapper, *arguments, "--conf-threshold", "0.0"))
    assert len(list((tmp_path / "drawn").iterdir())) == 6


def test_detrex_visualize_data(shapes: Path, tmp_path: Path) -> None:
    wrapper = write_registering_script("detrex", "tools/visualize_data.py", shapes, tmp_path)
    arguments = ["--config-file", RECIPE, "--source", "annotation", "--output-dir", str(tmp_path / "drawn")]
    output_of(script(wrapper, *arguments, "dataloader.train.dataset.names=mine_train"))
    assert len(list((tmp_path / "drawn").iterdir())) == 24


# --- scripts that read old-style configs ------------------------------------------------------------------------------


@pytest.fixture
def old_style(shapes: Path, tmp_path: Path) -> Path:
    """Return an old-style config of the recipe of ``ema_checkpoint``."""
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


def patched_copy(name: str, shapes: Path, folder: Path) -> Path:
    """Copy a script of detectron2 and add our keys and datasets, as described in docs/ecosystem.md."""
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
    lines = "".join(f"{line[1]}{statement}\n" for statement in added)
    copy.write_text(text.replace(line[0], line[0] + lines), encoding="utf-8")
    return copy


@pytest.mark.parametrize("name", ["train_net.py", "plain_train_net.py"])
def test_old_style_training_scripts_train_and_evaluate(
    name: str, old_style: Path, shapes: Path, tmp_path: Path
) -> None:
    copy = patched_copy(f"tools/{name}", shapes, tmp_path)
    printed = output_of(script(copy, "--config-file", str(old_style)))
    assert "copypaste: AP,AP50,AP75" in printed
    assert (tmp_path / "output/model_final.pth").is_file()


def test_old_style_evaluation_equals_ours(ema_checkpoint: Path, old_style: Path, shapes: Path, tmp_path: Path) -> None:
    """Compare with our script on images resized as by detectron2's mapper."""
    evaluation = Evaluation(shapes, tmp_path)
    resize = "_target_:detectron2.data.transforms.ResizeShortestEdge,short_edge_length:64,max_size:64"
    overrides = ["dataloader.test.mapper.augmentations=[{" + resize + "}]", "dataloader.test.total_batch_size=1"]
    ours = evaluation.by_our_script(ema_checkpoint, *overrides)
    copy = patched_copy("tools/train_net.py", shapes, tmp_path)
    evaluation.output = tmp_path / "output/inference"
    process = script(copy, "--eval-only", "--config-file", str(old_style), "MODEL.WEIGHTS", str(ema_checkpoint))
    assert evaluation.detections(process) == ours


def assert_same_detections(boxes: torch.Tensor, classes: torch.Tensor, expected: Any) -> None:
    """Check that every box is among the expected boxes of its class. Detections of nearly the same score may swap."""
    distances = torch.cdist(boxes, expected.pred_boxes.tensor, p=1)
    distances[classes[:, None] != expected.pred_classes] = float("inf")
    assert distances.min(dim=1).values.max() < 0.01


def test_export_tool_writes_equivalent_torchscript(
    ema_checkpoint: Path, old_style: Path, shapes: Path, tmp_path: Path
) -> None:
    copy = patched_copy("tools/deploy/export_model.py", shapes, tmp_path)
    arguments = ["--config-file", str(old_style), "--output", str(tmp_path / "exported")]
    printed = output_of(script(copy, *arguments, "MODEL.WEIGHTS", str(ema_checkpoint)))
    assert "Success." in printed
    traced = torch.jit.load(str(tmp_path / "exported/model.ts"))
    model = instantiate(recipe("deim_dfine_n_shapes").model).eval()
    model.load_state_dict(torch.load(ema_checkpoint, weights_only=False)["model"], strict=False)
    image = torch.rand(3, 48, 80, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected = model([{"image": image}])[0]["instances"]
        boxes, classes, scores, _ = traced(image)
    torch.testing.assert_close(scores, expected.scores, rtol=1e-3, atol=1e-4)
    assert_same_detections(boxes[:50], classes[:50], expected)


def test_detectron2_demo_class(ema_checkpoint: Path, old_style: Path, shapes: Path) -> None:
    """Test the class of the demo; ``demo/demo.py`` imports a module that is not published."""
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
    cfg.DATASETS.TEST, cfg.MODEL.WEIGHTS = ("demo_val",), str(ema_checkpoint)
    image = cv2.imread(str(min((shapes / "val").iterdir())))
    predictions, visualized = module.VisualizationDemo(cfg).run_on_image(image)
    assert len(predictions["instances"]) == 100
    assert visualized.get_image().shape == image.shape
    assert not np.array_equal(visualized.get_image(), image[..., ::-1])


@torch.no_grad()
def test_converted_torchvision_resnet_loads_as_backbone(tmp_path: Path) -> None:
    import torchvision

    path = checkout("detectron2") / "tools/convert-torchvision-to-d2.py"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the package detectron2")
    torch.manual_seed(0)
    torchvision_model = torchvision.models.resnet18().eval()
    torch.save(torchvision_model.state_dict(), tmp_path / "resnet18.pth")
    output_of(script(path, str(tmp_path / "resnet18.pth"), str(tmp_path / "r18.pkl")))
    node = recipe("deformable_detr_r18_shapes").model.backbone
    node.weights = str(tmp_path / "r18.pkl")
    backbone = instantiate(node).eval()
    image = torch.rand(1, 3, 64, 64)
    expected = torch.nn.Sequential(*list(torchvision_model.children())[:6])(image)
    torch.testing.assert_close(backbone(image)["res3"], expected, rtol=1e-3, atol=1e-4)


# --- classes that scripts are made of ---------------------------------------------------------------------------------


def test_detectron2_hooks_with_our_model_and_loader(shapes: Path, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import SimpleTrainer, hooks

    cfg = load_config(RECIPE, [*SMALL_RUN, *data_overrides(shapes)])
    model = instantiate(cfg.model)
    loader = instantiate(cfg.dataloader.train)
    trainer = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.0))
    checkpointer = DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
    means: dict[str, torch.Tensor] = {}

    def copy_means(_: SimpleTrainer) -> None:
        buffers = model.named_buffers()
        means.update({name: value.clone() for name, value in buffers if name.endswith("running_mean")})

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.CallbackHook(after_step=copy_means),
            hooks.PreciseBN(2, model, loader, 2),
            hooks.EvalHook(2, lambda: {"bbox": {"AP": 1.0}}),
            hooks.BestCheckpointer(2, checkpointer, "bbox/AP"),
            hooks.TorchProfiler(lambda hook_trainer: hook_trainer.iter == 1, str(tmp_path), save_tensorboard=False),
        ]
    )
    trainer.train(0, 2)
    assert (tmp_path / "model_best.pth").is_file()
    final = dict(model.named_buffers())
    assert any(not torch.equal(mean, final[name]) for name, mean in means.items()), "PreciseBN replaces the means"


def write_voc(shapes: Path, root: Path) -> None:
    """Write ``shapes`` in the layout of Pascal VOC 2007."""
    content = json.loads((shapes / "annotations/instances_train.json").read_text(encoding="utf-8"))
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "JPEGImages").symlink_to(shapes / "train")
    stems = []
    for image in content["images"]:
        stems.append(Path(image["file_name"]).stem)
        objects = ""
        for entry in content["annotations"]:
            if entry["image_id"] == image["id"]:
                x, y, width, height = entry["bbox"]
                edges = {"xmin": int(x) + 1, "ymin": int(y) + 1, "xmax": int(x + width), "ymax": int(y + height)}
                box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
                objects += (
                    f"<object><name>{names[entry['category_id']]}</name><pose>x</pose><truncated>0</truncated>"
                    f"<difficult>0</difficult><bndbox>{box}</bndbox></object>"
                )
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        (root / "Annotations" / f"{stems[-1]}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (root / "ImageSets/Main/test.txt").write_text("\n".join(stems))


class Oracle(torch.nn.Module):
    """Detector that returns the ground truth of images at their original size."""

    def forward(self, batch: list[dict]) -> list[dict]:
        from detectron2.structures import Instances

        outputs = []
        for sample in batch:
            boxes, classes = sample["instances"].gt_boxes, sample["instances"].gt_classes
            size = (sample["height"], sample["width"])
            instances = Instances(size, pred_boxes=boxes, pred_classes=classes, scores=torch.ones(len(classes)))
            outputs.append({"instances": instances})
        return outputs


def evaluate_ap50(name: str, evaluator: Any, model: torch.nn.Module) -> float:
    """Return the AP50 of a model on a registered dataset, with images from our loader."""
    from detectron2.evaluation import inference_on_dataset

    mapper = DetectionMapper([], is_train=True)
    loader = build_test_loader(coco_dataset(name), mapper=mapper, total_batch_size=2, num_workers=0)
    return inference_on_dataset(model.eval(), loader, evaluator)["bbox"]["AP50"]


def test_pascal_voc_evaluator(shapes: Path, tmp_path: Path) -> None:
    from detectron2.data.datasets import register_pascal_voc
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    write_voc(shapes, tmp_path / "VOC")
    name = f"voc_{tmp_path}_test"
    register_pascal_voc(name, str(tmp_path / "VOC"), "test", 2007, list(CLASSES))
    assert evaluate_ap50(name, PascalVOCDetectionEvaluator(name), Oracle()) == pytest.approx(100)
    assert evaluate_ap50(name, PascalVOCDetectionEvaluator(name), randomize(tiny_model())) < 50


def test_lvis_evaluator(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 uses a name that numpy 1.24 has removed
    pytest.importorskip("lvis", reason="LVISEvaluator needs the package lvis")
    from detectron2.data.datasets import register_lvis_instances
    from detectron2.evaluation import LVISEvaluator

    content = json.loads((shapes / "annotations/instances_train.json").read_text(encoding="utf-8"))
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        image["coco_url"] = f"http://images.cocodataset.org/images/{image['file_name']}"
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    for category in content["categories"]:
        category |= {"frequency": "f", "image_count": 1}
    (tmp_path / "lvis.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "images").symlink_to(shapes / "train")
    name = f"lvis_v1_{tmp_path}"  # detectron2 selects the metadata of LVIS by "v1" in the name
    register_lvis_instances(name, {}, str(tmp_path / "lvis.json"), f"{tmp_path}/")
    evaluator = LVISEvaluator(name, tasks=("bbox",), output_dir=str(tmp_path))
    assert evaluate_ap50(name, evaluator, Oracle()) == pytest.approx(100)
    assert evaluate_ap50(name, evaluator, randomize(tiny_model())) < 50


@torch.no_grad()
@pytest.mark.parametrize("family", ["dfine", "deformable"])
def test_traced_model_exports_to_onnx(family: str, tmp_path: Path) -> None:
    """Use torch's trace-based exporter, for images of one size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from detectron2.export import TracingAdapter

    model = randomize(tiny_model(family=family)).eval()
    image = torch.rand(3, 90, 128, generator=torch.Generator().manual_seed(0)) * 255
    adapter = TracingAdapter(model, [{"image": image}]).eval()
    torch.onnx.export(adapter, (image,), str(tmp_path / "model.onnx"), opset_version=16, dynamo=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    expected = model([{"image": image}])[0]["instances"]
    np.testing.assert_allclose(outputs[2], expected.scores.numpy(), atol=1e-4)
    assert_same_detections(torch.from_numpy(outputs[0][:50]), torch.from_numpy(outputs[1][:50]), expected)


def test_test_time_augmentation_requires_generalized_rcnn() -> None:
    from detectron2.modeling import GeneralizedRCNNWithTTA

    with pytest.raises(AssertionError, match="TTA is only supported on GeneralizedRCNN"):
        GeneralizedRCNNWithTTA(get_cfg(), tiny_model())
