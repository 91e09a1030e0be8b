"""TorchScript and torch.export archives are opened if sound, and refused before any of their code runs."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auditor.errors import BadInput
from auditor.model.classifier import Classifier
from auditor.model.loading import build, read_sidecar
from auditor.model.loading.archive import check_exported, on_device, traced_shape
from auditor.model.scores import softmax

# torch 2.12 warns about its reader once per process
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")

SHAPE, CLASSES = (3, 6, 5), 4
PICK = np.random.default_rng(0)
PIXELS = (PICK.integers(0, 256, (7, *SHAPE)) / 255).astype(np.float32)


class Linear(torch.nn.Module):
    """A linear classifier; ``batch`` is fixed in the program, a common mistake."""

    def __init__(self, batch: int = -1) -> None:
        super().__init__()
        self.batch = batch
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(90, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.reshape(self.batch, 90)) + torch.zeros(1, device=x.device)


EXPECTED = softmax(Linear()(torch.from_numpy(PIXELS)).detach().numpy())


@pytest.fixture(scope="module")
def plugins() -> Any:
    from auditor.plugin.registry import load

    return load()


@pytest.fixture
def opened(plugins: Any) -> Callable[[Path], Classifier]:
    def call(path: Path) -> Classifier:
        artefact = plugins.first("auditor_open_model", path=path, device="cpu")
        return build(path, artefact, read_sidecar(path, artefact.metadata))

    return call


def check(classifier: Classifier, fixed: int | None) -> None:
    """The classifier returns the known answers, white-box, whether or not the file states its batch."""
    assert classifier.shape == SHAPE
    assert classifier.fixed_batch == fixed
    np.testing.assert_allclose(classifier.predict(PIXELS), EXPECTED, atol=1e-6)
    classifier.verify(PIXELS)
    assert classifier.access == "white-box", classifier.access_reason
    logits = classifier.logits(classifier.tensor(PIXELS)).detach().numpy()
    np.testing.assert_allclose(softmax(logits), EXPECTED, atol=1e-6)


def traced(path: Path, module: torch.nn.Module, batch: int) -> Path:
    with warnings.catch_warnings():
        # torch deprecates its own format
        warnings.simplefilter("ignore")
        torch.jit.trace(module.eval(), torch.rand(batch, *SHAPE)).save(str(path))
    return path


@pytest.mark.parametrize("batch", [1, 2, 4, 5])
def test_traced_for_one_batch_only(batch: int, tmp_path: Path, opened: Any) -> None:
    path = traced(tmp_path / "m.pt", Linear(batch), batch)
    assert traced_shape(path) == (batch, *SHAPE)
    check(opened(path), batch)


def test_traced_example_determines_the_size(tmp_path: Path, opened: Any) -> None:
    classifier = opened(traced(tmp_path / "m.pt", Linear(), 2))
    check(classifier, None)
    assert not any("does not say the image size" in warning for warning in classifier.warnings)


def rewritten(content: bytes, changes: dict[str, bytes | None], added: dict[str, bytes] | None = None) -> bytes:
    """Return the archive with other contents for entries with these endings (None: removed), and with added entries."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).partition("/")[0]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, old in [*entries.items(), *((f"{root}/{k}", v) for k, v in (added or {}).items())]:
            new = next((value for end, value in changes.items() if name.endswith(end)), old)
            if new is not None:
                archive.writestr(name, new)
    return packed.getvalue()


def test_torchscript_with_a_gpu_constant_runs_on_the_selected_device(tmp_path: Path, opened: Any) -> None:
    path = traced(tmp_path / "m.pt", Linear(), 2)
    assert on_device(path, "cpu") == path
    with zipfile.ZipFile(path) as archive:
        sources = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}
    ((name, code),) = [item for item in sources.items() if b'torch.device("cpu")' in item[1]]
    # as if traced on a GPU
    path.write_bytes(
        rewritten(path.read_bytes(), {name: code.replace(b'torch.device("cpu")', b'torch.device("cuda:1")')})
    )
    check(opened(path), None)


class Counting(torch.nn.Module):
    """Creates tensors: traced on the CPU, its code names the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x.flatten(1)[:, :4] + torch.arange(4) + torch.zeros(4)
        return total * torch.linspace(0, 1, 4)


def test_torchscript_traced_on_the_cpu_runs_on_another_device(tmp_path: Path) -> None:
    path = traced(tmp_path / "m.pt", Counting(), 2)
    inputs = torch.rand(2, *SHAPE, device="meta")
    # "meta" stands for a GPU: it refuses tensors of the CPU, too
    with warnings.catch_warnings(), torch.jit.optimized_execution(False):
        # torch deprecates its own format
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError):
            torch.jit.load(str(path), map_location="meta")(inputs)
        assert torch.jit.load(on_device(path, "meta"), map_location="meta")(inputs).device.type == "meta"


# --- torch.export -----------------------------------------------------------------------------------------------------


def exported(module: torch.nn.Module, batch: int, free: bool) -> bytes:
    dynamic = ({0: torch.export.Dim("n")},) if free else None
    program = torch.export.export(module.eval(), (torch.rand(batch, *SHAPE),), dynamic_shapes=dynamic)
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


@pytest.fixture(scope="module")
def program() -> bytes:
    return exported(Linear(), 2, True)


def test_exported_programs_are_opened(program: bytes, tmp_path: Path, opened: Any) -> None:
    (tmp_path / "m.pt2").write_bytes(program)
    classifier = opened(tmp_path / "m.pt2")
    assert classifier.artefact.format == "exported-program"
    check(classifier, None)


def test_exported_for_one_batch(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "m.pt2").write_bytes(exported(Linear(), 4, False))
    check(opened(tmp_path / "m.pt2"), 4)


class Command:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def named(content: bytes, end: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(end)]
        return archive.read(name)


def edited(content: bytes, end: str, change: Callable[[Any], None]) -> bytes:
    """Return the archive with a change to its one JSON file with this ending."""
    tree = json.loads(named(content, end))
    change(tree)
    return rewritten(content, {end: json.dumps(tree).encode()})


def first_node(tree: Any) -> Any:
    return tree["graph_module"]["graph"]["nodes"][0]


def pickled_weight(tree: Any) -> None:
    next(iter(tree["config"].values()))["use_pickle"] = True


def hostile_formula(tree: Any) -> None:
    tensors = tree["graph_module"]["graph"]["tensor_values"]
    next(iter(tensors.values()))["sizes"][0] = {"as_expr": {"expr_str": "__import__('os').getcwd()", "hint": None}}


def hostile_input(tree: Any) -> None:
    tree["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = "x=__import__('os').getcwd()"


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "pickled weights": (lambda c: edited(c, "weights_config.json", pickled_weight), "is a pickle"),
    "another module's function": (
        lambda c: edited(c, "model.json", lambda t: first_node(t).update(target="torch.os.system")),
        "torch.os.system",
    ),
    "an operator that reads files": (
        lambda c: edited(c, "model.json", lambda t: first_node(t).update(target="torch.ops.aten.from_file.default")),
        "from_file",
    ),
    "operators that are tools": (
        lambda c: edited(c, "model.json", lambda t: first_node(t).update(target="_operator.attrgetter")),
        "attrgetter",
    ),
    "a formula that is evaluated": (lambda c: edited(c, "model.json", hostile_formula), "has the formula"),
    "a name that is written into code": (lambda c: edited(c, "model.json", hostile_input), "has a value called"),
    "a compiled library": (lambda c: rewritten(c, {}, {"data/aotinductor/model/x.so": b"\x7fELF"}), "aotinductor"),
    "a second program": (lambda c: rewritten(c, {}, {"models/other.json": b"{}"}), "models/other.json"),
    "no JSON": (lambda c: rewritten(c, {"model.json": b"{"}), "damaged"),
    "no program": (lambda c: rewritten(c, {"model.json": None}), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_exported_programs_are_refused(name: str, program: bytes) -> None:
    change, message = HOSTILE[name]
    with zipfile.ZipFile(io.BytesIO(change(program))) as archive, pytest.raises(BadInput, match=message):
        check_exported(archive, Path("m.pt2"))


def test_sample_inputs_are_not_unpickled(program: bytes, tmp_path: Path, opened: Any) -> None:
    buffer = io.BytesIO()
    torch.save(Command(tmp_path / "ran"), buffer)
    for hostile in (buffer.getvalue(), pickle.dumps(Command(tmp_path / "ran"))):
        (tmp_path / "m.pt2").write_bytes(rewritten(program, {"sample_inputs/model.pt": hostile}))
        with pytest.raises(BadInput, match=r"m\.pt2: its sample inputs are a pickle.*--trust-model"):
            opened(tmp_path / "m.pt2")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pkl"])
def test_state_dict_is_refused_with_advice(suffix: str, tmp_path: Path, opened: Any) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(BadInput, match=r"build the network in Python.*torch\.onnx\.export"):
        opened(path)
