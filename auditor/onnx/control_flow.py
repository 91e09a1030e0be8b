"""Convert If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from onnx import GraphProto, NodeProto
from torch import Tensor, fx


def names_used(node: NodeProto) -> Iterator[str]:
    """All names that a node reads, also from within its subgraphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            yield from names_read(graph)


def names_read(graph: GraphProto) -> Iterator[str]:
    """All names that the nodes and outputs of a graph read."""
    for node in graph.node:
        yield from names_used(node)
    yield from (output.name for output in graph.output)


def run_branch(condition: bool, then_branch: fx.GraphModule, else_branch: fx.GraphModule, *inputs: Tensor) -> Any:
    """One of two branches, on the values that they read from the graph around them."""
    return then_branch(*inputs) if condition else else_branch(*inputs)


def run_loop(count: int | None, condition: bool | None, body: fx.GraphModule, carried: int, *values: Any) -> Any:
    """ONNX Loop: at most ``count`` times, while the condition holds.

    ``values``: the first state of what is carried, then what the body reads from the graph around it. Returns the last
    state, and what the body gave besides in each round, stacked along a new first axis.
    """
    state, captured = values[:carried], values[carried:]
    scans: list[Any] = []
    condition = True if condition is None else condition
    rounds = 0
    while condition and (count is None or rounds < count):
        answer = body(torch.tensor(rounds), torch.tensor(condition), *state, *captured)
        condition, state = bool(answer[0]), answer[1 : 1 + carried]
        scans.append(answer[1 + carried :])
        rounds += 1
    return (*state, *(torch.stack(column) for column in zip(*scans, strict=True)))


Walk = tuple[tuple[int, bool], ...]
"""For every input or output of a Scan the axis, and whether from its end to its start."""


def run_scan(body: fx.GraphModule, states: int, read: Walk, written: Walk, *values: Any) -> Any:
    """ONNX Scan: the body over the entries of one axis of each input, with a state of ``states`` values.

    ``values``: the first state, the inputs, then what the body reads from the graph around it. Returns the last state,
    and what the body gave besides, stacked along the axes that ``written`` says.
    """
    end = states + len(read)
    state, captured = values[:states], values[end:]
    rows = []
    for value, (axis, backwards) in zip(values[states:end], read, strict=True):
        entries = value.unbind(axis)
        rows.append(entries[::-1] if backwards else entries)
    scans = []
    for row in zip(*rows, strict=True):
        answer = body(*state, *row, *captured)
        state = answer[:states]
        scans.append(answer[states:])
    columns = zip(zip(*scans, strict=True), written, strict=True)
    return (*state, *(torch.stack(column[::-1] if back else column, axis) for column, (axis, back) in columns))
