"""Recurrent layers: RNN, GRU, LSTM."""
# ruff: noqa: N802, N803, PLR0917 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from auditor.onnx.operators.registry import operator

Direction = Literal["forward", "reverse", "bidirectional"]
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, Tensor, Tensor, Tensor], State]
"""Arguments of a step: input [n, gates size] (already times W), state, R, biases of W and R, peepholes."""


def _run(
    step: Step,
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None,
    P: Tensor | None,
    initial: tuple[Tensor | None, ...],
    direction: str,
    layout: int,
) -> tuple[Tensor, ...]:
    """Return Y [length, directions, n, size], the last states [directions, n, size]; batch-first if ``layout`` is 1."""
    x = X.transpose(0, 1) if layout else X
    size, n = R.shape[-1], x.shape[1]
    outputs, last = [], []
    for d in range(W.shape[0]):
        backwards = direction == "reverse" or d == 1
        bias = x.new_zeros(2 * W.shape[1]) if B is None else B[d]
        peepholes = x.new_zeros(3 * size) if P is None else P[d]
        start = [None if value is None else (value[:, d] if layout else value[d]) for value in initial]
        state: State = tuple(x.new_zeros(n, size) if value is None else value for value in start)
        # the input part of all steps at once
        read = (x.flip(0) if backwards else x) @ W[d].T
        rows = []
        for row in read:
            state = step(row, state, R[d], bias[: W.shape[1]], bias[W.shape[1] :], peepholes)
            rows.append(state[0])
        outputs.append(torch.stack(rows[::-1] if backwards else rows))
        last.append(state)
    y = torch.stack(outputs, 1)
    states = [torch.stack(column) for column in zip(*last, strict=True)]
    if layout:
        y, states = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in states]
    return (y, *states)


@operator()
def RNN(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    outputs: int,
    hidden_size: int | None = None,
    direction: Direction = "forward",
    layout: int = 0,
    activations: list[str] | None = None,
) -> tuple[Tensor, ...]:
    """Compute H = f(X W + H R + biases)."""
    names = activations or ["Tanh"] * W.shape[0]
    functions = {"Tanh": torch.tanh, "Relu": torch.relu, "Sigmoid": torch.sigmoid}
    if len(set(names)) != 1 or names[0] not in functions:
        raise NotImplementedError(f"RNN: activations {names}")

    def step(row: Tensor, state: State, r: Tensor, wb: Tensor, rb: Tensor, p: Tensor) -> State:
        del p
        return (functions[names[0]](row + state[0] @ r.T + wb + rb),)

    return _run(step, X, W, R, B, None, (initial_h,), direction, layout)[:outputs]


@operator()
def GRU(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    outputs: int,
    hidden_size: int | None = None,
    direction: Direction = "forward",
    layout: int = 0,
    linear_before_reset: bool = False,
    activations: list[str] | None = None,
) -> tuple[Tensor, ...]:
    """Compute a GRU with the gate order update, reset, hidden."""
    if activations not in (None, ["Sigmoid", "Tanh"] * W.shape[0]):
        raise NotImplementedError(f"GRU: activations {activations}")

    def step(row: Tensor, state: State, r: Tensor, wb: Tensor, rb: Tensor, p: Tensor) -> State:
        del p
        (h,) = state
        size = h.shape[-1]
        rz, rr, rh = r.split(size)
        xz, xr, xh = (row + wb).split(size, -1)
        bz, br, bh = rb.split(size)
        update = torch.sigmoid(xz + h @ rz.T + bz)
        reset = torch.sigmoid(xr + h @ rr.T + br)
        inner = reset * (h @ rh.T + bh) if linear_before_reset else (reset * h) @ rh.T + bh
        return ((1 - update) * torch.tanh(xh + inner) + update * h,)

    return _run(step, X, W, R, B, None, (initial_h,), direction, layout)[:outputs]


@operator()
def LSTM(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    P: Tensor | None = None,
    *,
    outputs: int,
    hidden_size: int | None = None,
    direction: Direction = "forward",
    layout: int = 0,
    input_forget: Literal[0] = 0,
    activations: list[str] | None = None,
) -> tuple[Tensor, ...]:
    """Compute an LSTM with the gate order input, output, forget, cell; peephole order input, output, forget."""
    if activations not in (None, ["Sigmoid", "Tanh", "Tanh"] * W.shape[0]):
        raise NotImplementedError(f"LSTM: activations {activations}")

    def step(row: Tensor, state: State, r: Tensor, wb: Tensor, rb: Tensor, p: Tensor) -> State:
        h, c = state
        i, o, f, g = (row + h @ r.T + wb + rb).chunk(4, -1)
        pi, po, pf = p.chunk(3)
        c = torch.sigmoid(f + pf * c) * c + torch.sigmoid(i + pi * c) * torch.tanh(g)
        return (torch.sigmoid(o + po * c) * torch.tanh(c), c)

    return _run(step, X, W, R, B, P, (initial_h, initial_c), direction, layout)[:outputs]
