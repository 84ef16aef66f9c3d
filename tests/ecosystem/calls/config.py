"""Lazy and yacs configs."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import dataclasses
import tempfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyCall, LazyConfig, configurable, get_cfg, instantiate
from detectron2.utils.registry import Registry, _convert_target_to_string, locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tests.ecosystem.calls import messages

FILES = {
    "base.py": "from detectron2.config import LazyCall as L\nfrom torch import nn\nwidth = 3\n"
    "model = L(nn.Linear)(in_features=width, out_features='${.in_features}')\nplain = dict(a=1, b=dict(c=[1, 2]))\n",
    "child.py": "from .base import model, plain\nmodel.bias = False\ntrain = dict(name='x', rate=1)\n_hidden = dict(a=1)\n"
    "text = 'not a config'\nlisted = [1, 2]\n",
    "sub/deep.py": "from ..base import plain\nplain.b.c[0] = 7\n",
    "whole.py": "from .sub import deep\n",
    "both.py": "a = dict(b=1)\n",
    "both/part.py": "a = dict(b=2)\n",
    "of_both.py": "from .both import a\nfrom .both.part import a as c\n",
    "of_folder.py": "from .sub import base\n",
    "here.py": "from . import base\n",
    "star.py": "from .base import *\nmodel.in_features = 11\n",
    "missing.py": "from .nowhere import x\n",
    "noname.py": "from .base import nothing\n",
    "broken.py": "a = = 1\n",
    "imports_broken.py": "from .broken import a\n",
    "fails.py": "a = 1 / 0\n",
    "rel.py": "from detectron2.config import LazyConfig\nloaded = LazyConfig.load_rel('base.py', 'plain')\n",
    "name.py": "data = dict(file=__file__.rsplit('/', 1)[-1], name=__name__)\n",
    "data.yaml": "a: 1\nb: {c: [1, 2], d: ${a}}\n",
    "data.yml": "a: 1\n",
    "list.yaml": "[1, 2]\n",
    "data.json": "{}",
    "empty.py": "",
}


def write_files() -> str:
    folder = Path(tempfile.mkdtemp())
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def load(name: str, *keys: Any, **options: Any) -> Any:
    return describe_config(LazyConfig.load(f"{FOLDER}/{name}", *keys, **options))


def describe_config(cfg: Any) -> Any:
    """Return the type and content of a config, with unresolved interpolations."""
    if isinstance(cfg, tuple):
        return tuple(describe_config(item) for item in cfg)
    if OmegaConf.is_config(cfg):
        return type(cfg).__name__, OmegaConf.to_container(cfg), cfg._get_flag("allow_objects")
    return cfg


def apply_overrides(*overrides: str) -> Any:
    cfg = OmegaConf.create({"a": 1, "b": {"c": "x", "d": [1, 2]}, "e": None})
    return LazyConfig.apply_overrides(cfg, list(overrides)) is cfg, OmegaConf.to_container(cfg)


class Nameless:
    """A callable object without ``__qualname__``."""

    def __call__(self, **kwargs: Any) -> dict:
        return kwargs


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


def save_config(cfg: Any) -> Any:
    """Save a config; return the result, the written files, the text of the file and the levels of the log messages."""
    folder = Path(tempfile.mkdtemp())
    with messages("detectron2.config.lazy") as lines:
        returned = LazyConfig.save(cfg, str(folder / "c.yaml"))
    files = sorted(path.name for path in folder.iterdir())
    text = (folder / "c.yaml").read_text() if (folder / "c.yaml").exists() else None
    levels = [line.split(":")[0] for line in lines]
    return returned, files, text if "object" not in str(text) else "objects", levels


def is_unchanged_by_save(cfg: Any) -> bool:
    save_config(cfg)
    return callable(cfg._target_)


def error_messages(call: Any) -> list[str]:
    with messages("detectron2.config.instantiate") as lines:
        try:
            instantiate(call)
        except TypeError:
            return [line.split("!")[0] for line in lines]
    return lines


class Configured:
    @configurable
    def __init__(self, a: Any, b: Any = 2, *, c: Any = 3):
        self.arguments = (a, b, c)

    @classmethod
    def from_config(cls, cfg: Any, b: Any = 20) -> dict:
        return {"a": cfg.A, "b": b}


class Greedy(Configured):
    @classmethod
    def from_config(cls, cfg: Any, **kwargs: Any) -> dict:
        return {"a": cfg.A, **kwargs}


class WithoutFromConfig:
    @configurable
    def __init__(self, a: Any):
        self.arguments = a


class FromConfigIsNoClassMethod:
    @configurable
    def __init__(self, a: Any):
        self.arguments = a

    from_config = 3


class NoConfigArgument:
    @configurable
    def __init__(self, a: Any):
        self.arguments = a

    @classmethod
    def from_config(cls, other: Any) -> dict:
        return {"a": other}


@configurable(from_config=lambda cfg, b=5: {"a": cfg.A, "b": b})
def configurable_function(a: Any, b: Any = 2) -> tuple:
    return a, b


def merge_file(text: str, *options: Any, **keywords: Any) -> Any:
    """Return a model config after merging a YAML file."""
    path = Path(tempfile.mkdtemp()) / "c.yaml"
    path.write_text(text)
    cfg = get_cfg()
    cfg.merge_from_file(str(path), *options, **keywords)
    return cfg.MODEL.WEIGHTS, cfg.MODEL.PIXEL_MEAN, cfg.SEED


def make_configurable(*args: Any, **kwargs: Any) -> Any:
    return configurable(*args, **kwargs)


def apply_to_registry(*operations: Any) -> Any:
    registry = Registry("THINGS")
    registry.register(Point)
    return [operation(registry) for operation in operations]


FOLDER = write_files()
CFG = CfgNode({"A": 1})
LAZY = DictConfig({"A": 1})
LINEAR = LazyCall(nn.Linear)(in_features=1, out_features=2)
PLAIN = {"_target_": "collections.Counter", "a": 1}

CALLS = [
    *(f"load({name!r})" for name in FILES),
    "load('nothing.py')",
    *(f"load('child.py', {keys})" for keys in ("'model'", "'text'", "'listed'", "['model', 'text']", "('train',)", "'nothing'", "()", "''")),
    "load('data.yaml', 'b')",
    "load('data.yaml', ('a', 'b'))",
    "load('data.yaml', keys='nothing')",
    "load('base.py', keys='plain')",
    "load('./base.py', 'plain')",
    "LazyConfig.load(Path('base.py'))",
    "LazyConfig.load('relative.txt')",
    "describe_config(LazyConfig.load_rel('no-such-file.py'))",
    "LazyConfig.load(FOLDER + '/child.py') is LazyConfig.load(FOLDER + '/child.py')",
    *(f"describe_config(LazyCall({t})(a=1, b={{'c': 2}}))" for t in ("Counter", "'collections.Counter'", "{'_target_': 'x'}", "Point")),
    *(f"LazyCall({t})" for t in ("3", "None", "[1]")),
    "LazyCall(Counter)(1)",
    "LazyCall(Counter)",
    "describe_config(LazyCall(Counter)(_target_=1))",
    "instantiate(LazyCall(Counter)(a=1, b=2))",
    "instantiate(PLAIN), PLAIN",
    "instantiate([PLAIN, 1, 'x'])",
    "instantiate((PLAIN,))",
    "instantiate({'a': PLAIN})",
    "instantiate({'_target_': 'builtins.dict', 'a': PLAIN, 'b': [PLAIN], 'c': {'d': PLAIN}})",
    "type(instantiate(OmegaConf.create([1, 2]))).__name__",
    "instantiate(OmegaConf.create({'a': 1})).__class__.__name__",
    "instantiate(OmegaConf.create({'_target_': 'builtins.dict', 'a': '${b}', 'b': 3}))",
    "instantiate(OmegaConf.create({'_target_': 'builtins.dict', 'a': '???'}))",
    "instantiate({'_target_': {'_target_': 'builtins.eval', 'source': 'dict'}, 'a': 1})",
    "instantiate({'_target_': 'no.such.thing'})",
    "instantiate({'_target_': 'math.pi'})",
    "instantiate({'_target_': 3})",
    "instantiate({'_target_': 'builtins.int', 'x': 'a', 'wrong': 1})",
    "instantiate(LazyCall(Nameless())(a=1))",
    *(f"instantiate({v})" for v in ("3", "None", "'x'", "{}")),
    "instantiate(LINEAR).weight.shape, instantiate(LINEAR) is instantiate(LINEAR)",
    "instantiate(OmegaConf.structured(Point(1)))",
    "error_messages(LazyCall(Counter)(iterable=1, wrong=2)), error_messages(LazyCall(nn.Linear)(a=1))",
    "error_messages(LazyCall('torch.nn.Linear')(a=1))",
    *(
        f"apply_overrides({o!r})"
        for o in (
            *("a=2", "a=2.5", "a=1e-3", "a=x", "a='x y'", "a=\"3\"", "a=null", "a=true", "a=True", "a=[1,2]", "a={b:1,c:2}", "a="),
            *("b.c=1", "b.d=[3]", "b.d.0=5", "b.new=1", "new=1", "new.deep.er=1", "a.b=1", "b.c.d=1", "e.f=1", "b={c:y}", "~a"),
            *("+a=1", "a", "=1", "a==1", "a=b=c", "a=path/to/file.pth", "a=$x", "a=${b.c}", "a.=1", "a=1,2", "a=x y", "a=,"),
            *("a=0x10", "a=1_000", "a=-1", "a=(1,2)", "a='${b.c}'", "a=inf", "a=nan", "b.c=http://a.b/c?d=e", "a=range(1,3)"),
        )
    ),
    "apply_overrides()",
    "apply_overrides('a=1', 'a=2', 'b.c=z')",
    "LazyConfig.apply_overrides(OmegaConf.create({'a': 1}), 'a=2')",
    "save_config(OmegaConf.create({'a': 1, 'b': [1, 'x'], 'c': None, 'd': '${a}', 'e': '???'}))",
    "save_config(LINEAR)",
    "save_config(LazyCall(nn.Module)(a={'b': LINEAR}, c=[LINEAR, 1]))",
    "save_config(LazyCall(Nameless())(a=1))",
    "save_config(LazyCall(dict)(a=lambda: 1))",
    "save_config(LazyCall(dict)(a=object()))",
    "save_config(LazyCall(dict)(a=int, b=len))",
    "save_config(OmegaConf.create({'a': 'ä'}))",
    "save_config(OmegaConf.structured(Point(1)))",
    "save_config(DictConfig({'p': Point(3)}, flags={'allow_objects': True}))",
    "save_config({'a': 1})",
    "save_config(DictConfig({'t': (1, 2)}, flags={'allow_objects': True}))",
    "is_unchanged_by_save(LazyCall(nn.Linear)(in_features=1))",
    "yaml.safe_load(save_config(LINEAR)[2])",
    *(f"_convert_target_to_string({t})" for t in ("nn.Linear", "Counter", "len", "dict", "Point", "DictConfig.pop", "LazyConfig", "3")),
    *(f"locate({n!r})" for n in ("torch.nn.Linear", "builtins.len", "math", "no.such", "torch.nn.no_such", "", "torch.optim.sgd.SGD")),
    "locate(3)",
    "type(get_cfg()).__name__, get_cfg().VERSION, get_cfg().OUTPUT_DIR, get_cfg().SEED",
    "get_cfg() is get_cfg()",
    *(f"get_cfg().MODEL.{k}" for k in ("DEVICE", "META_ARCHITECTURE", "WEIGHTS", "PIXEL_MEAN", "PIXEL_STD", "BACKBONE.NAME", "BACKBONE.FREEZE_AT")),
    "merge_file('MODEL: {WEIGHTS: x, PIXEL_MEAN: [1, 2, 3]}')",
    "merge_file('MODEL: {NOTHING: x}')",
    "merge_file('MODEL: {WEIGHTS: 3}')",
    "merge_file('VERSION: 2')",
    "merge_file('VERSION: 3')",
    "merge_file('SEED: !!python/name:builtins.len')",
    "merge_file('')",
    "merge_file('SEED: 3', allow_unsafe=False)",
    "get_cfg().merge_from_list(['SEED', '3'])",
    "get_cfg().merge_from_list(['NOTHING', '3'])",
    "get_cfg().clone().SEED, get_cfg().is_frozen()",
    "get_cfg().merge_from_file('/nothing.yaml')",
    "CfgNode({'A': {'B': 1}}).A",
    "CfgNode({'A': {'B': 1}}).A.B",
    "CFG.B",
    "CfgNode({'A': 1}).dump()",
    "Configured(1).arguments, Configured(1, 4, c=5).arguments, Configured(a=1).arguments",
    *(f"{kind}({args}).arguments" for kind in ("Configured", "Greedy") for args in ("CFG", "cfg=CFG", "LAZY", "CFG, b=7", "CFG, c=9", "CFG, 8", "CFG, a=5")),
    "Configured(CFG, nothing=1)",
    "Configured({'A': 1}).arguments",
    "Configured()",
    "WithoutFromConfig(1).arguments",
    "WithoutFromConfig(CFG)",
    "FromConfigIsNoClassMethod(CFG)",
    "NoConfigArgument(CFG)",
    *(f"configurable_function({args})" for args in ("1", "1, 2", "CFG", "CFG, b=3", "CFG, a=3", "cfg=CFG", "LAZY")),
    "configurable_function.from_config(CFG)",
    *(f"make_configurable({args})" for args in ("from_config=3", "3", "len", "load", "len, from_config=len", "", "None")),
    "Configured.__init__.__name__, configurable_function.__name__",
    "apply_to_registry(lambda r: r.get('Point'), lambda r: 'Point' in r, lambda r: [n for n, _ in r])",
    "apply_to_registry(lambda r: r.get('Nothing'))",
    "apply_to_registry(lambda r: r.register(Point))",
]  # fmt: skip
