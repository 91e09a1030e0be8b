"""Unusable input gives exit status 2 and one sentence: what, where, what was expected; no traceback."""

from __future__ import annotations

import fcntl
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from onnx import TensorProto, helper
from PIL import Image

F, U8 = TensorProto.FLOAT, TensorProto.UINT8
Make = Callable[[SimpleNamespace], Sequence[object]]
"""Maps the workspace to the arguments of the command."""

TINY = 'probes = ["performance.accuracy"]\nsamples = 30\n'


def save(path: Path, nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> Path:
    """Write an ONNX file with these nodes; shapes by name, all float32."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, F, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, F, shape) for name, shape in outputs.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def mean_of_channels(path: Path, channels: int = 3, rank: int = 2) -> Path:
    """Write a model with one class per channel: the score of a class is its channel's mean."""
    node = helper.make_node("ReduceMean", ["image"], ["scores"], axes=[2, 3] if rank == 2 else [3], keepdims=0)
    shape = ["batch", channels] if rank == 2 else ["batch", channels, 8]
    return save(path, [node], {"image": ["batch", channels, 8, 8]}, {"scores": shape})


def state_dict(path: Path) -> Path:
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    return path


def text(path: Path, content: str = "hello\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def half(path: Path, source: Path) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def sidecar(model: Path, content: str) -> Path:
    text(model.with_name(model.name + ".audit.toml"), content)
    return model


def png(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def foreign_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "no array")
    return path


def table(folder: Path, content: str, *images: str) -> Path:
    for image in images:
        png(folder / image)
    return text(folder / "table.csv", content)


@pytest.fixture
def workspace(tmp_path: Path, digits: Path) -> SimpleNamespace:
    """A workspace: the reference model, a colour model of three unnamed classes with valid images, and helpers."""
    colours = mean_of_channels(tmp_path / "colours.onnx")
    images = tmp_path / "good"
    for colour in ("red", "lime", "blue"):
        png(images / colour / "a.png", colour)
    tiny = text(tmp_path / "tiny.toml", TINY)
    return SimpleNamespace(
        at=tmp_path,
        digits=digits / "digits-cnn.onnx",
        script=digits / "digits-cnn.pt",
        colours=colours,
        good=images,
        tiny=tiny,
    )


@pytest.fixture
def refused(auditor_cli: Callable[..., Result]) -> Callable[..., str]:
    """Run the command; it must end with status 2 and one sentence that contains all of ``parts``."""

    def call(arguments: Sequence[object], parts: Sequence[str]) -> str:
        result = auditor_cli(
            *arguments, *(["--format", "json"] if arguments[0] == "run" and "--format" not in arguments else [])
        )
        # a busy machine may take so long that lines of progress come first
        message = "".join(line for line in result.stderr.splitlines(keepends=True) if not line.startswith("    "))
        assert result.exit_code == 2, f"status {result.exit_code}: {result.output}"
        assert "Traceback" not in result.output
        assert message.startswith("auditor: "), message
        assert message.count("\n") == 1, f"more than one line: {message}"
        assert len(message) < 700, f"too long: {message}"
        for part in parts:
            assert part in message, f"{part!r} is not in: {message}"
        return message

    return call


def two_inputs(h: SimpleNamespace) -> Path:
    nodes = [
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    shape = ["batch", 3, 8, 8]
    return save(h.at / "m.onnx", nodes, {"left": shape, "right": shape}, {"scores": ["batch", 3]})


def detector(h: SimpleNamespace) -> Path:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["scores"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["image"], ["boxes"], axes=[3], keepdims=0),
    ]
    outputs = {"scores": ["batch", 3], "boxes": ["batch", 3, 8]}
    return save(h.at / "m.onnx", nodes, {"image": ["batch", 3, 8, 8]}, outputs)


def flat(h: SimpleNamespace) -> Path:
    node = helper.make_node("Identity", ["features"], ["scores"])
    return save(h.at / "m.onnx", [node], {"features": ["batch", 7, 2]}, {"scores": ["batch", 7, 2]})


class Pair(torch.nn.Module):
    """Return boxes and scores."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean((2, 3)), x.mean(3)


class Dictionary(torch.nn.Module):
    """Return a dictionary, like segmentation and detection models."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": x.mean((2, 3))}


class TwoInputs(torch.nn.Module):
    """Take an image and a second input."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (image * mask).mean((2, 3))


class Rank2(torch.nn.Module):
    """Take features."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def scripted(h: SimpleNamespace, module: torch.nn.Module) -> Path:
    path: Path = h.at / "m.pt"
    with warnings.catch_warnings():
        # torch deprecates its own format
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


MODELS: dict[str, tuple[Make, Sequence[str]]] = {
    "no such file": (lambda h: [h.at / "none.onnx"], ["none.onnx", "no such file"]),
    "a folder": (lambda h: [h.good], ["good", "folder", "expected a model file"]),
    "an empty file": (lambda h: [text(h.at / "m.onnx", "")], ["m.onnx", "empty", "expected a model"]),
    "an unknown suffix": (lambda h: [text(h.at / "m.xyz")], ["m.xyz", ".xyz", ".onnx", ".pt"]),
    "a Keras file": (lambda h: [text(h.at / "m.h5")], ["m.h5", "only Keras can run", "m.onnx"]),
    "no suffix": (lambda h: [text(h.at / "model")], ["model", "without a suffix", ".onnx"]),
    "text named .onnx": (lambda h: [text(h.at / "m.onnx")], ["m.onnx", "not an ONNX model"]),
    "a Git LFS pointer named .onnx": (
        lambda h: [text(h.at / "m.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")],
        ["m.onnx", "not an ONNX model"],
    ),
    "zeros named .onnx": (lambda h: [text(h.at / "m.onnx", "\0" * 99)], ["m.onnx", "not an ONNX model"]),
    "text named .pt": (lambda h: [text(h.at / "m.pt")], ["m.pt", "not a TorchScript archive", "torch.jit.trace"]),
    "a truncated .onnx": (lambda h: [half(h.at / "m.onnx", h.digits)], ["m.onnx", "not an ONNX model"]),
    "a truncated .pt": (lambda h: [half(h.at / "m.pt", h.script)], ["m.pt", "incomplete", "torch.jit.trace"]),
    "a state_dict": (lambda h: [state_dict(h.at / "m.pt")], ["m.pt", "state_dict", "torch.jit.trace"]),
    "a plain pickle named .pt": (
        lambda h: [(h.at / "m.pt", (h.at / "m.pt").write_bytes(pickle.dumps({"a": 1})))[0]],
        ["m.pt", "not a TorchScript archive"],
    ),
    "no image-shaped input": (lambda h: [flat(h)], ["m.onnx", "[3, 7, 2]", "expected [3, classes]"]),
    "two inputs": (lambda h: [two_inputs(h)], ["m.onnx", "2 inputs (left, right)", "expected exactly one"]),
    "five channels": (lambda h: [mean_of_channels(h.at / "m.onnx", 5)], ["m.onnx", "5 channels", "1 or 3"]),
    "several outputs": (lambda h: [detector(h)], ["m.onnx", "2 outputs", "boxes", "--output NAME"]),
    "an output of rank 3": (lambda h: [mean_of_channels(h.at / "m.onnx", rank=3)], ["m.onnx", "[3, 3, 8]", "classes"]),
    "TorchScript with two inputs": (lambda h: [scripted(h, TwoInputs())], ["m.pt", "2 inputs (image, mask)"]),
    "TorchScript with two outputs": (lambda h: [scripted(h, Pair())], ["m.pt", "2 outputs", "--output NAME"]),
    "TorchScript that returns a dict": (lambda h: [scripted(h, Dictionary())], ["m.pt", "dict", "class scores"]),
    "TorchScript of features": (
        lambda h: [scripted(h, Rank2())],
        ["m.pt", "none of the image sizes tried", "shapes cannot be multiplied"],
    ),
}


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize("name", MODELS)
def test_unusable_model(name: str, command: str, workspace: Any, refused: Any) -> None:
    make, parts = MODELS[name]
    refused([command, *make(workspace)], parts)
    assert not (workspace.at / "audits").exists()


SIDECARS: dict[str, tuple[str, Sequence[str]]] = {
    "not TOML": ("[input\n", ["not readable as TOML", "line 1"]),
    "another number of classes": ('[output]\nclasses = ["a", "b"]', ["names 2 classes", "3 outputs"]),
    "unknown table": ("[inputs]\nsize = [8, 8]", ["unknown key 'inputs'", "data, input, output"]),
    "unknown key": ("[input]\nstdev = [1]", ["[input]", "unknown key 'stdev'", "std"]),
    "not a table": ("input = 3", ["[input] must be a table"]),
    "text for a number": ('[input]\nsize = ["8", "8"]', ["size", "expected a list of 2 positive whole numbers"]),
    "number for a list": ("[input]\nmean = 0.5", ["mean is 0.5", "expected a list"]),
    "not a number": ("[input]\nmean = [nan]", ["mean is [nan]", "expected a list"]),
    "channels as a fraction": ("[input]\nchannels = 3.0", ["channels is 3.0", "expected 1 or 3"]),
    "channels as truth": ("[input]\nchannels = true", ["channels is True", "expected 1 or 3"]),
    "layout as a list": ('[input]\nlayout = ["nchw"]', ["layout", "expected nchw or nhwc"]),
    "a standard deviation of zero": ("[input]\nstd = [0.0]", ["std is [0.0]", "positive"]),
    "an empty range": ("[input]\nrange = [1, 1]", ["range is [1, 1]", "expected"]),
    "wrong number of means": ("[input]\nmean = [0, 0]", ["mean has 2 values for 3 channels"]),
    "another size": ("[input]\nsize = [9, 9]", ["size is [9, 9]", "takes [8, 8]"]),
    "another number of channels": ("[input]\nchannels = 1", ["channels is 1", "takes 3"]),
    "classes as a text": (
        '[output]\nclasses = "abc"',
        ["classes is 'abc'", "expected a list of at least 2 different texts"],
    ),
    "a class twice": ('[output]\nclasses = ["a", "b", "a"]', ["expected a list of at least 2 different texts"]),
    "unknown kind": ('[output]\nkind = "softmax"', ["'softmax'", "logits or probabilities"]),
    "data as a number": ("[data]\npath = 3", ["path is 3", "expected a text"]),
    "data that is not there": ('[data]\npath = "nowhere"', ["[data] path", "nowhere", "no such file or folder"]),
}


@pytest.mark.parametrize("name", SIDECARS)
def test_unusable_sidecar(name: str, workspace: Any, refused: Any) -> None:
    content, parts = SIDECARS[name]
    refused(
        ["run", sidecar(workspace.colours, content), "--suite", workspace.tiny], ["colours.onnx.audit.toml", *parts]
    )


def test_model_that_returns_nan(workspace: Any, refused: Any) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Constant", [], ["much"], value_float=0.99),
        helper.make_node("Sub", ["means", "much"], ["rest"]),
        helper.make_node("Log", ["rest"], ["scores"]),
    ]
    model = save(workspace.at / "m.onnx", nodes, {"image": ["batch", 3, 8, 8]}, {"scores": ["batch", 3]})
    refused(["run", model, "--suite", workspace.tiny], ["m.onnx", "NaN or infinity", "finite score", "sidecar"])
    refused(["inspect", model], ["m.onnx", "NaN or infinity"])


def test_sidecar_in_the_metadata_is_named_as_such(workspace: Any, refused: Any) -> None:
    model = onnx.load(str(workspace.colours))
    helper.set_model_props(model, {"auditor.toml": "[input]\nsizes = [8, 8]"})
    onnx.save(model, str(workspace.colours))
    refused(["run", workspace.colours], ["colours.onnx (its own metadata)", "unknown key 'sizes'"])


DATA: dict[str, tuple[Callable[[Any], Path], Sequence[str]]] = {
    "not there": (lambda h: h.at / "nowhere", ["--data", "nowhere", "no such file or folder"]),
    "an unknown kind": (lambda h: text(h.at / "d.txt"), ["--data", "d.txt", ".csv", ".npz"]),
    "an empty folder": (lambda h: (h.at / "d", (h.at / "d").mkdir())[0], ["/d", "found no images", ".png"]),
    "a folder without images": (lambda h: text(h.at / "d" / "notes.txt").parent, ["/d", "found no images"]),
    "only hidden images": (lambda h: png(h.at / "d" / "._a.png").parent, ["/d", "found no images"]),
    "images next to folders of images": (
        lambda h: (png(h.good / "b.png"), h.good)[1],
        ["good", "1 images next to 3 folders", "expected a folder per class"],
    ),
    "no image can be read": (
        lambda h: text(h.at / "d" / "red" / "a.png").parent.parent,
        ["/d", "none of 1 images could be read", "red/a.png"],
    ),
    "a label without a class": (
        lambda h: npz(h.at / "d.npz", images=np.zeros((2, 8, 8), np.uint8), labels=[0, 7]),
        ["d.npz", "label '7'", "no class", "0 to 2"],
    ),
    "names for classes without names": (
        lambda h: npz(h.at / "d.npz", images=np.zeros((2, 8, 8), np.uint8), labels=["cat", "dog"]),
        ["d.npz", "2 labels (cat, dog)", "3 unnamed classes", "[output] classes"],
    ),
    "a superscript as label": (
        lambda h: npz(h.at / "d.npz", images=np.zeros((2, 8, 8), np.uint8), labels=["0", "²"]),
        ["²"],
    ),
    "labels missing in some rows": (
        lambda h: table(h.at / "d", "image,label\na.png,0\nb.png,\n", "a.png", "b.png"),
        ["table.csv", "1 of 2 rows have no label", "b.png", "label all images or none"],
    ),
    "a row without an image": (
        lambda h: table(h.at / "d", "image,label\na.png,0\n,1\n", "a.png"),
        ["table.csv", "1 of 2 rows", "name no image", "row 2"],
    ),
    "no image column": (lambda h: text(h.at / "d.csv", "file,label\na.png,0\n"), ["file, label", "a column image"]),
    "rows longer than the header": (
        lambda h: table(h.at / "d", "image,label\na.png,0,x\n", "a.png"),
        ["table.csv", "more"],
    ),
    "ragged rows": (lambda h: text(h.at / "d.csv", 'image,label\na,1\nb,1,2,3\n"c'), ["d.csv", "not readable"]),
    "a table without rows": (lambda h: text(h.at / "d.csv", "image,label\n"), ["d.csv", "has no rows"]),
    "an empty table": (lambda h: text(h.at / "d.csv", ""), ["d.csv", "not readable as a table"]),
    "a table in UTF-16": (
        lambda h: (h.at / "d.csv", (h.at / "d.csv").write_bytes("image\nä.png\n".encode("utf-16")))[0],
        ["d.csv", "not readable as a table"],
    ),
    "text named .parquet": (lambda h: text(h.at / "d.parquet"), ["d.parquet", "not readable as a table"]),
    "a missing file for every row": (
        lambda h: table(h.at / "d", "image,label\na.png,0\n"),
        ["table.csv", "none of 1 images could be read", "a.png"],
    ),
    "text named .npz": (lambda h: text(h.at / "d.npz"), ["d.npz", "not readable as a NumPy archive"]),
    "an empty .npz": (lambda h: text(h.at / "d.npz", ""), ["d.npz", "not readable as a NumPy archive"]),
    "a single array named .npz": (
        lambda h: (np.save(h.at / "d.npy", np.zeros(3)), (h.at / "d.npy").rename(h.at / "d.npz"))[1],
        ["d.npz", "one array", "np.savez"],
    ),
    "a ZIP file of something else named .npz": (
        lambda h: foreign_zip(h.at / "d.npz"),
        ["d.npz", "images is not an array", "np.savez"],
    ),
    "an archive without images": (
        lambda h: npz(h.at / "d.npz", pixels=np.zeros(3)),
        ["d.npz", "contains pixels", "expected images and labels"],
    ),
    "images of another rank": (lambda h: npz(h.at / "d.npz", images=np.zeros(3)), ["[3]", "[n, height, width]"]),
    "no images in the array": (lambda h: npz(h.at / "d.npz", images=np.zeros((0, 8, 8, 3))), ["found no images"]),
    "values up to 255 as float": (
        lambda h: npz(h.at / "d.npz", images=np.full((2, 8, 8), 255.0)),
        ["d.npz", "from 255 to 255", "[0, 1], or uint8"],
    ),
    "normalised values": (
        lambda h: npz(h.at / "d.npz", images=np.linspace(-2, 2, 128).reshape(2, 8, 8)),
        ["d.npz", "from -2 to 2", "sidecar"],
    ),
    "not a number among the values": (
        lambda h: npz(h.at / "d.npz", images=np.full((2, 8, 8), np.nan)),
        ["d.npz", "nan", "[0, 1]"],
    ),
    "another type": (lambda h: npz(h.at / "d.npz", images=np.zeros((2, 8, 8), np.int64)), ["int64", "uint8"]),
    "an array of Python objects": (
        lambda h: npz(h.at / "d.npz", images=np.array([np.zeros((8, 8)), None], dtype=object)),
        ["d.npz", "allow_pickle=False"],
    ),
    "four channels": (lambda h: npz(h.at / "d.npz", images=np.zeros((2, 8, 8, 4), np.uint8)), ["(8, 8, 4)", "1 or 3"]),
    "too few labels": (
        lambda h: npz(h.at / "d.npz", images=np.zeros((2, 8, 8), np.uint8), labels=[0]),
        ["labels has shape [1]", "expected [2]"],
    ),
    "an id twice": (
        lambda h: npz(h.at / "d.npz", images=np.zeros((2, 8, 8), np.uint8), ids=["a", "a"]),
        ["d.npz", "contains a name twice"],
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_unusable_data(name: str, workspace: Any, refused: Any) -> None:
    make, parts = DATA[name]
    refused(["run", workspace.colours, "--data", make(workspace), "--suite", workspace.tiny], parts)


def test_label_without_a_class_names_the_classes(workspace: Any, refused: Any) -> None:
    model = sidecar(workspace.colours, '[output]\nclasses = ["red", "green", "blue"]')
    refused(["run", model, "--data", workspace.good, "--suite", workspace.tiny], ["'lime'", "red, green, blue"])


SUITES: dict[str, tuple[str, Sequence[str]]] = {
    "not TOML": ("probes = x", ["not readable as TOML", "line 1"]),
    "unknown key": (TINY + "sample = 3", ["unknown key 'sample'", "samples"]),
    "no probes": ("samples = 3", ["probes is empty"]),
    "probes as a text": ('probes = "attacks.*"', ["probes is 'attacks.*'", "expected a list"]),
    "unknown probe": ('probes = ["attacks.fgms"]', ["attacks.fgms", "no such probe", "attacks.fgsm"]),
    "samples as a text": ('probes = ["*"]\nsamples = "all"', ["samples is 'all'", "whole number"]),
    "samples as truth": ('probes = ["*"]\nsamples = true', ["samples is True", "whole number"]),
    "no samples": ('probes = ["*"]\nsamples = 0', ["samples is 0", "at least 1"]),
    "title as a number": (TINY + "title = 3", ["title is 3", "text"]),
    "settings that are no table": (TINY + "settings = 3", ["settings", "table"]),
    "settings of a probe that are no table": (TINY + '[settings]\n"attacks.fgsm" = 3', ["attacks.fgsm", "table"]),
    "settings of an unknown probe": (TINY + '[settings."a.b"]\nc = 1', ["'a.b'", "no such probe"]),
    "unknown setting": (TINY + '[settings."attacks.fgsm"]\neps = [1]', ["no setting 'eps'", "epsilons"]),
    "setting of another type": (TINY + '[settings."attacks.fgsm"]\nepsilons = 1', ["epsilons", "expected a list"]),
    "text in a list of numbers": (TINY + '[settings."attacks.fgsm"]\nepsilons = ["x"]', ["epsilons", "8/255"]),
    "division by zero": (TINY + '[settings."attacks.fgsm"]\nepsilons = ["1/0"]', ["epsilons", "1/0", "8/255"]),
    "two points in a fraction": (TINY + '[settings."attacks.fgsm"]\nepsilons = ["1.2.3/4"]', ["epsilons", "8/255"]),
    "not a number": (TINY + '[settings."attacks.fgsm"]\nepsilons = [nan]', ["epsilons", "nan"]),
}


@pytest.mark.parametrize("name", SUITES)
def test_unusable_suite(name: str, workspace: Any, refused: Any) -> None:
    content, parts = SUITES[name]
    refused(["run", workspace.digits, "--suite", text(workspace.at / "mine.toml", content)], ["mine.toml", *parts])


RULE = '[[rule]]\nprobe = "performance.accuracy"\nmetric = "accuracy"\nreason = "r"\nsource = "s"\n'
POLICIES: dict[str, tuple[str, Sequence[str]]] = {
    "not TOML": ("title = x", ["not readable as TOML", "line 1"]),
    "unknown key": ("tittle = 'x'", ["unknown key 'tittle'", "title"]),
    "unknown severity": ("fails_at = 'bad'", ["fails_at is 'bad'", "low, medium, high, critical"]),
    "a severity that is a list": ("fails_at = ['low']", ["fails_at", "low, medium, high, critical"]),
    "required as a text": ("required = 'performance.accuracy'", ["required", "list"]),
    "rules that are no tables": ("rule = 3", ["rule", "[[rule]]"]),
    "a rule that is no table": ("rule = [3]", ["rule 1 must be a table"]),
    "unknown key in a rule": (RULE + "at_leats = {low = 0.9}", ["rule 1", "unknown key 'at_leats'", "at_least"]),
    "a rule without thresholds": (RULE, ["rule 1", "at_most_lost, or knowledge; found 0"]),
    "a rule with both sides": (RULE + "at_least = {low = 1}\nat_most = {low = 1}", ["rule 1", "found 2"]),
    "unknown severity in a rule": (RULE + "at_least = {severe = 0.9}", ["rule 1", "low, medium, high, critical"]),
    "text for a threshold": (
        RULE + "at_least = {low = '0.9'}",
        ["rule 1", "at_least.low is '0.9'", "expected a number"],
    ),
    "thresholds in the wrong order": (RULE + "at_least = {low = 0.5, high = 0.9}", ["rule 1", "more severe"]),
    "a place that is no table": (RULE + "at = 3\nat_least = {low = 0.5}", ["rule 1", "at is 3", "table"]),
    "a rule without a metric": ('[[rule]]\nprobe = "a.b"', ["rule 1", "has no metric"]),
}


@pytest.mark.parametrize("name", POLICIES)
def test_unusable_policy(name: str, workspace: Any, refused: Any) -> None:
    content, parts = POLICIES[name]
    refused(["run", workspace.digits, "--policy", text(workspace.at / "mine.toml", content)], ["mine.toml", *parts])


OPTIONS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "unknown probe": (["--probe", "attacks.fgms"], ["--probe attacks.fgms", "no such probe", "attacks.fgsm"]),
    "unknown probe to skip": (["--skip", "nonsense*"], ["--skip nonsense*", "no such probe", "auditor probes"]),
    "nothing left": (["--skip", "*"], ["no probe is left", "--skip"]),
    "unknown suite": (["--suite", "fulll"], ["--suite fulll", "quick, standard"]),
    "a suite file that is not there": (["--suite", "none.toml"], ["--suite none.toml", "no such suite"]),
    "unknown policy": (["--policy", "gentle"], ["--policy gentle", "default", "TOML file"]),
    "unknown format": (["--format", "html,docx"], ["--format docx", "no such format", "html, pdf"]),
    "unknown device": (["--device", "gpu"], ["--device", "'gpu'", "cuda:N"]),
    "unknown severity": (["--fail-on", "bad"], ["--fail-on", "'bad'", "critical"]),
    "unknown option": (["--batchsize", "3"], ["--batchsize"]),
    "nonsense as budget": (["--budget", "soon"], ["--budget", "'soon'", "10m"]),
    "no budget": (["--budget", "0s"], ["--budget", "'0s'", "10m"]),
    "negative budget": (["--budget=-5m"], ["--budget", "'-5m'", "10m"]),
    "no samples": (["--samples", "0"], ["--samples"]),
    "negative seed": (["--seed", "-1"], ["--seed"]),
    "no batch": (["--batch-size", "0"], ["--batch-size", "'0'", "auto"]),
    "a superscript as batch": (["--batch-size", "²"], ["--batch-size", "auto"]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_unusable_option(name: str, workspace: Any, refused: Any) -> None:
    options, parts = OPTIONS[name]
    refused(["run", workspace.digits, *options], parts)
    assert not (workspace.at / "audits").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_gpu(workspace: Any, refused: Any) -> None:
    refused(["run", workspace.digits, "--device", "cuda"], ["--device cuda", "auditor doctor"])


@pytest.mark.parametrize("arguments", [["run"], ["judge", "x"], ["nonsense"], ["report", "x", "y"]])
def test_invalid_arguments_of_commands(arguments: list[str], refused: Any) -> None:
    refused(arguments, ["--help"])


def test_unwritable_out(workspace: Any, refused: Any) -> None:
    out = text(workspace.at / "file") / "run"
    refused(["run", workspace.digits, "--suite", workspace.tiny, "--out", out], ["--out", "file", "cannot be written"])
    refused(
        ["run", workspace.digits, "--suite", workspace.tiny, "--out", out.parent],
        ["--out", "file", "cannot be written"],
    )
    refused(["train", "digits-cnn", "--out", out], [str(out)])


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A run folder in use by another audit."""
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield out


def test_out_in_use_by_another_audit(workspace: Any, locked: Path, refused: Any) -> None:
    refused(
        ["run", workspace.digits, "--suite", workspace.tiny, "--out", locked],
        ["--out", "another audit", "choose another"],
    )


RUNS: dict[str, tuple[Make, Sequence[str]]] = {
    "judge nothing": (lambda h: ["judge", h.at / "none", "--policy", "default"], ["none", "no audit.json"]),
    "report nothing": (lambda h: ["report", h.at / "none"], ["none", "no audit.json"]),
    "replay nothing": (lambda h: ["replay", h.at / "none"], ["none", "no audit.json"]),
    "judge a model": (lambda h: ["judge", h.digits, "--policy", "default"], ["digits-cnn.onnx"]),
    "an audit that is not JSON": (
        lambda h: ["report", text(h.at / "run" / "audit.json", "{").parent],
        ["audit.json", "not readable as JSON"],
    ),
    "an audit of another schema": (
        lambda h: ["report", text(h.at / "run" / "audit.json", '{"schema": "x"}').parent],
        ["audit.json", "not an audit of this version"],
    ),
    "an audit that is a list": (
        lambda h: ["report", text(h.at / "run" / "audit.json", "[]").parent],
        ["audit.json", "not an audit of this version"],
    ),
    "unknown recipe": (lambda h: ["train", "resnet"], ["'resnet'", "digits-cnn"]),
    "unknown probe to describe": (lambda h: ["probes", "a.b"], ["a.b", "no such probe"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_unusable_run_folder(name: str, workspace: Any, refused: Any) -> None:
    make, parts = RUNS[name]
    refused(make(workspace), parts)
