"""Element types: from ONNX to torch, and integers that carry gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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
}


def torch_type(element_type: int) -> torch.dtype:
    """The torch type of an ONNX element type."""
    if element_type not in TORCH_TYPES:
        raise NotImplementedError(f"element type {TensorProto.DataType.Name(element_type)} has no torch counterpart")
    return TORCH_TYPES[element_type]


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
    """Integers in the floating type of ``like``; carried integers are floating already."""
    return x if x.is_floating_point() else x.to(like.dtype)


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
