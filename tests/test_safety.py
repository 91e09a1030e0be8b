"""Model files are untrusted input: hostile content is refused or contained in a child process, with one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import benchmark
from onnx import TensorProto, helper, numpy_helper

from auditor.errors import BadInput
from auditor.model.loading.archive import check_torchscript
from auditor.model.loading.external_data import check_external_data
from auditor.run.sandbox import NoSandbox, Sandbox, load_in_sandbox

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SHAPE = ["batch", 3, 8, 8]
WEIGHTS = np.random.default_rng(0).normal(size=(192, 4)).astype(np.float32)


# --- TorchScript ------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """A benign classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Conv2d(3, 4, 7, padding="same")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x).mean((2, 3))


class Writer(Net):
    """Write a file at every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written.pt")
        return self.last(x).mean((2, 3))


class Sleeper(torch.nn.Module):
    """Write a file during loading."""

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        torch.save(state[0], "written.pt")
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Reader(Net):
    """Read a file as its weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stolen = torch.from_file("/etc/hostname", False, 4, dtype=torch.uint8)
        return x.mean((2, 3)) + stolen[0]


class Stranger(Net):
    """Call an operator outside the tensor library."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.profiler._record_function_enter("x").new_zeros(1) + x.mean((2, 3))


def script(path: Path, module: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        # torch deprecates its own format
        warnings.simplefilter("ignore")
        torch.jit.script(module.eval()).save(str(path))
    return path


def rewritten(path: Path, change: Callable[[str, bytes], bytes], **added: bytes) -> Path:
    """Return the archive with changed and added entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: change(name, archive.read(name)) for name in archive.namelist()}
    root = next(iter(entries)).partition("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in [*entries.items(), *((f"{root}/{k.replace('_', '.')}", v) for k, v in added.items())]:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("kind", "named"), [(Writer, "save"), (Sleeper, "save"), (Reader, "from_file")], ids=lambda v: str(v)[-12:]
)
def test_torchscript_that_touches_files_is_refused(kind: Any, named: str, tmp_path: Path, auditor_cli: Any) -> None:
    path = script(tmp_path / "m.pt", kind())
    result = auditor_cli("inspect", path)
    assert result.exit_code == 2, result.output
    assert f"names the operator {named}" in result.stderr
    assert "--trust-model" in result.stderr
    assert not (tmp_path / "written.pt").exists(), "none of its code has run"


def test_hostile_code_runs_with_trust(tmp_path: Path, auditor_cli: Any) -> None:
    path = script(tmp_path / "m.pt", Sleeper())
    # its scores are from 0 to 1
    (tmp_path / "m.pt.audit.toml").write_text('[output]\nkind = "logits"\n')
    result = auditor_cli("inspect", path, "--trust-model")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "written.pt").exists()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b"torch.mean", b"ops.profiler.mean", "operators of profiler"),
        (b"torch.mean", b"ops . c10d . mean", "operators of c10d"),
        (b"torch.mean", b"o = ops\n  o.c10d.mean", "another namespace"),
        (b"torch.mean", b"t = torch\n  t.save", "the operator save"),
        (b"Tensor", b"__torch__.torch.classes.aoti.AOTIModelPackageLoader", "torch.classes.aoti"),
    ],
)
def test_torchscript_code_is_checked(old: bytes, new: bytes, named: str, tmp_path: Path) -> None:
    path = rewritten(
        script(tmp_path / "m.pt", Net()),
        lambda name, content: content.replace(old, new) if name.endswith(".py") else content,
    )
    with pytest.raises(BadInput, match=named):
        check_torchscript(path, trust=False)
    check_torchscript(path, trust=True)


def test_torchscript_pickles_with_other_classes_are_refused(tmp_path: Path) -> None:
    path = script(tmp_path / "m.pt", Net())
    rewritten(path, lambda _, content: content, data_pkl2=b"")
    check_torchscript(path, trust=False)
    hostile = b"\x80\x02c__torch__.torch.classes.aoti\nAOTIModelPackageLoader\n."
    rewritten(path, lambda name, content: hostile if name.endswith("data.pkl") else content)
    with pytest.raises(BadInput, match=r"data\.pkl.*torch\.classes\.aoti"):
        check_torchscript(path, trust=False)


def test_ambiguous_archives_are_refused(tmp_path: Path) -> None:
    path = script(tmp_path / "m.pt", Net())
    content = path.read_bytes()
    path.write_bytes(b"PTMF" + content)
    with pytest.raises(BadInput, match="not a plain ZIP archive"):
        check_torchscript(path, trust=False)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(archive.namelist()[0], b"twice")
    with pytest.raises(BadInput, match="not a plain ZIP archive"):
        check_torchscript(path, trust=False)


def test_benign_torchscript_passes(tmp_path: Path, auditor_cli: Any) -> None:
    result = auditor_cli("inspect", script(tmp_path / "m.pt", Net()))
    assert result.exit_code == 0, result.output


# --- weights of ONNX files in separate files --------------------------------------------------------------------------


def external(folder: Path, location: str) -> tuple[onnx.ModelProto, Path]:
    """A linear classifier whose weights have the external ``location``."""
    folder.mkdir(exist_ok=True)
    weight = numpy_helper.from_array(WEIGHTS, "w")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])],
        "graph",
        [helper.make_tensor_value_info("image", FLOAT, SHAPE)],
        [helper.make_tensor_value_info("scores", FLOAT, ["batch", 4])],
        [weight],
    )
    onnx.external_data_helper.set_external_data(graph.initializer[0], location)
    graph.initializer[0].ClearField("raw_data")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return model, folder / "m.onnx"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside the model, of the size of its weights."""
    path = tmp_path / "secret"
    path.write_bytes(WEIGHTS.tobytes())
    return path


@pytest.mark.parametrize("how", ["hard link", "symbolic link", "linked folder", "parent", "absolute", "missing"])
def test_weights_outside_the_model_folder_are_refused(how: str, secret: Path, tmp_path: Path) -> None:
    location = {"parent": "../secret", "absolute": str(secret), "linked folder": "in/secret"}.get(how, "w.data")
    model, path = external(tmp_path / "model", location)
    if how == "hard link":
        os.link(secret, path.parent / "w.data")
    elif how == "symbolic link":
        (path.parent / "w.data").symlink_to(secret)
    elif how == "linked folder":
        (path.parent / "in").symlink_to(secret.parent)
    named = {"hard link": "hard link", "missing": "not next to it", "parent": "outside", "absolute": "outside"}
    with pytest.raises(BadInput, match=named.get(how, "symbolic link")):
        check_external_data(model, path)


def test_weights_next_to_the_model_are_loaded(secret: Path, tmp_path: Path, auditor_cli: Any) -> None:
    model, path = external(tmp_path / "model", "w.data")
    secret.rename(path.parent / "w.data")
    check_external_data(model, path)
    assert "white-box" in auditor_cli("inspect", path).output


def test_weights_within_branches_and_functions_are_checked(secret: Path, tmp_path: Path) -> None:
    _, path = external(tmp_path / "model", "w.data")
    tensor = helper.make_tensor("t", FLOAT, [1], [0.0])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "b", [], [])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    inside = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(BadInput, match="outside"):
        check_external_data(inside, path)
    function = helper.make_function("d", "F", [], ["z"], [node], [helper.make_opsetid("", 17)])
    with pytest.raises(BadInput, match="outside"):
        check_external_data(helper.make_model(helper.make_graph([], "g", [], []), functions=[function]), path)


# --- bombs and loops: the child's limits ------------------------------------------------------------------------------


def model(path: Path, nodes: list[Any], constants: dict[str, Any]) -> Path:
    """Write a model whose scores are the channel means, plus the value ``extra`` that the nodes compute."""
    nodes = [
        *nodes,
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["means", "extra"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", FLOAT, SHAPE)],
        [helper.make_tensor_value_info("scores", FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, str(path))
    return path


def endless(path: Path) -> Path:
    """Write a loop of 2^60 iterations."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Add", ["sum", "one"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("sum", FLOAT, []),
        ],
        [helper.make_tensor_value_info("goes", BOOL, []), helper.make_tensor_value_info("next", FLOAT, [])],
    )
    return model(
        path,
        [helper.make_node("Loop", ["turns", "yes", "one"], ["extra"], body=body)],
        {"turns": np.int64(2**60), "yes": np.bool_(True), "one": np.float32(1)},
    )


def bomb(path: Path, operator: str) -> Path:
    """Write eight numbers that expand to 2^36 floats, 256 GiB."""
    nodes = {
        "Expand": [helper.make_node("Expand", ["one", "shape"], ["much"])],
        "ConstantOfShape": [helper.make_node("ConstantOfShape", ["shape"], ["much"])],
        "Tile": [
            helper.make_node("Unsqueeze", ["one", "axes"], ["row"]),
            helper.make_node("Tile", ["row", "repeats"], ["much"]),
        ],
    }[operator]
    nodes.append(helper.make_node("ReduceSum", ["much"], ["extra"], keepdims=0))
    constants = {"one": np.float32(1), "shape": np.array([2**18, 2**18], dtype=np.int64)}
    if operator == "Tile":
        constants |= {"axes": np.array([0, 1], dtype=np.int64), "repeats": constants["shape"]}
    return model(path, nodes, constants)


def test_endless_loop_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"m\.onnx: loading it took longer than 2 s; .*--trust-model"):
        Sandbox(endless(tmp_path / "m.onnx"), seconds=2).finish()


@pytest.mark.parametrize("operator", ["Expand", "ConstantOfShape", "Tile"])
def test_size_bomb_does_not_affect_the_parent(operator: str, tmp_path: Path, auditor_cli: Any) -> None:
    result = auditor_cli("inspect", bomb(tmp_path / "m.onnx", operator))
    assert result.exit_code == 2, result.output
    assert "m.onnx" in result.stderr
    # ONNX Runtime limits Tile itself
    assert "memory" in result.stderr or "exceeds the supported maximum" in result.stderr


def test_all_failures_of_a_file_are_contained_in_the_child(tmp_path: Path) -> None:
    program = f"""
        import os, signal, time
        from auditor.run.sandbox import _try

        class Plugins:
            broken = ()

            def __init__(self, act):
                self.act = act

            def first(self, hook, **_):
                self.act()

        def fill():
            return [bytearray(2**26) for _ in range(200)]

        def write():
            with open({str(tmp_path / "written")!r}, "wb") as file:
                file.write(b"x")

        actions = {{
            "nothing": lambda: None,
            "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
            "leave": lambda: os._exit(7),
            "sleep": lambda: time.sleep(60),
            "fill": fill,
            "write": write,
            "raise": lambda: 1 / 0,
            "index": lambda: [][0],
        }}
        for name, act in actions.items():
            seconds = 1 if name == "sleep" else 20
            job = {{"path": "/m.x", "as": "m.x", "overrides": {{}}, "seconds": seconds, "memory": 2**29}}
            print(name, _try(Plugins(act), job))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    outcomes = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert outcomes["nothing"] == "{'refused': '', 'ended': ''}"
    assert "'SIGSEGV'" in outcomes["crash"]
    assert "'status 7'" in outcomes["leave"]
    assert "'time'" in outcomes["sleep"]
    assert "'memory'" in outcomes["fill"]
    assert "File too large" in outcomes["write"]
    assert not (tmp_path / "written").exists() or (tmp_path / "written").stat().st_size == 0
    assert "m.x: not a valid model file: loading it raised IndexError" in outcomes["index"]


def test_child_that_cannot_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auditor.run import sandbox

    monkeypatch.setattr(sandbox, "_running", [])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BadInput, match="child process that loads model files first"):
        Sandbox(endless(tmp_path / "m.onnx")).finish()
    assert sandbox._running == []


def test_trusted_files_and_folders_skip_the_sandbox(tmp_path: Path) -> None:
    assert isinstance(load_in_sandbox(tmp_path / "none.onnx"), NoSandbox)
    assert isinstance(load_in_sandbox(tmp_path), NoSandbox)
    assert isinstance(load_in_sandbox(endless(tmp_path / "m.onnx"), trust=True), NoSandbox)


# --- damaged files, as benchmarks/mutated_models.py makes them --------------------------------------------------------


def test_damaged_files_are_opened_or_refused_in_one_sentence(tmp_path: Path, auditor_cli: Any) -> None:
    script = benchmark("mutated_models")
    with warnings.catch_warnings():
        # exporters deprecate themselves
        warnings.simplefilter("ignore")
        originals = [(path.name, path.read_bytes()) for path in script.models(tmp_path)]
    ends: dict[str, str] = {}
    for _, name, content in script.damaged(originals, 20, seed=1):
        (tmp_path / name).write_bytes(content)
        script.state_the_size(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ends[name] = script.ended(auditor_cli("inspect", name))
    assert set(ends.values()) == {"opened", "refused"}, ends
