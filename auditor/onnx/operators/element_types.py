"""Element types: from ONNX to torch, and integers that carry gradients."""

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
    # held in a wider type: their values are right, what is rounded to them would not be
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.FLOAT4E2M1: torch.float32,
}

READ_ONLY = {kind for kind in TORCH_TYPES if TORCH_TYPES[kind].itemsize == 1} - {
    TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL,
} | {TensorProto.FLOAT4E2M1}  # fmt: skip
"""Types that constants and inputs may have and that no operator gives."""


def torch_type(element_type: int) -> torch.dtype:
    """The torch type of an ONNX element type."""
    if element_type not in TORCH_TYPES:
        raise NotImplementedError(f"element type {TensorProto.DataType.Name(element_type)} has no torch counterpart")
    return TORCH_TYPES[element_type]


def torch_type_of_result(element_type: int) -> torch.dtype:
    """The torch type of an ONNX element type that an operator is to give."""
    if element_type in READ_ONLY:
        raise NotImplementedError(f"rounding to {TensorProto.DataType.Name(element_type)} is not supported")
    return torch_type(element_type)


def from_numpy(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """An array, of a type that numpy may know through ml_dtypes only, as a tensor of its own."""
    if dtype.is_floating_point and dtype.itemsize == 1:
        return torch.from_numpy(array.view(np.uint8).copy()).view(dtype)
    if dtype is torch.bfloat16:
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(dtype)
    wide = {torch.int8: np.int8, torch.uint8: np.uint8, torch.float32: np.float32}.get(dtype)
    return torch.from_numpy(np.array(array, dtype=wide))


def to_numpy(x: Tensor) -> NDArray[Any]:
    """A tensor as an array of the type that ONNX calls by the same name."""
    if x.dtype is torch.bfloat16:
        return x.float().numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return x.numpy()


def is_integer(dtype: torch.dtype) -> bool:
    """Whether a type is one of the integers (bool is not)."""
    return not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool


def floating(dtype: torch.dtype, here: Tensor) -> torch.dtype:
    """The floating type to use where the model says ``dtype``: another one after ``module.double()`` and the like."""
    if not dtype.is_floating_point or here.dtype is torch.float32:
        return dtype
    return here.dtype


def limits(dtype: torch.dtype) -> tuple[int, int]:
    """Smallest and largest value of an integer type."""
    info = torch.iinfo(dtype)
    return info.min, info.max


class _StraightThrough(torch.autograd.Function):
    """Forward: ``function(x)``. Backward: the gradient goes to ``x`` as if nothing had been done to it.

    (``x + (function(x) - x).detach()`` has the same gradient but is off by a rounding error in the forward pass.)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(x)`` in the forward pass, the gradient of ``x`` in the backward pass (same shape and type)."""
    result: Tensor = _StraightThrough.apply(x, function)
    return result


def to_carried(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to an integer type, carried: truncated as ONNX does, gradient 1 inside the range of the type, else 0."""
    if not x.is_floating_point():
        return x.to(dtype)
    low, high = limits(dtype)
    inside = (x >= low) & (x <= high)
    # outside of the range the value is what a cast makes of it, and no gradient flows
    return straight_through(torch.where(inside, x, x.detach()), lambda value: value.to(dtype).to(value.dtype))


def true_integer(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A carried integer as a tensor of its own type (the gradient ends here); other tensors as they are."""
    return x.round().to(dtype) if x.is_floating_point() else x


def saturate(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round half to even and clip to the range of an integer type, carried; gradient 1 inside the range."""
    low, high = limits(dtype)
    return straight_through(x, torch.round).clamp(low, high)


def as_float(x: Tensor, like: Tensor) -> Tensor:
    """Integers and 8-bit floats in the floating type of ``like``; carried integers are floating already."""
    return x if x.is_floating_point() and x.dtype.itemsize > 1 else x.to(like.dtype)


def to_device(x: Tensor, here: Tensor) -> Tensor:
    """A value from the host on the device of the module, and in its floating type."""
    return x.to(here.device, floating(x.dtype, here))


def to_numbers(x: Tensor) -> Any:
    """The list of Python numbers in a tensor."""
    return x.detach().reshape(-1).tolist()


def to_number(x: Tensor) -> Any:
    """The one Python number in a tensor of one element."""
    return x.detach().reshape(()).item()


def host_tensor(values: Any, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """A small constant that stays on the host wherever the module goes."""
    return torch.tensor(values, dtype=dtype).reshape(shape)
