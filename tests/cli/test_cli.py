"""The command ``deim``, and the scripts in ``tools`` that run the same subcommands."""

import argparse
import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from deim import model_zoo
from deim.cli import main, train
from deim.cli.benchmark import CHECKOUT_MEASUREMENTS
from deim.cli.main import COMMANDS
from deim.environment_variables import prepare_environment
from tests.conftest import ROOT

# Scripts that serve the repository only and are not subcommands.
REPOSITORY_SCRIPTS = {
    "benchmark.py",
    "docstring_links.py",
    "gather_docs.py",
    "release_notes.py",
    "try_release.py",
    "verify.py",
}


def command_module(command: str):
    return importlib.import_module(f"deim.cli.{command.replace('-', '_')}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_summary_and_example(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: deim {command} ")
    assert command_module(command).__doc__.splitlines()[0] == COMMANDS[command]
    assert f"deim {command}" in output.replace(f"usage: deim {command}", "", 1), "an example"


def test_modules_commands_and_scripts_correspond() -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "deim" / "cli").glob("*.py")}
    assert modules - {"--init--", "main", "errors", "arguments"} == set(COMMANDS)
    scripts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tools").glob("*.py")}
    matches = [
        re.search(r'run_script\("([\w-]+)"\)', text) for name, text in scripts.items() if name not in REPOSITORY_SCRIPTS
    ]
    assert {match[1] for match in matches if match} == set(COMMANDS) - {"benchmark", "eval", "zoo", "env"}
    assert None not in matches


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_has_help(command: str) -> None:
    parser = argparse.ArgumentParser()
    command_module(command).add_arguments(parser)
    actions = [action for child in parsers(parser) for action in child._actions]
    undocumented = [
        action.option_strings or action.dest
        for action in actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert undocumented == []


def test_script_docstrings_equal_command_summaries() -> None:
    for path in (ROOT / "tools").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name not in REPOSITORY_SCRIPTS:
            command = re.search(r'run_script\("([\w-]+)"\)', text)[1]
            assert ast.get_docstring(ast.parse(text)) == f"{COMMANDS[command]}\n\nSame as ``deim {command}``.", path


def test_overview_lists_commands_without_importing_torch() -> None:
    code = "import sys; from deim.cli import main; main([]); print('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.stdout.endswith("False\n"), process.stderr
    assert all(f"\n  {name} " in process.stdout for name in COMMANDS)


def test_unknown_command_is_an_error(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["trian"])
    assert exit_info.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("measurement", CHECKOUT_MEASUREMENTS)
def test_measurements_of_the_repository_name_their_script(measurement: str, capsys: pytest.CaptureFixture) -> None:
    for options in ([], ["--help"], ["--peer", "DEIM", "--rounds=1", "x"]):
        assert main(["benchmark", measurement, *options]) == 2
        assert f"run `python tools/benchmark.py {measurement}` in a checkout" in capsys.readouterr().err


def test_former_command_names_its_script(capsys: pytest.CaptureFixture) -> None:
    assert main(["verify", "--peer", "DEIM"]) == 2
    assert "run `python tools/verify.py` in a checkout" in capsys.readouterr().err


def test_train_options_equal_detectron2_options() -> None:
    our_parser, detectron2_parser = argparse.ArgumentParser(), default_argument_parser()
    train.add_arguments(our_parser)

    def options(parser: argparse.ArgumentParser) -> dict:
        return {a.dest: (a.option_strings, a.type, a.default) for a in parser._actions if a.option_strings}

    our_options, detectron2_options = options(our_parser), options(detectron2_parser)
    for options_by_name in (our_options, detectron2_options):
        options_by_name.pop("dist_url")  # ours is any free port, so that two runs of one user do not meet
    assert our_options.pop("data")[0] == ["--data"]
    assert our_options.pop("image_root")[0] == ["--image-root"]
    assert our_options.pop("overwrite")[0] == ["--overwrite"]
    assert our_options.pop("tta")[0] == ["--tta"]
    assert our_options.pop("tta_scales")[0] == ["--tta-scales"]
    assert our_options.pop("ensemble")[0] == ["--ensemble"]
    assert our_options.pop("switches")[0] == ["--without"]  # the other option of this name is --with
    assert our_options == detectron2_options


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


def test_switches_are_options() -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_intermixed_args(["a.b=1", "--with", "masks", "c=2", "--without", "mal", "--with", "keypoints"])
    assert dict(args.switches) == {"masks": True, "mal": False, "keypoints": True}
    assert args.opts == ["a.b=1", "c=2"]
    assert parser.parse_intermixed_args([]).switches == []


def test_unknown_option_is_an_error(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--config-file", "x", "a.b=1", "--resmue"])
    assert exit_info.value.code == 2
    assert "unrecognized arguments: --resmue" in capsys.readouterr().err


def test_zoo_lists_recipes_and_weights(capsys: pytest.CaptureFixture) -> None:
    assert main(["zoo"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in model_zoo.available())
    assert re.search(r"deim_dfine/deim_dfine_s_coco +49.0 +10.24 +23.7 +3.49 +4 GPUs +coco\n", output)


def test_user_error_prints_one_line(capsys: pytest.CaptureFixture) -> None:
    assert main(["report", "/no/such/run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error


def test_batch_size_of_zero_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "model.pth", "--output", "model.onnx", "--batch", "0"]) == 2
    assert "batch=0 must be at least 1" in capsys.readouterr().err


def test_environment_variables_of_user_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    prepare_environment()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


def test_shell_completion(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")

    def completions(line: str) -> set[str]:
        output = tmp_path / "found"
        environment = {
            **os.environ,
            **{"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(output)},
            **{"COMP_LINE": line, "COMP_POINT": str(len(line))},
        }
        subprocess.run([sys.executable, "-m", "deim"], cwd=ROOT, env=environment, timeout=60, check=False)
        return {word.strip() for word in output.read_text(encoding="utf-8").split("\n")}

    assert completions("deim pre") == {"predict", "prepare-objects365"}
    assert "--config-file" in completions("deim train --c")
