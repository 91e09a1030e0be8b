"""Quantised operators: numbers on an integer grid, with straight-through gradients inside the quantised range.

All work on *carried* integers (see ``registry``): floating-point tensors of whole numbers. Sums of products are
therefore exact up to 2**24 in float32; beyond, the error is far below the rounding of the result to 8 bits.
"""
# ruff: noqa: N802, N803, PLR0917 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from auditor.onnx.operators.element_types import as_float, floating, saturate, straight_through, torch_type
from auditor.onnx.operators.linear import AutoPad, AveragePool, Conv
from auditor.onnx.operators.registry import operator


def along(parameter: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """Reshape a scale or zero point (per tensor, per axis, or per block of an axis) to broadcast against x."""
    if parameter.numel() == 1 and parameter.dim() <= 1:
        return parameter.reshape(())
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.dim() != 1:
        raise NotImplementedError("a scale of rank 2 or higher without block_size")
    return parameter.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


def quantise(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Compute round(x / scale) + zero point, saturated and carried."""
    # round before adding the zero point: an odd zero point would turn "half to even" into "half to odd"
    steps = straight_through(x / scale, torch.round)
    return saturate(steps if zero is None else steps + as_float(zero, steps), dtype)


def centred(x: Tensor, zero: Tensor | None, like: Tensor) -> Tensor:
    """Subtract the zero point, in the floating-point type of ``like``."""
    x = as_float(x, like)
    return x if zero is None else x - as_float(zero, like)


def dequantise(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Compute (x - zero point) times scale."""
    return centred(x, zero, scale) * scale


@operator(carried="y_zero_point", integer_type="y_zero_point output_dtype uint8")
def QuantizeLinear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: bool = True,
) -> Tensor:
    """Compute saturate(round(x / scale) + zero point); ``precision``: division type, ``saturate``: for float8."""
    wide = x.dtype if precision == 0 else torch_type(precision)
    x = as_float(x, y_scale).to(wide) if x.is_floating_point() else as_float(x, y_scale)
    zero = None if y_zero_point is None else along(y_zero_point, x, axis, block_size)
    return quantise(x, along(y_scale, x, axis, block_size).to(x.dtype), zero, integer)


@operator(carried="x x_zero_point")
def DequantizeLinear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    *,
    reference: Tensor,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """Compute (x - zero point) times scale, in the type of the scale."""
    dtype = floating(torch_type(output_dtype), reference) if output_dtype else x_scale.dtype
    # float16 represents whole numbers only up to 2048
    wide = x_scale.float() if x_scale.dtype in (torch.float16, torch.bfloat16) else x_scale
    zero = None if x_zero_point is None else along(x_zero_point, x, axis, block_size)
    return dequantise(x, along(wide, x, axis, block_size), zero).to(dtype)


@operator(integer_type=(torch.uint8, None, torch.uint8))
def DynamicQuantizeLinear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to unsigned 8 bits over the range of x (extended to contain 0); return values, scale, zero point.

    The scale and zero point are constants for the gradient: through the rounding they would only add noise.
    """
    low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(-low / scale).clamp(0, 255)
    return quantise(x, scale, zero, torch.uint8), scale, zero


@operator(carried="x w x_zero_point w_zero_point", integer_type=torch.int32, as_float="w x_zero_point w_zero_point")
def ConvInteger(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    reference: Tensor,
    auto_pad: AutoPad = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolve x and w without their zero points."""
    zero = None if w_zero_point is None else along(w_zero_point, w, 0)
    signal = centred(x, None if x_zero_point is None else x_zero_point.reshape(()), reference)
    kernel = centred(w, zero, reference)
    return Conv(signal, kernel, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)


@operator(carried="A B a_zero_point b_zero_point", integer_type=torch.int32, as_float="B a_zero_point b_zero_point")
def MatMulInteger(
    A: Tensor, B: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None, *, reference: Tensor
) -> Tensor:
    """Multiply A and B without their zero points (per row of A, per column of B)."""
    left = None if a_zero_point is None else along(a_zero_point, A, -2)
    right = None if b_zero_point is None else along(b_zero_point, B, -1)
    return torch.matmul(centred(A, left, reference), centred(B, right, reference))


@operator(
    carried="x x_zero_point w w_zero_point B y_zero_point",
    integer_type="y_zero_point",
    as_float="x_zero_point w w_zero_point B y_zero_point",
)
def QLinearConv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    B: Tensor | None = None,
    *,
    integer: torch.dtype,
    auto_pad: AutoPad = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Compute the quantised convolution; the bias has the scale x_scale w_scale."""
    signal = centred(x, x_zero_point.reshape(()), x_scale)
    kernel = centred(w, along(w_zero_point, w, 0), x_scale)
    bias = None if B is None else as_float(B, x_scale)
    total = Conv(signal, kernel, bias, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    scale = x_scale.reshape(()) * along(w_scale, total, 1) / y_scale.reshape(())
    return quantise(total * scale, torch.ones_like(scale), y_zero_point.reshape(()), integer)


@operator(
    carried="a a_zero_point b b_zero_point y_zero_point",
    integer_type="y_zero_point",
    as_float="a_zero_point b b_zero_point y_zero_point",
)
def QLinearMatMul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    *,
    integer: torch.dtype,
) -> Tensor:
    """Compute the quantised matrix product."""
    left = dequantise(a, along(a_scale, a, -2), along(a_zero_point, a, -2))
    right = dequantise(b, along(b_scale, b, -1), along(b_zero_point, b, -1))
    product = torch.matmul(left, right)
    return quantise(product, along(y_scale, product, -2), along(y_zero_point, product, -2), integer)


_of_two = functools.partial(
    operator,
    domain="com.microsoft",
    carried="A A_zero_point B B_zero_point C_zero_point",
    integer_type="C_zero_point A",
    as_float="A A_zero_point B B_zero_point C_zero_point",
)


@_of_two()
def QLinearAdd(
    A: Tensor,
    A_scale: Tensor,
    A_zero_point: Tensor | None,
    B: Tensor,
    B_scale: Tensor,
    B_zero_point: Tensor | None,
    C_scale: Tensor,
    C_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
) -> Tensor:
    """Compute the quantised sum."""
    total = dequantise(A, A_scale, A_zero_point) + dequantise(B, B_scale, B_zero_point)
    return quantise(total, C_scale, C_zero_point, integer)


@_of_two()
def QLinearMul(
    A: Tensor,
    A_scale: Tensor,
    A_zero_point: Tensor | None,
    B: Tensor,
    B_scale: Tensor,
    B_zero_point: Tensor | None,
    C_scale: Tensor,
    C_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
) -> Tensor:
    """Compute the quantised product."""
    product = dequantise(A, A_scale, A_zero_point) * dequantise(B, B_scale, B_zero_point)
    return quantise(product, C_scale, C_zero_point, integer)


@operator(domain="com.microsoft", carried="X x_zero_point y_zero_point", integer_type="y_zero_point X")
def QLinearAveragePool(
    X: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
    kernel_shape: list[int],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    channels_last: bool = False,
    count_include_pad: bool = False,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Compute quantised average pooling."""
    data = dequantise(X, x_scale, x_zero_point)
    data = data.movedim(-1, 1) if channels_last else data
    pooled = AveragePool(
        data,
        kernel_shape=kernel_shape,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        pads=pads,
        strides=strides,
    )
    return quantise(pooled.movedim(1, -1) if channels_last else pooled, y_scale, y_zero_point, integer)


@operator(domain="com.microsoft", carried="X x_zero_point y_zero_point", integer_type="y_zero_point X")
def QLinearGlobalAveragePool(
    X: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
    channels_last: bool = False,
) -> Tensor:
    """Average a quantised tensor over the spatial dimensions."""
    axes = list(range(1, X.dim() - 1)) if channels_last else list(range(2, X.dim()))
    return quantise(dequantise(X, x_scale, x_zero_point).mean(axes, keepdim=True), y_scale, y_zero_point, integer)


@operator(domain="com.microsoft", carried="Y_zero_point inputs", integer_type="Y_zero_point")
def QLinearConcat(Y_scale: Tensor, Y_zero_point: Tensor, *inputs: Tensor, integer: torch.dtype, axis: int) -> Tensor:
    """Concatenate quantised (tensor, scale, zero point) triples."""
    triples = zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True)
    return quantise(torch.cat([dequantise(*triple) for triple in triples], axis), Y_scale, Y_zero_point, integer)


_of_one = functools.partial(
    operator,
    domain="com.microsoft",
    carried="X X_zero_point Y_zero_point",
    integer_type="Y_zero_point X",
    as_float="X_zero_point Y_zero_point",
)


@_of_one()
def QLinearSigmoid(
    X: Tensor,
    X_scale: Tensor,
    X_zero_point: Tensor | None,
    Y_scale: Tensor,
    Y_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
) -> Tensor:
    """Compute the quantised sigmoid."""
    return quantise(torch.sigmoid(dequantise(X, X_scale, X_zero_point)), Y_scale, Y_zero_point, integer)


@_of_one()
def QLinearLeakyRelu(
    X: Tensor,
    X_scale: Tensor,
    X_zero_point: Tensor | None,
    Y_scale: Tensor,
    Y_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
    alpha: float = 0.01,
) -> Tensor:
    """Compute the quantised leaky ReLU."""
    result = functional.leaky_relu(dequantise(X, X_scale, X_zero_point), alpha)
    return quantise(result, Y_scale, Y_zero_point, integer)


@_of_one()
def QLinearSoftmax(
    X: Tensor,
    X_scale: Tensor,
    X_zero_point: Tensor | None,
    Y_scale: Tensor,
    Y_zero_point: Tensor,
    *,
    integer: torch.dtype,
    axis: int,
    opset: int,
) -> Tensor:
    """Compute the quantised softmax; before opset 13 over all dimensions from the axis on."""
    data = dequantise(X, X_scale, X_zero_point)
    if opset < 13:
        data = data.flatten(axis % data.dim())
    return quantise(torch.softmax(data, axis).reshape(X.shape), Y_scale, Y_zero_point, integer)


@operator(
    domain="com.microsoft",
    carried="A a_zero_point B b_zero_point C y_zero_point",
    integer_type="y_zero_point",
    as_float="a_zero_point B b_zero_point C y_zero_point",
)
def QGemm(
    A: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    B: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    C: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype | None,
    alpha: float = 1.0,
    transA: bool = False,
    transB: bool = False,
) -> Tensor:
    """Compute quantised Gemm; the bias has the scale alpha a_scale b_scale. The result is float without y_scale."""
    left = centred(A, a_zero_point, a_scale)
    right = centred(B, along(b_zero_point, B, 0 if transB else 1), a_scale)
    total = (left.T if transA else left) @ (right.T if transB else right)
    total = total if C is None else total + as_float(C, a_scale)
    result = total * (alpha * a_scale.reshape(()) * along(b_scale, total, 1))
    if y_scale is None:
        return result
    return quantise(result, y_scale, y_zero_point, integer or torch.uint8)


@operator(
    domain="com.microsoft",
    carried="A B a_zero_point b_zero_point",
    as_float="B a_zero_point b_zero_point",
)
def MatMulIntegerToFloat(
    A: Tensor,
    B: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero_point: Tensor | None = None,
    b_zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the integer matrix product, scaled, plus bias."""
    right = centred(B, None if b_zero_point is None else along(b_zero_point, B, -1), a_scale)
    product = torch.matmul(centred(A, a_zero_point, a_scale), right) * a_scale * b_scale
    return product if bias is None else product + bias


@operator(domain="com.microsoft", carried="B b_zero_point", as_float="B b_zero_point")
def DynamicQuantizeMatMul(
    A: Tensor, B: Tensor, b_scale: Tensor, b_zero_point: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Quantise A over its own range and multiply by B."""
    quantised, scale, zero = DynamicQuantizeLinear(A)
    return MatMulIntegerToFloat(quantised, B, scale, b_scale, zero, b_zero_point, bias)


@operator(domain="com.microsoft", carried="y_zero_point", integer_type="y_zero_point uint8")
def QuantizeLinear__microsoft(
    x: Tensor, y_scale: Tensor, y_zero_point: Tensor | None = None, *, integer: torch.dtype, axis: int = 1
) -> Tensor:
    """Compute the standard operator, also for 16 bits before opset 21."""
    return QuantizeLinear(x, y_scale, y_zero_point, integer=integer, axis=axis)


@operator(domain="com.microsoft", carried="x x_zero_point")
def DequantizeLinear__microsoft(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None = None, *, reference: Tensor, axis: int = 1
) -> Tensor:
    """Compute the standard operator, also for 16 bits before opset 21."""
    return DequantizeLinear(x, x_scale, x_zero_point, reference=reference, axis=axis)
