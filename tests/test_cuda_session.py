"""The CUDA path of ONNX files, with a session that only claims to run on a GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.plugins.formats import _onnx_session as session_module
from auditor.plugins.formats import onnx as plugin


class Binding:
    """Record what is bound; read the input from the address of the pointer, as a GPU would."""

    def __init__(self, session: Session) -> None:
        self.session, self.bound, self.output = session, {}, None

    def bind_input(  # noqa: PLR0917 - ONNX Runtime's own order
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

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
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
    assert not artefact.warnings
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
def test_provider_that_does_not_start_is_reported(how: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(path: str, options: Any, providers: list[Any]) -> Any:
        if how == "with an error" and isinstance(providers[0], tuple):
            raise RuntimeError("libcudart is not here")
        return REAL(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    artefact = plugin._open(model, "cuda", "")
    assert artefact.runtime.endswith("CPUExecutionProvider")
    assert artefact.device_scores is None
    (warning,) = artefact.warnings
    assert "could not start its CUDA provider" in warning
    assert ("libcudart is not here" in warning) == (how == "with an error")
