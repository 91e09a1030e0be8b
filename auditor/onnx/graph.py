"""From an ONNX graph to a ``torch.fx.GraphModule`` that runs under autograd.

What happens here, in order: the nodes are sorted, each operator is looked up in ``operators`` (or expanded into the
function body that the model or the ONNX standard gives for it), its operands are bound to the parameters of the
function, everything that is constant is computed at once, and what remains becomes a call in the graph. Nothing is
guessed: what is not known raises ``NoCopy`` with operator, domain, opset and node.

Values live in three places. *Constants* are known at import. *Host* values are made of shapes and constants only: small
tensors on the CPU wherever the module is, read as Python numbers without waiting for a device. All others are on the
device. The batch size is never baked in: ``Shape`` is evaluated when the module runs.
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
"""Before it broadcasting and batch normalisation had other rules."""
MAX_NODES = 100_000
"""Nodes after all functions are expanded; the largest vision transformers have about 6,000."""
MAX_DEPTH = 32
"""Functions within functions, and graphs within graphs."""


def import_onnx(model: onnx.ModelProto, outputs: Sequence[str] | None = None) -> fx.GraphModule:
    """The model as a differentiable module: ``forward(*inputs)`` returns the tuple of its outputs, or of ``outputs``.

    What these outputs do not depend on is left out, and need not be known. External data must have been loaded.
    Floating constants are frozen Parameters (single numbers: buffers), integer constants are buffers. Integer inputs
    may be given as floating tensors, so that gradients reach them; integer outputs that come from rounding are floating
    tensors of whole numbers for the same reason.

    Attributes of the result: ``input_names``, ``output_names``, ``fixed_batch`` (the batch size that the first input
    declares, or None).

    Raises:
        NoCopy: naming operator, domain, opset and node for what cannot be imported.
    """
    opsets = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if "" in opsets and not OLDEST_OPSET <= opsets[""] <= newest:
        raise NoCopy(f"The model has ONNX opset {opsets['']}; opsets {OLDEST_OPSET} to {newest} can be imported.")
    functions = {(domain_of(entry.domain), entry.name, entry.overload): entry for entry in model.functions}
    names = tuple(output.name for output in model.graph.output) if outputs is None else tuple(outputs)
    return Importer(functions).import_graph(model.graph, opsets, names, Types(lambda: model))


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes, which are sorted, that the outputs depend on."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(names_used(node))
    return kept[::-1]


def sort_nodes(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """The nodes with each after those whose outputs it reads (some converters write them unordered)."""
    nodes = list(nodes)
    producer: dict[str, int] = {}
    for place, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer:
                raise NoCopy(f"Two nodes of the ONNX graph write the value {name!r}.")
            producer[name] = place
    followers: list[list[int]] = [[] for _ in nodes]
    waiting = [0] * len(nodes)
    for place, node in enumerate(nodes):
        for source in {producer[name] for name in names_used(node) if name in producer}:
            followers[source].append(place)
            waiting[place] += 1
    ready = [place for place, count in enumerate(waiting) if count == 0]
    result = []
    while ready:
        place = heapq.heappop(ready)
        result.append(nodes[place])
        for follower in followers[place]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, follower)
    if len(result) < len(nodes):
        raise NoCopy("The nodes of the ONNX graph form a circle.")
    return result


@dataclass
class Importer:
    """Builds one fx graph."""

    functions: dict[tuple[str, str, str], FunctionProto]
    graph: fx.Graph = field(default_factory=fx.Graph)
    attributes: dict[str, Tensor | fx.GraphModule] = field(default_factory=dict)
    """Constants that the device part of the graph uses, and branches."""
    made: dict[tuple[int, str], fx.Node] = field(default_factory=dict)
    """Nodes that exist already for a value and a purpose, so that nothing is converted twice."""
    kept: list[Value] = field(default_factory=list)
    """Values whose ids are keys of ``made``: alive, so that no other value takes over the id."""
    count: int = 0

    def import_graph(
        self, graph: GraphProto, opsets: dict[str, int], names: tuple[str, ...], types: Types
    ) -> fx.GraphModule:
        """The part of the graph that the outputs called ``names`` depend on, as a module."""
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
        """The value of a graph's output."""
        value = scope.get(name)
        if value is None:
            raise NoCopy(f"No node of the ONNX graph writes its output {name!r}.")
        return value

    def read_initialisers(self, graph: GraphProto, scope: Scope, wanted: set[str] | None = None) -> None:
        """Put the constants of a graph into the scope: all of them, or those that are wanted."""
        if graph.sparse_initializer:
            raise NoCopy("The model has sparse initialisers, which cannot be imported.")
        for proto in graph.initializer:
            if wanted is None or proto.name in wanted:
                narrow = proto.data_type in element_types.READ_ONLY
                scope[proto.name] = Value(constant=to_tensor(proto), name=proto.name, narrow=narrow)

    def placeholder(self, value: onnx.ValueInfoProto, *, formal: bool = False) -> Value:
        """An input of the graph; the ``formal`` ones of a subgraph need not state a type."""
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
        """The graph, which is complete, with its constants."""
        root: dict[str, Any] = {**self.attributes, "here": torch.empty(0)}
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        return fx.GraphModule({name: root[name] for name in root if name in used}, self.graph, "OnnxGraph")

    def branch(
        self, graph: GraphProto, captured: dict[str, Value], opsets: dict[str, int], depth: int
    ) -> fx.GraphModule:
        """A subgraph as a module of its own; its inputs are the graph's, then the captured values but for constants."""
        inner = Importer(self.functions, count=self.count)
        formal: Scope = {value.name: inner.placeholder(value, formal=True) for value in graph.input}
        scope: Scope = {}
        for name, value in captured.items():
            if value.constant is not None:
                scope[name] = value
                continue
            node = inner.graph.create_node("placeholder", identifier_of(name), name=identifier_of(name))
            # what comes from the host was brought to the device for the branch
            scope[name] = Value(node=node, integer=value.integer, name=name, narrow=value.narrow)
        scope.update(formal)
        inner.read_initialisers(graph, scope)
        inner.convert(graph.node, scope, opsets, depth)
        self.count = inner.count
        inner.graph.output(tuple(inner.operand(inner.output_value(scope, output.name)) for output in graph.output))
        inner.graph.eliminate_dead_code()
        return inner.module()

    def keep_module(self, module: fx.GraphModule) -> fx.Node:
        """The node that reads a module which is part of this one."""
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
            except Exception as error:  # a node that is not as the standard says: any error may follow
                raise conversion.refusal(f"{type(error).__name__}: {error}") from error

    def attribute_node(self, value: Value, as_float: bool) -> fx.Node:
        """The node that reads a constant from the module."""
        key = (id(value), "float" if as_float else "attribute")
        if key not in self.made:
            assert value.constant is not None
            constant = value.constant.to(torch.float32) if as_float else value.constant
            name = base = identifier_of(value.name)
            number = 1
            while name in self.attributes or name == "here" or hasattr(torch.nn.Module, name):
                name = f"{base}_{number}"
                number += 1
            constant = constant.contiguous()
            if constant.is_floating_point() and constant.numel() > 1:
                constant = torch.nn.Parameter(constant, requires_grad=False)
            self.attributes[name] = constant
            self._keep(key, value, self.graph.create_node("get_attr", name, name=name))
        return self.made[key]

    def here(self) -> fx.Node:
        """The node of the empty tensor that knows the device and the floating type of the module."""
        if (0, "here") not in self.made:
            self.made[0, "here"] = self.graph.create_node("get_attr", "here", name="here")
        return self.made[0, "here"]

    def _keep(self, key: tuple[int, str], value: Value, node: fx.Node) -> None:
        self.made[key] = node
        self.kept.append(value)

    def once(self, value: Value, purpose: str, function: Any, *arguments: Any) -> fx.Node:
        """The call of a function for this value and purpose, made when it is first needed."""
        key = (id(value), purpose)
        if key not in self.made:
            self._keep(key, value, self.graph.call_function(function, arguments))
        return self.made[key]

    def operand(self, value: Value, *, host: bool = False, carried: bool = False, as_float: bool = False) -> fx.Node:
        """The node that gives a value to a tensor parameter.

        Args:
            value: the value.
            host: whether the operation runs on the host.
            carried: whether a carried integer may stay what it is.
            as_float: whether an integer constant is to be held as float.
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
            return self.once(value, "device", element_types.to_device, value.node, self.here())
        if value.integer is not None and not carried:
            return self.once(value, "integer", element_types.true_integer, value.node, value.integer)
        return value.node

    def numbers(self, value: Value, many: bool) -> Any:
        """A value as Python numbers: known at once, or read when the module runs."""
        if value.constant is not None:
            return value.constant.reshape(-1).tolist() if many else value.constant.reshape(()).item()
        source = value.node if value.host else self.operand(value)
        if many:
            return self.once(value, "numbers", element_types.to_numbers, source)
        return self.once(value, "number", element_types.to_number, source)


def describe_node(
    module: fx.GraphModule, input_names: tuple[str, ...], output_names: tuple[str, ...], fixed_batch: int | None
) -> None:
    """Set the attributes that callers read, in a way that survives ``copy.deepcopy``."""
    attributes = {"input_names": input_names, "output_names": output_names, "fixed_batch": fixed_batch}
    for name, value in attributes.items():
        setattr(module, name, value)
    module.meta[_USER_PRESERVED_ATTRIBUTES_KEY] = attributes
