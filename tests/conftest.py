"""What many tests share: the reference model, trained once, and small models with known answers."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

# before anything imports torch: the workers share the cores, and two pools of threads on one core wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# the processes that tests start have several threads: those that wait must not keep the cores busy
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# what Numba compiles here runs for milliseconds: optimising it takes a quarter longer
os.environ.setdefault("NUMBA_OPT", "0")
# the plugins of a test exist in its process only; test_supervision.py supervises
os.environ.setdefault("AUDITOR_IN_PROCESS", "1")

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from onnx import TensorProto, helper, numpy_helper

from auditor.run import sandbox

if TYPE_CHECKING:
    from auditor import Probe
    from auditor.conformance.subject import Subject
    from auditor.plugin.registry import Registry

LONG = (
    "test_pretend_gpu",
    "test_supervision",
    "test_contract",
    "test_distributed",
    "test_reference_models",
    "test_metamorphic",
    "test_verification",
    "test_cli",
    "test_attacks",
    "test_report",
    "test_browser",
    "test_gaps",
    "test_plugin_kinds",
    "test_logit_scale",
    "test_fuzz",
    "test_pdf",
)
"""Files of minutes. A file runs on one worker: those that come last would leave the others idle."""


REAL_ENTRY_POINTS = importlib.metadata.entry_points


@functools.cache
def _entry_points(_folders: object, **wanted: Any) -> Any:
    return REAL_ENTRY_POINTS(**wanted)


def entry_points(**wanted: Any) -> Any:
    """Read the entry points of all packages once, and again after a package was added or removed."""
    folders = [Path(folder) for folder in sys.path if Path(folder).is_dir()]
    return _entry_points(tuple((folder, folder.stat().st_mtime_ns) for folder in folders), **wanted)


# every audit asks for them, which takes ten milliseconds
importlib.metadata.entry_points = entry_points  # type: ignore[assignment]


class TriedOnce(sandbox.Sandbox):
    """Tries a model file once in a process, and again after a change: hundreds of audits share a model."""

    tried: ClassVar[set[object]] = set()

    def __init__(self, path: Path, overrides: Mapping[str, Any] | None = None, **limits: Any) -> None:
        state = path.stat()
        self._key = (path.absolute(), state.st_mtime_ns, sandbox._size(path), repr(overrides), repr(limits))
        if self._key not in self.tried:
            super().__init__(path, overrides, **limits)

    def finish(self) -> None:
        if self._key not in self.tried:
            super().finish()
            self.tried.add(self._key)


sandbox.Sandbox = TriedOnce  # type: ignore[misc]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from what lives until the end: searching it took a twentieth of the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def one_export_registry() -> None:
    """Let PyTorch's exporter look its operators up once, which takes a second, and not for every network."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    # without this private function the tests are slower, not different
    if find := getattr(ONNXRegistry, "from_torchlib", None):
        ONNXRegistry.from_torchlib = staticmethod(functools.cache(find))  # type: ignore[assignment, method-assign]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, one_export_registry: None) -> Path:
    """The folder with digits-cnn.onnx, digits-cnn.pt, their sidecars and digits-test.npz. Do not write into it."""
    from auditor.reference_models import recipe

    # in the folder of all workers: the first one trains
    folder = shared_folder(tmp_path_factory) / "digits"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_suffix(".part")
            recipe("digits-cnn").train(partial, say=lambda _: None)
            partial.rename(folder)
    return folder


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all workers of this test run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Four images of the model for probes in `auditor plugin check`: every attack must succeed on it."""
    from auditor.conformance.bench import open_subject, write_subject
    from auditor.plugin.registry import load

    return open_subject(load(), *write_subject(tmp_path_factory.mktemp("fragile")), samples=4)


@pytest.fixture(scope="module")
def attack_survey() -> Any:
    """benchmarks/library_attacks.py"""
    from helpers import benchmark

    return benchmark("library_attacks")


@pytest.fixture
def auditor_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command line in an empty folder: ``auditor_cli("run", model, "--suite", "quick")``."""
    from auditor.cli.main import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def with_probes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Install throw-away probes, and broken plugins by name."""
    from auditor.plugin import registry

    def install(*kinds: type[Probe], broken: Mapping[str, str] | None = None) -> Registry:
        loaded = registry.load()
        for kind in kinds:
            loaded.probes[kind.meta.id] = kind
            loaded.origin[kind.meta.id] = "test"
        for name, error in (broken or {}).items():
            loaded.plugins.append(registry.Plugin(name, "else", "1.0", error))
        monkeypatch.setattr(registry, "load", lambda *_: loaded)
        return loaded

    return install


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the run, moved by the test."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture(scope="session")
def linear_model() -> Callable[..., Path]:
    """``linear_onnx``: writes a linear classifier."""
    return linear_onnx


def linear_onnx(
    path: Path, weights: np.ndarray, bias: np.ndarray, shape: tuple[int, int, int], *, softmax: bool = False
) -> Path:
    """A linear classifier as ONNX: logits = weights (k, c*h*w) @ pixels + bias (k,), dynamic batch."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"], transB=1),
    ]
    output = "logits"
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
        output = "probabilities"
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", len(bias)])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


@pytest.fixture(scope="session")
def write_linear() -> Callable[..., Path]:
    """``linear_onnx``, for test files that cannot import this one."""
    return linear_onnx
