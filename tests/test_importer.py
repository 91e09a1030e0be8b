"""The ONNX importer agrees with ONNX Runtime (values) and with PyTorch (gradients)."""

from __future__ import annotations

import copy
import functools
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from torch import Tensor, nn
from torch.nn import functional

from auditor.errors import NoCopy
from auditor.onnx.final_activation import cut_final_activation
from auditor.onnx.graph import MAX_DEPTH, import_onnx, sort_nodes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

pytestmark = pytest.mark.usefixtures("one_export_registry")


# --- networks -------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Residual block with batch normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.second(functional.relu(self.norm(self.first(x))))
        return functional.relu(x)


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Block(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class SqueezeExcite(nn.Module):
    """Depthwise convolution, squeeze and excitation, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.depthwise(functional.hardswish(self.expand(x))))
        gate = functional.hardsigmoid(self.excite(functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = self.head((x * gate).mean((2, 3)))
        return x


class Transformer(nn.Module):
    """Small vision transformer with a class token."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        n, length, size = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, 4, size // 4).permute(2, 0, 3, 1, 4)
        if self.fused:
            attended = functional.scaled_dot_product_attention(q, k, v)
        else:
            attended = functional.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(n, length, size))
        x = x + self.mlp(self.norm2(x))
        x = self.head(x[:, 0])
        return x


class Dense(nn.Module):
    """Every layer reads the outputs of all layers before it; the outputs of one are split and shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(15, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, functional.leaky_relu(layer(x), 0.1)], 1)
        a, b = torch.split(x, [6, 9], 1)
        x = b.reshape(-1, 3, 3, 32, 32).transpose(1, 2).flatten(1, 2)
        x = self.head(torch.cat([a, x], 1).amax((2, 3)))
        return x


class Pools(nn.Module):
    """Pooling with the ceil rule, padding modes, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.instance_norm(self.conv(functional.pad(x, (1, 2, 3, 1), mode="reflect")))
        x = functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
        x = functional.pad(x, (2, 1, 1, 0), mode="replicate")
        x = functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=True)
        x = functional.max_pool2d(functional.pad(x, (1, 0, 0, 1), value=0.5), 2, 2, ceil_mode=True)
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = functional.interpolate(x, size=(7, 5), mode="bilinear", align_corners=False)
        x = functional.interpolate(x, size=(9, 9), mode="bilinear", align_corners=True)
        return functional.softmax(x.flatten(1)[:, ::7], dim=1)


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 16), nn.PReLU(), nn.Dropout(), nn.Linear(16, 5, bias=False), nn.LogSoftmax(1)
    )


def channels_last() -> nn.Module:
    """NHWC input and internal transposes, as in converted Keras models."""

    class Keras(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = residual()

        def forward(self, x: Tensor) -> Tensor:
            return functional.softmax(self.body(x.permute(0, 3, 1, 2)), 1)

    return Keras()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual,
    "squeeze-excite": SqueezeExcite,
    "transformer": Transformer,
    "fused-transformer": functools.partial(Transformer, fused=True),
    "dense": Dense,
    "pools": Pools,
    "perceptron": perceptron,
    "channels-last": channels_last,
}
LEFT_OUT = {
    # the older exporter supports aligned corners from opset 11 and fused attention from opset 14
    ("pools", "script-9"),
    ("fused-transformer", "script-9"),
    ("fused-transformer", "script-13"),
    # adds no coverage, and the default exporter takes seconds
    ("perceptron", "default"),
    ("channels-last", "default"),
}
if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29):
    # up to opset 18 its AveragePool with the ceil rule and count_include_pad divided by the surplus, too
    LEFT_OUT |= {("pools", "script-13"), ("pools", "script-17")}
EXPORTS = [
    (network, kind)
    for network in NETWORKS
    for kind in ("script-9", "script-13", "script-17", "default")
    if (network, kind) not in LEFT_OUT
]
NEWER = [(network, kind) for network, kind in EXPORTS if kind in ("script-17", "default")]


def pixels(network: str, n: int, seed: int = 0) -> Tensor:
    shape = (n, 32, 32, 3) if network == "channels-last" else (n, 3, 32, 32)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def build(network: str) -> nn.Module:
    torch.manual_seed(0)
    module = NETWORKS[network]().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    return module.requires_grad_(False)


def export(module: nn.Module, x: Tensor, exporter: str, dynamic: bool = True) -> onnx.ModelProto:
    """Export with one of PyTorch's two exporters; the first dimension is dynamic by default."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            if exporter == "default":
                shapes = ({0: torch.export.Dim("n", min=1, max=64)},) if dynamic else None
                program = torch.onnx.export(module, (x,), dynamo=True, verbose=False, dynamic_shapes=shapes)
                assert program is not None
                program.save(buffer)  # type: ignore[arg-type]
            else:
                axes = {"x": {0: "n"}, "y": {0: "n"}} if dynamic else None
                opset = int(exporter.split("-")[1])
                torch.onnx.export(
                    module,
                    (x,),
                    buffer,  # type: ignore[arg-type]
                    dynamo=False,
                    opset_version=opset,
                    input_names=["x"],
                    output_names=["y"],
                    dynamic_axes=axes,
                )
        finally:
            logging.disable(logging.NOTSET)
    return onnx.load_from_string(buffer.getvalue())


@functools.cache
def exported(network: str, exporter: str) -> onnx.ModelProto:
    return export(build(network), pixels(network, 2), exporter)


def run_deployed(model: onnx.ModelProto, *inputs: Tensor) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), inputs, strict=True)}
    return list(session.run(None, feeds))


def assert_same(model: onnx.ModelProto, *inputs: Tensor, tolerance: float = 1e-5) -> None:
    """The importer's outputs equal those of ONNX Runtime."""
    outputs = import_onnx(model)(*inputs)
    expected = run_deployed(model, *inputs)
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, expected, strict=True):
        assert tuple(output.shape) == reference.shape
        np.testing.assert_allclose(output.numpy().astype(np.float64), reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("network", "exporter"), EXPORTS)
def test_networks_agree_with_onnx_runtime_and_their_gradients_with_torch(network: str, exporter: str) -> None:
    model = exported(network, exporter)
    x = pixels(network, 5, seed=1)  # another batch size than the exporter's
    assert_same(model, x)
    imported = import_onnx(model).double()
    original = copy.deepcopy(build(network)).double()
    gradients = []
    modules: list[Callable[[Tensor], Tensor]] = [lambda v: imported(v)[0], original]
    for module in modules:
        v = x.double().requires_grad_()
        output = module(v)
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        gradients.append(torch.autograd.grad((output * weights).sum(), v)[0])
    # weights are float32 in the file, hence also the constants of its arithmetic
    assert torch.linalg.norm(gradients[0] - gradients[1]) <= 1e-5 * torch.linalg.norm(gradients[1])


def test_module_has_names_and_is_frozen() -> None:
    module = import_onnx(exported("residual", "default"))
    names: Any = (module.input_names, module.output_names)
    assert [len(part) for part in names] == [1, 1]
    assert module.fixed_batch is None
    parameters = list(module.parameters())
    assert sum(parameter.numel() for parameter in parameters) > 500
    assert not any(parameter.requires_grad for parameter in parameters)
    twin = copy.deepcopy(module)
    assert twin.input_names == module.input_names
    assert twin.fixed_batch is None


def test_operators_split_by_exporters_are_fused() -> None:
    code = import_onnx(exported("transformer", "script-17")).code
    assert "fusion_gelu" in code
    assert "fusion_matmul_add" in code
    assert "Erf" not in code


@pytest.mark.parametrize("exporter", ["script-17", "default"])
def test_fixed_batch_is_reported(exporter: str) -> None:
    model = export(build("transformer"), pixels("transformer", 2), exporter, dynamic=False)
    assert import_onnx(model).fixed_batch == 2
    assert_same(model, pixels("transformer", 2, seed=3))


@pytest.mark.parametrize(("network", "exporter"), NEWER)
def test_shape_arithmetic_stays_on_the_host_when_the_module_moves(network: str, exporter: str) -> None:
    # the device "meta" has shapes and no values: all numbers that the module reads must come from the host
    module = import_onnx(exported(network, exporter)).to("meta")
    x = pixels(network, 3)
    assert module(x.to("meta"))[0].shape == build(network)(x).shape


def test_half_precision() -> None:
    module = copy.deepcopy(build("residual")).half()
    model = export(module, pixels("residual", 2).half(), "script-17")
    x = pixels("residual", 3).half()
    assert_same(model, x, tolerance=5e-3)
    v = x.double().requires_grad_()
    output = import_onnx(model).double()(v)[0]
    assert output.dtype == torch.float64
    assert torch.autograd.grad(output.sum(), v)[0].abs().sum() > 0


# --- files that ONNX Runtime wrote ----------------------------------------------------------------------------------


class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """A few batches for static quantisation."""

    def __init__(self, network: str) -> None:
        self.batches = iter([{"x": pixels(network, 8, seed).numpy()} for seed in range(4)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def quantise(network: str, scheme: str, folder: Path) -> onnx.ModelProto:
    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(exported(network, "script-17"), source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            if scheme == "dynamic":
                quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)
            else:
                quantization.quantize_static(
                    source,
                    target,
                    Calibration(network),
                    quant_format=quantization.QuantFormat[scheme.removesuffix("-per-channel")],
                    per_channel=scheme.endswith("-per-channel"),
                )
        finally:
            logging.disable(logging.NOTSET)
    return onnx.load(target)


@pytest.mark.parametrize("scheme", ["QDQ", "QDQ-per-channel", "QOperator", "dynamic"])
@pytest.mark.parametrize("network", ["residual", "squeeze-excite", "transformer", "dense"])
def test_quantised_networks_agree_and_carry_gradients(network: str, scheme: str, tmp_path: Path) -> None:
    model = quantise(network, scheme, tmp_path)
    module = import_onnx(model)
    x = pixels(network, 16, seed=9)
    expected = run_deployed(model, x)[0]
    result = module(x)[0].numpy()
    # a rounding step in the other direction changes a logit slightly
    assert np.abs(result - expected).max() <= 0.05 * np.ptp(expected)
    assert np.mean(result.argmax(1) == expected.argmax(1)) >= 0.9
    v, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    gradient = torch.autograd.grad(module(v)[0].square().sum(), v)[0]
    reference = torch.autograd.grad(build(network)(w).square().sum(), w)[0]
    assert functional.cosine_similarity(gradient.flatten(), reference.flatten(), 0) > 0.5


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
@pytest.mark.parametrize(("network", "exporter"), NEWER)
def test_files_optimised_by_onnx_runtime(network: str, level: str, exporter: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = exported(network, exporter).SerializeToString()
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert_same(onnx.load(tmp_path / "optimised.onnx"), pixels(network, 3, seed=4))


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
@pytest.mark.parametrize("scheme", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("network", ["dense", "squeeze-excite", "transformer"])
def test_quantised_files_optimised_by_onnx_runtime(network: str, scheme: str, level: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = quantise(network, scheme, tmp_path).SerializeToString()
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    x = pixels(network, 16, seed=4)
    expected = run_deployed(optimised, x)[0]
    assert np.abs(import_onnx(optimised)(x)[0].numpy() - expected).max() <= 0.05 * np.ptp(expected)


# --- single graphs --------------------------------------------------------------------------------------------------


def graph_model(
    nodes: list[onnx.NodeProto],
    *,
    inputs: dict[str, tuple[int, list[Any]]] | None = None,
    outputs: list[str] | None = None,
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    output_type: int = FLOAT,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    """Build a model of a few nodes."""
    declared = inputs or {"x": (FLOAT, ["n", 3])}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in declared.items()],
        [helper.make_tensor_value_info(name, output_type, None) for name in outputs or ["y"]],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=domains, functions=functions or [])
    model.ir_version = 8
    return model


X = torch.linspace(-2, 3, 12).reshape(4, 3)


def test_operands_that_moved_from_attribute_to_input() -> None:
    old = graph_model(
        [
            helper.make_node("Unsqueeze", ["x"], ["a"], axes=[1]),
            helper.make_node("ReduceSum", ["a"], ["b"], axes=[2], keepdims=0),
            helper.make_node("Clip", ["b"], ["c"], min=-1.0, max=2.0),
            helper.make_node("Pad", ["c"], ["d"], pads=[0, 1, 0, 2], value=0.5),
            helper.make_node("Slice", ["d"], ["e"], starts=[0], ends=[3], axes=[1]),
            helper.make_node("Split", ["e"], ["f", "g"], axis=1, split=[1, 2]),
            helper.make_node("Squeeze", ["f"], ["y"], axes=[1]),
        ],
        opset=9,
    )
    new = graph_model(
        [
            helper.make_node("Unsqueeze", ["x", "one"], ["a"]),
            helper.make_node("ReduceSum", ["a", "two"], ["b"], keepdims=0),
            helper.make_node("Clip", ["b", "low", "high"], ["c"]),
            helper.make_node("Pad", ["c", "pads", "half"], ["d"]),
            helper.make_node("Slice", ["d", "zero", "three", "one"], ["e"]),
            helper.make_node("Split", ["e", "split"], ["f", "g"], axis=1),
            helper.make_node("Squeeze", ["f", "one"], ["y"]),
        ],
        opset=18,
        constants={
            "zero": [0],
            "one": [1],
            "two": [2],
            "three": [3],
            "low": np.float32(-1),
            "high": np.float32(2),
            "half": np.float32(0.5),
            "pads": [0, 1, 0, 2],
            "split": [1, 2],
        },
    )
    for model in (old, new):
        assert_same(model, X)
    assert torch.equal(import_onnx(old)(X)[0], import_onnx(new)(X)[0])


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_axes_before_and_after_opset_13(operator: str, opset: int) -> None:
    model = graph_model(
        [helper.make_node(operator, ["x"], ["y"], axis=1)], inputs={"x": (FLOAT, [2, 3, 4])}, opset=opset
    )
    assert_same(model, torch.linspace(-2, 3, 24).reshape(2, 3, 4))


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [helper.make_node("Relu", ["b"], ["y"]), helper.make_node("Add", ["a", "x"], ["b"])]
    nodes.append(helper.make_node("Neg", ["x"], ["a"]))
    assert [node.op_type for node in sort_nodes(nodes)] == ["Neg", "Add", "Relu"]
    assert torch.equal(import_onnx(graph_model(nodes))(X)[0], torch.zeros(4, 3))


def test_model_and_standard_functions_are_expanded() -> None:
    body = [
        helper.make_node("Constant", [], ["k"]),
        helper.make_node("Mul", ["a", "k"], ["b"]),
    ]
    reference = body[0].attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "value_float", "factor", onnx.AttributeProto.FLOAT
    function = helper.make_function("own", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", 17)], ["factor"])
    model = graph_model(
        [
            helper.make_node("Scale", ["x"], ["a"], domain="own", factor=3.0),
            helper.make_node("HannWindow", ["three"], ["w"]),
            helper.make_node("Mul", ["a", "w"], ["y"]),
        ],
        constants={"three": np.int64(3)},
        functions=[function],
    )
    assert_same(model, X)


def branches(condition: list[onnx.NodeProto], **constants: Any) -> onnx.ModelProto:
    def branch(operator: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info("out", FLOAT, None)
        constant = numpy_helper.from_array(np.array(10, np.float32), "ten")
        nodes = [helper.make_node(operator, ["h", "ten"], ["out"])]
        return helper.make_graph(nodes, "branch", [], [value], [constant])

    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch("Add"), else_branch=branch("Mul"))
    return graph_model([helper.make_node("Neg", ["x"], ["h"]), *condition, choice], constants=constants)


def test_if_with_constant_condition_imports_one_branch() -> None:
    model = branches([helper.make_node("Not", ["false"], ["c"])], false=np.array(False))
    assert_same(model, X)
    assert "run_branch" not in import_onnx(model).code


@pytest.mark.parametrize("threshold", [-100.0, 100.0])
def test_if_on_input_selects_the_branch_at_run_time(threshold: float) -> None:
    condition = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "threshold"], ["c"]),
    ]
    model = branches(condition, threshold=np.float32(threshold))
    assert_same(model, X)
    v = X.clone().requires_grad_()
    gradient = torch.autograd.grad(import_onnx(model)(v)[0].sum(), v)[0]
    assert torch.all(gradient == (-1 if threshold < 0 else -10))


def test_reshape_by_input_shape_keeps_the_batch_dynamic() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["a"]),
        helper.make_node("Cast", ["n"], ["f"], to=FLOAT),
        helper.make_node("Sqrt", ["f"], ["root"]),
        helper.make_node("Div", ["a", "root"], ["y"]),
    ]
    model = graph_model(nodes, constants={"zero": np.int64(0), "axis": [0], "rest": [3, 1, -1]})
    for n in (1, 4, 7):
        assert_same(model, torch.rand(n, 3))
    assert import_onnx(model).double()(X.double())[0].dtype == torch.float64


def test_rounding_passes_gradients_inside_the_quantised_range() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("Reshape", ["q", "flat"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "scale", "zero"], ["y"]),
    ]
    constants = {"scale": np.float32(0.01), "zero": np.uint8(128), "flat": [-1]}
    model = graph_model(nodes, constants=constants)
    assert_same(model, X)
    v = X.clone().requires_grad_()
    gradient = torch.autograd.grad(import_onnx(model)(v)[0].sum(), v)[0]
    assert torch.equal(gradient, ((X >= -1.28) & (X <= 1.27)).float())


def test_casts_to_integers_and_back() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["a"]),
        helper.make_node("Cast", ["a"], ["i"], to=INT64),
        helper.make_node("Div", ["i", "three"], ["d"]),  # integer division: the carried integer becomes an integer
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Cast", ["d"], ["g"], to=FLOAT),
        helper.make_node("Add", ["f", "g"], ["y"]),
    ]
    model = graph_model(nodes, constants={"many": np.float32(7.3), "three": np.int64(3)})
    assert_same(model, X)
    v = X.clone().requires_grad_()
    gradient = torch.autograd.grad(import_onnx(model)(v)[0].sum(), v)[0]
    torch.testing.assert_close(gradient, torch.full_like(v, 7.3))


def test_integer_pixels_accept_float_tensors() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "k"], ["g"]),
        helper.make_node("QuantizeLinear", ["g", "k", "zero"], ["y"]),
    ]
    model = graph_model(
        nodes,
        inputs={"x": (TensorProto.UINT8, ["n", 3])},
        constants={"k": np.float32(0.1), "zero": np.uint8(3)},
        output_type=TensorProto.UINT8,
    )
    x = torch.arange(12, dtype=torch.uint8).reshape(4, 3)
    module = import_onnx(model)
    v = x.float().requires_grad_()
    for tensor in (x, v):
        assert np.array_equal(module(tensor)[0].detach().numpy(), run_deployed(model, x)[0])
    assert torch.autograd.grad(module(v)[0].sum(), v)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("nodes", "parts"),
    [
        ([helper.make_node("Frobnicate", ["x"], ["y"], name="here")], ["Frobnicate", "ai.onnx", "17", "here"]),
        ([helper.make_node("Frobnicate", ["x"], ["y"], domain="own")], ["Frobnicate", "own"]),
        ([helper.make_node("Relu", ["x"], ["y"], slope=1.0)], ["Relu", "slope"]),
        ([helper.make_node("Relu", ["nothing"], ["y"])], ["Relu", "nothing"]),
        ([helper.make_node("RandomNormalLike", ["x"], ["y"])], ["RandomNormalLike"]),
        ([helper.make_node("Dropout", ["x", "half", "true"], ["y"])], ["Dropout", "training_mode"]),
        ([helper.make_node("Expand", ["half", "large"], ["y"])], ["Expand", "elements"]),
        ([helper.make_node("ConstantOfShape", ["large"], ["y"])], ["ConstantOfShape", "elements"]),
        ([helper.make_node("Identity", ["y"], ["y"])], ["cycle"]),
        ([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])], ["Two nodes", "y"]),
        ([helper.make_node("Relu", ["x"], ["z"])], ["output 'y'"]),
        ([helper.make_node("Reshape", ["half", "wrong"], ["y"])], ["Reshape", "shape"]),
        ([helper.make_node("FusedConv", ["x", "half"], ["y"], domain="com.microsoft", activation="No")], ["'No'"]),
    ],
)
def test_import_error_names_the_cause(nodes: list[onnx.NodeProto], parts: list[str]) -> None:
    constants = {"half": np.float32(0.5), "true": np.array(True), "large": [100_000, 100_000], "wrong": [7]}
    with pytest.raises(NoCopy) as error:
        import_onnx(graph_model(nodes, constants=constants))
    assert all(part in str(error.value) for part in parts), error.value


def test_unknown_opsets_and_inputs_are_refused() -> None:
    for opset in (6, 1000):
        with pytest.raises(NoCopy, match=f"opset {opset}"):
            import_onnx(graph_model([helper.make_node("Relu", ["x"], ["y"])], opset=opset))
    model = graph_model([helper.make_node("Relu", ["x"], ["y"])], inputs={"x": (TensorProto.STRING, ["n"])})
    with pytest.raises(NoCopy, match="STRING"):
        import_onnx(model)


def test_recursive_functions_are_refused() -> None:
    body = [helper.make_node("Again", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "Again", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    with pytest.raises(NoCopy, match=f"more than {MAX_DEPTH} deep"):
        import_onnx(graph_model([helper.make_node("Again", ["x"], ["y"], domain="own")], functions=[function]))


# --- the final activation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "kind"),
    [("Softmax", "softmax"), ("LogSoftmax", "log-softmax"), ("Sigmoid", "sigmoid"), ("Relu", "none")],
)
@pytest.mark.parametrize("opset", [9, 17])
def test_final_activation_is_removed(operator: str, kind: str, opset: int) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"]),
        helper.make_node(operator, ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["y"]),
        helper.make_node("ArgMax", ["b"], ["label"], axis=1),
    ]
    if opset < 11:
        nodes[0].input.append("zero")
    weights = np.eye(3, dtype=np.float32) * 2
    model = graph_model(
        nodes,
        outputs=["label", "y"],
        constants={"w": weights, "shape": [-1, 3, 1, 1], "zero": np.zeros(3, np.float32)},
        opset=opset,
    )
    module = import_onnx(model)
    cut, activation = cut_final_activation(module, 1)
    assert activation == kind
    assert cut.output_names == ("y",)
    assert cut.input_names == ("x",)
    (result,) = cut(X)
    assert result.shape == (4, 3)
    expected = functional.relu(2 * X) if kind == "none" else 2 * X
    torch.testing.assert_close(result, expected)
    assert len(module(X)) == 2  # the original module is unchanged


def test_final_activation_is_removed_with_the_quantisation_of_probabilities() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "scale", "zero"], ["y"]),
    ]
    constants = {"two": np.float32(2), "scale": np.float32(1 / 256), "zero": np.uint8(0)}
    model = graph_model(nodes, constants=constants, output_type=TensorProto.UINT8)
    cut, activation = cut_final_activation(import_onnx(model))
    assert activation == "softmax"
    torch.testing.assert_close(cut(X)[0], 2 * X)


def test_softmax_over_the_batch_is_not_a_final_activation() -> None:
    model = graph_model([helper.make_node("Softmax", ["x"], ["y"], axis=0)])
    assert cut_final_activation(import_onnx(model))[1] == "none"
