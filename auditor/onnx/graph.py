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
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import FunctionProto, GraphProto, NodeProto
from torch import Tensor, fx
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from auditor.errors import NoCopy
from auditor.onnx.control_flow import names_used
from auditor.onnx.node import NO_TYPES, Conversion, Scope, Types, Value, domain_of, identifier_of, to_tensor
from auditor.onnx.operators import element_types, fusion

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
class Importer:
    """Builder of one fx graph."""

    functions: dict[tuple[str, str, str], FunctionProto]
    graph: fx.Graph = field(default_factory=fx.Graph)
    attributes: dict[str, Tensor | fx.GraphModule] = field(default_factory=dict)
    """Constants used by the device part of the graph, and branches."""
    made: dict[tuple[int, str], fx.Node] = field(default_factory=dict)
    """Nodes by id of the value and purpose, so that nothing is converted twice."""
    kept: list[Value] = field(default_factory=list)
    """Values whose ids are keys of ``made``, kept alive so that no id is reused."""
    count: int = 0

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

    def output_value(self, scope: Scope, name: str) -> Value:
        """Return the value of a graph output."""
        value = scope.get(name)
        if value is None:
            raise NoCopy(f"No node of the ONNX graph writes its output {name!r}.")
        return value

    def read_initialisers(self, graph: GraphProto, scope: Scope, required: set[str] | None = None) -> None:
        """Add the constants of a graph to the scope: all of them, or only those in ``required``."""
        if graph.sparse_initializer:
            raise NoCopy("The model has sparse initialisers, which cannot be imported.")
        for proto in graph.initializer:
            if required is None or proto.name in required:
                narrow = proto.data_type in element_types.READ_ONLY
                scope[proto.name] = Value(constant=to_tensor(proto), name=proto.name, narrow=narrow)

    def placeholder(self, value: onnx.ValueInfoProto, *, formal: bool = False) -> Value:
        """Add an input of the graph; ``formal`` inputs of a subgraph may lack a type."""
        node = self.graph.create_node("placeholder", identifier_of(value.name), name=identifier_of(value.name))
        if formal and not value.type.tensor_type.elem_type:
            return Value(node=node, name=value.name)
        if not value.type.HasField("tensor_type"):
            raise NoCopy(f"The model's input {value.name!r} is not a tensor.")
        try:
            dtype = element_types.torch_type(value.type.tensor_type.elem_type)
        except NotImplementedError as error:
            raise NoCopy(f"The model's input {value.name!r} cannot be imported: {error}.") from error
        integer = dtype if element_types.is_integer(dtype) else None
        narrow = value.type.tensor_type.elem_type in element_types.READ_ONLY
        return Value(node=node, integer=integer, name=value.name, narrow=narrow)

    def module(self) -> fx.GraphModule:
        """Return the completed graph with its constants as a module."""
        root: dict[str, Any] = {**self.attributes, "reference": torch.empty(0)}
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        return fx.GraphModule({name: root[name] for name in root if name in used}, self.graph, "OnnxGraph")

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

    def keep_module(self, module: fx.GraphModule) -> fx.Node:
        """Return the node that reads a submodule."""
        name = f"branch_{len(self.attributes)}"
        self.attributes[name] = module
        return self.graph.create_node("get_attr", name, name=name)

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

    def attribute_node(self, value: Value, as_float: bool) -> fx.Node:
        """Return the node that reads a constant from the module."""
        key = (id(value), "float" if as_float else "attribute")
        if key not in self.made:
            assert value.constant is not None
            constant = value.constant.to(torch.float32) if as_float else value.constant
            name = base = identifier_of(value.name)
            number = 1
            while name in self.attributes or name == "reference" or hasattr(torch.nn.Module, name):
                name = f"{base}_{number}"
                number += 1
            constant = constant.contiguous()
            if constant.is_floating_point() and constant.numel() > 1:
                constant = torch.nn.Parameter(constant, requires_grad=False)
            self.attributes[name] = constant
            self._keep(key, value, self.graph.create_node("get_attr", name, name=name))
        return self.made[key]

    def reference(self) -> fx.Node:
        """Return the node of the empty tensor that has the device and floating-point type of the module."""
        if (0, "reference") not in self.made:
            self.made[0, "reference"] = self.graph.create_node("get_attr", "reference", name="reference")
        return self.made[0, "reference"]

    def _keep(self, key: tuple[int, str], value: Value, node: fx.Node) -> None:
        self.made[key] = node
        self.kept.append(value)

    def once(self, value: Value, purpose: str, function: Any, *arguments: Any) -> fx.Node:
        """Return the call of a function for this value and purpose; it is created once."""
        key = (id(value), purpose)
        if key not in self.made:
            self._keep(key, value, self.graph.call_function(function, arguments))
        return self.made[key]

    def operand(self, value: Value, *, host: bool = False, carried: bool = False, as_float: bool = False) -> fx.Node:
        """Return the node that passes a value to a tensor parameter.

        Args:
            value: the value.
            host: True if the operation runs on the host.
            carried: True if a carried integer may stay carried.
            as_float: True if an integer constant is stored as float.
        """
        constant = value.constant
        if constant is not None and host:
            return self.once(
                value,
                "literal",
                element_types.host_tensor,
                constant.reshape(-1).tolist(),
                constant.dtype,
                list(constant.shape),
            )
        if constant is not None:
            return self.attribute_node(value, as_float and element_types.is_integer(constant.dtype))
        assert value.node is not None
        if value.host and not host:
            return self.once(value, "device", element_types.to_device, value.node, self.reference())
        if value.integer is not None and not carried:
            return self.once(value, "integer", element_types.true_integer, value.node, value.integer)
        return value.node

    def numbers(self, value: Value, many: bool) -> Any:
        """Return a value as Python numbers: known at import, or read when the module runs."""
        if value.constant is not None:
            return value.constant.reshape(-1).tolist() if many else value.constant.reshape(()).item()
        source = value.node if value.host else self.operand(value)
        if many:
            return self.once(value, "numbers", element_types.to_numbers, source)
        return self.once(value, "number", element_types.to_number, source)


def describe_node(
    module: fx.GraphModule, input_names: tuple[str, ...], output_names: tuple[str, ...], fixed_batch: int | None
) -> None:
    """Set the attributes that callers read so that they survive ``copy.deepcopy``."""
    attributes = {"input_names": input_names, "output_names": output_names, "fixed_batch": fixed_batch}
    for name, value in attributes.items():
        setattr(module, name, value)
    module.meta[_USER_PRESERVED_ATTRIBUTES_KEY] = attributes
