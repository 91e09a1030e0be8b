"""Deployed models of any export map pixels in [0, 1] to the same probabilities."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from auditor.errors import BadInput
from auditor.model.classifier import Classifier
from auditor.model.scores import softmax

CHANNELS, SIDE, CLASSES = 3, 6, 4
SHAPE = (CHANNELS, SIDE, SIDE)
PICK = np.random.default_rng(0)
WEIGHTS = PICK.normal(size=(CLASSES, CHANNELS * SIDE * SIDE)).astype(np.float32)
BIAS = PICK.normal(size=CLASSES).astype(np.float32)
PIXELS = (PICK.integers(0, 256, (7, *SHAPE)) / 255).astype(np.float32)
EXPECTED = softmax(PIXELS.reshape(7, -1) @ WEIGHTS.T + BIAS)
SILENT = "[input]\nmean = [0.0]\nstd = [1.0]\n"
"""A sidecar that states the default."""

Open = Callable[..., Classifier]


@pytest.fixture(scope="session")
def plugins() -> Any:
    from auditor.plugin.registry import load

    return load()


@pytest.fixture
def opened(plugins: Any) -> Open:
    """Open a model file as the auditor does, with the images' size if the file leaves it open."""
    from auditor.model.loading import build, read_sidecar

    def call(path: Path, data_size: tuple[int, int] | None = None) -> Classifier:
        artefact = plugins.first("auditor_open_model", path=path, device="cpu", output="")
        return build(path, artefact, read_sidecar(path, artefact.metadata), data_size=data_size)

    return call


def linear(
    path: Path,
    *,
    batch: Any = "batch",
    nhwc: bool = False,
    kind: Any = np.float32,
    softmax_at_end: bool = False,
    open_size: bool = False,
    scale: float = 1.0,
    reshape: Any = None,
) -> Path:
    """Write this file's linear classifier as ONNX, in all common export variants."""
    sides = ["height", "width"] if open_size else [SIDE, SIDE]
    shape = [batch, *sides, CHANNELS] if nhwc else [batch, CHANNELS, *sides]
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    inside = TensorProto.FLOAT16 if kind == np.float16 else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=inside),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2])
        if nhwc
        else helper.make_node("Identity", ["float"], ["planes"]),
        helper.make_node("Flatten", ["planes"], ["flat"])
        if reshape is None
        else helper.make_node("Reshape", ["planes", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"], transB=1),
    ]
    output = "logits"
    if softmax_at_end:
        nodes.append(helper.make_node("Softmax", [output], ["probabilities"], axis=1))
        output = "probabilities"
    stored = np.float16 if kind == np.float16 else np.float32
    constants = [
        numpy_helper.from_array((WEIGHTS * scale).astype(stored), "weights"),
        numpy_helper.from_array(BIAS.astype(stored), "bias"),
    ]
    if reshape is not None:
        constants.append(numpy_helper.from_array(np.array(reshape, dtype=np.int64), "shape"))
    rows = batch if isinstance(batch, int) else "rows"
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", number, shape)],
        [helper.make_tensor_value_info(output, inside, [rows, CLASSES])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


class Linear(torch.nn.Module):
    """The same classifier in PyTorch, with dropout and batch norm, which must be in evaluation mode."""

    def __init__(self, *, nhwc: bool = False, probabilities: bool = False) -> None:
        super().__init__()
        self.nhwc, self.probabilities = nhwc, probabilities
        self.norm = torch.nn.BatchNorm2d(CHANNELS, eps=0.0)
        self.dropout = torch.nn.Dropout(0.5)
        self.linear = torch.nn.Linear(CHANNELS * SIDE * SIDE, CLASSES)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(WEIGHTS))
            self.linear.bias.copy_(torch.from_numpy(BIAS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.nhwc:
            x = x.permute(0, 3, 1, 2)
        logits = self.linear(self.dropout(self.norm(x)).flatten(1))
        return logits.softmax(1) if self.probabilities else logits


def script(path: Path, module: torch.nn.Module, how: str = "scripted", example: Any = None, **extra: str) -> Path:
    with warnings.catch_warnings():
        # torch deprecates its own format
        warnings.simplefilter("ignore")
        if how == "traced":
            example = torch.zeros(2, *SHAPE) if example is None else example
            made = torch.jit.trace(module, example)
        else:
            made = torch.jit.script(module)
            if how == "frozen":
                made = torch.jit.freeze(made.eval())
        made.save(str(path), _extra_files={key.replace("_", "."): text for key, text in extra.items()})
    return path


def write_sidecar(model: Path, text: str) -> Path:
    model.with_name(model.name + ".audit.toml").write_text(text, encoding="utf-8")
    return model


def agrees(classifier: Classifier, *, atol: float = 2e-6, access: str = "white-box") -> None:
    """The classifier returns the known answers in any batches, and so does its copy."""
    for size in (1, 2, 3, 32) if classifier.fixed_batch is None else (classifier.fixed_batch,):
        classifier.batch_size = size
        np.testing.assert_allclose(classifier.predict(PIXELS), EXPECTED, atol=atol, err_msg=f"batch {size}")
        np.testing.assert_allclose(classifier.predict(PIXELS[3:4]), EXPECTED[3:4], atol=atol)
    assert classifier.predict(PIXELS[:0]).shape == (0, CLASSES)
    classifier.verify(PIXELS)
    assert classifier.access == access, classifier.access_reason
    if access == "white-box":
        logits = classifier.logits(classifier.tensor(PIXELS)).detach().numpy()
        np.testing.assert_allclose(softmax(logits), EXPECTED, atol=max(atol, 1e-5))


ONNX: dict[str, dict[str, Any]] = {
    "logits": {},
    "probabilities": {"softmax_at_end": True},
    "channels last": {"nhwc": True},
    "a batch of 1": {"batch": 1},
    "a batch of 2": {"batch": 2},
    "a batch of 4": {"batch": 4},
    "a batch of 4, channels last, probabilities": {"batch": 4, "nhwc": True, "softmax_at_end": True},
    "a batch of 64, more than there are images": {"batch": 64},
    "8-bit input": {"kind": np.uint8, "scale": 1 / 255},
    "8-bit input, channels last": {"kind": np.uint8, "scale": 1 / 255, "nhwc": True},
    "a batch that only a constant fixes at 1": {"reshape": [1, -1]},
    "an open batch and a reshape that keeps it": {"reshape": [0, -1]},
}


@pytest.mark.parametrize("name", ONNX)
def test_onnx(name: str, tmp_path: Path, opened: Open) -> None:
    classifier = opened(linear(tmp_path / "m.onnx", **ONNX[name]))
    assert classifier.outputs == ("probabilities" if ONNX[name].get("softmax_at_end") else "logits")
    assert classifier.shape == SHAPE
    assert classifier.preprocessing.layout == ("nhwc" if ONNX[name].get("nhwc") else "nchw")
    expected = 1 if "reshape" in ONNX[name] and ONNX[name]["reshape"][0] else ONNX[name].get("batch")
    assert classifier.fixed_batch == expected
    agrees(classifier)


@pytest.mark.parametrize(("kind", "access"), [(np.float16, "white-box"), (np.float64, "white-box")])
def test_onnx_in_other_precision(kind: Any, access: str, tmp_path: Path, opened: Open) -> None:
    agrees(opened(linear(tmp_path / "m.onnx", kind=kind)), atol=0.02 if kind == np.float16 else 2e-6, access=access)


@pytest.mark.parametrize("how", ["traced", "scripted", "frozen"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_torchscript(how: str, probabilities: bool, tmp_path: Path, opened: Open) -> None:
    module = Linear(probabilities=probabilities).eval()
    classifier = opened(write_sidecar(script(tmp_path / "m.pt", module, how), SILENT + f"size = [{SIDE}, {SIDE}]"))
    assert classifier.outputs == ("probabilities" if probabilities else "logits")
    assert classifier.fixed_batch is None
    agrees(classifier)


def test_torchscript_saved_in_training_mode_is_evaluated(tmp_path: Path, opened: Open) -> None:
    module = Linear().train()
    agrees(opened(write_sidecar(script(tmp_path / "m.pt", module), SILENT + f"size = [{SIDE}, {SIDE}]")))


def test_torchscript_with_channels_last(tmp_path: Path, opened: Open) -> None:
    path = script(tmp_path / "m.ts", Linear(nhwc=True).eval())
    agrees(opened(write_sidecar(path, SILENT + f'size = [{SIDE}, {SIDE}]\nlayout = "nhwc"')))


class OneByOne(Linear):
    """Traced for a batch of one image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.reshape(1, CHANNELS * SIDE * SIDE))


def test_torchscript_traced_for_one_image(tmp_path: Path, opened: Open) -> None:
    path = script(tmp_path / "m.pt", OneByOne().eval(), "traced", torch.zeros(1, *SHAPE))
    classifier = opened(write_sidecar(path, SILENT + f"size = [{SIDE}, {SIDE}]"))
    assert classifier.fixed_batch == 1
    agrees(classifier)


class Means(torch.nn.Module):
    """Accept an image of any size: one-channel, three-channel, or depthwise first."""

    def __init__(self, channels: int, *, depthwise: bool = False) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, 3, 1, groups=3 if depthwise else 1)
        self.last = torch.nn.Conv2d(3, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x)).mean((2, 3))


@pytest.mark.parametrize(
    ("module", "channels"),
    [(Means(1), 1), (Means(3), 3), (Means(3, depthwise=True), 3)],
    ids=["grey", "rgb", "depthwise"],
)
def test_torchscript_input_is_guessed_with_a_warning(module: Any, channels: int, tmp_path: Path, opened: Open) -> None:
    path = script(tmp_path / "m.pt", module.eval())
    guessed = opened(path)
    assert guessed.shape == (channels, 224, 224)
    assert any("does not state the image size" in warning for warning in guessed.warnings)
    assert opened(path, (9, 7)).shape == (channels, 9, 7), "the size of the images overrides the common sizes"
    overrides = opened(write_sidecar(path, f"[input]\nsize = [5, 4]\nchannels = {channels}\nrange = [0, 1]"))
    assert overrides.shape == (channels, 5, 4)
    assert overrides.warnings == []


def test_packaged_photographs_do_not_determine_the_size(tmp_path: Path, auditor_cli: Any) -> None:
    path = script(tmp_path / "m.pt", Means(3).eval())
    result = auditor_cli("run", path, "--probe", "sanity.parity", "--samples", 4, "--format", "json", "--out", "out")
    assert result.exit_code == 0, result.output
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["model"]["input"]["shape"] == [None, 3, 224, 224]


def test_sizes_left_open_in_onnx(tmp_path: Path, opened: Open) -> None:
    path = linear(tmp_path / "m.onnx", open_size=True)
    with pytest.raises(BadInput, match=r"m\.onnx: the model accepted none of the image sizes tried"):
        opened(path)
    classifier = opened(path, (SIDE, SIDE))
    assert any(f"{SIDE}x{SIDE} pixels" in warning for warning in classifier.warnings)
    agrees(classifier)
    agrees(opened(write_sidecar(path, SILENT + f"size = [{SIDE}, {SIDE}]")))


def test_missing_preprocessing_gives_a_warning(tmp_path: Path, opened: Open) -> None:
    path = linear(tmp_path / "m.onnx")
    assert any("No preprocessing is stated" in warning for warning in opened(path).warnings)
    assert opened(write_sidecar(path, SILENT)).warnings == []


@pytest.mark.parametrize(
    ("text", "prepare"),
    [
        ("mean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.3, 0.4]", lambda x: (x - _c(0.5, 0.4, 0.3)) / _c(0.2, 0.3, 0.4)),
        ("mean = [0.5]\nstd = [0.25]", lambda x: (x - 0.5) / 0.25),
        ("range = [0, 255]", lambda x: x * 255),
        ("range = [-1, 1]", lambda x: x * 2 - 1),
        (
            'range = [0, 255]\nmean = [103.9, 116.8, 123.7]\norder = "bgr"',
            lambda x: x[:, ::-1] * 255 - _c(103.9, 116.8, 123.7),
        ),
    ],
    ids=["mean and std", "one mean for all", "0 to 255", "-1 to 1", "caffe"],
)
@pytest.mark.parametrize("nhwc", [False, True])
def test_deployed_model_and_copy_share_the_preprocessing(
    text: str, prepare: Any, nhwc: bool, tmp_path: Path, opened: Open
) -> None:
    path = write_sidecar(linear(tmp_path / "m.onnx", nhwc=nhwc, scale=0.01), f"[input]\n{text}")
    classifier = opened(path)
    expected = softmax((prepare(PIXELS).reshape(7, -1) @ (WEIGHTS.T * 0.01) + BIAS).astype(np.float32))
    np.testing.assert_allclose(classifier.predict(PIXELS), expected, atol=1e-5)
    classifier.verify(PIXELS)
    assert classifier.access == "white-box", classifier.access_reason
    logits = classifier.logits(classifier.tensor(PIXELS)).detach().numpy()
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)


def _c(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(1, 3, 1, 1)


def test_sidecar_in_the_metadata_and_next_to_the_file(tmp_path: Path, opened: Open) -> None:
    inside = f'[input]\nsize = [{SIDE}, {SIDE}]\nchannels = 3\nmean = [0.0]\n[output]\nclasses = ["a", "b", "c", "d"]'
    model = onnx.load(str(linear(tmp_path / "m.onnx")))
    helper.set_model_props(model, {"auditor.toml": inside})
    onnx.save(model, str(tmp_path / "m.onnx"))
    script(tmp_path / "m.pt", Linear().eval(), auditor_toml=inside)
    for path in (tmp_path / "m.onnx", tmp_path / "m.pt"):
        classifier = opened(path)
        assert classifier.classes == ("a", "b", "c", "d")
        assert classifier.warnings == []
        agrees(classifier)
        write_sidecar(path, SILENT + f'size = [{SIDE}, {SIDE}]\n[output]\nclasses = ["w", "x", "y", "z"]')
        assert opened(path).classes == ("w", "x", "y", "z"), "the sidecar file overrides the metadata"


def test_output_type_can_be_stated(tmp_path: Path, opened: Open) -> None:
    path = write_sidecar(linear(tmp_path / "m.onnx", softmax_at_end=True), SILENT + '[output]\nkind = "probabilities"')
    agrees(opened(path))


def test_constants_of_five_dimensions(tmp_path: Path, opened: Open) -> None:
    """Constants of some transformers; the image layout applies only to four dimensions."""
    model = onnx.load(linear(tmp_path / "m.onnx"))
    table = numpy_helper.from_array(np.zeros((1, 1, 1, 1, CLASSES), dtype=np.float32), "table")
    model.graph.initializer.append(table)
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.int64([1, 2, 3]), "axes"))
    model.graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["before", "axes"], ["five"]),
            helper.make_node("Add", ["five", "table"], ["sum"]),
            helper.make_node("Squeeze", ["sum", "axes"], [output]),
        ]
    )
    onnx.save(model, tmp_path / "m.onnx")
    agrees(opened(tmp_path / "m.onnx"))


def test_weights_in_a_separate_file(tmp_path: Path, opened: Open) -> None:
    model = onnx.load(str(linear(tmp_path / "m.onnx")))
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    agrees(opened(tmp_path / "m.onnx"))
    (tmp_path / "m.data").unlink()
    with pytest.raises(BadInput, match=r"m\.onnx: its weights 'm\.data' are not next to it"):
        opened(tmp_path / "m.onnx")


def test_unknown_operator(tmp_path: Path, opened: Open) -> None:
    node = helper.make_node("Frobnicate", ["image"], ["scores"], domain="com.example")
    graph = helper.make_graph(
        [node],
        "custom",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(tmp_path / "m.onnx"))
    with pytest.raises(BadInput, match=r"m\.onnx: ONNX Runtime cannot load it: .*"):
        opened(tmp_path / "m.onnx")


def test_reference_model_is_equal_from_both_files(digits: Path, opened: Open) -> None:
    with np.load(digits / "digits-test.npz") as archive:
        images = (archive["images"][:100, None] / 255).astype(np.float32)
        labels = archive["labels"][:100]
    one, other = opened(digits / "digits-cnn.onnx"), opened(digits / "digits-cnn.pt")
    np.testing.assert_allclose(one.predict(images), other.predict(images), atol=1e-5)
    assert (one.predict(images).argmax(1) == labels).mean() > 0.9
    assert one.classes == other.classes == tuple("0123456789")
