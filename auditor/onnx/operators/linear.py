"""Convolutions, matrix products, pooling and attention."""
# ruff: noqa: N802, N803, N806 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditor.onnx.operators.elementwise import apply_activation
from auditor.onnx.operators.registry import check_size, operator

AutoPad = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_MAX_POOLS: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE_POOLS: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def window_pads(  # noqa: PLR0917
    sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int], auto_pad: str, pads: list[int] | None
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each spatial dimension."""
    rank = len(sizes)
    if auto_pad == "NOTSET":
        pads = [0] * (2 * rank) if pads is None else pads
        return pads[:rank], pads[rank:]
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    total = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def pad_sides(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    """Pad the last dimensions."""
    if not any(before) and not any(after):
        return x
    widths = [w for pair in zip(reversed(before), reversed(after), strict=True) for w in pair]
    return functional.pad(x, widths, value=value)


@operator()
def Conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolve X [n, c, *sizes] with W [m, c / group, *kernel] to [n, m, *sizes out]."""
    rank = X.dim() - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    before, after = window_pads(list(X.shape[2:]), list(W.shape[2:]), strides, dilations, auto_pad, pads)
    if before != after or min(before, default=0) < 0:
        X = pad_sides(X, before, after)
        before = [0] * rank
    return _CONVOLUTIONS[rank](X, W, B, strides, before, dilations, group)


@operator()
def ConvTranspose(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Compute the full transposed convolution of X [n, c, *sizes] and W [c, m / group, *kernel], cropped by pads."""
    rank = X.dim() - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    extra = output_padding or [0] * rank
    full = _TRANSPOSED[rank](X, W, None, strides, 0, 0, group, dilations)
    before, after = (pads or [0] * (2 * rank))[:rank], (pads or [0] * (2 * rank))[rank:]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER") and output_shape is None:
        output_shape = [n * s for n, s in zip(X.shape[2:], strides, strict=True)]
    if output_shape is not None:
        total = [n + e - o for n, e, o in zip(full.shape[2:], extra, output_shape[-rank:], strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (large, small) if auto_pad != "SAME_UPPER" else (small, large)
    result = pad_sides(full, [-b for b in before], [e - a for e, a in zip(extra, after, strict=True)])
    return result if B is None else result + B.reshape([-1] + [1] * rank)


@operator(domain="com.microsoft")
def FusedConv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    Z: Tensor | None = None,
    *,
    activation: Literal["", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish"] = "",
    activation_params: list[float] | None = None,
    auto_pad: AutoPad = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolve, add Z, apply an activation."""
    result = Conv(X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    return apply_activation(result if Z is None else result + Z, activation, activation_params)


@operator()
def DeformConv(
    X: Tensor,
    W: Tensor,
    offset: Tensor,
    B: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    offset_group: int = 1,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolve at positions shifted by the offsets; torch infers the groups from the shapes."""
    if X.dim() != 4:
        raise NotImplementedError(f"DeformConv: {X.dim() - 2} spatial dimensions")
    from torchvision.ops import deform_conv2d

    pads, strides, dilations = pads or [0] * 4, strides or [1, 1], dilations or [1, 1]
    if pads[:2] != pads[2:]:
        raise NotImplementedError(f"DeformConv: pads {pads}")
    result: Tensor = deform_conv2d(X, offset, W, B, strides, pads[:2], dilations, mask)
    return result


@operator()
def RoiAlign(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: Literal["half_pixel", "output_half_pixel"] = "output_half_pixel",
    mode: Literal["avg"] = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Average bilinear samples in each cell of each region."""
    from torchvision.ops import roi_align

    boxes = torch.cat([batch_indices.to(rois.dtype).reshape(-1, 1), rois], 1)
    aligned = coordinate_transformation_mode == "half_pixel"
    size = (output_height, output_width)
    check_size([len(rois), X.shape[1], *size], "RoiAlign")
    result: Tensor = roi_align(X, boxes, size, spatial_scale, sampling_ratio or -1, aligned)
    return result


@operator()
def MatMul(A: Tensor, B: Tensor) -> Tensor:
    """Multiply matrices as numpy does."""
    return torch.matmul(A, B)


@operator()
def Gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: bool = False,
    transB: bool = False,
) -> Tensor:
    """Compute alpha A B + beta C, with A or B transposed."""
    if transB and not transA and alpha == 1 and (C is None or (beta == 1 and C.shape == B.shape[:1])):
        return functional.linear(A, B, C)
    product = (A.T if transA else A) @ (B.T if transB else B)
    product = product if alpha == 1 else (alpha * product).to(product.dtype)
    if C is None or beta == 0:
        return product
    return product + (C if beta == 1 else (beta * C).to(C.dtype))


@operator(domain="com.microsoft")
def FusedGemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: bool = False,
    transB: bool = False,
    activation: Literal["Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid", "HardSwish"] | None = None,
    activation_alpha: float = 0.01,
    activation_beta: float = 0.5,
) -> Tensor:
    """Compute Gemm, then an activation."""
    result = Gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return apply_activation(result, activation or "", [activation_alpha, activation_beta])


@operator(domain="com.microsoft")
def FusedMatMul(
    A: Tensor,
    B: Tensor,
    *,
    alpha: float = 1.0,
    transA: bool = False,
    transB: bool = False,
    transBatchA: Literal[0] = 0,
    transBatchB: Literal[0] = 0,
) -> Tensor:
    """Compute alpha A B, with the last two dimensions of A or B transposed."""
    A = A.transpose(-1, -2) if transA and A.dim() > 1 else A
    B = B.transpose(-1, -2) if transB and B.dim() > 1 else B
    return alpha * torch.matmul(A, B)


@operator()
def Einsum(*Inputs: Tensor, equation: str) -> Tensor:
    """Sum products according to the equation."""
    return torch.einsum(equation, *Inputs)


def _ceil_pads(  # noqa: PLR0917
    sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int], before: list[int], after: list[int]
) -> list[int]:
    """Return the padding after each dimension with which the floor rule gives the window count of the ceil rule.

    A window that starts in the padding after the data is not counted.
    """
    result = []
    for n, k, s, d, b, a in zip(sizes, kernel, strides, dilations, before, after, strict=True):
        reach = (k - 1) * d + 1
        windows = -(-(n + b + a - reach) // s) + 1
        if (windows - 1) * s >= n + b:
            windows -= 1
        result.append(max((windows - 1) * s + reach - n - b, a))
    return result


@operator(carried="X", integer_type=("X", None))
def MaxPool(
    X: Tensor,
    *,
    kernel_shape: list[int],
    outputs: int,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: bool = False,
    strides: list[int] | None = None,
) -> tuple[Tensor, ...]:
    """Take the maximum of each window of X [n, c, *sizes], and its index in the flattened X."""
    rank = X.dim() - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    sizes = list(X.shape[2:])
    before, after = window_pads(sizes, kernel_shape, strides, dilations, auto_pad, pads)
    if ceil_mode:
        after = _ceil_pads(sizes, kernel_shape, strides, dilations, before, after)
    dtype = X.dtype
    values = X if X.is_floating_point() else X.to(torch.float64)
    direct = before == after and all(2 * b <= k for b, k in zip(before, kernel_shape, strict=True))
    padded = values if direct else pad_sides(values, before, after, -math.inf)
    padding = before if direct else [0] * rank
    pool = _MAX_POOLS[rank]
    if outputs == 1:
        return (pool(padded, kernel_shape, strides, padding, dilations).to(dtype),)
    result, indices = pool(padded, kernel_shape, strides, padding, dilations, return_indices=True)
    return result.to(dtype), _flat_indices(indices, X, padded, [0] * rank if direct else before, storage_order)


def _flat_indices(indices: Tensor, X: Tensor, padded: Tensor, before: list[int], column_major: bool) -> Tensor:
    """Convert indices in one padded channel to indices in the whole of X."""
    coordinates = []
    for size, offset in zip(reversed(padded.shape[2:]), reversed(before), strict=True):
        coordinates.append(indices % size - offset)
        indices = indices // size
    sizes = list(X.shape[2:])
    flat = torch.zeros_like(indices)
    pairs = list(zip(sizes, reversed(coordinates), strict=True))
    for size, coordinate in reversed(pairs) if column_major else pairs:
        flat = flat * size + coordinate
    channels = torch.arange(X.shape[0] * X.shape[1], device=X.device).reshape(list(X.shape[:2]) + [1] * len(sizes))
    return flat + channels * math.prod(sizes)


def _window_sums(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    """Sum windows of the last dimensions, [n, c, *sizes], without padding."""
    rank = len(kernel)
    flat = x.reshape(-1, 1, *x.shape[2:])
    ones = torch.ones([1, 1, *kernel], dtype=x.dtype, device=x.device)
    sums = _CONVOLUTIONS[rank](flat, ones, None, strides, 0, dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@operator()
def AveragePool(
    X: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Average each window of X [n, c, *sizes]: its part inside X, or all of it if the padding counts."""
    rank = X.dim() - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    sizes = list(X.shape[2:])
    before, after = window_pads(sizes, kernel_shape, strides, dilations, auto_pad, pads)
    direct = before == after and all(2 * b <= k for b, k in zip(before, kernel_shape, strict=True))
    if direct and not ceil_mode and all(d == 1 for d in dilations):
        # torch accepts only bool
        pooled: Tensor = _AVERAGE_POOLS[rank](X, kernel_shape, strides, before, False, bool(count_include_pad))
        return pooled
    end = _ceil_pads(sizes, kernel_shape, strides, dilations, before, after) if ceil_mode else after
    # counted elements are 1: the data, with count_include_pad the declared padding, never the surplus of the ceil rule
    counted = torch.ones([1, 1, *sizes], dtype=X.dtype, device=X.device)
    counted = pad_sides(counted, before, after, 1.0 if count_include_pad else 0.0)
    counted = pad_sides(counted, [0] * rank, [e - a for e, a in zip(end, after, strict=True)])
    sums = _window_sums(pad_sides(X, before, end), kernel_shape, strides, dilations)
    return sums / _window_sums(counted, kernel_shape, strides, dilations)


@operator()
def LpPool(
    X: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    dilations: list[int] | None = None,
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Compute the p-norm of each window of X [n, c, *sizes]."""
    rank = X.dim() - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    sizes = list(X.shape[2:])
    before, after = window_pads(sizes, kernel_shape, strides, dilations, auto_pad, pads)
    if ceil_mode:
        after = _ceil_pads(sizes, kernel_shape, strides, dilations, before, after)
    powers = pad_sides(X.abs() ** p, before, after)
    return _window_sums(powers, kernel_shape, strides, dilations).pow(1 / p)


@operator()
def GlobalAveragePool(X: Tensor) -> Tensor:
    """Average [n, c, *sizes] to [n, c, 1, ...]."""
    return X.mean(list(range(2, X.dim())), keepdim=True)


@operator(carried="X", integer_type="X")
def GlobalMaxPool(X: Tensor) -> Tensor:
    """Take the maximum of [n, c, *sizes] to [n, c, 1, ...]."""
    # not amax: it splits the gradient among equal maxima, max-pooling sends it to one
    return X.flatten(2).max(2).values.reshape(list(X.shape[:2]) + [1] * (X.dim() - 2))


@operator()
def GlobalLpPool(X: Tensor, *, p: int = 2) -> Tensor:
    """Compute the p-norm of [n, c, *sizes] to [n, c, 1, ...]."""
    return (X.abs() ** p).sum(list(range(2, X.dim())), keepdim=True).pow(1 / p)


@operator()
def GridSample(
    X: Tensor,
    grid: Tensor,
    *,
    mode: Literal["bilinear", "linear", "nearest", "bicubic", "cubic"] = "bilinear",
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Sample X [n, c, *sizes] at the grid points [n, *sizes out, rank] in [-1, 1]."""
    interpolation = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return functional.grid_sample(X, grid, interpolation, padding_mode, bool(align_corners))


def _heads(x: Tensor, heads: int) -> Tensor:
    """Reshape [n, length, heads size] to [n, heads, length, size]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


@operator()
def Attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    scale: float | None = None,
    softcap: Literal[0] = 0,
    qk_matmul_output_mode: Literal[0] = 0,
    softmax_precision: int | None = None,
) -> Tensor:
    """Scaled dot-product attention; [n, heads, length, size], or [n, length, heads size] with the head counts set."""
    flat = Q.dim() == 3
    if flat:
        if q_num_heads is None or kv_num_heads is None:
            raise ValueError("Attention: operands of rank 3 need q_num_heads and kv_num_heads")
        Q, K, V = _heads(Q, q_num_heads), _heads(K, kv_num_heads), _heads(V, kv_num_heads)
    groups = Q.shape[1] // K.shape[1]
    if groups > 1:
        K, V = K.repeat_interleave(groups, 1), V.repeat_interleave(groups, 1)
    scale = 1 / math.sqrt(Q.shape[-1]) if scale is None else scale
    scores = scale * (Q @ K.transpose(-1, -2))
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=Q.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        masked = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else None
        scores = scores + attn_mask if masked is None else masked
    weights = torch.softmax(scores, -1)
    if is_causal or attn_mask is not None:
        # a fully masked row has attention weights 0
        weights = weights.masked_fill(scores.isneginf().all(-1, keepdim=True), 0.0)
    result = weights @ V
    return result.transpose(1, 2).flatten(2) if flat else result
