"""The messages on the troubleshooting page are messages of the code."""

import ast
import re
from functools import cache

import pytest

from deim.config import load_config
from tests.conftest import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [text for text in re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL) if "my_project/" not in text]
VARIES = "\0"


@cache
def strings() -> list[str]:
    """Return all string literals of the package except docstrings; VARIES stands for a value in an f-string."""
    found = []
    for path in (ROOT / "deim").rglob("*.py"):
        if "standalone" in path.parts:
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else VARIES for p in node.values))
    return found


@pytest.mark.parametrize("message", MESSAGES)
def test_quoted_messages_exist_in_the_code(message: str) -> None:
    """Each line is one literal, which contains the parts between the dots in their order."""
    lines = [[part.strip() for part in line.split("...") if re.search(r"\w{2}", part)] for line in message.splitlines()]
    assert any(lines)
    for parts in filter(None, lines):
        pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
        assert any(pattern.search(text) for text in strings()), parts


def test_the_config_of_an_own_project_loads(tmp_path) -> None:
    config = tmp_path / "my_detector.py"
    config.write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], encoding="utf-8")
    cfg = load_config(str(config))
    assert (cfg.train.output_dir, cfg.schedule.epochs) == ("output/my_detector", 60)
    assert cfg.train.init_checkpoint == ""
