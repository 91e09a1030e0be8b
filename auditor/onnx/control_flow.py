"""Convert If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from onnx import GraphProto, NodeProto
from torch import Tensor, fx


def names_used(node: NodeProto) -> Iterator[str]:
    """Yield all names that a node reads, including those read in its subgraphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            yield from names_read(graph)


def names_read(graph: GraphProto) -> Iterator[str]:
    """Yield all names that the nodes and outputs of a graph read."""
    for node in graph.node:
        yield from names_used(node)
    yield from (output.name for output in graph.output)


def run_branch(condition: bool, then_branch: fx.GraphModule, else_branch: fx.GraphModule, *inputs: Tensor) -> Any:
    """Run one of two branches on the values that they read from the enclosing graph."""
    return then_branch(*inputs) if condition else else_branch(*inputs)


def run_loop(count: int | None, condition: bool | None, body: fx.GraphModule, carried: int, *values: Any) -> Any:
    """Run an ONNX Loop: at most ``count`` iterations while the condition holds.

    ``values``: the initial state of ``carried`` tensors, then the values the body reads from the enclosing graph.
    Returns the final state, then each scan output, stacked along a new first axis.
    """
    state, captured = values[:carried], values[carried:]
    scans: list[Any] = []
    condition = True if condition is None else condition
    iteration = 0
    while condition and (count is None or iteration < count):
        results = body(torch.tensor(iteration), torch.tensor(condition), *state, *captured)
        condition, state = bool(results[0]), results[1 : 1 + carried]
        scans.append(results[1 + carried :])
        iteration += 1
    return (*state, *(torch.stack(column) for column in zip(*scans, strict=True)))


Walk = tuple[tuple[int, bool], ...]
"""For each input or output of a Scan: the axis, and True if it is traversed backwards."""


def run_scan(body: fx.GraphModule, states: int, read: Walk, written: Walk, *values: Any) -> Any:
    """Run an ONNX Scan: the body over the entries of one axis of each input, with a state of ``states`` values.

    ``values``: the initial state, the inputs, then the values the body reads from the enclosing graph. Returns the
    final state, then each scan output, stacked along its axis in ``written``.
    """
    end = states + len(read)
    state, captured = values[:states], values[end:]
    columns = []
    for value, (axis, backwards) in zip(values[states:end], read, strict=True):
        entries = value.unbind(axis)
        columns.append(entries[::-1] if backwards else entries)
    scans = []
    for row in zip(*columns, strict=True):
        results = body(*state, *row, *captured)
        state = results[:states]
        scans.append(results[states:])
    outputs = zip(zip(*scans, strict=True), written, strict=True)
    return (*state, *(torch.stack(output[::-1] if back else output, axis) for output, (axis, back) in outputs))
