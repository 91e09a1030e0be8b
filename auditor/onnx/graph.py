"""Convert an ONNX graph to a ``torch.fx.GraphModule`` that runs under autograd.

Steps: sort the nodes; look up each operator in ``operators`` (or expand the function body that the model or the ONNX
standard defines for it); bind its operands to the parameters of the function; fold constants; add every remaining
operation to the graph as a call. Nothing is guessed: an unsupported node raises ``NoCopy`` with operator, domain,
opset and node.

Values are of three kinds. *Constants* are known at import. *Host* values derive from shapes and constants only: small
tensors that stay on the CPU and are read as Python numbers without a device synchronisation. All other values are on
the device. The batch size is never fixed at import: ``Shape`` is evaluated when the module runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, NodeProto
from torch import fx
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from auditor.errors import NoCopy
from auditor.onnx.builder import GraphBuilder
from auditor.onnx.control_flow import names_used
from auditor.onnx.node import Conversion
from auditor.onnx.operators import fusion
from auditor.onnx.values import NO_TYPES, Scope, Types, Value, domain_of, identifier_of

OLDEST_OPSET = 7
"""Earlier opsets have different rules for broadcasting and batch normalisation."""
MAX_NODES = 100_000
"""Limit after function expansion; the largest vision transformers have about 6,000 nodes."""
MAX_DEPTH = 32
"""Limit for nested functions and subgraphs."""


def import_onnx(model: onnx.ModelProto, outputs: Sequence[str] | None = None) -> fx.GraphModule:
    """Convert the model to a module: ``forward(*inputs)`` returns all outputs, or ``outputs``, as a tuple.

    Nodes that these outputs do not depend on are left out and may be unsupported. External data must be loaded already.
    Floating-point constants become frozen Parameters (scalars: buffers), integer constants become buffers. Integer
    inputs may be passed as floating-point tensors, so that gradients reach them. For the same reason integer outputs
    that come from rounding are floating-point tensors of whole numbers.

    Attributes of the result: ``input_names``, ``output_names``, ``fixed_batch`` (the batch size that the first input
    declares, or None).

    Raises:
        NoCopy: with operator, domain, opset and node, if something cannot be imported.
    """
    opsets = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if "" in opsets and not OLDEST_OPSET <= opsets[""] <= newest:
        raise NoCopy(f"The model has ONNX opset {opsets['']}; opsets {OLDEST_OPSET} to {newest} can be imported.")
    functions = {(domain_of(entry.domain), entry.name, entry.overload): entry for entry in model.functions}
    names = tuple(output.name for output in model.graph.output) if outputs is None else tuple(outputs)
    return Importer(functions).import_graph(model.graph, opsets, names, Types(lambda: model))


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Return those of the sorted nodes that the outputs depend on."""
    required = set(outputs)
    kept = []
    for node in reversed(nodes):
        if required.intersection(node.output):
            kept.append(node)
            required.update(names_used(node))
    return kept[::-1]


def sort_nodes(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Sort the nodes topologically (some converters write them unordered)."""
    nodes = list(nodes)
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer:
                raise NoCopy(f"Two nodes of the ONNX graph write the value {name!r}.")
            producer[name] = index
    followers: list[list[int]] = [[] for _ in nodes]
    waiting = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for source in {producer[name] for name in names_used(node) if name in producer}:
            followers[source].append(index)
            waiting[index] += 1
    ready = [index for index, count in enumerate(waiting) if count == 0]
    result = []
    while ready:
        index = heapq.heappop(ready)
        result.append(nodes[index])
        for follower in followers[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, follower)
    if len(result) < len(nodes):
        raise NoCopy("The ONNX graph contains a cycle.")
    return result


@dataclass
class Importer(GraphBuilder):
    """Builder of one fx graph from ONNX nodes."""

    count: int = 0
    """Nodes converted so far, of all graphs."""

    def import_graph(
        self, graph: GraphProto, opsets: dict[str, int], names: tuple[str, ...], types: Types
    ) -> fx.GraphModule:
        """Convert the part of the graph that the outputs ``names`` depend on to a module."""
        scope: Scope = {}
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        for value in inputs:
            scope[value.name] = self.placeholder(value)
        nodes = _needed(sort_nodes(graph.node), names)
        self.read_initialisers(graph, scope, {name for node in nodes for name in names_used(node)}.union(names))
        self.convert(nodes, scope, opsets, 0, types)
        self.graph.output(tuple(self.operand(self.output_value(scope, name), carried=True) for name in names))
        self.graph.eliminate_dead_code()
        fusion.fuse(self.graph, self.attributes)
        module = self.module()
        dims = inputs[0].type.tensor_type.shape.dim if inputs else []
        fixed = dims[0].dim_value if len(dims) and dims[0].HasField("dim_value") else None
        describe_node(module, tuple(value.name for value in inputs), names, fixed)
        return module

    def branch(
        self, graph: GraphProto, captured: dict[str, Value], opsets: dict[str, int], depth: int
    ) -> fx.GraphModule:
        """Convert a subgraph to a module; its inputs: the subgraph inputs, then the non-constant captured values."""
        inner = Importer(self.functions, count=self.count)
        formal: Scope = {value.name: inner.placeholder(value, formal=True) for value in graph.input}
        scope: Scope = {}
        for name, value in captured.items():
            if value.constant is not None:
                scope[name] = value
                continue
            node = inner.graph.create_node("placeholder", identifier_of(name), name=identifier_of(name))
            # host values are moved to the device for the branch
            scope[name] = Value(node=node, integer=value.integer, name=name, narrow=value.narrow)
        scope.update(formal)
        inner.read_initialisers(graph, scope)
        inner.convert(graph.node, scope, opsets, depth)
        self.count = inner.count
        inner.graph.output(tuple(inner.operand(inner.output_value(scope, output.name)) for output in graph.output))
        inner.graph.eliminate_dead_code()
        return inner.module()

    def convert(
        self,
        nodes: Iterable[NodeProto],
        scope: Scope,
        opsets: dict[str, int],
        depth: int,
        types: Types = NO_TYPES,
    ) -> None:
        """Add the nodes to the graph and their outputs to the scope."""
        if depth > MAX_DEPTH:
            raise NoCopy(f"Functions or subgraphs of the ONNX graph are nested more than {MAX_DEPTH} deep.")
        for node in sort_nodes(nodes):
            self.count += 1
            if self.count > MAX_NODES:
                raise NoCopy(f"The ONNX graph has more than {MAX_NODES} nodes once its functions are expanded.")
            conversion = Conversion(self, node, scope, opsets, depth, types)
            try:
                conversion.run()
            except (NoCopy, MemoryError):
                raise
            except Exception as error:  # a node that violates the standard can raise anything
                raise conversion.refusal(f"{type(error).__name__}: {error}") from error


def describe_node(
    module: fx.GraphModule, input_names: tuple[str, ...], output_names: tuple[str, ...], fixed_batch: int | None
) -> None:
    """Set the attributes that callers read so that they survive ``copy.deepcopy``."""
    attributes = {"input_names": input_names, "output_names": output_names, "fixed_batch": fixed_batch}
    for name, value in attributes.items():
        setattr(module, name, value)
    module.meta[_USER_PRESERVED_ATTRIBUTES_KEY] = attributes
