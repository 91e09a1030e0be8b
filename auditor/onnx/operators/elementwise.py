"""Elementwise operators: arithmetic, comparison, activation functions, casts."""
# ruff: noqa: N802, N803 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditor.onnx.operators.element_types import (
    floating,
    is_integer,
    straight_through,
    to_carried,
    torch_type_of_result,
)
from auditor.onnx.operators.registry import operator


def _unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Register an operator of one operand without attributes."""

    def apply(x: Tensor) -> Tensor:
        return function(x)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"{name}: torch.{getattr(function, '__name__', name)}."
    globals()[name] = operator()(apply)


for _name, _function in {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}.items():
    _unary(_name, _function)


def _binary(name: str, function: Callable[..., Tensor]) -> None:
    """Register an operator of two broadcasting operands without attributes."""

    def apply(A: Tensor, B: Tensor) -> Tensor:
        return function(A, B)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"{name}: torch.{getattr(function, '__name__', name)} with broadcasting."
    globals()[name] = operator()(apply)


_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
for _name, _binary_function in _BINARY.items():
    _binary(_name, _binary_function)


@operator(carried="input", integer_type="input")
def Identity(input: Tensor) -> Tensor:
    """Return the operand."""
    return input


@operator()
def Div(A: Tensor, B: Tensor) -> Tensor:
    """Divide; integers are truncated towards zero."""
    return A / B if A.is_floating_point() else torch.div(A, B, rounding_mode="trunc")


@operator()
def Mod(A: Tensor, B: Tensor, *, fmod: bool = False) -> Tensor:
    """Compute the remainder with the sign of B, or of A with ``fmod``."""
    return torch.fmod(A, B) if fmod else torch.remainder(A, B)


@operator()
def Pow(X: Tensor, Y: Tensor) -> Tensor:
    """Raise X to the power Y, in the type of X."""
    if not X.is_floating_point() and Y.is_floating_point():
        return torch.pow(X.to(Y.dtype), Y).to(X.dtype)
    return torch.pow(X, Y).to(X.dtype)


@operator()
def BitShift(X: Tensor, Y: Tensor, *, direction: Literal["LEFT", "RIGHT"]) -> Tensor:
    """Shift the bits of X by Y."""
    return torch.bitwise_left_shift(X, Y) if direction == "LEFT" else torch.bitwise_right_shift(X, Y)


@operator()
def Sum(*data_0: Tensor) -> Tensor:
    """Add all operands."""
    return functools.reduce(torch.add, data_0)


@operator()
def Mean(*data_0: Tensor) -> Tensor:
    """Average all operands."""
    return functools.reduce(torch.add, data_0) / len(data_0)


@operator(carried="data_0", integer_type="data_0")
def Max(*data_0: Tensor) -> Tensor:
    """Take the maximum of all operands."""
    return functools.reduce(torch.maximum, data_0)


@operator(carried="data_0", integer_type="data_0")
def Min(*data_0: Tensor) -> Tensor:
    """Take the minimum of all operands."""
    return functools.reduce(torch.minimum, data_0)


@operator(carried="X Y", integer_type="X Y")
def Where(condition: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """Select X where the condition is true, else Y."""
    return torch.where(condition, X, Y)


@operator(carried="input", integer_type="input")
def Clip(input: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """Clip to [min, max]; if min exceeds max, every value is max."""
    if min is None and max is None:
        return input
    return torch.clamp(input, min, max)


@operator(carried="X", integer_type="X")
def Relu(X: Tensor) -> Tensor:
    """Compute max(X, 0)."""
    return torch.relu(X)


@operator()
def LeakyRelu(X: Tensor, *, alpha: float) -> Tensor:
    """Multiply X by alpha below zero."""
    return functional.leaky_relu(X, alpha)


@operator()
def PRelu(X: Tensor, slope: Tensor) -> Tensor:
    """Multiply X by the broadcasting slope below zero."""
    return torch.where(X < 0, X * slope, X)


@operator()
def Elu(X: Tensor, *, alpha: float) -> Tensor:
    """Compute alpha (exp(X) - 1) below zero, X above."""
    return functional.elu(X, alpha)


@operator()
def Celu(X: Tensor, *, alpha: float) -> Tensor:
    """Compute max(0, X) + min(0, alpha (exp(X / alpha) - 1))."""
    return functional.celu(X, alpha)


@operator()
def Selu(X: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Compute gamma times (X, or alpha (exp(X) - 1) below zero)."""
    return gamma * functional.elu(X, alpha)


@operator()
def Gelu(X: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """Multiply X by the standard normal distribution function of X."""
    return functional.gelu(X, approximate=approximate)


@operator()
def Swish(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Compute X sigmoid(alpha X)."""
    return functional.silu(X) if alpha == 1.0 else X * torch.sigmoid(alpha * X)


@operator()
def HardSigmoid(X: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Clip alpha X + beta to [0, 1]."""
    return torch.clamp(alpha * X + beta, 0, 1)


@operator()
def HardSwish(X: Tensor) -> Tensor:
    """Compute X max(0, min(1, X / 6 + 0.5))."""
    return functional.hardswish(X)


@operator()
def ThresholdedRelu(X: Tensor, *, alpha: float) -> Tensor:
    """Keep X above alpha, else 0."""
    return torch.where(alpha < X, X, torch.zeros_like(X))


@operator()
def Shrink(input: Tensor, *, bias: float, lambd: float) -> Tensor:
    """Move values towards zero by ``bias`` outside [-lambd, lambd]; 0 inside."""
    middle = torch.zeros_like(input)
    return torch.where(input < -lambd, input + bias, torch.where(input > lambd, input - bias, middle)).to(input.dtype)


@operator()
def IsInf(X: Tensor, *, detect_negative: bool = True, detect_positive: bool = True) -> Tensor:
    """Return True for infinite values."""
    return torch.isinf(X) & (((X > 0) & bool(detect_positive)) | ((X < 0) & bool(detect_negative)))


@operator()
def Round(X: Tensor) -> Tensor:
    """Round half to even; straight-through gradient."""
    return straight_through(X, torch.round)


@operator()
def Floor(X: Tensor) -> Tensor:
    """Round down; straight-through gradient."""
    return straight_through(X, torch.floor)


@operator()
def Ceil(X: Tensor) -> Tensor:
    """Round up; straight-through gradient."""
    return straight_through(X, torch.ceil)


@operator(carried="input", integer_type="to")
def Cast(input: Tensor, *, to: int, reference: Tensor, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """Cast; floating-point to integer is truncated and carried (saturate and round_mode: for float8 only)."""
    dtype = floating(torch_type_of_result(to), reference)
    return to_carried(input, dtype) if is_integer(dtype) else input.to(dtype)


@operator(carried="input target_type", integer_type="target_type")
def CastLike(
    input: Tensor, target_type: Tensor, *, integer: torch.dtype | None, saturate: bool = True, round_mode: str = "up"
) -> Tensor:
    """Cast to the element type of another tensor."""
    dtype = integer or target_type.dtype
    if dtype.is_floating_point and dtype.itemsize == 1:
        raise NotImplementedError("rounding to 8-bit floats is not supported")
    return to_carried(input, dtype) if is_integer(dtype) else input.to(dtype)


@operator()
def Dropout(
    data: Tensor,
    ratio: float | None = None,
    training_mode: Literal[0] | None = 0,
    *,
    outputs: int,
    seed: int = 0,
) -> tuple[Any, ...]:
    """Return the data unchanged (and an all-true mask): inference drops nothing."""
    return (data, torch.ones_like(data, dtype=torch.bool))[:outputs]


@operator(domain="com.microsoft")
def Gelu__microsoft(X: Tensor) -> Tensor:
    """Compute the exact GELU."""
    return functional.gelu(X)


@operator(domain="com.microsoft")
def FastGelu(X: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute the tanh approximation of the GELU of X + bias."""
    return functional.gelu(X if bias is None else X + bias, approximate="tanh")


@operator(domain="com.microsoft")
def BiasGelu(A: Tensor, B: Tensor) -> Tensor:
    """Compute the exact GELU of A + B."""
    return functional.gelu(A + B)


@operator(domain="com.microsoft")
def QuickGelu(X: Tensor, *, alpha: float = 1.702) -> Tensor:
    """Compute X sigmoid(alpha X)."""
    return X * torch.sigmoid(alpha * X)


def apply_activation(x: Tensor, activation: str, parameters: list[float] | None) -> Tensor:
    """Apply the final activation of a fused operator."""
    a, b = [*(parameters or []), math.nan, math.nan][:2]
    functions: dict[str, Callable[[], Tensor]] = {
        "": lambda: x,
        "Relu": lambda: torch.relu(x),
        "Tanh": lambda: torch.tanh(x),
        "Sigmoid": lambda: torch.sigmoid(x),
        "LeakyRelu": lambda: functional.leaky_relu(x, a),
        "Clip": lambda: torch.clamp(x, a, b),
        "HardSigmoid": lambda: torch.clamp(a * x + b, 0, 1),
        "HardSwish": lambda: functional.hardswish(x),
        "Gelu": lambda: functional.gelu(x),
    }
    return functions[activation]()
