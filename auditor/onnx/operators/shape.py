"""Operators that rearrange elements: shapes, slices, gathers, padding."""
# ruff: noqa: N802, N803 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from auditor.onnx.operators.element_types import floating, torch_type
from auditor.onnx.operators.registry import check_size, operator


@operator(reads_shape=True, carried="data")
def Shape(data: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Return the sizes of the dimensions from start to end, on the host."""
    return torch.tensor(list(data.shape)[start:end], dtype=torch.int64)


@operator(reads_shape=True, carried="data")
def Size(data: Tensor) -> Tensor:
    """Return the number of elements, on the host."""
    return torch.tensor(data.numel(), dtype=torch.int64)


@operator(carried="data", integer_type="data")
def Reshape(data: Tensor, shape: list[int], *, allowzero: bool = False) -> Tensor:
    """Reshape; -1 is inferred, 0 keeps the size (unless ``allowzero``)."""
    if not allowzero:
        shape = [data.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return data.reshape(shape)


@operator(carried="input", integer_type="input")
def Flatten(input: Tensor, *, axis: int = 1) -> Tensor:
    """Reshape to [product of the dimensions before axis, product of the others]."""
    axis = axis + input.dim() if axis < 0 else axis
    return input.reshape(math.prod(input.shape[:axis]), math.prod(input.shape[axis:]))


@operator(carried="data", integer_type="data")
def Squeeze(data: Tensor, axes: list[int] | None = None) -> Tensor:
    """Remove the dimensions ``axes``, which must have size 1; by default all of size 1."""
    if axes is None:
        return data.squeeze()
    if any(data.shape[axis] != 1 for axis in axes):
        raise ValueError(f"Squeeze: axes {axes} of shape {list(data.shape)} are not all 1")
    return data.squeeze(tuple(axes)) if axes else data


@operator(carried="data", integer_type="data")
def Unsqueeze(data: Tensor, axes: list[int]) -> Tensor:
    """Insert dimensions of size 1 at ``axes`` of the result."""
    rank = data.dim() + len(axes)
    for axis in sorted(axis + rank if axis < 0 else axis for axis in axes):
        data = data.unsqueeze(axis)
    return data


@operator(carried="data", integer_type="data")
def Transpose(data: Tensor, *, perm: list[int] | None = None) -> Tensor:
    """Permute dimensions, reversed by default."""
    return data.permute(list(range(data.dim()))[::-1] if perm is None else perm)


@operator(carried="input", integer_type="input")
def Expand(input: Tensor, shape: list[int]) -> Tensor:
    """Broadcast to the shape (in both directions)."""
    target = np.broadcast_shapes(tuple(input.shape), tuple(shape))
    check_size(target, "Expand")
    return input.expand(target)


@operator(carried="input", integer_type="input")
def Tile(input: Tensor, repeats: list[int]) -> Tensor:
    """Repeat the tensor along every dimension."""
    check_size([size * count for size, count in zip(input.shape, repeats, strict=True)], "Tile")
    return input.repeat(repeats)


@operator(carried="inputs", integer_type="inputs")
def Concat(*inputs: Tensor, axis: int) -> Tensor:
    """Concatenate tensors along an axis."""
    return torch.cat(inputs, axis)


@operator(carried="input", integer_type="input")
def Split(
    input: Tensor, split: list[int] | None = None, *, outputs: int, axis: int = 0, num_outputs: int | None = None
) -> list[Tensor]:
    """Split an axis into pieces of the given sizes, or equal ones of which the last may be smaller."""
    size = input.shape[axis]
    if split is None:
        part = -(-size // outputs)
        split = [part] * (outputs - 1) + [size - part * (outputs - 1)]
    return list(torch.split(input, split, axis))


@operator(carried="data", integer_type="data")
def Slice(
    data: Tensor,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Tensor:
    """Take data[start:end:step] along each of the axes; steps may be negative."""
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * data.dim()
    backwards = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        selected = range(*slice(start, end, step).indices(data.shape[axis]))
        if step < 0:
            backwards.append(axis)
            selected = selected[::-1]
        index[axis] = slice(selected.start, max(selected.stop, selected.start), selected.step)
    piece = data[tuple(index)]
    return piece.flip(backwards) if backwards else piece


def _positive(indices: Tensor, size: int) -> Tensor:
    """Convert negative indices to indices from the start."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@operator(carried="data", integer_type="data")
def Gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Select entries of an axis by indices of any shape."""
    axis = axis + data.dim() if axis < 0 else axis
    selected = data.index_select(axis, _positive(indices, data.shape[axis]).reshape(-1))
    return selected.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


@operator(carried="data", integer_type="data")
def GatherElements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Select, at each position of ``indices``, an entry of the axis."""
    return torch.gather(data, axis, _positive(indices, data.shape[axis]))


@operator(carried="data", integer_type="data")
def GatherND(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Select slices of data addressed by the last dimension of ``indices``."""
    depth = indices.shape[-1]
    batches = [
        torch.arange(size, device=data.device).reshape([-1 if j == i else 1 for j in range(indices.dim() - 1)])
        for i, size in enumerate(data.shape[:batch_dims])
    ]
    positions = [_positive(indices[..., i], data.shape[batch_dims + i]) for i in range(depth)]
    return data[(*batches, *positions)]


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator()
def ScatterElements(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    axis: int = 0,
    reduction: Literal["none", "add", "mul", "max", "min"] = "none",
) -> Tensor:
    """Copy data and write (or add, ...) the updates at the indices along an axis."""
    positions = _positive(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, positions, updates)
    return data.scatter_reduce(axis, positions, updates, _REDUCTIONS[reduction])


@operator()
def Scatter(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    """Scatter updates, under the old name of ScatterElements."""
    return data.scatter(axis, _positive(indices, data.shape[axis]), updates)


@operator()
def ScatterND(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    reduction: Literal["none", "add", "mul", "max", "min"] = "none",
) -> Tensor:
    """Copy data and write (or add, ...) the updates at the slices addressed by ``indices``."""
    depth = indices.shape[-1]
    lead = list(data.shape[:depth])
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for i, size in enumerate(lead):
        flat = flat * size + _positive(indices[..., i], size)
    rows = data.reshape([math.prod(lead), math.prod(data.shape[depth:])])
    values = updates.reshape(flat.numel(), rows.shape[1])
    if reduction == "none":
        return rows.index_copy(0, flat.reshape(-1), values).reshape(data.shape)
    positions = flat.reshape(-1, 1).expand(values.shape)
    return rows.scatter_reduce(0, positions, values, _REDUCTIONS[reduction]).reshape(data.shape)


@operator(carried="data", integer_type="data")
def Pad(
    data: Tensor,
    pads: list[int],
    constant_value: float | None = None,
    axes: list[int] | None = None,
    *,
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
    value: float = 0.0,
) -> Tensor:
    """Pad; negative pads crop. ``value`` is the attribute of opsets before 11."""
    axes = list(range(data.dim())) if axes is None else [axis % data.dim() for axis in axes]
    before = dict(zip(axes, pads[: len(axes)], strict=True))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    check_size([n + before.get(i, 0) + after.get(i, 0) for i, n in enumerate(data.shape)], "Pad")
    if mode == "constant":
        widths = [width for i in reversed(range(data.dim())) for width in (before.get(i, 0), after.get(i, 0))]
        return functional.pad(data, widths, value=value if constant_value is None else constant_value)
    for axis in axes:
        data = _pad_axis(data, axis, before[axis], after[axis], mode)
    return data


def _pad_axis(data: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Pad one axis with copies of its entries."""
    if before == 0 and after == 0:
        return data
    size = data.shape[axis]
    kept = np.arange(max(0, -before), size - max(0, -after))
    border = (max(0, before), max(0, after))
    index = {
        "reflect": lambda: np.pad(kept, border, mode="reflect"),
        "edge": lambda: np.pad(kept, border, mode="edge"),
        "wrap": lambda: np.pad(kept, border, mode="wrap"),
    }[mode]()
    return data.index_select(axis, torch.from_numpy(index).to(data.device))


@operator(carried="input", integer_type="input")
def DepthToSpace(input: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """Rearrange [n, c b b, h, w] to [n, c, h b, w b]."""
    n, c, h, w = input.shape
    b = blocksize
    if mode == "DCR":
        blocks = input.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = input.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // (b * b), h * b, w * b)


@operator(carried="input", integer_type="input")
def SpaceToDepth(input: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """Rearrange [n, c, h b, w b] to [n, c b b, h, w]."""
    n, c, h, w = input.shape
    b = blocksize
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return input.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b * b, h // b, w // b)


@operator()
def ConstantOfShape(input: list[int], *, reference: Tensor, value: Tensor | None = None) -> Tensor:
    """Create a tensor filled with one value (float zero by default)."""
    check_size(input, "ConstantOfShape")
    if value is None:
        return torch.zeros(input, dtype=reference.dtype, device=reference.device)
    return value.reshape(()).expand(input).clone()


@operator()
def EyeLike(input: Tensor, *, reference: Tensor, dtype: int | None = None, k: int = 0) -> Tensor:
    """Create a matrix with ones on the k-th diagonal."""
    result_type = input.dtype if dtype is None else floating(torch_type(dtype), reference)
    columns = torch.arange(input.shape[1], device=input.device)
    rows = torch.arange(input.shape[0], device=input.device)
    return (columns[None] - rows[:, None] == k).to(result_type)


@operator()
def Range(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: Literal[1] = 1) -> Tensor:
    """Return start, start + delta, ... before limit."""
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(math.ceil((last - first) / step), 0)
    check_size([count], "Range")
    return (first + torch.arange(count, device=start.device) * step).to(start.dtype)


@operator()
def OneHot(indices: Tensor, depth: int, values: Tensor, *, axis: int = -1) -> Tensor:
    """Write values[1] at the index and values[0] elsewhere, along a new axis."""
    check_size([*indices.shape, int(depth)], "OneHot")
    classes = torch.arange(int(depth), device=indices.device)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    targets = indices.unsqueeze(axis)
    targets = torch.where(targets < 0, targets + int(depth), targets)
    selected = targets == classes.reshape([-1 if i == axis else 1 for i in range(indices.dim() + 1)])
    return torch.where(selected, values[1], values[0])


@operator()
def Trilu(input: Tensor, k: int = 0, *, upper: bool = True) -> Tensor:
    """Keep the triangle above (or below) the k-th diagonal."""
    return torch.triu(input, k) if upper else torch.tril(input, k)


@operator()
def NonZero(X: Tensor) -> Tensor:
    """Return the indices of nonzero elements, [rank, n]."""
    return torch.nonzero(X).T


@operator(carried="input", integer_type="input")
def Compress(input: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Select the entries of an axis (or of the flattened tensor) where the condition is true."""
    data = input.reshape(-1) if axis is None else input
    return data.index_select(axis or 0, torch.nonzero(condition).reshape(-1))


@operator(carried="input", integer_type="input")
def ReverseSequence(input: Tensor, sequence_lens: list[int], *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first ``sequence_lens[i]`` time steps of batch element i."""
    data = input.movedim((batch_axis, time_axis), (0, 1))
    rows = [torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(data, sequence_lens, strict=True)]
    return torch.stack(rows).movedim((0, 1), (batch_axis, time_axis))


@operator(carried="input_data", integer_type="input_data")
def CenterCropPad(input_data: Tensor, shape: list[int], *, axes: list[int] | None = None) -> Tensor:
    """Crop, or pad with zeros, around the centre."""
    axes = list(range(input_data.dim())) if axes is None else axes
    for axis, size in zip(axes, shape, strict=True):
        current = input_data.shape[axis]
        if current > size:
            input_data = input_data.narrow(axis, (current - size) // 2, size)
        elif current < size:
            start = (size - current) // 2
            input_data = Pad(input_data, [start, size - current - start], axes=[axis])
    return input_data


@operator()
def BitCast(input: Tensor, *, to: int) -> Tensor:
    """Reinterpret the bits as another type of the same size; no gradient."""
    return input.detach().view(torch_type(to))


@operator()
def Col2Im(
    input: Tensor,
    image_shape: list[int],
    block_shape: list[int],
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Add blocks [n, c product(block), count] at their positions in images [n, c, *image_shape]."""
    rank = len(image_shape)
    pads, strides, dilations = pads or [0] * (2 * rank), strides or [1] * rank, dilations or [1] * rank
    if rank != 2:
        raise NotImplementedError(f"Col2Im: {rank} spatial dimensions")
    check_size([*input.shape[:2], *image_shape], "Col2Im")
    padded = [size + before + after for size, before, after in zip(image_shape, pads[:2], pads[2:], strict=True)]
    across = {"kernel_size": tuple(block_shape), "dilation": tuple(dilations), "stride": tuple(strides)}
    image = functional.fold(input, tuple(padded), **across)
    return image[..., pads[0] : pads[0] + image_shape[0], pads[1] : pads[1] + image_shape[1]]
