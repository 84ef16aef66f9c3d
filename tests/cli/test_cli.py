"""The command ``deim``, and the scripts in ``tools`` that run the same subcommands."""

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from deim import model_zoo
from deim.cli import main, train
from deim.cli.main import COMMANDS
from deim.environment import prepare_environment
from tests.conftest import ROOT

# Scripts for the repository itself: an installed package has no use for them.
OF_THE_REPOSITORY = {"docstring_links.py", "gather_docs.py", "release_notes.py", "try_release.py"}


def module_of(command: str):
    return importlib.import_module(f"deim.cli.{command.replace('-', '_')}")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: deim {command} ")
    assert module_of(command).__doc__.splitlines()[0] == COMMANDS[command]
    assert f"deim {command}" in shown.replace(f"usage: deim {command}", "", 1), "an example"


def test_every_module_is_a_command_and_every_script_runs_one() -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "deim" / "cli").glob("*.py")}
    assert modules - {"--init--", "main", "errors", "arguments"} == set(COMMANDS)
    scripts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tools").glob("*.py")}
    run = [
        re.search(r'run_script\("([\w-]+)"\)', text) for name, text in scripts.items() if name not in OF_THE_REPOSITORY
    ]
    assert {found[1] for found in run if found} == set(COMMANDS) - {"eval", "zoo", "env"}
    assert None not in run


def test_the_overview_is_quick_and_lists_every_command() -> None:
    code = "import sys; from deim.cli import main; main([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n"), done.stderr
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_a_wrong_command_is_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_options_are_those_of_detectron2() -> None:
    ours, theirs = argparse.ArgumentParser(), default_argument_parser()
    train.add_arguments(ours)

    def options(parser: argparse.ArgumentParser) -> dict:
        return {a.dest: (a.option_strings, a.type, a.default) for a in parser._actions if a.option_strings}

    mine, wanted = options(ours), options(theirs)
    for one in (mine, wanted):
        one.pop("dist_url")  # ours is any free port, so that two runs of one user do not meet
    assert mine.pop("data")[0] == ["--data"]
    assert mine.pop("image_root")[0] == ["--image-root"]
    assert mine.pop("overwrite")[0] == ["--overwrite"]
    assert mine == wanted


@pytest.mark.parametrize(
    "words",
    [
        ["--config-file", "x", "--resume", "a.b=1", "c=[1,2]"],
        ["--config-file", "x", "a.b=1", "--resume", "c=[1,2]"],
        ["a.b=1", "c=[1,2]", "--resume", "--config-file", "x"],
    ],
)
def test_options_may_follow_overrides(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_intermixed_args(words)
    assert (args.config_file, args.resume, args.opts) == ("x", True, ["a.b=1", "c=[1,2]"])


def test_a_misspelt_option_is_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config-file", "x", "a.b=1", "--resmue"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --resmue" in capsys.readouterr().err


def test_the_zoo_lists_every_recipe_with_its_weights(capsys: pytest.CaptureFixture) -> None:
    assert main(["zoo"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in model_zoo.available())
    assert re.search(r"deim_dfine/deim_dfine_s_coco +49.0 +4 GPUs +coco\n", shown)


def test_an_error_of_the_user_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert main(["report", "/no/such/run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_settings_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    prepare_environment()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


def test_shells_complete_commands_and_options(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")

    def completions(line: str) -> set[str]:
        found = tmp_path / "found"
        environment = {
            **os.environ,
            **{"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(found)},
            **{"COMP_LINE": line, "COMP_POINT": str(len(line))},
        }
        subprocess.run([sys.executable, "-m", "deim"], cwd=ROOT, env=environment, timeout=60, check=False)
        return {word.strip() for word in found.read_text(encoding="utf-8").split("\n")}

    assert completions("deim pre") == {"predict", "prepare-objects365"}
    assert "--config-file" in completions("deim train --c")
