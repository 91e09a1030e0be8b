"""Importer operators that exported networks rarely contain agree with ONNX Runtime and PyTorch."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from auditor.errors import NoCopy
from auditor.onnx.final_activation import cut_final_activation
from auditor.onnx.graph import import_onnx
from auditor.onnx.operators.microsoft import channel_block
from auditor.onnx.operators.shape import ConstantOfShape

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name: str, kind: int = FLOAT, shape: list[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    *,
    shape: list[Any],
    outputs: dict[str, int] | None = None,
    constants: dict[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [value("x", FLOAT, shape)],
        [value(name, kind) for name, kind in (outputs or {"y": FLOAT}).items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    domains = {"": opset, "com.microsoft": 1, "ai.onnx.ml": 1}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*d) for d in domains.items()], ir_version=8)


def deployed(proto: onnx.ModelProto, x: Tensor) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})


def assert_same(proto: onnx.ModelProto, x: Tensor, tolerance: float = 1e-5) -> Tensor:
    """The values equal those of ONNX Runtime; return the gradient of their sum."""
    v = x.clone().requires_grad_()
    (result,) = import_onnx(proto)(v)
    (expected,) = deployed(proto, x)
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=tolerance, atol=tolerance)
    assert tuple(result.shape) == expected.shape
    (gradient,) = torch.autograd.grad(result.sum(), v)
    return gradient


X = torch.linspace(-2, 3, 12).reshape(4, 3)


def loop(limit: str, condition: str, *, until: float = 1e9) -> onnx.ModelProto:
    """state <- 1.5 state + x while the sum of the state is below ``until``; each state is also an output."""
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["factor"], value_float=1.5),
            helper.make_node("Mul", ["before", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "x"], ["after"]),
            helper.make_node("ReduceSum", ["after"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "until"], ["again"]),
            helper.make_node("Identity", ["after"], ["seen"]),
        ],
        "body",
        [value("i", INT64, []), value("condition", BOOL, []), value("before")],
        [value("again", BOOL), value("after"), value("seen")],
    )
    nodes = [
        helper.make_node("Loop", [limit, condition, "x"], ["last", "all"], body=body),
        helper.make_node("ReduceSum", ["all", "zero"], ["total"], keepdims=0),
        helper.make_node("Add", ["last", "total"], ["y"]),
    ]
    constants = {"three": np.int64(3), "true": np.array(True), "until": np.float32(until), "zero": [0]}
    return model(nodes, shape=["n", 3], constants=constants)


@pytest.mark.parametrize(
    ("limit", "condition", "until"), [("three", "", 1e9), ("", "true", 60.0), ("three", "true", 9.0)]
)
def test_loop_ends_by_count_or_condition(limit: str, condition: str, until: float) -> None:
    gradient = assert_same(loop(limit, condition, until=until), X)
    assert gradient.unique().numel() == 1
    assert gradient.min() > 1


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan_iterates_over_an_axis(backwards: int) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["sum_in", "entry"], ["sum_out"]),
            helper.make_node("Mul", ["sum_out", "two"], ["row"]),
        ],
        "body",
        [value("sum_in"), value("entry")],
        [value("sum_out"), value("row")],
    )
    scan = helper.make_node(
        "Scan",
        ["zeros", "x"],
        ["last", "rows"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
        scan_input_directions=[backwards],
        scan_output_directions=[backwards],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x", "one"], ["sums"], keepdims=0),
        helper.make_node("Sub", ["sums", "sums"], ["zeros"]),
        scan,
        helper.make_node("Unsqueeze", ["last", "one"], ["column"]),
        helper.make_node("Add", ["rows", "column"], ["y"]),
    ]
    proto = model(nodes, shape=["n", 3], constants={"one": [1], "two": np.float32(2)})
    gradient = assert_same(proto, X)
    # the state reaches every later row, and the last row reaches all of them
    expected = torch.tensor([9.0, 7.0, 5.0])
    assert torch.equal(gradient, (expected.flip(0) if backwards else expected).expand(4, 3))


def test_scripted_lists_are_imported_as_sequences() -> None:
    nodes = [
        helper.make_node("SequenceEmpty", [], ["s0"]),
        helper.make_node("SequenceInsert", ["s0", "x"], ["s1"]),
        helper.make_node("Mul", ["x", "two"], ["double"]),
        helper.make_node("SequenceInsert", ["s1", "double", "first"], ["s2"]),
        helper.make_node("SequenceAt", ["s2", "first"], ["again"]),
        helper.make_node("ConcatFromSequence", ["s2"], ["joined"], axis=1),
        helper.make_node("Concat", ["joined", "again"], ["y"], axis=1),
    ]
    gradient = assert_same(model(nodes, shape=["n", 3], constants={"two": np.float32(2), "first": np.int64(0)}), X)
    assert torch.equal(gradient, torch.full_like(X, 5))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_equal_those_of_torch(kind: type[nn.Module], bidirectional: bool) -> None:
    class Rows(nn.Module):
        """Read an image row by row."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(4, 5, bidirectional=bidirectional, batch_first=True)
            self.head = nn.Linear(10 if bidirectional else 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.layer(x)[0][:, -1])
            return scores

    torch.manual_seed(0)
    network = Rows().eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        torch.onnx.export(
            network,
            (torch.rand(2, 6, 4),),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
        logging.disable(logging.NOTSET)
    x = torch.rand(3, 6, 4)
    gradient = assert_same(onnx.load_from_string(buffer.getvalue()), x)
    v = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(network(v).sum(), v)[0], rtol=1e-4, atol=1e-5)


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def logistic(post_transform: str) -> onnx.ModelProto:
    """Build what scikit-learn converters write: a scaler, a linear model, a normaliser, string labels, ZipMap."""
    nodes = [
        helper.make_node(
            "Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[0.5, 0.0, 1.0], scale=[2.0, 1.0, 0.5]
        ),
        helper.make_node(
            "LinearClassifier",
            ["scaled"],
            ["place", "raw"],
            domain="ai.onnx.ml",
            post_transform=post_transform,
            coefficients=[0.5, -1.0, 0.2, 1.5, 0.3, -0.7],
            intercepts=[0.1, -0.4],
            classlabels_ints=[0, 1],
        ),
        helper.make_node("Normalizer", ["raw"], ["p"], domain="ai.onnx.ml", norm="L1"),
        helper.make_node("ArrayFeatureExtractor", ["names", "place"], ["label"], domain="ai.onnx.ml"),
    ]
    names = numpy_helper.from_array(np.array(["benign", "malign"], dtype=object), "names")
    proto = model(nodes, shape=["n", 3], outputs={"label": TensorProto.STRING, "p": FLOAT})
    proto.graph.initializer.append(names)
    return proto


@pytest.mark.parametrize("post_transform", ["LOGISTIC", "SOFTMAX"])
def test_scikit_learn_linear_model_with_string_labels_has_a_copy(post_transform: str) -> None:
    proto = logistic(post_transform)
    with pytest.raises(NoCopy, match="names"):
        import_onnx(proto)
    module, _ = cut_final_activation(import_onnx(proto, ["p"]))
    v = X.clone().requires_grad_()
    (probabilities,) = import_onnx(proto, ["p"])(v)
    np.testing.assert_allclose(probabilities.detach().numpy(), deployed(proto, X)[1], rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(probabilities[:, 0].sum(), v)[0].abs().min() > 0
    assert module.output_names == ("p",)


def test_operator_without_gradient_is_named() -> None:
    tree = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "p"],
        domain="ai.onnx.ml",
        post_transform="NONE",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0],
        class_nodeids=[1, 2],
        class_ids=[0, 1],
        class_weights=[1.0, 1.0],
        classlabels_int64s=[0, 1],
    )
    with pytest.raises(NoCopy, match="TreeEnsembleClassifier"):
        import_onnx(model([tree], shape=["n", 3]), ["p"])


# --- functions of the standard, other types ---------------------------------------------------------------------------


def test_standard_function_is_the_fallback() -> None:
    q = torch.rand(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    proto = model(
        [helper.make_node("Attention", ["x", "x", "x"], ["y"], softcap=2.0, is_causal=1)], shape=[2, 2, 3, 4], opset=23
    )
    proto.ir_version = 11
    assert assert_same(proto, q).abs().sum() > 0


def test_four_bit_weights_are_imported() -> None:
    weights = helper.make_tensor("w", TensorProto.INT4, [3, 2], [-8, 7, 1, 0, -1, 3])
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"], axis=1),
        helper.make_node("MatMul", ["x", "weights"], ["y"]),
    ]
    proto = model(nodes, shape=["n", 3], constants={"scale": np.array([0.5, 0.25], dtype=np.float32)}, opset=21)
    proto.graph.initializer.append(weights)
    proto.ir_version = 10
    # ONNX Runtime multiplies such weights in 8 bits
    gradient = assert_same(proto, X, 2e-2)
    assert torch.allclose(gradient[0], torch.tensor([-8 * 0.5 + 7 * 0.25, 0.5, -0.5 + 0.75]))


def test_rounding_to_four_or_eight_bit_floats_is_refused() -> None:
    for kind in (TensorProto.FLOAT8E4M3FN, TensorProto.INT4):
        nodes = [helper.make_node("Cast", ["x"], ["a"], to=kind), helper.make_node("Cast", ["a"], ["y"], to=FLOAT)]
        proto = model(nodes, shape=["n", 3], opset=21)
        with pytest.raises(NoCopy, match=TensorProto.DataType.Name(kind)):
            import_onnx(proto)


# --- what ONNX Runtime's optimiser writes -----------------------------------------------------------------------------


def test_attention_of_onnx_runtime() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(2, 5, 8)).astype(np.float32))
    constants = {
        "w": rng.normal(size=(8, 24)).astype(np.float32) / 3,
        "b": rng.normal(size=24).astype(np.float32),
        "v": rng.normal(size=(8, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Attention", ["x", "w", "b"], ["a"], domain="com.microsoft", num_heads=2),
        helper.make_node("MatMul", ["x", "v"], ["value"]),
        helper.make_node("MultiHeadAttention", ["a", "x", "value", "b"], ["m"], domain="com.microsoft", num_heads=4),
        helper.make_node("Add", ["m", "a"], ["y"]),
    ]
    assert assert_same(model(nodes, shape=["n", 5, 8], constants=constants), x, 1e-4).abs().sum() > 0


def test_blocks_of_channels(tmp_path: Path) -> None:
    """Depthwise, grouped and plain convolutions, sums and pools in this machine's layout."""
    assert channel_block() in {8, 16}
    torch.manual_seed(0)
    n = 2 * channel_block()
    network = nn.Sequential(
        nn.Conv2d(3, n, 3, 2, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(n, n, 3, 1, 1, groups=n),
        nn.Conv2d(n, n, 3, 1, 1, groups=2),
        nn.ReLU6(),
        nn.Conv2d(n, n - 3, 1),
        nn.AvgPool2d(2),
        nn.Sigmoid(),
        nn.Conv2d(n - 3, 5, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        torch.onnx.export(
            network,
            (torch.rand(2, 3, 32, 32),),
            buffer,
            dynamo=False,
            opset_version=13,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
        logging.disable(logging.NOTSET)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert {node.op_type for node in optimised.graph.node if node.domain == "com.microsoft.nchwc"} >= {
        "Conv",
        "MaxPool",
    }
    assert_same(optimised, torch.rand(3, 3, 32, 32))


def test_constant_of_shape_without_a_value_is_on_the_device_of_the_module() -> None:
    assert ConstantOfShape([2, 3], reference=torch.empty(0, device="meta")).device.type == "meta"
