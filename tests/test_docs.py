"""Commands, options, links and Python examples of the documentation exist and run."""

import io
import re
import shlex
from contextlib import redirect_stdout
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_backbone
from torch import nn

from deim import model_zoo
from deim.cli import main, run_module
from deim.cli.main import COMMANDS
from deim.config import build, load_config
from deim.config.loading import apply_overrides
from deim.config.yacs import add_deim_config
from deim.fallback import is_standalone
from deim.jobs.search_space import parse_search
from tests.commands import tool
from tests.conftest import ROOT
from tests.models import batch, recipe, without_pretrained

GLOBS = ("*.md", ".github/*.md", "docs/**/*.md", "projects/*/README.md")
PAGES = sorted(page for pattern in GLOBS for page in ROOT.glob(pattern) if "node_modules" not in page.parts)
REQUIRES_DETREX = ("dino_deim/", "dab_detr_deim/")
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(page: Path) -> list[list[str]]:
    """Return the calls of our tools in a page's shell blocks as words, from the tool on; ``deim x`` as its module."""
    calls = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["deim"] and words[1:] and words[1] in COMMANDS:
                words = [f"deim/cli/{words[1].replace('-', '_')}.py", *words[2:]]
            start = next((i for i, word in enumerate(words) if word.startswith(("tools/", "deim/cli/"))), None)
            if start is not None:
                calls.append(words[start:])
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_commands_use_existing_tools_configs_and_keys(name: str) -> None:
    for words in commands(ROOT / name):
        assert (ROOT / words[0]).is_file(), words
        config = words[words.index("--config-file") + 1] if "--config-file" in words else "..."
        if config.startswith(REQUIRES_DETREX) and is_standalone("detrex"):
            assert config in model_zoo.available()
        elif config != "...":
            path = ROOT / config
            searches = values_of(words, "--search")
            overrides = [word for word in words if re.match(r"[a-z][\w.]*=", word) and word not in searches]
            if "--data" in words:  # replaces the dataset of the recipe, whose keys depend on the format
                overrides = [word for word in overrides if ".dataset." not in word]
            # In benchmarks, --with has overrides instead of names.
            switches = {
                name: option == "--with"
                for option, name in pairwise(words)
                if option in ("--with", "--without") and "=" not in name
            }
            cfg = load_config(str(path) if path.is_file() else config, overrides, switches=switches)
            for dimension in parse_search(searches, cfg):
                apply_overrides(cfg, [f"{dimension.key}={dimension.examples()[0]}"])


def values_of(words: list[str], option: str) -> list[str]:
    """Return the words between an option and the next one."""
    if option not in words:
        return []
    return list(takewhile(lambda word: not word.startswith("--"), words[words.index(option) + 1 :]))


@pytest.mark.parametrize("name", ["README.md", "docs/checkpoints.md", "docs/compose.md"])
def test_python_examples_run(name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        if "Predictor" in block:  # which needs a checkpoint: see tests/inference/test_pages.py
            continue
        namespace: dict = {}
        exec(compile(block, name, "exec"), namespace)
        if "cfg" in namespace:
            build(namespace["cfg"], "model")
        elif not isinstance(namespace["model"], nn.Module):
            instantiate(without_pretrained(SimpleNamespace(model=namespace["model"])).model)


def test_backbone_example_runs() -> None:
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    backbone, config, described = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:3]
    namespace: dict = {"model": recipe("deim_dfine_n_shapes", "model.decoder.queries.num_queries=20").model}
    exec(compile(backbone + config, "docs/extending.md", "exec"), namespace)
    losses = instantiate(namespace["model"])(batch([2, 1]))
    assert torch.isfinite(sum(losses.values()))
    exec(compile(backbone + described, "docs/extending.md", "exec"), namespace)
    cfg = get_cfg()
    add_deim_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "PretrainedTwoMaps"
    assert build_backbone(cfg).output_shape()["coarse"].channels == 128


@pytest.mark.parametrize("name", NAMES)
def test_links_exist(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_command_line_options_exist() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tools").glob("*.py")}
    scripts = {name: re.search(r'run_script\("([\w-]+)"\)', text) for name, text in texts.items()}
    modules = {name: re.search(r'run_module\("([\w.]+)"', text) for name, text in texts.items()}
    for page in PAGES:
        for words in commands(page):
            file = Path(words[0])
            script, module = (
                (scripts.get(file.name), modules.get(file.name)) if file.parts[0] == "tools" else (None, None)
            )
            command = script[1] if script else file.stem.replace("_", "-")
            if command in COMMANDS or module:
                measurement = words[1:2] if command == "benchmark" else []
                help_text = module_help(module[1], *measurement) if module else command_help(command, *measurement)
                flags = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
                if command == "slurm":
                    help_text += command_help("train")
                assert flags <= option_names(help_text), (page, words)


def option_names(help_text: str) -> set[str]:
    return set(re.findall(r"--[a-z][\w-]*", help_text))


@cache
def command_help(*words: str) -> str:
    output = io.StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit):
        main([*words, "--help"])
    return output.getvalue()


@cache
def module_help(name: str, *words: str) -> str:
    output = io.StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit):
        run_module(name, [*words, "--help"], None)
    return output.getvalue()


def test_script_help_equals_command_help() -> None:
    process = tool("train_net.py", "--help")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: train_net.py ")
    assert process.stdout.split("\n\n", 1)[1] == command_help("train").split("\n\n", 1)[1]
