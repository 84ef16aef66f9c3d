"""detectron2 and detrex, installed or bundled, provide the API that this project uses.

Every name that the project imports from them is listed here with the parameters that it uses. The test runs against the
packages that are present.
"""

import ast
import importlib
import inspect
import io
import json
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import ROOT

# {module: {name: parameters used, in any order}}
USED_API = {
    "detectron2.evaluation.testing": {"flatten_results_dict": ["results"]},
    "detectron2.solver": {"LRMultiplier": ["optimizer", "multiplier", "max_iter", "last_iter"]},
    "detectron2.utils.env": {"seed_all_rng": ["seed"]},
    "detectron2.checkpoint": {"DetectionCheckpointer": ["model", "save_dir", "save_to_disk"]},
    "detectron2.config": {
        "LazyCall": ["target"],
        "LazyConfig": [],
        "configurable": ["init_func"],
        "instantiate": ["cfg"],
        "get_cfg": [],
        "CfgNode": [],
    },
    "detectron2.data": {
        "DatasetCatalog": [],
        "MetadataCatalog": [],
        "build_detection_test_loader": ["dataset", "mapper", "batch_size", "num_workers"],
        "get_detection_dataset_dicts": ["names", "filter_empty", "check_consistency"],
        "detection_utils": [],
        "transforms": [],
    },
    "detectron2.data.common": {"DatasetFromList": ["lst", "copy"]},
    "detectron2.data.datasets": {
        "load_coco_json": ["json_file", "image_root", "dataset_name"],
        "register_coco_instances": ["name", "metadata", "json_file", "image_root"],
    },
    "detectron2.data.detection_utils": {
        "read_image": ["file_name", "format"],
        "check_image_size": ["dataset_dict", "image"],
    },
    "detectron2.data.transforms": {
        "AugInput": ["image", "boxes"],
        "Augmentation": [],
        "AugmentationList": ["augs"],
        "HFlipTransform": ["width"],
        "NoOpTransform": [],
        "RandomFlip": ["prob"],
        "Resize": ["shape"],
        "Transform": [],
        "TransformList": ["transforms"],
    },
    "detectron2.engine": {
        "HookBase": [],
        "SimpleTrainer": ["model", "data_loader", "optimizer"],
        "TrainerBase": [],
        "default_argument_parser": ["epilog"],
        "default_setup": ["cfg", "args"],
        "hooks": [],
        "launch": ["main_func", "num_gpus_per_machine", "num_machines", "machine_rank", "dist_url", "args"],
    },
    "detectron2.engine.defaults": {"create_ddp_model": ["model", "fp16_compression"]},
    "detectron2.engine.hooks": {
        "BestCheckpointer": ["eval_period", "checkpointer", "val_metric", "mode", "file_prefix"],
        "EvalHook": ["eval_period", "eval_function"],
        "IterationTimer": ["warmup_iter"],
        "LRScheduler": ["optimizer", "scheduler"],
        "PeriodicCheckpointer": ["checkpointer", "period", "max_to_keep"],
        "PeriodicWriter": ["writers", "period"],
    },
    "detectron2.evaluation": {
        "COCOEvaluator": ["dataset_name", "tasks", "distributed", "output_dir"],
        "DatasetEvaluator": [],
        "inference_context": ["model"],
        "inference_on_dataset": ["model", "data_loader", "evaluator"],
        "print_csv_format": ["results"],
    },
    "detectron2.layers": {"FrozenBatchNorm2d": ["num_features", "eps"], "ShapeSpec": ["channels", "stride"]},
    "detectron2.modeling": {
        "BACKBONE_REGISTRY": [],
        "META_ARCH_REGISTRY": [],
        "Backbone": [],
        "build_backbone": ["cfg", "input_shape"],
        "build_model": ["cfg"],
    },
    "detectron2.modeling.backbone": {
        "BasicStem": ["in_channels", "out_channels", "norm"],
        "BottleneckBlock": ["in_channels", "out_channels", "bottleneck_channels", "stride", "norm", "dilation"],
        "ResNet": ["stem", "stages", "out_features", "freeze_at"],
        "SwinTransformer": ["embed_dim", "depths", "num_heads", "window_size", "drop_path_rate", "out_indices"],
    },
    "detectron2.modeling.backbone.resnet": {
        "BasicBlock": ["in_channels", "out_channels", "stride", "norm"],
        "BottleneckBlock": [],
    },
    "detectron2.modeling.backbone.swin": {"SwinTransformerBlock": []},
    "detectron2.structures": {
        "BitMasks": ["tensor"],
        "BoxMode": [],
        "Boxes": ["tensor"],
        "ImageList": ["tensor", "image_sizes"],
        "Instances": ["image_size"],
        "Keypoints": ["keypoints"],
        "PolygonMasks": ["polygons"],
    },
    "detectron2.utils": {"comm": []},
    "detectron2.utils.comm": {
        "create_local_process_group": ["num_workers_per_machine"],
        "get_rank": [],
        "get_world_size": [],
        "is_main_process": [],
        "shared_random_seed": [],
        "synchronize": [],
    },
    "detectron2.utils.events": {
        "EventStorage": ["start_iter"],
        "EventWriter": [],
        "JSONWriter": ["json_file"],
        "TensorboardXWriter": ["log_dir"],
        "get_event_storage": [],
        "has_event_storage": [],
    },
    "detectron2.utils.file_io": {"PathManager": []},
    "detectron2.utils.registry": {"locate": ["name"]},
    "detrex.layers": {"box_cxcywh_to_xyxy": ["bbox"], "box_xyxy_to_cxcywh": ["bbox"]},
    "detrex.modeling": {"ema": []},
    "detrex.modeling.backbone": {"TimmBackbone": ["model_name", "pretrained", "out_indices"]},
    "detrex.modeling.ema": {
        "EMAState": [],
        "apply_model_ema_and_restore": ["model", "state"],
        "get_model_ema_state": ["model"],
        "may_build_model_ema": ["cfg", "model"],
        "may_get_ema_checkpointer": ["cfg", "model"],
    },
    "detrex.utils": {"WandbWriter": ["cfg", "window_size"]},
}


def attribute(module: str, name: str):
    loaded = importlib.import_module(module)
    return getattr(loaded, name) if hasattr(loaded, name) else importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in USED_API.items() for n in names])
def test_used_api_exists_with_its_parameters(module: str, name: str) -> None:
    if name == "WandbWriter" and importlib.util.find_spec("detrex.config") and not importlib.util.find_spec("wandb"):
        pytest.skip("the real detrex needs wandb")
    target = attribute(module, name)
    expected = USED_API[module][name]
    if expected:
        assert set(expected) <= set(inspect.signature(target).parameters)


def test_all_imports_are_listed() -> None:
    files = [p for d in ("deim", "benchmarks", "configs", "projects", "tools") for p in (ROOT / d).rglob("*.py")]
    imported = defaultdict(set)
    for path in files:
        if "standalone" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("detectron2", "detrex"):
                imported[node.module].update(alias.name for alias in node.names)
    assert imported
    missing = {m: names - set(USED_API.get(m, {})) for m, names in imported.items() if names - set(USED_API.get(m, {}))}
    assert not missing


def test_boxes_and_instances() -> None:
    from detectron2.structures import Boxes, BoxMode, Instances

    boxes = Boxes(torch.tensor([[-5.0, 0, 10, 10], [0, 0, 0, 5]]))
    boxes.clip((8, 9))
    assert boxes.tensor.tolist() == [[0, 0, 9, 8], [0, 0, 0, 5]]
    assert boxes.nonempty().tolist() == [True, False]
    assert boxes.area().tolist() == [72, 0]
    assert Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    instances = Instances((8, 9), gt_boxes=boxes, gt_classes=torch.tensor([1, 2]))
    assert len(instances[instances.gt_classes == 2]) == 1
    assert instances[0].gt_boxes.tensor.shape == (1, 4)
    with pytest.raises(AssertionError):
        instances.extra = [1, 2, 3]
    assert len(Instances.cat([instances, instances])) == 4
    assert BoxMode.convert([1.0, 2, 3, 4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [1, 2, 4, 6]
    array = BoxMode.convert(np.array([[1.0, 2, 4, 6]]), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert array.tolist() == [[1, 2, 3, 4]]


def test_image_list_pads_to_a_multiple() -> None:
    from detectron2.structures import ImageList

    batch = ImageList.from_tensors([torch.ones(3, 30, 50), torch.ones(3, 40, 20)], 32)
    assert batch.tensor.shape == (2, 3, 64, 64)
    assert [tuple(s) for s in batch.image_sizes] == [(30, 50), (40, 20)]
    assert batch[1].shape == (3, 40, 20)
    assert batch.tensor.sum() == 3 * (30 * 50 + 40 * 20)


def test_frozen_batch_norm_equals_batch_norm() -> None:
    from detectron2.layers import FrozenBatchNorm2d

    norm = nn.BatchNorm2d(4).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(nn.Sequential(norm))[0]
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(frozen(x), norm(x))
    torch.testing.assert_close(frozen(x.requires_grad_()), norm(x))
    assert not list(frozen.parameters())
    assert {"weight", "bias", "running_mean", "running_var"} <= set(frozen.state_dict())


def test_lazy_config_relative_import_override_and_save(tmp_path: Path) -> None:
    from detectron2.config import LazyConfig, instantiate

    (tmp_path / "base.py").write_text(
        "from detectron2.config import LazyCall as L\nfrom torch import nn\n"
        "width = 3\nmodel = L(nn.Linear)(in_features=width, out_features='${.in_features}')\n"
    )
    (tmp_path / "child.py").write_text("from .base import model\nmodel.bias = False\ntrain = dict(name='x')\n")
    cfg = LazyConfig.load(str(tmp_path / "child.py"))
    assert set(cfg) == {"model", "train"}
    LazyConfig.apply_overrides(cfg, ["model.in_features=5", "train.name=y", "train.rate=1e-3"])
    assert cfg.train == {"name": "y", "rate": 1e-3}
    layer = instantiate(cfg.model)
    assert (layer.in_features, layer.out_features, layer.bias) == (5, 5, None)
    LazyConfig.save(cfg, str(tmp_path / "saved.yaml"))
    reloaded = LazyConfig.load(str(tmp_path / "saved.yaml"))
    assert isinstance(instantiate(reloaded.model), nn.Linear)
    (tmp_path / "broken.py").write_text("from .nowhere import x\n")
    with pytest.raises(ImportError):
        LazyConfig.load(str(tmp_path / "broken.py"))


def test_nested_lazy_calls() -> None:
    from detectron2.config import LazyCall, instantiate

    inner = LazyCall(nn.Linear)(in_features=1, out_features=2)
    modules = instantiate(LazyCall(nn.ModuleList)(modules=[inner, inner]))
    assert [type(m) for m in modules] == [nn.Linear, nn.Linear]
    assert modules[0] is not modules[1]


def test_dataset_and_metadata_catalogs(tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    DatasetCatalog.register("conformance", lambda: [{"file_name": "x"}])
    assert DatasetCatalog.get("conformance") == [{"file_name": "x"}]
    with pytest.raises(AssertionError):
        DatasetCatalog.register("conformance", list)
    with pytest.raises(KeyError):
        DatasetCatalog.get("never heard of")
    metadata = MetadataCatalog.get("conformance")
    metadata.thing_classes = ["a"]
    assert metadata.get("json_file") is None
    assert MetadataCatalog.get("conformance").thing_classes == ["a"]
    with pytest.raises(AssertionError):
        metadata.thing_classes = ["b"]
    with pytest.raises(AttributeError):
        metadata.nothing  # noqa: B018
    DatasetCatalog.remove("conformance")


def test_json_writer(tmp_path: Path) -> None:
    from detectron2.utils.events import EventStorage, JSONWriter

    writer = JSONWriter(str(tmp_path / "metrics.json"))
    with EventStorage(3) as storage:
        for value in (1.0, 5.0, 3.0):
            storage.put_scalar("loss", value)
            storage.put_scalar("lr", value, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.iter = 4
        storage.put_scalars(loss=2.0)
        writer.write()
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text(encoding="utf-8").splitlines()]
    assert lines == [{"iteration": 3, "loss": 3.0, "lr": 3.0}, {"iteration": 4, "loss": 2.5}]


def test_checkpoint_layout_and_resume(tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import SimpleTrainer, hooks
    from fvcore.common.param_scheduler import CosineParamScheduler

    class Model(nn.Linear):
        def forward(self, x):
            return {"loss": super().forward(x).sum()}

    def build():
        model = Model(2, 1)
        trainer = SimpleTrainer(model, [torch.ones(1, 2)] * 9, torch.optim.SGD(model.parameters(), 0.1, 0.9))
        checkpointer = DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
        trainer.register_hooks(
            [
                hooks.IterationTimer(),
                hooks.LRScheduler(scheduler=CosineParamScheduler(1, 0.1)),
                hooks.PeriodicCheckpointer(checkpointer, period=2),
            ]
        )
        return model, trainer, checkpointer

    model, trainer, _ = build()
    trainer.train(0, 4)
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert {"model", "trainer", "iteration"} <= set(content)
    assert {"iteration", "optimizer", "hooks"} <= set(content["trainer"])
    assert content["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 4
    assert (tmp_path / "last_checkpoint").read_text(encoding="utf-8") == "model_final.pth"
    assert (tmp_path / "model_0000001.pth").is_file()

    resumed_model, resumed, checkpointer = build()
    checkpointer.resume_or_load("", resume=True)
    assert resumed.iter == 3
    assert torch.equal(resumed_model.weight, model.weight)


def test_argument_parser() -> None:
    from detectron2.engine import default_argument_parser

    args = default_argument_parser().parse_args(
        [
            "--config-file",
            "c.py",
            "--num-gpus",
            "2",
            "--num-machines",
            "3",
            "--machine-rank",
            "1",
            "--resume",
            "--eval-only",
            "a.b=1",
            "c=2",
        ]
    )
    assert (args.config_file, args.num_gpus, args.num_machines, args.machine_rank) == ("c.py", 2, 3, 1)
    assert args.resume
    assert args.eval_only
    assert args.opts == ["a.b=1", "c=2"]
    assert args.dist_url.startswith("tcp://127.0.0.1:")


def test_perfect_predictions_have_ap_100(tmp_path: Path) -> None:
    from detectron2.data.datasets import load_coco_json, register_coco_instances
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    generator = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100} for i in (3, 8)]
    annotations = [
        {
            "id": k + 1,
            "image_id": images[k % 2]["id"],
            "category_id": [4, 9][k % 3 > 0],
            "bbox": [float(v) for v in generator.uniform(5, 40, 4)],
            "iscrowd": 0,
        }
        for k in range(8)
    ]
    for annotation in annotations:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    categories = [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    register_coco_instances("conformance_ap", {}, str(path), str(tmp_path))
    records = load_coco_json(str(path), str(tmp_path), "conformance_ap")
    evaluator = COCOEvaluator("conformance_ap", output_dir=str(tmp_path / "out"))
    evaluator.reset()
    for record in records:
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]])
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((100, 100))
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP-a"] == pytest.approx(100)
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl"} <= set(results["bbox"])
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text(encoding="utf-8"))
    assert {d["category_id"] for d in saved} == {4, 9}


def test_print_csv_format() -> None:
    from detectron2.evaluation import print_csv_format

    stream = io.StringIO()
    logger = logging.getLogger("detectron2.evaluation.testing")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    print_csv_format({"bbox": {"AP": 12.34567, "AP50": 50.0, "AP-cat": 1.0}})
    logger.removeHandler(handler)
    assert stream.getvalue().splitlines() == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 12.3457,50.0000",
    ]


def test_apply_model_ema_and_restore() -> None:
    from detrex.modeling import ema

    model = nn.Linear(1, 1)
    state = ema.EMAState()
    state.save_from(model)
    state.state["weight"].fill_(7)
    weight = model.weight.clone()
    model.ema_state = state
    with ema.apply_model_ema_and_restore(model):
        assert model.weight.item() == 7
    assert torch.equal(model.weight, weight)


def test_box_formats() -> None:
    from detrex.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh

    boxes = torch.rand(2, 3, 4)
    torch.testing.assert_close(box_xyxy_to_cxcywh(box_cxcywh_to_xyxy(boxes)), boxes)
    assert box_cxcywh_to_xyxy(torch.tensor([5.0, 6, 2, 4])).tolist() == [4, 4, 6, 8]
