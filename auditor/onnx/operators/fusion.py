"""Reduce memory traffic without changing the numbers.

Restore the torch functions that exporters split into groups of nodes, fold batch normalisation into the preceding
convolution, and store convolution weights channels-last, the order in which processors read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from auditor.onnx.operators import elementwise, linear, reduction

_ADD, _MUL, _DIV, _ERF = (vars(elementwise)[name] for name in ("Add", "Mul", "Div", "Erf"))


def matmul_add(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute x [..., in] times weight [in, out], plus bias [out]."""
    return functional.linear(x, weight.T, bias)


def gelu(x: Tensor) -> Tensor:
    """Multiply x by the standard normal distribution function of x."""
    return functional.gelu(x)


def fuse(graph: fx.Graph, constants: MutableMapping[str, Any]) -> None:
    """Apply all fusions to the graph; new constants are added to ``constants``."""
    for node in list(graph.nodes):
        if node.target is _ADD:
            _fuse_bias(graph, node, constants)
        elif node.target is _MUL:
            _fuse_gelu(graph, node, constants)
        elif node.target is reduction.BatchNormalization:
            _fold_batch_norm(graph, node, constants)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target is linear.Conv and (weight := _constant(node.kwargs["W"], constants)) is not None:
            _put_channels_last(str(node.kwargs["W"].target), weight, constants)


def _constant(node: Any, constants: Mapping[str, Any]) -> Tensor | None:
    value = constants.get(str(node.target)) if isinstance(node, fx.Node) and node.op == "get_attr" else None
    return value if isinstance(value, Tensor) else None


def _pair(node: Any, target: Any) -> list[tuple[Any, Any]]:
    """Return the two operands of a node with this target in both orders; empty for other nodes."""
    if not isinstance(node, fx.Node) or node.target is not target:
        return []
    a, b = node.kwargs["A"], node.kwargs["B"]
    return [(a, b)] if target is _DIV else [(a, b), (b, a)]


def _replace(graph: fx.Graph, node: fx.Node, function: Any, *arguments: Any) -> None:
    with graph.inserting_before(node):
        node.replace_all_uses_with(graph.call_function(function, arguments))


def _put_channels_last(name: str, weight: Tensor, constants: MutableMapping[str, Any]) -> None:
    if weight.dim() == 4 and isinstance(weight, torch.nn.Parameter):
        # a convolution with such weights returns channels-last, so the whole network stays in that order
        last = weight.detach().contiguous(memory_format=torch.channels_last)
        constants[name] = torch.nn.Parameter(last, requires_grad=False)


def _fold_batch_norm(graph: fx.Graph, norm: fx.Node, constants: MutableMapping[str, Any]) -> None:
    """Fold a batch normalisation into the weights of the convolution before it."""
    conv = norm.kwargs["X"]
    if not isinstance(conv, fx.Node) or conv.target is not linear.Conv or len(conv.users) > 1:
        return
    parameters: list[Any] = [conv.kwargs["W"], *(norm.kwargs[name] for name in ("scale", "B", "mean", "var"))]
    parameters += [conv.kwargs["B"]] if conv.kwargs.get("B") is not None else []
    values = [value for node in parameters if (value := _constant(node, constants)) is not None]
    if len(values) < len(parameters) or any(value.dtype is not torch.float32 for value in values):
        return
    # the standard's default if the node does not set it
    epsilon: Any = norm.kwargs.get("epsilon", 1e-5)
    weight, scale, shift, mean, variance = (value.double() for value in values[:5])
    factor = scale / torch.sqrt(variance + epsilon)
    bias = values[5].double() if len(values) > 5 else torch.zeros_like(mean)
    folded = {"W": weight * factor.reshape([-1] + [1] * (weight.dim() - 1)), "B": (bias - mean) * factor + shift}
    kwargs = dict(conv.kwargs)
    with graph.inserting_before(norm):
        for part, value in folded.items():
            name = f"{conv.name}_{part.lower()}_folded"
            constants[name] = torch.nn.Parameter(value.float(), requires_grad=False)
            kwargs[part] = graph.create_node("get_attr", name, name=name)
        norm.replace_all_uses_with(graph.call_function(linear.Conv, (), kwargs))


def _fuse_bias(graph: fx.Graph, add: fx.Node, constants: Mapping[str, Any]) -> None:
    for product, shift in _pair(add, _ADD):
        bias = _constant(shift, constants)
        if bias is None or not isinstance(product, fx.Node) or product.target is not linear.MatMul:
            continue
        weight = _constant(product.kwargs["B"], constants)
        fits = weight is not None and weight.dim() == 2 and bias.shape == weight.shape[1:]
        if fits and bias.is_floating_point() and len(product.users) == 1:
            _replace(graph, add, matmul_add, product.kwargs["A"], product.kwargs["B"], shift)
            return


def _is_number(node: Any, expected: float, constants: Mapping[str, Any]) -> bool:
    value = _constant(node, constants)
    # float16 has three significant digits
    return (
        value is not None and value.numel() == 1 and value.dim() <= 1 and abs(value.item() - expected) < 1e-3 * expected
    )


def _erf_source(node: Any, constants: Mapping[str, Any]) -> Any:
    """Return the x of 1 + erf(x / sqrt 2), or None."""
    for erf, one in _pair(node, _ADD):
        if _is_number(one, 1.0, constants) and isinstance(erf, fx.Node) and erf.target is _ERF:
            inner = erf.kwargs["x"]
            scaled = [(x, k, math.sqrt(2)) for x, k in _pair(inner, _DIV)]
            scaled += [(x, k, math.sqrt(0.5)) for x, k in _pair(inner, _MUL)]
            for x, factor, expected in scaled:
                if _is_number(factor, expected, constants):
                    return x
    return None


def _fuse_gelu(graph: fx.Graph, product: fx.Node, constants: Mapping[str, Any]) -> None:
    """Fuse 0.5 x (1 + erf(x / sqrt 2)), with its factors multiplied in any order."""
    for single, remainder in _pair(product, _MUL):
        for second, third in _pair(remainder, _MUL):
            factors = [single, second, third]
            for i, factor in enumerate(factors):
                x = _erf_source(factor, constants)
                others = factors[:i] + factors[i + 1 :]
                if x is None or x not in others:
                    continue
                others.remove(x)
                if _is_number(others[0], 0.5, constants):
                    _replace(graph, product, gelu, x)
                    return
