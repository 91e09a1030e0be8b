"""Convert one ONNX node."""

from __future__ import annotations

import operator as python_operator
from collections import ChainMap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TypeProto
from torch import fx

from auditor.errors import NoCopy
from auditor.onnx.builder import GraphBuilder
from auditor.onnx.control_flow import names_read, run_branch, run_loop, run_scan
from auditor.onnx.operators import element_types, elementwise, ml, quantised, shape
from auditor.onnx.operators.registry import MAX_ELEMENTS, Operator, Parameter, find_operator
from auditor.onnx.values import NO_TYPES, Scope, Types, Value, domain_of, identifier_of, to_tensor

MAX_HOST_CONSTANT = 4096
"""Constants with more elements are stored on the device, not written into the code of the module."""


@dataclass(frozen=True)
class Bound:
    """Operands of one node, bound to the parameters of an operator function."""

    named: dict[str, Any]
    extra: list[Value]

    def values(self) -> Iterator[Value]:
        """Yield all operands that are ONNX values."""
        yield from (value for value in self.named.values() if isinstance(value, Value))
        yield from self.extra


def _attribute(attribute: AttributeProto) -> Any:
    """Return the Python value of an attribute; a tensor becomes a Value."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return Value(constant=to_tensor(value), name=attribute.name, narrow=value.data_type in element_types.READ_ONLY)
    if attribute.type == AttributeProto.STRING:
        return value.decode()
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode() for item in value]
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    return value


@dataclass
class Conversion:
    """Conversion of one ONNX node."""

    importer: GraphBuilder
    node: NodeProto
    scope: Scope
    opsets: dict[str, int]
    depth: int
    types: Types

    def run(self) -> None:
        """Add the node to the graph and its outputs to the scope."""
        node, domain = self.node, domain_of(self.node.domain)
        if domain not in self.opsets and domain == "":
            raise self.refusal("its domain is not among the model's opset imports")
        function = self.importer.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            self._expand(function)
        elif domain == "" and node.op_type == "Constant":
            self._constant()
        elif domain == "" and node.op_type == "If":
            self._if()
        elif domain == "" and node.op_type == "Loop":
            self._loop()
        elif domain == "" and node.op_type == "Scan":
            self._scan()
        else:
            self._operator(domain)

    @property
    def version(self) -> int:
        """Opset of the node's domain."""
        return self.opsets.get(domain_of(self.node.domain), 1)

    def refusal(self, reason: object) -> NoCopy:
        """Return the error that names this node."""
        node = self.node
        name = node.name or f"writing {node.output[0] if node.output else 'nothing'}"
        return NoCopy(
            f"ONNX operator {node.op_type} (domain {node.domain or 'ai.onnx'}, opset {self.version}, node {name}) "
            f"cannot be imported: {reason}."
        )

    def _schema(self, domain: str) -> Any:
        try:
            return onnx.defs.get_schema(self.node.op_type, self.version, domain)
        except onnx.defs.SchemaError:
            return None

    def _operator(self, domain: str) -> None:
        schema = self._schema(domain)
        if self.node.op_type not in {"Cast", "DequantizeLinear"}:
            # the second input of CastLike only specifies the target type
            for name in self.node.input[self.node.op_type == "CastLike" :]:
                if (value := self._look_up(name)) is not None and value.narrow:
                    raise self.refusal(f"its input {name!r} is a 4-bit type or 8-bit float that no Cast converts")
        for attribute in self.node.attribute:
            if schema is not None and attribute.name not in schema.attributes:
                raise self.refusal(f"its attribute {attribute.name!r} does not exist in this opset")
        version = schema.since_version if schema else self.version
        operator = find_operator(domain, self.node.op_type, version)
        refusal = self.refusal("the operator is not implemented")
        if operator is not None:
            try:
                self._apply(operator, self._bind(operator, schema))
                return
            except NoCopy as error:
                # the standard's function body may support what ours does not
                refusal = error
        body, types = self._standard_function(schema)
        if body is None:
            raise refusal
        try:
            self._expand(body, _defaults(schema), types)
        except NoCopy:
            if operator is None:
                raise
            raise refusal from None

    def _standard_function(self, schema: Any) -> tuple[FunctionProto | None, Types]:
        """Return the function body that the standard defines for this operator, and the types of its values."""
        if schema is None:
            return None, NO_TYPES
        if schema.has_function:
            return schema.function_body, NO_TYPES
        if not schema.has_context_dependent_function:
            return None, NO_TYPES
        input_types = {name: self.types.of(name, self._look_up(name)) for name in self.node.input if name}
        if any(known is None for known in input_types.values()):
            return None, NO_TYPES
        protos = [(input_types[name] if name else None) or TypeProto() for name in self.node.input]
        body = FunctionProto()
        body.ParseFromString(
            schema.get_context_dependent_function(
                self.node.SerializeToString(), [proto.SerializeToString() for proto in protos]
            )
        )
        if not body.node:
            return None, NO_TYPES
        return body, Types(lambda: _typed(body, protos, {entry.name: entry for entry in self.node.attribute}))

    def _look_up(self, name: str) -> Value | None:
        """Return the value of an input; None if it is omitted."""
        if not name:
            return None
        if name not in self.scope:
            raise self.refusal(f"no node writes its input {name!r}")
        return self.scope[name]

    def _constant(self) -> None:
        if len(self.node.attribute) != 1:
            raise self.refusal("it must have exactly one attribute")
        (attribute,) = self.node.attribute
        value = _attribute(attribute)
        if attribute.name in ("value_float", "value_floats"):
            value = Value(constant=torch.tensor(value, dtype=torch.float32))
        elif attribute.name in ("value_int", "value_ints"):
            value = Value(constant=torch.tensor(value, dtype=torch.int64))
        elif attribute.name != "value":
            raise self.refusal(f"a constant in the attribute {attribute.name} is not supported")
        self.scope[self.node.output[0]] = Value(constant=value.constant, name=self.node.output[0], narrow=value.narrow)

    def _if(self) -> None:
        """Inline the selected branch of a constant condition; otherwise import both branches as modules."""
        condition = self._look_up(self.node.input[0])
        branches = {attribute.name: attribute.g for attribute in self.node.attribute}
        if condition is None:
            raise self.refusal("it has no condition")
        if condition.constant is None:
            self._choose(condition, branches["then_branch"], branches["else_branch"])
            return
        graph = branches["then_branch" if condition.constant.reshape(()).item() else "else_branch"]
        inner: Scope = ChainMap({}, self.scope)
        self.importer.read_initialisers(graph, inner)
        self.importer.convert(graph.node, inner, self.opsets, self.depth + 1)
        self._export(inner, [output.name for output in graph.output])

    def _captured(self, *graphs: GraphProto) -> dict[str, Value]:
        """Return the values of the enclosing scope that the graphs read."""
        names = sorted({name for graph in graphs for name in names_read(graph)} & set(self.scope))
        return {name: value for name in names if (value := self.scope[name]) is not None}

    def _run(
        self, function: Any, arguments: tuple[Any, ...], values: Iterable[Value], *, carried: bool = False
    ) -> None:
        """Call a function that runs subgraphs, with the operands ``arguments`` and then ``values``."""
        importer = self.importer
        passed = [importer.operand(value, carried=carried) for value in values]
        modules = [importer.keep_module(a) if isinstance(a, fx.GraphModule) else a for a in arguments]
        call = importer.graph.call_function(function, (*modules, *passed))
        for index, name in enumerate(self.node.output):
            if name:
                node = importer.graph.call_function(python_operator.getitem, (call, index))
                self.scope[name] = Value(node=node, name=name)

    def _loop(self) -> None:
        """Import the loop body as a module."""
        body = next(attribute.g for attribute in self.node.attribute if attribute.name == "body")
        count, condition, *state = [self._look_up(name) for name in self.node.input]
        if any(value is None for value in state):
            raise self.refusal("a loop-carried value is omitted")
        limit = None if count is None else self.importer.numbers(count, False)
        start = None if condition is None else self.importer.numbers(condition, False)
        captured = self._captured(body)
        module = self.importer.branch(body, captured, self.opsets, self.depth + 1)
        passed = [value for value in state if value] + [v for v in captured.values() if v.constant is None]
        self._run(run_loop, (limit, start, module, len(state)), passed)

    def _scan(self) -> None:
        """Import the scan body as a module that runs over the entries of an axis."""
        if self.version < 9:
            raise self.refusal("before opset 9 it takes sequences of different lengths")
        attributes = {attribute.name: _attribute(attribute) for attribute in self.node.attribute}
        body, inputs = attributes["body"], attributes["num_scan_inputs"]
        values = [value for name in self.node.input if (value := self._look_up(name)) is not None]
        states = len(values) - inputs
        outputs = len(body.output) - states
        axes = attributes.get("scan_input_axes") or [0] * inputs, attributes.get("scan_output_axes") or [0] * outputs
        backwards = attributes.get("scan_input_directions"), attributes.get("scan_output_directions")
        read = zip(axes[0], map(bool, backwards[0] or [0] * inputs), strict=True)
        written = zip(axes[1], map(bool, backwards[1] or [0] * outputs), strict=True)
        captured = self._captured(body)
        module = self.importer.branch(body, captured, self.opsets, self.depth + 1)
        passed = values + [value for value in captured.values() if value.constant is None]
        self._run(run_scan, (module, states, tuple(read), tuple(written)), passed)

    def _choose(self, condition: Value, then_branch: GraphProto, else_branch: GraphProto) -> None:
        """Import both branches of a condition that depends on the input; the module selects one when it runs."""
        captured = self._captured(then_branch, else_branch)
        modules = [
            self.importer.branch(graph, captured, self.opsets, self.depth + 1) for graph in (then_branch, else_branch)
        ]
        passed = [value for value in captured.values() if value.constant is None]
        self._run(run_branch, (self.importer.numbers(condition, False), *modules), passed, carried=True)

    def _export(self, inner: Scope, names: Iterable[str]) -> None:
        """Assign the outputs of a subgraph or function body to the outputs of the node."""
        for outer_name, inner_name in zip(self.node.output, names, strict=False):
            if outer_name:
                self.scope[outer_name] = inner[inner_name]

    def _expand(
        self, function: FunctionProto, defaults: dict[str, AttributeProto] | None = None, types: Types = NO_TYPES
    ) -> None:
        """Convert the nodes of a function body in place of this node."""
        if len(self.node.input) > len(function.input) or len(self.node.output) > len(function.output):
            raise self.refusal("it has more inputs or outputs than its function")
        inner: Scope = dict.fromkeys(function.input)
        for formal, actual in zip(function.input, self.node.input, strict=False):
            inner[formal] = self._look_up(actual)
        attributes = (defaults or {}) | {attribute.name: attribute for attribute in function.attribute_proto}
        attributes |= {attribute.name: attribute for attribute in self.node.attribute}
        opsets = self.opsets | {domain_of(entry.domain): entry.version for entry in function.opset_import}
        body = [_with_attributes(node, attributes) for node in function.node]
        self.importer.convert(body, inner, opsets, self.depth + 1, types)
        self._export(inner, function.output)

    def _bind(self, operator: Operator, schema: Any) -> Bound:
        """Bind required inputs by position, optional inputs and attributes by name."""
        named: dict[str, Any] = {}
        extra: list[Value] = []
        positional = [parameter.name for parameter in operator.parameters.values() if parameter.positional]
        for index, input_name in enumerate(self.node.input):
            value = self._look_up(input_name)
            formal = schema.inputs[index] if schema and index < len(schema.inputs) else None
            if formal is not None and formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
                name = formal.name
            elif index < len(positional):
                name = positional[index]
            elif operator.variadic is not None and value is not None:
                extra.append(value)
                continue
            else:
                raise self.refusal(f"input {index + 1} is unknown")
            if value is not None or (index < len(positional) and name == positional[index]):
                named[name] = value
        for attribute in self.node.attribute:
            if attribute.name in named:
                raise self.refusal(f"{attribute.name!r} is both an input and an attribute")
            named[attribute.name] = _attribute(attribute)
        for name, attribute in _defaults(schema).items() if schema else ():
            if name in operator.parameters:
                named.setdefault(name, _attribute(attribute))
        for name in named:
            if name not in operator.parameters:
                raise self.refusal(f"{name!r} is not supported")
        return Bound({name: value for name, value in named.items() if value is not None or name in positional}, extra)

    def _apply(self, operator: Operator, bound: Bound) -> None:
        """Compute the node at import, or add it to the graph."""
        constant = not operator.sequences and all(value.constant is not None for value in bound.values())
        host = (
            not operator.reads_shape
            and not operator.sequences
            and all(value.constant is not None or value.host for value in bound.values())
        )
        large = any(
            value.constant is not None and value.constant.numel() > MAX_HOST_CONSTANT for value in bound.values()
        )
        host = host and not large
        arguments = {
            name: self._argument(operator.parameters[name], value, operator, constant, host or operator.reads_shape)
            for name, value in bound.named.items()
        }
        extra = [
            self._argument(operator.variadic, value, operator, constant, host)
            for value in bound.extra
            if operator.variadic
        ]
        integers = [self._integer(operator, source, bound) for source in operator.integer_type]
        outputs = max((index + 1 for index, name in enumerate(self.node.output) if name), default=0)
        if "reference" in operator.injected:
            arguments["reference"] = (
                torch.empty(0) if constant else self._host_reference() if host else self.importer.reference()
            )
        if "outputs" in operator.injected:
            arguments["outputs"] = outputs
        if "integer" in operator.injected:
            arguments["integer"] = integers[0]
        if outputs > 1 and not operator.multiple:
            raise self.refusal(f"its output {outputs} is not supported")
        positional = []
        if extra:
            names = [parameter.name for parameter in operator.parameters.values() if parameter.positional]
            positional = [arguments.pop(name) for name in names] + extra
        if constant:
            self._fold(operator, positional, arguments, integers)
        else:
            self._call(operator, positional, arguments, integers, host or operator.reads_shape)

    def _host_reference(self) -> fx.Node:
        value = Value(constant=torch.empty(0))
        return self.importer.operand(value, host=True)

    def _argument(self, parameter: Parameter, value: Any, operator: Operator, constant: bool, host: bool) -> Any:
        """Return the argument for one parameter of the operator function."""
        if not isinstance(value, Value):
            self._check_allowed(parameter, value)
            return value
        if parameter.tensor:
            if constant:
                return value.constant
            # an operand of which only the shape is read needs no transfer between host and device
            in_place = operator.reads_shape and value.constant is None
            return (
                value.node
                if in_place
                else self.importer.operand(
                    value,
                    host=host,
                    carried=parameter.name in operator.carried,
                    as_float=parameter.name in operator.as_float,
                )
            )
        if parameter.allowed is not None and value.constant is None:
            raise self.refusal(f"{parameter.name!r} must be constant")
        if value.constant is not None and not parameter.many and value.constant.numel() != 1:
            raise self.refusal(f"{parameter.name!r} has {value.constant.numel()} values, expected one")
        numbers = self.importer.numbers(value, parameter.many)
        self._check_allowed(parameter, numbers)
        return numbers

    def _check_allowed(self, parameter: Parameter, value: Any) -> None:
        if parameter.allowed is not None and value is not None and value not in parameter.allowed:
            raise self.refusal(f"{parameter.name} = {value!r} is not supported")

    def _integer(self, operator: Operator, source: str | torch.dtype | None, bound: Bound) -> torch.dtype | None:
        """Return the ONNX integer type of an output, None if it needs none; ``source``: see ``Operator``."""
        if not isinstance(source, str):
            return source
        for name in source.split():
            if operator.variadic is not None and name == operator.variadic.name:
                types = [dtype for value in bound.extra if (dtype := _integer_type(value))]
                if types:
                    return types[0]
            elif name in operator.parameters:
                operand = bound.named.get(name)
                if isinstance(operand, int) and operand:
                    dtype = self._element_type(operand)
                    return dtype if element_types.is_integer(dtype) else None
                if isinstance(operand, Value) and (dtype := _integer_type(operand)):
                    return dtype
            else:
                fallback: torch.dtype = getattr(torch, name)
                return fallback
        return None

    def _element_type(self, number: int) -> torch.dtype:
        try:
            return element_types.torch_type_of_result(number)
        except NotImplementedError as error:
            raise self.refusal(error) from error

    def _fold(
        self, operator: Operator, positional: list[Any], arguments: dict[str, Any], integers: list[torch.dtype | None]
    ) -> None:
        """Compute the node at import: all of its operands are constants."""
        try:
            with torch.no_grad():
                result = operator.function(*positional, **arguments)
        except Exception as error:
            raise self.refusal(f"its constant operands raise {type(error).__name__}: {error}") from error
        results = list(result) if operator.multiple else [result]
        for index, name in enumerate(self.node.output):
            if not name:
                continue
            tensor = results[index]
            if tensor.numel() > MAX_ELEMENTS:
                raise self.refusal(f"it creates a constant of {tensor.numel()} elements, more than {MAX_ELEMENTS}")
            integer = integers[index] if index < len(integers) else None
            tensor = tensor if integer is None else element_types.true_integer(tensor, integer)
            self.scope[name] = Value(constant=tensor, name=name)

    def _call(
        self,
        operator: Operator,
        positional: list[Any],
        arguments: dict[str, Any],
        integers: list[torch.dtype | None],
        host: bool,
    ) -> None:
        """Add the node to the graph."""
        graph = self.importer.graph
        first = identifier_of(self.node.output[0])
        call = graph.create_node("call_function", operator.function, tuple(positional), arguments, name=first)
        same = len(integers) == 1 and len(self.node.output) > 1
        for index, name in enumerate(self.node.output):
            if not name:
                continue
            node = graph.call_function(python_operator.getitem, (call, index)) if operator.multiple else call
            integer = integers[0] if same else integers[index] if index < len(integers) else None
            if host and integer is not None:
                node = graph.call_function(element_types.true_integer, (node, integer))
            self.scope[name] = Value(node=node, host=host, integer=None if host else integer, name=name)


def _defaults(schema: Any) -> dict[str, AttributeProto]:
    """Return the attributes that have a default in this version of an operator."""
    return {
        name: attribute.default_value
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != AttributeProto.UNDEFINED
    }


def _integer_type(value: Value) -> torch.dtype | None:
    """Return the ONNX integer type of a value, None if unknown."""
    if value.constant is not None and element_types.is_integer(value.constant.dtype):
        return value.constant.dtype
    return value.integer


def _typed(function: FunctionProto, inputs: list[TypeProto], attributes: dict[str, AttributeProto]) -> onnx.ModelProto:
    """Return a function body as a model with typed inputs, so that the types of its other values can be inferred."""
    values = [onnx.ValueInfoProto(name=name, type=type_) for name, type_ in zip(function.input, inputs, strict=False)]
    nodes = [_with_attributes(node, attributes) for node in function.node]
    graph = onnx.helper.make_graph(nodes, "function", [value for value in values if value.type.WhichOneof("value")], [])
    return onnx.helper.make_model(graph, opset_imports=function.opset_import)


def _with_attributes(node: NodeProto, attributes: dict[str, AttributeProto]) -> NodeProto:
    """Copy a node of a function body with the references to the function's attributes replaced."""
    result = NodeProto()
    result.CopyFrom(node)
    del result.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copied = result.attribute.add()
            copied.CopyFrom(attribute)
            graphs = [copied.g] if attribute.type == AttributeProto.GRAPH else list(copied.graphs)
            for graph in graphs:
                inner = [_with_attributes(child, attributes) for child in graph.node]
                del graph.node[:]
                graph.node.extend(inner)
        elif attribute.ref_attr_name in attributes:
            copied = result.attribute.add()
            copied.CopyFrom(attributes[attribute.ref_attr_name])
            copied.name = attribute.name
    return result


SHAPES: set[Any] = {elementwise.Identity, shape.Reshape, shape.Flatten, shape.Squeeze, shape.Unsqueeze, ml.ZipMap}
ROUNDINGS: set[Any] = {
    elementwise.Cast,
    element_types.true_integer,
    quantised.QuantizeLinear,
    quantised.DequantizeLinear,
}
