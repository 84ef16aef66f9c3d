"""Exit statuses and messages of commands whose ranks fail."""

import shutil
import socket
from argparse import Namespace
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from deim.cli import demo, main
from deim.cli.errors import run_tool
from deim.errors import DeimError

TRACEBACK = """

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "first.py", line 1, in first
deim.errors.CheckpointError: no connection

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "second.py", line 1, in second
deim.errors.CheckpointError: no connection, or train from random weights
second line
"""


def status_of(error: Exception) -> int:
    def action() -> None:
        raise error

    return run_tool(action)


def test_the_message_of_a_rank_is_that_of_its_last_error(capsys: pytest.CaptureFixture) -> None:
    assert status_of(ProcessRaisedException(TRACEBACK, 1, 99)) == 2
    assert capsys.readouterr().err == "error: no connection, or train from random weights\nsecond line\n"


@pytest.mark.parametrize(("signal", "mentions_memory"), [("SIGKILL", True), ("SIGSEGV", False)])
def test_only_sigkill_indicates_a_lack_of_memory(
    signal: str, mentions_memory: bool, capsys: pytest.CaptureFixture
) -> None:
    error = ProcessExitedException("ended", error_index=1, error_pid=99, exit_code=-9, signal_name=signal)
    assert status_of(error) == 2
    message = capsys.readouterr().err
    assert f"rank 1 was killed by {signal}" in message
    assert ("memory" in message) == mentions_memory


def test_a_port_in_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        def launch(self, server_name: str, server_port: int, share: bool) -> None:
            socket.create_server((server_name, server_port))

    monkeypatch.setattr(demo, "Predictor", lambda *args, **kwargs: None)
    monkeypatch.setattr(demo, "build_demo", lambda predictor: Page())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        args = Namespace(model="x", weights=None, device="cpu", host="127.0.0.1", port=port)
        with pytest.raises(DeimError, match=f"cannot listen on 127.0.0.1, port {port}: .*--port"):
            demo.run(args)


def test_a_missing_device_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert main(["replay", "missing.pth", "--device", "cuda:99"]) == 2
    assert "device 'cuda:99' is not available" in capsys.readouterr().err


def test_shards_do_not_replace_the_annotations(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    annotations = tmp_path / "instances_train.json"
    shutil.copy(shapes / "annotations" / annotations.name, annotations)
    before = annotations.read_bytes()
    assert main(["make-shards", str(annotations), str(shapes / "train"), str(tmp_path)]) == 2
    assert "choose another output directory" in capsys.readouterr().err
    assert annotations.read_bytes() == before


def test_switches_need_a_config(capsys: pytest.CaptureFixture) -> None:
    assert main(["check-data", "--data", "somewhere", "--with", "masks"]) != 0
    assert "--with and --without change the config of a model: add --config-file" in capsys.readouterr().err
