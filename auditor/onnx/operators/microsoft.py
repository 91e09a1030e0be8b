"""Operators that ONNX Runtime's optimiser writes: attention and layouts specific to the machine.

Other operators of its domain are next to the standard operators that they extend.
"""
# ruff: noqa: N802, N803, PLR0917 - functions and parameters are named as in ONNX Runtime's documentation

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from auditor.onnx.operators import linear, quantised, reduction
from auditor.onnx.operators.elementwise import apply_activation
from auditor.onnx.operators.linear import AutoPad
from auditor.onnx.operators.registry import operator

_microsoft = functools.partial(operator, domain="com.microsoft")
_nchwc = functools.partial(operator, domain="com.microsoft.nchwc")
Activation = Literal["", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish", "Gelu"]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None, bias: Tensor | None, causal: bool
) -> Tensor:
    """Compute attention of [n, length, heads size] each; a bias is added to the scores [n, heads, length, length]."""
    q, k, v = (x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2)) * (scale or 1 / math.sqrt(q.shape[-1]))
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    weights = torch.softmax(scores if bias is None else scores + bias, -1)
    return (weights @ v).transpose(1, 2).flatten(2)


@_microsoft()
def Attention(
    input: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask_index: Tensor | None = None,
    past: Literal[0] | None = None,
    attention_bias: Tensor | None = None,
    *,
    num_heads: int,
    unidirectional: bool = False,
    qkv_hidden_sizes: list[int] | None = None,
    scale: float | None = None,
    mask_filter_value: float = -10000.0,
    do_rotary: Literal[0] = 0,
    rotary_embedding_dim: Literal[0] = 0,
    past_present_share_buffer: Literal[0] = 0,
) -> Tensor:
    """Compute self-attention of input [n, length, in] with joint query, key and value weights [in, 3 out]."""
    if mask_index is not None or past is not None:
        raise NotImplementedError("Attention: masks and past states, which image models do not use")
    mixed = input @ weights
    mixed = mixed if bias is None else mixed + bias
    sizes = qkv_hidden_sizes or [mixed.shape[-1] // 3] * 3
    q, k, v = mixed.split(sizes, -1)
    return _attend(q, k, v, num_heads, scale, attention_bias, bool(unidirectional))


@_microsoft()
def MultiHeadAttention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    *,
    num_heads: int,
    unidirectional: bool = False,
    scale: float | None = None,
    mask_filter_value: float = -10000.0,
) -> Tensor:
    """Compute attention of query, key and value [n, length, heads size] each."""
    if key is None or value is None or query.dim() != 3 or key.dim() != 3 or key_padding_mask is not None:
        raise NotImplementedError("MultiHeadAttention: packed operands, or a mask")
    if bias is not None:
        bq, bk, bv = bias.split([query.shape[-1], key.shape[-1], value.shape[-1]])
        query, key, value = query + bq, key + bk, value + bv
    return _attend(query, key, value, num_heads, scale, attention_bias, bool(unidirectional))


@_microsoft()
def BiasSoftmax(data: Tensor, bias: Tensor, *, axis: int = 1, is_inner_broadcast: bool) -> Tensor:
    """Compute the softmax of data + bias over the dimensions from the axis on."""
    if not is_inner_broadcast and bias.dim() < data.dim():
        raise NotImplementedError("BiasSoftmax: a bias that broadcasts over inner dimensions")
    return reduction.Softmax(data + bias, axis=axis)


@_microsoft()
def BiasAdd(X: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """Compute X + bias + skip."""
    return X + bias + skip


@_microsoft()
def SkipSimplifiedLayerNormalization(
    input: Tensor,
    skip: Tensor,
    gamma: Tensor,
    bias: Tensor | None = None,
    *,
    outputs: int,
    epsilon: float = 1e-12,
) -> tuple[Any, ...]:
    """Apply RMS normalisation to input + skip + bias; the fourth output is that sum."""
    total = input + skip if bias is None else input + skip + bias
    if outputs in (2, 3):
        raise NotImplementedError("SkipSimplifiedLayerNormalization: mean and deviation as outputs")
    return (reduction.RMSNormalization(total, gamma, epsilon=epsilon), None, None, total)[:outputs]


@_microsoft(carried="data data_zero_point reduced_zero_point", integer_type="reduced_zero_point data")
def QLinearReduceMean(
    data: Tensor,
    data_scale: Tensor,
    data_zero_point: Tensor | None,
    reduced_scale: Tensor,
    reduced_zero_point: Tensor | None = None,
    *,
    integer: torch.dtype,
    axes: list[int],
    keepdims: bool = True,
) -> Tensor:
    """Average a quantised tensor over axes."""
    mean = quantised.dequantise(data, data_scale, data_zero_point).mean(axes, keepdim=bool(keepdims))
    return quantised.quantise(mean, reduced_scale, reduced_zero_point, integer)


@_microsoft(
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
    channels_last: bool = False,
    auto_pad: AutoPad = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Compute the standard operator, optionally with channels-last x and y (w keeps its layout)."""
    result = quantised.QLinearConv(
        x.movedim(-1, 1) if channels_last else x,
        x_scale,
        x_zero_point,
        w,
        w_scale,
        w_zero_point,
        y_scale,
        y_zero_point,
        B,
        integer=integer,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    return result.movedim(1, -1) if channels_last else result


@_microsoft(carried="x", integer_type="x")
def NhwcMaxPool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Max-pool [n, *sizes, c]."""
    (result,) = linear.MaxPool(
        x.movedim(-1, 1),
        kernel_shape=kernel_shape,
        outputs=1,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        dilations=dilations,
        pads=pads,
        strides=strides,
    )
    return result.movedim(1, -1)


# --- blocks of channels -----------------------------------------------------------------------------------------------
# ONNX Runtime keeps activations in blocks of 8 or 16 channels, depending on the machine that optimised the file; the
# file is valid only on such machines. The copy keeps [n, channels, height, width] with zero channels up to whole
# blocks; only weights are reordered.


@functools.cache
def channel_block() -> int:
    """Return the number of channels in a block of ONNX Runtime on this machine."""
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("ReorderInput", ["x"], ["y"], domain="com.microsoft.nchwc")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    x.type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 4, 1, 1]).tensor_type.shape)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft.nchwc", 1)]
    model = helper.make_model(helper.make_graph([node], "block", [x], [y]), opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": np.zeros((1, 4, 1, 1), dtype=np.float32)})
    return int(output.shape[1])


@_nchwc()
def ReorderInput(X: Tensor, *, channels_last: bool = False) -> Tensor:
    """Append zero channels up to whole blocks."""
    x = X.movedim(-1, 1) if channels_last else X
    missing = -x.shape[1] % channel_block()
    return functional.pad(x, [0, 0] * (x.dim() - 2) + [0, missing]) if missing else x


@_nchwc()
def ReorderOutput(X: Tensor, *, channels: int, channels_last: bool = False) -> Tensor:
    """Remove the appended zero channels."""
    x = X[:, :channels]
    return x.movedim(1, -1) if channels_last else x


def _ordered(W: Tensor, channels: int, group: int) -> Tensor:
    """Reorder weights to [out, in / group, h, w] from blocks [out / b, (in / b,) h, w, (b in,) b out]."""
    b = channel_block()
    out, inside, h, w = W.shape
    if inside % b or (group > 1 and inside == 1) or channels < b:
        return W.reshape(out // b, inside, h, w, b).permute(0, 4, 1, 2, 3).reshape(out, inside, h, w)
    blocks = W.reshape(out // b, inside // b, h, w, b, b)
    return blocks.permute(0, 5, 1, 4, 2, 3).reshape(out, inside, h, w)


@_nchwc()
def Conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    Sum: Tensor | None = None,
    *,
    activation: Activation = "",
    activation_params: list[float] | None = None,
    auto_pad: AutoPad = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolve, add Sum, apply an activation."""
    weights = _ordered(W, X.shape[1], group)
    result = linear.Conv(X, weights, B, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    return apply_activation(result if Sum is None else result + Sum, activation, activation_params)


@_nchwc()
def MaxPool(
    X: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: Literal[0] = 0,
    strides: list[int] | None = None,
) -> Tensor:
    """Take the maximum of each window."""
    options: dict[str, Any] = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "pads": pads, "strides": strides}
    return linear.MaxPool(X, kernel_shape=kernel_shape, outputs=1, dilations=dilations, **options)[0]


@_nchwc()
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
    """Average each window."""
    options: dict[str, Any] = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "pads": pads, "strides": strides}
    options |= {"count_include_pad": count_include_pad, "dilations": dilations}
    return linear.AveragePool(X, kernel_shape=kernel_shape, **options)


@_nchwc()
def GlobalAveragePool(X: Tensor) -> Tensor:
    """Average each channel."""
    return linear.GlobalAveragePool(X)


@_nchwc()
def GlobalMaxPool(X: Tensor) -> Tensor:
    """Take the maximum of each channel."""
    return linear.GlobalMaxPool(X)
