"""Explicit adjoints of the costly affine operators; all others are differentiated by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from auditor.algorithms.bounds.node_function import Function, NodeFunction


class Adjoint(NamedTuple):
    """Rewrite linear functions (m, ...) of an operator's value as linear functions of its operands."""

    function: Callable[[Tensor], Sequence[Tensor]]
    terms: int
    """Number of products that are added for one element of an operand, at most."""


def _conv(function: NodeFunction) -> Adjoint | None:
    from auditor.onnx.operators.linear import window_pads

    options = function.settings
    # the copy stores its weights channels-last, which would reorder every slope
    weight, size = options["W"].contiguous(), function.shapes[0]
    if weight.dim() != 4:
        return None
    strides, dilations = options["strides"] or [1, 1], options["dilations"] or [1, 1]
    kernel = list(weight.shape[2:])
    before, after = window_pads(list(size[2:]), kernel, strides, dilations, options["auto_pad"], options["pads"])
    if min(*before, *after) < 0:
        return None

    def adjoint(slope: Tensor) -> list[Tensor]:
        flat = slope.flatten(0, 1)
        padded = [n + b + a for n, b, a in zip(size[2:], before, after, strict=True)]
        # pixels after the last window have no slope
        rest = [
            n - (m - 1) * s - d * (k - 1) - 1
            for n, m, s, d, k in zip(padded, flat.shape[2:], strides, dilations, kernel, strict=True)
        ]
        full = functional.conv_transpose2d(flat, weight, None, strides, 0, 0, options["group"], dilations)
        sides = [-before[1], rest[1] - after[1], -before[0], rest[0] - after[0]]
        return [functional.pad(full, sides).unflatten(0, slope.shape[:2])]

    return Adjoint(adjoint, weight.shape[0] // options["group"] * kernel[0] * kernel[1])


def _gemm(function: NodeFunction) -> Adjoint | None:
    options = function.settings
    if function.depends(("A",)) and not options["transA"]:
        matrix = options["B"] if options["transB"] else options["B"].T
        matrix = matrix if options["alpha"] == 1 else options["alpha"] * matrix
        return _product(matrix)
    return None


def _matmul(function: NodeFunction) -> Adjoint | None:
    matrix = function.settings["B"]
    constant = isinstance(matrix, Tensor) and matrix.dim() == 2 and len(function.shapes[0]) > 1
    return _product(matrix.T) if constant else None


def _matmul_add(function: NodeFunction) -> Adjoint | None:
    return _product(function.settings["weight"].T) if function.depends(("x",)) else None


def _product(matrix: Tensor) -> Adjoint:
    """Return the adjoint of x (..., inputs) times the transpose of a matrix (outputs, inputs)."""
    return Adjoint(lambda slope: [slope @ matrix], len(matrix))


def _reshaped(function: NodeFunction) -> Adjoint:
    shape = function.shapes[0]
    return Adjoint(lambda slope: [slope.reshape(len(slope), *shape)], 0)


_EXPLICIT: Mapping[str, Callable[[NodeFunction], Adjoint | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "matmul_add": _matmul_add,
    **dict.fromkeys(("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _reshaped),
}


def adjoint_of(name: str, function: Function, zeros: Sequence[Tensor]) -> Adjoint:
    """Return the adjoint of an affine operator of this name."""
    if name in _EXPLICIT and len(zeros) == 1 and isinstance(function, NodeFunction):
        return _EXPLICIT[name](function) or _by_autograd(function, zeros)
    return _by_autograd(function, zeros)


def _by_autograd(function: Callable[..., Tensor], zeros: Sequence[Tensor]) -> Adjoint:
    with torch.enable_grad():
        origin = [zero.detach().requires_grad_() for zero in zeros]
        value = function(*origin)

    def adjoint(slope: Tensor) -> Sequence[Tensor]:
        back: Any = torch.autograd.grad(
            value,
            origin,
            slope.reshape(len(slope), *value.shape),
            is_grads_batched=True,
            retain_graph=True,
            create_graph=torch.is_grad_enabled() and slope.requires_grad,
        )
        return back  # type: ignore[no-any-return]

    return Adjoint(adjoint, value.numel())
