"""Reductions, normalisations and sorting."""
# ruff: noqa: N802, N803 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditor.onnx.operators.registry import check_size, operator


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    return x.mean(axes, keepdim=True) if x.is_floating_point() else x.to(torch.float64).mean(axes, keepdim=True)


def _product(x: Tensor, axes: list[int]) -> Tensor:
    return functools.reduce(lambda result, axis: result.prod(axis, keepdim=True), axes, x)


def _sum(x: Tensor, axes: list[int]) -> Tensor:
    return x.sum(axes, keepdim=True)


def _largest(x: Tensor, axes: list[int]) -> Tensor:
    return x.amax(axes, keepdim=True) if x.numel() else _extreme_of_empty(x, axes, -math.inf)


def _smallest(x: Tensor, axes: list[int]) -> Tensor:
    return x.amin(axes, keepdim=True) if x.numel() else _extreme_of_empty(x, axes, math.inf)


def _extreme_of_empty(x: Tensor, axes: list[int], value: float) -> Tensor:
    """Return the extreme value of an empty set."""
    if not x.is_floating_point():
        raise NotImplementedError("the extreme value of an empty integer tensor")
    return x.new_full([1 if i in axes else size for i, size in enumerate(x.shape)], value)


def _log_sum_exp(x: Tensor, axes: list[int]) -> Tensor:
    return (x if x.is_floating_point() else x.to(torch.float64)).logsumexp(axes, keepdim=True)


def _root(x: Tensor) -> Tensor:
    return torch.sqrt(x if x.is_floating_point() else x.to(torch.float64))


def _log(x: Tensor) -> Tensor:
    return torch.log(x if x.is_floating_point() else x.to(torch.float64))


def _reduction(name: str, function: Callable[[Tensor, list[int]], Tensor], meaning: str) -> None:
    """Register a reduction over axes (all of them by default)."""

    def apply(
        data: Tensor, axes: list[int] | None = None, *, keepdims: bool = True, noop_with_empty_axes: bool = False
    ) -> Tensor:
        if not axes:
            axes = [] if noop_with_empty_axes else list(range(data.dim()))
        axes = sorted(axis % data.dim() for axis in axes)
        # torch reduces all axes if the list is empty: a new axis of size 1 replaces "none"
        result = function(data, axes) if axes else function(data.unsqueeze(0), [0]).squeeze(0)
        result = result.to(data.dtype)
        return result if keepdims or not axes else result.squeeze(tuple(axes))

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"{name}: {meaning} over axes."
    globals()[name] = operator()(apply)


for _name, _function, _meaning in (
    ("ReduceL1", lambda x, axes: _sum(x.abs(), axes), "sum of absolute values"),
    ("ReduceL2", lambda x, axes: _root(_sum(x * x, axes)), "Euclidean norm"),
    ("ReduceLogSum", lambda x, axes: _log(_sum(x, axes)), "logarithm of the sum"),
    ("ReduceLogSumExp", _log_sum_exp, "logarithm of the sum of exponentials"),
    ("ReduceMax", _largest, "largest value"),
    ("ReduceMean", _mean, "mean"),
    ("ReduceMin", _smallest, "smallest value"),
    ("ReduceProd", _product, "product"),
    ("ReduceSum", _sum, "sum"),
    ("ReduceSumSquare", lambda x, axes: _sum(x * x, axes), "sum of squares"),
):
    _reduction(_name, _function, _meaning)


def _arg(data: Tensor, axis: int, keepdims: bool, last: bool, largest: bool) -> Tensor:
    """Return the index of the first (or last) extreme value."""
    find = torch.argmax if largest else torch.argmin
    if not last:
        return find(data, axis, keepdim=bool(keepdims))
    return data.shape[axis] - 1 - find(data.flip(axis), axis, keepdim=bool(keepdims))


@operator()
def ArgMax(data: Tensor, *, axis: int = 0, keepdims: bool = True, select_last_index: bool = False) -> Tensor:
    """Return the index of the largest value."""
    return _arg(data, axis, keepdims, select_last_index, largest=True)


@operator()
def ArgMin(data: Tensor, *, axis: int = 0, keepdims: bool = True, select_last_index: bool = False) -> Tensor:
    """Return the index of the smallest value."""
    return _arg(data, axis, keepdims, select_last_index, largest=False)


@operator()
def TopK(X: Tensor, k: int, *, axis: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """Return the k largest (or smallest) entries of an axis, sorted, and their indices; ties go to the lower index."""
    values, indices = torch.sort(X, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


@operator()
def CumSum(x: Tensor, axis: int, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Compute running sums along an axis."""
    data = x.flip(axis) if reverse else x
    result = data.cumsum(axis, dtype=x.dtype)
    result = result - data if exclusive else result
    return result.flip(axis) if reverse else result


@operator()
def CumProd(x: Tensor, axis: int, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Compute running products along an axis."""
    data = x.flip(axis) if reverse else x
    if exclusive:
        first = torch.ones_like(data.narrow(axis, 0, 1))
        data = torch.cat([first, data.narrow(axis, 0, data.shape[axis] - 1)], axis)
    result = data.cumprod(axis, dtype=x.dtype)
    return result.flip(axis) if reverse else result


def _two_dimensional(x: Tensor, axis: int) -> Tensor:
    """Flatten the dimensions before the axis, and those from it on, as opsets before 13 do."""
    return x.reshape(math.prod(x.shape[: axis % x.dim() if axis != x.dim() else axis]), -1)


@operator()
def Softmax(input: Tensor, *, axis: int) -> Tensor:
    """Compute the softmax over all dimensions from the axis on (before opset 13)."""
    return torch.softmax(_two_dimensional(input, axis), 1).reshape(input.shape)


@operator(since=13)
def Softmax__13(input: Tensor, *, axis: int = -1) -> Tensor:
    """Compute the softmax over one dimension."""
    return torch.softmax(input, axis)


@operator()
def LogSoftmax(input: Tensor, *, axis: int) -> Tensor:
    """Compute the log-softmax over all dimensions from the axis on (before opset 13)."""
    return torch.log_softmax(_two_dimensional(input, axis), 1).reshape(input.shape)


@operator(since=13)
def LogSoftmax__13(input: Tensor, *, axis: int = -1) -> Tensor:
    """Compute the log-softmax over one dimension."""
    return torch.log_softmax(input, axis)


@operator()
def Hardmax(input: Tensor, *, axis: int) -> Tensor:
    """Return 1 at the first largest entry, else 0, over all dimensions from the axis on (before opset 13)."""
    return Hardmax__13(_two_dimensional(input, axis), axis=1).reshape(input.shape)


@operator(since=13)
def Hardmax__13(input: Tensor, *, axis: int = -1) -> Tensor:
    """Return 1 at the first largest entry of a dimension, else 0."""
    return torch.zeros_like(input).scatter(axis, input.argmax(axis, keepdim=True), 1)


@operator()
def BatchNormalization(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: Literal[0] = 0,
    spatial: Literal[1] = 1,
) -> Tensor:
    """Normalise X [n, c, ...] with the training statistics."""
    if scale.dtype == mean.dtype == X.dtype:
        return torch.batch_norm(X, scale, B, mean, var, False, momentum, epsilon, True)
    shape = [-1] + [1] * (X.dim() - 2)
    factor = scale.to(var.dtype) / torch.sqrt(var + epsilon)
    shift = B.to(var.dtype) - mean * factor
    return (X.to(var.dtype) * factor.reshape(shape) + shift.reshape(shape)).to(X.dtype)


@operator()
def InstanceNormalization(input: Tensor, scale: Tensor, B: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalise each channel of each image by its own statistics."""
    return torch.group_norm(input, input.shape[1], scale, B, epsilon)


@operator(since=18)
def GroupNormalization(X: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Normalise groups of channels; scale and bias are per group (before opset 21)."""
    count = X.shape[1] // num_groups
    return torch.group_norm(X, num_groups, scale.repeat_interleave(count), bias.repeat_interleave(count), epsilon)


@operator(since=21)
def GroupNormalization__21(
    X: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Normalise groups of channels; scale and bias are per channel."""
    return torch.group_norm(X, num_groups, scale, bias, epsilon)


@operator()
def LayerNormalization(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    *,
    outputs: int,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Tensor, ...]:
    """Normalise the dimensions from the axis on; also return the mean and the inverse standard deviation."""
    shape = list(X.shape[axis:])
    if outputs == 1 and list(Scale.shape) == shape and (B is None or list(B.shape) == shape):
        return (functional.layer_norm(X, shape, Scale, B, epsilon),)
    axes = list(range(axis % X.dim(), X.dim()))
    wide = X.float() if X.dtype in (torch.float16, torch.bfloat16) else X
    mean = wide.mean(axes, keepdim=True)
    inverse = torch.rsqrt((wide - mean).square().mean(axes, keepdim=True) + epsilon)
    result = ((wide - mean) * inverse).to(X.dtype) * Scale
    return (result if B is None else result + B, mean, inverse)[:outputs]


@operator()
def RMSNormalization(X: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    """Divide the dimensions from the axis on by their root mean square."""
    axes = list(range(axis % X.dim(), X.dim()))
    wide = X.float() if X.dtype in (torch.float16, torch.bfloat16) else X
    return (wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)).to(X.dtype) * scale


@operator(domain="com.microsoft")
def SkipLayerNormalization(
    input: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    outputs: int,
    epsilon: float = 1e-12,
) -> tuple[Any, ...]:
    """Apply layer normalisation to input + skip + bias; the fourth output is that sum."""
    total = input + skip if bias is None else input + skip + bias
    (normalised,) = LayerNormalization(total, gamma, beta, outputs=1, epsilon=epsilon)
    if outputs in (2, 3):
        raise NotImplementedError("SkipLayerNormalization: mean and deviation as outputs")
    return (normalised, None, None, total)[:outputs]


@operator(domain="com.microsoft")
def LayerNormalization__microsoft(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    *,
    outputs: int,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Tensor, ...]:
    """Compute the standard operator."""
    return LayerNormalization(X, Scale, B, outputs=outputs, axis=axis, epsilon=epsilon)


@operator()
def SimplifiedLayerNormalization(
    X: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Compute RMSNormalization under ONNX Runtime's name."""
    return RMSNormalization(X, scale, axis=axis, epsilon=epsilon)


@operator()
def MeanVarianceNormalization(X: Tensor, *, axes: list[int]) -> Tensor:
    """Normalise to mean 0 and variance 1 over the axes."""
    centred = X - X.mean(axes, keepdim=True)
    return centred / (torch.sqrt(centred.square().mean(axes, keepdim=True)) + 1e-9)


@operator()
def LpNormalization(input: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the p-norm along an axis."""
    norm = input.abs().sum(axis, keepdim=True) if p == 1 else input.square().sum(axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(input), input / norm)


@operator()
def LRN(X: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Divide X [n, c, ...] by a power of the mean square over neighbouring channels."""
    before = (size - 1) // 2
    squares = functional.pad(X.square().movedim(1, -1), (before, size - 1 - before))
    sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return X / (bias + alpha / size * sums).pow(beta)


@operator()
def Det(X: Tensor) -> Tensor:
    """Compute the determinant of the last two dimensions."""
    return torch.det(X)


def _dft(x: Tensor, length: int | None, axis: int, inverse: bool, onesided: bool) -> Tensor:
    """Compute the DFT of [..., 1 or 2] (real, or real and imaginary part) along an axis."""
    axis = axis % x.dim()
    if length is not None:
        check_size([*x.shape[:axis], length, *x.shape[axis + 1 :]], "DFT")
    values = torch.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else torch.zeros_like(x[..., 0]))
    if inverse and onesided:
        raise NotImplementedError("DFT: the inverse of a one-sided spectrum")
    result = torch.fft.ifft(values, length, axis) if inverse else torch.fft.fft(values, length, axis)
    if onesided:
        result = result.narrow(axis, 0, result.shape[axis] // 2 + 1)
    return torch.view_as_real(result)


@operator()
def DFT(
    input: Tensor, dft_length: int | None = None, *, axis: int = 1, inverse: bool = False, onesided: bool = False
) -> Tensor:
    """Compute the discrete Fourier transform (before opset 20)."""
    return _dft(input, dft_length, axis, inverse, onesided)


@operator(since=20)
def DFT__20(
    input: Tensor, dft_length: int | None = None, axis: int = -2, *, inverse: bool = False, onesided: bool = False
) -> Tensor:
    """Compute the discrete Fourier transform."""
    return _dft(input, dft_length, axis, inverse, onesided)
