"""What the documentation tells to type exists, and what it links to."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.config import instantiate
from torch import nn

from deim import model_zoo
from deim.config import build, load_config
from deim.fallback import is_standalone
from tests.commands import tool
from tests.conftest import ROOT
from tests.models import without_pretrained

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/README.md")]
)
BUILT_ON_DETREX = ("dino_deim/", "dab_detr_deim/")
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(page: Path) -> list[list[str]]:
    """The calls of our tools in a page's shell blocks, as words from the tool on."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            place = next((i for i, word in enumerate(words) if word.startswith("tools/")), None)
            if place is not None:
                found.append(words[place:])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_tools_configs_and_keys_that_exist(name: str) -> None:
    for words in commands(ROOT / name):
        assert (ROOT / words[0]).is_file(), words
        config = words[words.index("--config-file") + 1] if "--config-file" in words else "..."
        if config.startswith(BUILT_ON_DETREX) and is_standalone("detrex"):
            assert config in model_zoo.available()
        elif config != "...":
            path = ROOT / config
            load_config(
                str(path) if path.is_file() else config, [word for word in words if re.match(r"[a-z][\w.]*=", word)]
            )


@pytest.mark.parametrize("name", ["README.md", "docs/checkpoints.md", "docs/compose.md"])
def test_python_on_the_pages_runs(name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        if "Predictor" in block:  # which needs a checkpoint: see tests/inference/test_pages.py
            continue
        found: dict = {}
        exec(compile(block, name, "exec"), found)
        if "cfg" in found:
            build(found["cfg"], "model")
        elif not isinstance(found["model"], nn.Module):
            instantiate(without_pretrained(SimpleNamespace(model=found["model"])).model)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_every_tool_explains_itself_and_knows_the_flags_of_the_documentation(
    name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "try_release.py" and subprocess.run([sys.executable, "-c", "import deim"], cwd="/").returncode:
        pytest.skip("tries a deim that is installed")
    arguments = ["dataloader"] if name == "benchmark.py" else []
    done = tool(name, *arguments, "--help")
    assert done.returncode == 0, done.stderr
    used = {word.split("=")[0] for page in PAGES for words in commands(page) for word in words if word[:2] == "--"
            if words[0] == f"tools/{name}"}  # fmt: skip
    if name == "benchmark.py":
        for measurement in (
            "memory",
            "criterion",
            "train-step",
            "kernels",
            "latency",
            "attention",
            "evaluator",
            "export",
            "model",
        ):
            monkeypatch.setattr(sys, "argv", [name, measurement, "--help"])
            with pytest.raises(SystemExit):
                runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
        done.stdout += capsys.readouterr().out
    assert all(flag in done.stdout for flag in used), used
