"""Choice of the device and the precision of a run."""

import logging
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from deim import devices
from deim.cli.benchmark import note_unsupported_dtype
from deim.devices import amp_unsupported_reason, choose_device, supports_float64, training_device
from deim.engine.preflight import resolve_device
from deim.errors import ConfigError
from deim.inference.runner import TorchRunner
from deim.inference.trained_model import TrainedModel
from deim.layers.ops import batch_norm
from tests.models import FAMILIES, batch, recipe, tiny_model

CPU_INFO = Path("/proc/cpuinfo")


def mock_devices(monkeypatch: pytest.MonkeyPatch, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    # The function allocates a tensor, which fails on a device that the machine or the build of torch lacks.
    monkeypatch.setattr(
        devices, "choose_device", lambda name: torch.device(devices._best_device_type() if name == "auto" else name)
    )


@pytest.mark.parametrize(("cuda", "mps", "best"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_selects_the_fastest_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, best: str) -> None:
    mock_devices(monkeypatch, cuda, mps)
    assert choose_device("auto").type == best
    assert training_device("auto").type == best
    assert training_device("cuda").type == best


def test_unavailable_device_is_an_error() -> None:
    with pytest.raises(ConfigError, match="device 'cuda:99' is not available"):
        choose_device("cuda:99")


def config(device: str, enabled: bool = True, dtype: str = "bfloat16") -> SimpleNamespace:
    return SimpleNamespace(train=SimpleNamespace(device=device, amp=SimpleNamespace(enabled=enabled, dtype=dtype)))


@pytest.mark.parametrize("device", ["cuda", "cpu", "auto"])
@pytest.mark.parametrize("supported", [True, False])
def test_cpu_uses_bfloat16_only_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: str, supported: bool
) -> None:
    mock_devices(monkeypatch)
    monkeypatch.setattr(devices, "_cpu_supports", lambda dtype: supported)
    cfg = config(device)
    with caplog.at_level(logging.INFO, logger="detectron2.deim"):
        resolve_device(cfg)
    assert (cfg.train.device, cfg.train.amp.enabled) == ("cpu", supported)
    messages = [record.message for record in caplog.records if "float32" in record.message]
    assert messages == ([] if supported else ["Computing in float32: this CPU has no instructions for bfloat16 "
                                          "(same as train.amp.enabled=False)"])  # fmt: skip


def test_mps_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_devices(monkeypatch, mps=True)
    cfg = config("cuda")
    resolve_device(cfg)
    assert (cfg.train.device, cfg.train.amp.enabled) == ("mps", False)
    assert not supports_float64(torch.device("mps"))


def test_ranks_on_the_cpu_of_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_devices(monkeypatch, cuda=True)
    resolve_device(config("cpu", enabled=False))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="hide the GPUs with the environment variable CUDA_VISIBLE_DEVICES="):
        resolve_device(config("cpu", enabled=False))
    mock_devices(monkeypatch, cuda=False)
    resolve_device(config("cpu", enabled=False))


@pytest.mark.parametrize("supported", [True, False])
def test_gpu_without_bfloat16_uses_float16(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    mock_devices(monkeypatch, cuda=True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    cfg = config("cuda")
    resolve_device(cfg)
    assert cfg.train.amp.enabled
    assert cfg.train.amp.dtype == ("bfloat16" if supported else "float16")


@pytest.mark.skipif(
    not CPU_INFO.is_file() or platform.machine() != "x86_64", reason="the flags are those of x86 CPUs on Linux"
)
@pytest.mark.parametrize(
    ("name", "flags"), [("bfloat16", {"avx512_bf16", "amx_tile"}), ("float16", {"avx512_fp16", "avx_ne_convert"})]
)
def test_cpu_support_follows_the_instruction_set(name: str, flags: set[str]) -> None:
    is_supported = not flags.isdisjoint(CPU_INFO.read_text(encoding="utf-8").split())
    reason = None if is_supported else f"this CPU has no instructions for {name}"
    assert amp_unsupported_reason(torch.device("cpu"), devices.PRECISIONS[name]) == reason


class NoFloat64(TorchDispatchMode):
    """Mode that fails if an operator returns a float64 tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(output)[0]:
            assert not isinstance(leaf, torch.Tensor) or leaf.dtype != torch.float64, func
        return output


@pytest.mark.parametrize("family", FAMILIES)
def test_models_run_without_float64(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    monkeypatch.setattr("deim.structures.distribution.supports_float64", lambda device: False)
    monkeypatch.setattr(batch_norm, "unavailable_reason", lambda x: "only on a CPU, which has float64")
    model = tiny_model(family=family)
    with NoFloat64():
        sum(model.train()(batch([2, 0, 3])).values()).backward()
        with torch.no_grad():
            model.eval()(batch([1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_models_run_in_float64(family: str) -> None:
    model = tiny_model(family=family).double()
    losses = model.train()(batch([2, 0, 3]))
    assert {loss.dtype for loss in losses.values()} == {torch.float64}
    with torch.no_grad():
        assert model.eval()(batch([1]))[0]["instances"].scores.dtype == torch.float64


@pytest.mark.parametrize("supported", [True, False])
def test_half_on_a_cpu_requires_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, supported: bool
) -> None:
    monkeypatch.setattr(devices, "_cpu_supports", lambda dtype: supported)
    cfg = recipe("deim_dfine_n_shapes", "model.backbone.weights=")
    trained = TrainedModel(instantiate(cfg.model), cfg, ["a"])
    runner = TorchRunner(trained, torch.device("cpu"), half=True)
    assert runner.half is supported
    assert ("Ignoring half" in caplog.text) is not supported
    has_half_weights = any(parameter.dtype == torch.float16 for parameter in runner.model.parameters())
    assert has_half_weights is supported


def test_benchmark_notes_unsupported_dtype(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(devices, "_cpu_supports", lambda dtype: False)
    note_unsupported_dtype("cpu", None)
    assert capsys.readouterr().out == ""
    note_unsupported_dtype("cpu", "bfloat16")
    assert "Measuring bfloat16 nevertheless" in capsys.readouterr().out
