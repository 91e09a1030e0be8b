"""Recognise and remove a final softmax or sigmoid."""

from __future__ import annotations

from typing import Any

from torch import fx

from auditor.onnx.graph import describe_node
from auditor.onnx.node import ROUNDINGS, SHAPES
from auditor.onnx.operators import elementwise, quantised, reduction

_ACTIVATIONS: dict[Any, str] = {
    reduction.Softmax: "softmax",
    reduction.Softmax__13: "softmax",
    quantised.QLinearSoftmax: "softmax",
    reduction.LogSoftmax: "log-softmax",
    reduction.LogSoftmax__13: "log-softmax",
    vars(elementwise)["Sigmoid"]: "sigmoid",
    quantised.QLinearSigmoid: "sigmoid",
}


def cut_final_activation(module: fx.GraphModule, output: int = 0) -> tuple[fx.GraphModule, str]:
    """Keep one output of the module and remove its final activation, so that it returns logits.

    The search passes through nodes that only change the shape (these are kept) and through casts and quantisation of
    the probabilities (these are removed with the activation).

    Returns:
        The module (shares parameters with the argument), and "softmax", "log-softmax", "sigmoid" or "none".
    """
    graph = fx.Graph()
    outputs = graph.graph_copy(module.graph, {})
    assert isinstance(outputs, tuple)
    final = outputs[output]
    last = graph.output((final,))
    chain = _activation_chain(final)
    if chain:
        last.replace_input_with(final, _without_activation(graph, chain))
    graph.eliminate_dead_code()
    result = fx.GraphModule(module, graph, "OnnxGraph")
    names: Any = module.input_names
    describe_node(result, names, (module.output_names[output],), module.fixed_batch)  # type: ignore[index, arg-type]
    return result, _ACTIVATIONS[chain[-1].target] if chain else "none"


def _activation_chain(final: fx.Node) -> list[fx.Node]:
    """Return the nodes from the output back to the final activation; empty if there is none."""
    chain = [final]
    while chain[-1].target in SHAPES | ROUNDINGS:
        source = chain[-1].args[0] if chain[-1].args else next(iter(chain[-1].kwargs.values()))
        if not isinstance(source, fx.Node):
            return []
        chain.append(source)
    activation = chain[-1]
    # a softmax over the batch axis is not a classifier's final activation
    return chain if activation.target in _ACTIVATIONS and activation.kwargs.get("axis", -1) != 0 else []


def _without_activation(graph: fx.Graph, chain: list[fx.Node]) -> fx.Node:
    """Rebuild the shape-changing nodes of the chain on the operand of the activation."""
    *after, activation = chain
    operands = dict(activation.kwargs)
    with graph.inserting_after(activation):
        if activation.target in (quantised.QLinearSoftmax, quantised.QLinearSigmoid):
            quantisation = (operands["X"], operands["X_scale"], operands.get("X_zero_point"))
            value = graph.call_function(quantised.dequantise, quantisation)
        else:
            value = next(operand for operand in operands.values() if isinstance(operand, fx.Node))
    for node in reversed(after):
        if node.target in ROUNDINGS:
            continue
        with graph.inserting_before(node):
            source = next(operand for operand in node.kwargs.values() if isinstance(operand, fx.Node))
            copied = graph.node_copy(node)
            copied.replace_input_with(source, value)
        value = copied
    return value
