"""Facts that an ONNX graph states about its input, output, classes and precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput

if TYPE_CHECKING:
    import onnx

    from auditor.model.artefact import Precision
    from auditor.model.scores import Activation

_QUANTISED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
    "QGemm",
}

_ACTIVATIONS: dict[str, Activation] = {
    "Softmax": "softmax",
    "QLinearSoftmax": "softmax",
    "LogSoftmax": "log-softmax",
    "Sigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
}

_TRANSPARENT = {
    "Identity",
    "Cast",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "QuantizeLinear",
    "DequantizeLinear",
    "ZipMap",
}
"""Operators that keep the order and size of the scores."""

_ML_CLASS_ATTRIBUTES = {"classlabels_strings", "classlabels_int64s", "classlabels_ints"}


def select_output(path: Path, model: onnx.ModelProto, wanted: str) -> str:
    """Return the output that holds the class scores.

    That is ``wanted`` if given, the only output, or the only one that can hold scores next to labels (as scikit-learn,
    XGBoost and LightGBM export it). Raises BadInput if it is ambiguous.
    """
    outputs = list(model.graph.output)
    described = ", ".join(f"{value.name} {_shape_text(value)}" for value in outputs)
    if wanted:
        if wanted not in {value.name for value in outputs}:
            raise BadInput(f"{path}: --output {wanted}: no such output; the model has {described}")
        return wanted
    if len(outputs) == 1:
        return str(outputs[0].name)
    scores = [value for value in outputs if _holds_scores(value)]
    if len(scores) == 1 and all(_holds_labels(value) for value in outputs if value is not scores[0]):
        return str(scores[0].name)
    raise BadInput(
        f"{path}: the model has {len(outputs)} outputs ({described}); say with --output NAME which one holds the"
        " class scores (detectors cannot be audited)"
    )


def _holds_scores(value: onnx.ValueInfoProto) -> bool:
    """Return whether the output is a float tensor, or ZipMap's sequence of maps from class to probability."""
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    return value.type.HasField("sequence_type") or value.type.tensor_type.elem_type in floats


def _holds_labels(value: onnx.ValueInfoProto) -> bool:
    """Return whether the output is one integer or string per row."""
    import onnx

    kinds = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.STRING}
    tensor = value.type.tensor_type
    columns = [dim.dim_value for dim in tensor.shape.dim][1:]
    return value.type.HasField("tensor_type") and tensor.elem_type in kinds and columns in ([], [1])


def _shape_text(value: onnx.ValueInfoProto) -> str:
    dims = [str(d.dim_value or d.dim_param or "?") for d in value.type.tensor_type.shape.dim]
    return f"[{', '.join(dims)}]"


def final_activation(model: onnx.ModelProto, output: str) -> Activation:
    """Return the last activation before the output, skipping operators that keep the scores' order and size."""
    producers = {name: node for node in model.graph.node for name in node.output}
    while (node := producers.get(output)) is not None:
        if node.op_type in _ACTIVATIONS:
            # a softmax over the batch is not the activation of a classifier
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
            return "none" if axis == 0 else _ACTIVATIONS[node.op_type]
        if node.op_type not in _TRANSPARENT:
            break
        output = node.input[0]
    return "none"


def class_names(model: onnx.ModelProto) -> tuple[str, ...] | None:
    """Return the class names that ai.onnx.ml operators state; None if they are missing or only indices."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.domain == "ai.onnx.ml" and attribute.name in _ML_CLASS_ATTRIBUTES:
                labels = [text.decode() for text in attribute.strings] or [str(number) for number in attribute.ints]
                if len(labels) > 1 and labels != [str(i) for i in range(len(labels))]:
                    return tuple(labels)
    return None


def map_keys(model: onnx.ModelProto, output: str) -> list[Any] | None:
    """Return the keys of a final ZipMap's maps in the order of the probabilities; None without a ZipMap."""
    for node in model.graph.node:
        if node.op_type == "ZipMap" and output in node.output:
            for attribute in node.attribute:
                return [text.decode() for text in attribute.strings] or list(attribute.ints)
    return None


def declared_input(value: onnx.ValueInfoProto) -> tuple[tuple[int | None, ...], str]:
    """Return the declared shape (None for open sides, empty if undeclared) and NumPy type."""
    import onnx

    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return (dims if tensor.HasField("shape") else ()), str(dtype)


def precision(operators: list[str], dtype: str, model: onnx.ModelProto) -> Precision:
    """Return the precision of the model's arithmetic, from its operators and weights."""
    import onnx

    if _QUANTISED.intersection(operators):
        return "int8"
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "float16" if halves or dtype == "float16" else "float32"
