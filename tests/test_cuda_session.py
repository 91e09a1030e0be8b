"""The CUDA path of ONNX files, with a session that only claims to run on a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from auditor.cli import doctor
from auditor.errors import BadInput
from auditor.model import cuda_provider, device
from auditor.model.artefact import Artefact
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.formats import _onnx_session as session_module
from auditor.plugins.formats import onnx as plugin
from auditor.run import opening
from auditor.run import session as session_of_audit
from auditor.run.request import Request


class Binding:
    """Record what is bound; read the input from the address of the pointer, as a GPU would."""

    def __init__(self, session: Session) -> None:
        self.session, self.bound, self.output = session, {}, None

    def bind_input(
        self, name: str, device: str, index: int, element: Any, shape: tuple[int, ...], pointer: int
    ) -> None:
        import ctypes

        count = int(np.prod(shape)) * np.dtype(element).itemsize
        content = ctypes.string_at(pointer, count)
        self.bound["input"] = (name, device, index)
        self.session.fed = np.frombuffer(content, dtype=element).reshape(shape)

    def bind_output(self, name: str, device: str, index: int) -> None:
        self.bound["output"] = (name, device, index)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [self.output]


class Session:
    """A CPU session that claims to run on a GPU."""

    def __init__(self, path: str, options: Any, providers: list[Any], enable_fallback: bool = True) -> None:
        if providers != ["CPUExecutionProvider"]:
            assert not enable_fallback, "a run on the CPU must not pass for one on the GPU"
            assert options.use_deterministic_compute
        self.providers, self.bindings = providers, []
        self.real = REAL(path, options, providers=["CPUExecutionProvider"])
        self.fed: Any = None

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self) -> Binding:
        self.bindings.append(Binding(self))
        return self.bindings[-1]

    def run(self, outputs: list[str], feeds: dict[str, Any]) -> Any:
        return self.real.run(outputs, feeds)

    def run_with_iobinding(self, binding: Binding) -> None:
        name = binding.bound["input"][0]
        (binding.output,) = self.real.run([binding.bound["output"][0]], {name: self.fed})


REAL = onnxruntime.InferenceSession


@pytest.fixture
def model(write_linear: Any, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path: Path = write_linear(tmp_path / "m.onnx", rng.normal(size=(4, 27)), np.zeros(4), (3, 3, 3))
    return path


def test_pixels_are_preprocessed_and_bound_on_the_device(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(session_module, "_finish_torch", waited.append)
    artefact = plugin._open(model, "cuda:1", "")
    assert artefact.runtime.endswith("CUDAExecutionProvider")
    assert not artefact.not_on_device
    options = Preprocessing(shape=(3, 3, 3), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), order="bgr", range=(0, 2))
    known: dict[str, Any] = {"path": "m", "sha256": "0", "n_classes": 4, "outputs": "logits"}
    # there is no GPU: the copy and the pixels stay on the CPU
    classifier = DeployedModel(artefact, options, **known)
    images = np.random.default_rng(1).random((5, 3, 3, 3), dtype=np.float32)
    probabilities = classifier.predict(images)
    assert waited == ["cuda:1"]
    artefact = plugin._open(model, "cpu", "")
    np.testing.assert_allclose(
        probabilities,
        DeployedModel(SimpleNamespace(**{**vars(artefact), "device_scores": None}), options, **known).predict(images),
        rtol=1e-5,
    )


def test_names_device_and_full_precision_reach_the_runtime(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def start(*arguments: Any, **options: Any) -> Session:
        made.append(Session(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(session_module, "_finish_torch", lambda device: None)
    artefact = plugin._open(model, "cuda:1", "")
    assert artefact.device_scores is not None
    artefact.device_scores(torch.zeros(2, 3, 3, 3))
    (session,) = made
    name, settings = session.providers[0]
    assert (name, settings["device_id"], settings["use_tf32"]) == ("CUDAExecutionProvider", 1, 0)
    assert session.bindings[0].bound == {"input": ("image", "cuda", 1), "output": ("logits", "cuda", 1)}


def test_non_contiguous_tensor_is_bound_by_its_values(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(session_module, "_finish_torch", lambda device: None)
    artefact = plugin._open(model, "cuda", "")
    assert artefact.device_scores is not None
    x = torch.rand(2, 3, 3, 3)
    turned = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert np.array_equal(artefact.device_scores(turned), artefact.scores(x.numpy()))


@pytest.mark.parametrize("how", ["silently", "with an error"])
def test_provider_that_does_not_start_is_reported(
    how: str, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def start(path: str, options: Any, providers: list[Any], enable_fallback: bool = True) -> Any:
        print("EP Error")  # noqa: T201 - as ONNX Runtime does
        if how == "with an error" and isinstance(providers[0], tuple):
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 35: the driver is too old ; GPU=-1 ; x=y")
        return REAL(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(cuda_provider, "_loader_message", lambda: "libcurand.so.10 is missing")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load"), raising=False)  # noqa: T201
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", start)
        session, reason = cuda_provider.start_on_cuda(str(model), 0)
    assert session is None
    expected = {"silently": "libcurand.so.10 is missing", "with an error": "CUDA failure 35: the driver is too old"}
    assert reason == expected[how]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("libcurand.so.10: cannot open shared object file: No such file", ["libcurand.so.10", "install nvidia-curand"]),
        ("libcublasLt.so.13: cannot open shared object file: No such file", ["pip install nvidia-cublas"]),
        ("libcudnn_graph.so.9: cannot open shared object file: No such file", ["pip install nvidia-cudnn-cu13"]),
        ("libnvinfer.so.10: cannot open shared object file: No such file", ["libnvinfer.so.10", "no known package"]),
        ("libcuda.so.1: cannot open shared object file: No such file", ["libcuda.so.1", "the driver"]),
        ("libnvidia-ml.so.1: cannot open shared object file: No such file", ["libnvidia-ml.so.1", "the driver"]),
        ("x.so: undefined symbol: cuInit", ["x.so: undefined symbol: cuInit"]),
    ],
)
def test_message_of_the_loader_names_library_and_package(message: str, parts: list[str]) -> None:
    text = cuda_provider.missing_library(message)
    assert [part for part in parts if part not in text] == []


def test_onnx_runtime_without_cuda_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    session, reason = cuda_provider.start_on_cuda(str(model), 0)
    assert session is None
    assert "onnxruntime-gpu" in reason


def on_the_cpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> Artefact:
    """Return the artefact of a model for CUDA in an ONNX Runtime that cannot start there."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    artefact = plugin._open(model, "cuda:0", "")
    assert artefact.runtime.endswith("CPUExecutionProvider")
    assert artefact.device_scores is None
    return artefact


def test_named_device_that_the_model_cannot_use_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"--device cuda: .*built without CUDA.*--device auto"):
        opening._check_device(model, on_the_cpu(model, monkeypatch), "cuda", "cuda:0")


def test_automatic_device_falls_back_with_a_warning(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = opening._check_device(model, on_the_cpu(model, monkeypatch), "auto", "cuda:0")
    (warning,) = artefact.warnings
    assert "runs on the CPU and not on cuda:0: the installed ONNX Runtime is built without CUDA" in warning


def test_unused_gpu_is_a_warning_of_the_automatic_device(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artefact = plugin._open(model, "cpu", "")
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(device, "_GPU_FOLDER", tmp_path / "gpus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (warning,) = opening._check_device(model, artefact, "auto", "cpu").warnings
    assert "has an NVIDIA GPU: PyTorch" in warning
    assert "without CUDA" in warning
    assert not opening._check_device(model, artefact, "cpu", "cpu").warnings


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_fall_back_reaches_terminal_and_report(
    wanted: str, model: Path, monkeypatch: pytest.MonkeyPatch, auditor_cli: Callable[..., Any], tmp_path: Path
) -> None:
    # PyTorch has no GPU here: it takes the CPU, and the plugin is asked for CUDA
    monkeypatch.setattr(session_of_audit, "pick_device", lambda _: "cpu")
    real = opening._open_artefact

    def open_for_cuda(plugins: Any, path: Path, device: str, *arguments: Any, **options: Any) -> Artefact:
        return real(plugins, path, "cuda:0", *arguments, **options)

    monkeypatch.setattr(opening, "_open_artefact", open_for_cuda)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    options = ["--device", wanted, "--probe", "sanity.parity", "--format", "json", "--out", "out", "--samples", "4"]
    result = auditor_cli("run", model, *options)
    reason = "the installed ONNX Runtime is built without CUDA"
    assert result.exit_code == (2 if wanted == "cuda" else 0), result.output
    assert reason in " ".join(result.output.split())
    if wanted == "auto":
        assert any(reason in warning for warning in json.loads((tmp_path / "out/audit.json").read_text())["warnings"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_doctor_names_the_provider_that_ran_and_why_cuda_did_not(capfd: pytest.CaptureFixture[str]) -> None:
    in_torch, runtime = doctor._cuda()
    assert in_torch.found.startswith("no device (")
    assert runtime.ok
    assert runtime.found.startswith("CPUExecutionProvider ran a test model; CUDAExecutionProvider did not start: ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["inspect and replay", "run"])
def test_opening_a_model_switches_tf32_off(command: str, model: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if command == "inspect and replay":
        opening.open_model(model, "cpu", trust=True)
    else:
        plugins = registry.load()
        opening.open_audit(plugins, Request(model=model), find_suite("quick", plugins), "cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
