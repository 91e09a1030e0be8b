"""Sequences of tensors, exported from scripted modules that append to lists."""
# ruff: noqa: N802 - functions are named as in the ONNX standard

from __future__ import annotations

import torch
from torch import Tensor

from auditor.onnx.operators.registry import TensorSequence, operator


@operator()
def SequenceEmpty(*, dtype: int = 1) -> TensorSequence:
    """Create an empty sequence."""
    return TensorSequence()


@operator()
def SequenceConstruct(*inputs: Tensor) -> TensorSequence:
    """Create a sequence of the inputs."""
    return TensorSequence(inputs)


@operator()
def SequenceInsert(input_sequence: TensorSequence, tensor: Tensor, position: int | None = None) -> TensorSequence:
    """Insert a tensor before the index ``position``, by default at the end."""
    index = len(input_sequence) if position is None else position
    return TensorSequence([*input_sequence[:index], tensor, *input_sequence[index:]])


@operator()
def SequenceErase(input_sequence: TensorSequence, position: int = -1) -> TensorSequence:
    """Remove a tensor."""
    index = position % len(input_sequence)
    return TensorSequence([*input_sequence[:index], *input_sequence[index + 1 :]])


@operator()
def SequenceAt(input_sequence: TensorSequence, position: int) -> Tensor:
    """Return one of the tensors."""
    return input_sequence[position]


@operator()
def SequenceLength(input_sequence: TensorSequence) -> Tensor:
    """Return the number of tensors."""
    return torch.tensor(len(input_sequence))


@operator()
def SplitToSequence(
    input: Tensor, split: Tensor | None = None, *, axis: int = 0, keepdims: bool = True
) -> TensorSequence:
    """Split an axis into pieces: of size 1 by default, or of one size, or of several sizes."""
    if split is None:
        pieces = input.split(1, axis)
        return TensorSequence(pieces if keepdims else [piece.squeeze(axis) for piece in pieces])
    sizes = split.tolist()
    return TensorSequence(input.split(sizes, axis))


@operator()
def ConcatFromSequence(input_sequence: TensorSequence, *, axis: int, new_axis: bool = False) -> Tensor:
    """Concatenate the tensors along an axis, or stack them along a new one."""
    tensors = list(input_sequence)
    return torch.stack(tensors, axis) if new_axis else torch.cat(tensors, axis)
