"""Build one ``torch.fx`` graph from ONNX values.

``GraphBuilder`` adds inputs, constants and operands. Its subclass in ``graph.py`` adds the nodes, each converted in
``node.py``, which calls the subclass again for functions and subgraphs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import FunctionProto, GraphProto, NodeProto
from torch import Tensor, fx

from auditor.errors import NoCopy
from auditor.onnx.operators import element_types
from auditor.onnx.values import NO_TYPES, Scope, Types, Value, identifier_of, to_tensor


@dataclass
class GraphBuilder(ABC):
    """Builder of one fx graph."""

    functions: dict[tuple[str, str, str], FunctionProto]
    graph: fx.Graph = field(default_factory=fx.Graph)
    attributes: dict[str, Tensor | fx.GraphModule] = field(default_factory=dict)
    """Constants used by the device part of the graph, and branches."""
    made: dict[tuple[int, str], fx.Node] = field(default_factory=dict)
    """Nodes by id of the value and purpose, so that nothing is converted twice."""
    kept: list[Value] = field(default_factory=list)
    """Values whose ids are keys of ``made``, kept alive so that no id is reused."""

    @abstractmethod
    def convert(
        self,
        nodes: Iterable[NodeProto],
        scope: Scope,
        opsets: dict[str, int],
        depth: int,
        types: Types = NO_TYPES,
    ) -> None:
        """Add the nodes to the graph and their outputs to the scope."""

    @abstractmethod
    def branch(
        self, graph: GraphProto, captured: dict[str, Value], opsets: dict[str, int], depth: int
    ) -> fx.GraphModule:
        """Convert a subgraph to a module; its inputs: the subgraph inputs, then the non-constant captured values."""

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

    def keep_module(self, module: fx.GraphModule) -> fx.Node:
        """Return the node that reads a submodule."""
        name = f"branch_{len(self.attributes)}"
        self.attributes[name] = module
        return self.graph.create_node("get_attr", name, name=name)

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
