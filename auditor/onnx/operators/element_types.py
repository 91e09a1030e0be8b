"""Map ONNX element types to torch, and represent integers that carry gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

TORCH_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    # held in a wider type: their values are exact, but rounding to that type would not be
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.FLOAT4E2M1: torch.float32,
}

READ_ONLY = {kind for kind in TORCH_TYPES if TORCH_TYPES[kind].itemsize == 1} - {
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.BOOL,
} | {TensorProto.FLOAT4E2M1}
"""Types allowed for constants and inputs, but not for the result of an operator."""


def torch_type(element_type: int) -> torch.dtype:
    """Return the torch type of an ONNX element type; raise NotImplementedError if there is none."""
    if element_type not in TORCH_TYPES:
        raise NotImplementedError(f"element type {TensorProto.DataType.Name(element_type)} has no torch counterpart")
    return TORCH_TYPES[element_type]


def torch_type_of_result(element_type: int) -> torch.dtype:
    """Return the torch type for an operator's result; raise NotImplementedError for read-only types."""
    if element_type in READ_ONLY:
        raise NotImplementedError(f"rounding to {TensorProto.DataType.Name(element_type)} is not supported")
    return torch_type(element_type)


def from_numpy(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Copy an array, whose type may come from ml_dtypes, to a tensor."""
    if dtype.is_floating_point and dtype.itemsize == 1:
        return torch.from_numpy(array.view(np.uint8).copy()).view(dtype)
    if dtype is torch.bfloat16:
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(dtype)
    wide = {torch.int8: np.int8, torch.uint8: np.uint8, torch.float32: np.float32}.get(dtype)
    return torch.from_numpy(np.array(array, dtype=wide))


def to_numpy(x: Tensor) -> NDArray[Any]:
    """Convert a tensor to an array of the corresponding ONNX type."""
    if x.dtype is torch.bfloat16:
        return x.float().numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return x.numpy()


def is_integer(dtype: torch.dtype) -> bool:
    """Return True for an integer type (bool is not one)."""
    return not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool


def floating(dtype: torch.dtype, reference: Tensor) -> torch.dtype:
    """Return ``dtype``, or the type of ``reference`` if the module was converted (``module.double()``)."""
    if not dtype.is_floating_point or reference.dtype is torch.float32:
        return dtype
    return reference.dtype


def limits(dtype: torch.dtype) -> tuple[int, int]:
    """Return the smallest and largest value of an integer type."""
    info = torch.iinfo(dtype)
    return info.min, info.max


class _StraightThrough(torch.autograd.Function):
    """Forward: ``function(x)``. Backward: identity.

    (``x + (function(x) - x).detach()`` has the same gradient but is off by a rounding error in the forward pass.)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``function(x)`` with the gradient of ``x`` (same shape and type)."""
    result: Tensor = _StraightThrough.apply(x, function)
    return result


def to_carried(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to a carried integer: truncated as in ONNX, gradient 1 inside the range of the type, else 0."""
    if not x.is_floating_point():
        return x.to(dtype)
    low, high = limits(dtype)
    inside = (x >= low) & (x <= high)
    # outside the range the value is that of a plain cast, without a gradient
    return straight_through(torch.where(inside, x, x.detach()), lambda value: value.to(dtype).to(value.dtype))


def true_integer(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a carried integer to its integer type (the gradient ends); return other tensors unchanged."""
    return x.round().to(dtype) if x.is_floating_point() else x


def saturate(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round half to even and clip to the range of an integer type, carried; gradient 1 inside the range."""
    low, high = limits(dtype)
    return straight_through(x, torch.round).clamp(low, high)


def as_float(x: Tensor, like: Tensor) -> Tensor:
    """Convert integers and 8-bit floats to the type of ``like``; carried integers are floating-point already."""
    return x if x.is_floating_point() and x.dtype.itemsize > 1 else x.to(like.dtype)


def to_device(x: Tensor, reference: Tensor) -> Tensor:
    """Move a host value to the device and floating-point type of the module."""
    return x.to(reference.device, floating(x.dtype, reference))


def to_numbers(x: Tensor) -> Any:
    """Return the elements of a tensor as a list of Python numbers."""
    return x.detach().reshape(-1).tolist()


def to_number(x: Tensor) -> Any:
    """Return the element of a one-element tensor as a Python number."""
    return x.detach().reshape(()).item()


def host_tensor(values: Any, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """Create a small constant that stays on the host, wherever the module is."""
    return torch.tensor(values, dtype=dtype).reshape(shape)
