"""Sequences of tensors: scripted modules that append to a list are exported with them."""
# ruff: noqa: N802 - functions are named as in the ONNX standard

from __future__ import annotations

import torch
from torch import Tensor

from auditor.onnx.operators.registry import TensorSequence, operator


@operator()
def SequenceEmpty(*, dtype: int = 1) -> TensorSequence:
    """No tensors."""
    return TensorSequence()


@operator()
def SequenceConstruct(*inputs: Tensor) -> TensorSequence:
    """These tensors."""
    return TensorSequence(inputs)


@operator()
def SequenceInsert(input_sequence: TensorSequence, tensor: Tensor, position: int | None = None) -> TensorSequence:
    """One tensor more, before the place ``position``, at the end by default."""
    place = len(input_sequence) if position is None else position
    return TensorSequence([*input_sequence[:place], tensor, *input_sequence[place:]])


@operator()
def SequenceErase(input_sequence: TensorSequence, position: int = -1) -> TensorSequence:
    """One tensor less."""
    place = position % len(input_sequence)
    return TensorSequence([*input_sequence[:place], *input_sequence[place + 1 :]])


@operator()
def SequenceAt(input_sequence: TensorSequence, position: int) -> Tensor:
    """One of the tensors."""
    return input_sequence[position]


@operator()
def SequenceLength(input_sequence: TensorSequence) -> Tensor:
    """How many tensors."""
    return torch.tensor(len(input_sequence))


@operator()
def SplitToSequence(
    input: Tensor, split: Tensor | None = None, *, axis: int = 0, keepdims: bool = True
) -> TensorSequence:
    """Pieces of an axis: of size 1 by default, or of one size, or of several."""
    if split is None:
        pieces = input.split(1, axis)
        return TensorSequence(pieces if keepdims else [piece.squeeze(axis) for piece in pieces])
    sizes = split.tolist()
    return TensorSequence(input.split(sizes, axis))


@operator()
def ConcatFromSequence(input_sequence: TensorSequence, *, axis: int, new_axis: bool = False) -> Tensor:
    """The tensors one after another along an axis, or along a new one."""
    tensors = list(input_sequence)
    return torch.stack(tensors, axis) if new_axis else torch.cat(tensors, axis)
