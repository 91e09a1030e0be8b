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

import functools
import heapq
import operator as python_operator
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, TypeProto, numpy_helper
from torch import Tensor, fx
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from auditor.errors import NoCopy
from auditor.loading.operators import element_types, elementwise, fusion, ml, quantised, reduction, shape
from auditor.loading.operators.registry import MAX_ELEMENTS, Operator, Parameter, find_operator

OLDEST_OPSET = 7
"""Before it broadcasting and batch normalisation had other rules."""
MAX_NODES = 100_000
"""Nodes after all functions are expanded; the largest vision transformers have about 6,000."""
MAX_DEPTH = 32
"""Functions within functions, and graphs within graphs."""
MAX_HOST_CONSTANT = 4096
"""A constant with more elements is not written into the code of the module but kept on the device."""


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of one ONNX value while the graph is built: it is a constant or a node."""

    constant: Tensor | None = None
    node: fx.Node | None = None
    host: bool = False
    integer: torch.dtype | None = None
    name: str = ""
    narrow: bool = False
    """Of 4 bits, or an 8-bit float: it is held in a wider type, and can only be read into an ordinary one."""


Scope = MutableMapping[str, Value | None]
"""Values by name; None stands for an optional input that was left out."""


@dataclass(frozen=True)
class Bound:
    """The operands of one node, bound to the parameters of an operator function."""

    named: dict[str, Any]
    extra: list[Value]

    def values(self) -> Iterator[Value]:
        """All operands that are ONNX values."""
        yield from (value for value in self.named.values() if isinstance(value, Value))
        yield from self.extra


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
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if "" in opsets and not OLDEST_OPSET <= opsets[""] <= newest:
        raise NoCopy(f"The model has ONNX opset {opsets['']}; opsets {OLDEST_OPSET} to {newest} can be imported.")
    functions = {(_domain(entry.domain), entry.name, entry.overload): entry for entry in model.functions}
    names = tuple(output.name for output in model.graph.output) if outputs is None else tuple(outputs)
    return _Importer(functions).import_graph(model.graph, opsets, names, _Types(lambda: model))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _identifier(name: str) -> str:
    """A Python name that still looks like the ONNX name."""
    return "v" + cleaned if (cleaned := re.sub(r"\W+", "_", name).strip("_"))[:1].isdigit() else cleaned or "v"


def _to_tensor(proto: TensorProto) -> Tensor:
    """A constant tensor of its own."""
    if proto.data_location == TensorProto.EXTERNAL:
        raise NoCopy(f"The tensor {proto.name!r} keeps its data in a file that was not loaded.")
    elements = 1
    for size in proto.dims:
        elements *= size
    if elements > MAX_ELEMENTS:
        raise NoCopy(f"The tensor {proto.name!r} has {elements} elements, more than {MAX_ELEMENTS}.")
    try:
        dtype = element_types.torch_type(proto.data_type)
        return element_types.from_numpy(numpy_helper.to_array(proto), dtype)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise NoCopy(f"The tensor {proto.name!r} cannot be read: {error}.") from error


def _attribute(attribute: AttributeProto) -> Any:
    """The Python value of an attribute; a tensor becomes a Value."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return Value(constant=_to_tensor(value), name=attribute.name, narrow=value.data_type in element_types.READ_ONLY)
    if attribute.type == AttributeProto.STRING:
        return value.decode()
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode() for item in value]
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    return value


def _names_used(node: NodeProto) -> Iterator[str]:
    """All names that a node reads, also from within its subgraphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            yield from _names_read(graph)


def _names_read(graph: GraphProto) -> Iterator[str]:
    """All names that the nodes and outputs of a graph read."""
    for node in graph.node:
        yield from _names_used(node)
    yield from (output.name for output in graph.output)


class _Types:
    """Types of the values of a graph, inferred when they are first asked for.

    Only the functions that the standard writes for the types of a node's inputs need them.
    """

    def __init__(self, model: Callable[[], onnx.ModelProto]) -> None:
        self._model = model

    @functools.cached_property
    def _found(self) -> dict[str, TypeProto]:
        graph = self._model().graph
        try:
            inferred = onnx.shape_inference.infer_shapes(self._model(), data_prop=True).graph
        except Exception:  # larger than protobuf's 2 GiB, or not as the standard says
            inferred = graph
        found = {tensor.name: _tensor_type(tensor) for tensor in graph.initializer}
        return found | {value.name: value.type for value in [*inferred.value_info, *graph.input, *inferred.output]}

    def of(self, name: str, value: Value | None) -> TypeProto | None:
        """The type of a value, None where it is not known."""
        if value is not None and value.constant is not None:
            array = element_types.to_numpy(value.constant)
            return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        found = self._found.get(name)
        return found if found is not None and found.tensor_type.elem_type else None


_NO_TYPES = _Types(onnx.ModelProto)


def _tensor_type(tensor: TensorProto) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


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


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes, which are sorted, that the outputs depend on."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_names_used(node))
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
        for source in {producer[name] for name in _names_used(node) if name in producer}:
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
class _Importer:
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
        self, graph: GraphProto, opsets: dict[str, int], names: tuple[str, ...], types: _Types
    ) -> fx.GraphModule:
        """The part of the graph that the outputs called ``names`` depend on, as a module."""
        scope: Scope = {}
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        for value in inputs:
            scope[value.name] = self.placeholder(value)
        nodes = _needed(sort_nodes(graph.node), names)
        self.read_initialisers(graph, scope, {name for node in nodes for name in _names_used(node)}.union(names))
        self.convert(nodes, scope, opsets, 0, types)
        self.graph.output(tuple(self.operand(self.output_value(scope, name), carried=True) for name in names))
        self.graph.eliminate_dead_code()
        fusion.fuse(self.graph, self.attributes)
        module = self.module()
        dims = inputs[0].type.tensor_type.shape.dim if inputs else []
        fixed = dims[0].dim_value if len(dims) and dims[0].HasField("dim_value") else None
        _describe(module, tuple(value.name for value in inputs), names, fixed)
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
                scope[proto.name] = Value(constant=_to_tensor(proto), name=proto.name, narrow=narrow)

    def placeholder(self, value: onnx.ValueInfoProto, *, formal: bool = False) -> Value:
        """An input of the graph; the ``formal`` ones of a subgraph need not state a type."""
        node = self.graph.create_node("placeholder", _identifier(value.name), name=_identifier(value.name))
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
        inner = _Importer(self.functions, count=self.count)
        formal: Scope = {value.name: inner.placeholder(value, formal=True) for value in graph.input}
        scope: Scope = {}
        for name, value in captured.items():
            if value.constant is not None:
                scope[name] = value
                continue
            node = inner.graph.create_node("placeholder", _identifier(name), name=_identifier(name))
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
        types: _Types = _NO_TYPES,
    ) -> None:
        """Add the nodes to the graph and their outputs to the scope."""
        if depth > MAX_DEPTH:
            raise NoCopy(f"Functions or subgraphs of the ONNX graph are nested more than {MAX_DEPTH} deep.")
        for node in sort_nodes(nodes):
            self.count += 1
            if self.count > MAX_NODES:
                raise NoCopy(f"The ONNX graph has more than {MAX_NODES} nodes once its functions are expanded.")
            conversion = _Conversion(self, node, scope, opsets, depth, types)
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
            name = base = _identifier(value.name)
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


def _describe(
    module: fx.GraphModule, input_names: tuple[str, ...], output_names: tuple[str, ...], fixed_batch: int | None
) -> None:
    """Set the attributes that callers read, in a way that survives ``copy.deepcopy``."""
    attributes = {"input_names": input_names, "output_names": output_names, "fixed_batch": fixed_batch}
    for name, value in attributes.items():
        setattr(module, name, value)
    module.meta[_USER_PRESERVED_ATTRIBUTES_KEY] = attributes


@dataclass
class _Conversion:
    """One ONNX node on its way into the graph."""

    importer: _Importer
    node: NodeProto
    scope: Scope
    opsets: dict[str, int]
    depth: int
    types: _Types

    def run(self) -> None:
        """Add the node to the graph and its outputs to the scope."""
        node, domain = self.node, _domain(self.node.domain)
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
        """The opset of the node's domain."""
        return self.opsets.get(_domain(self.node.domain), 1)

    def refusal(self, why: object) -> NoCopy:
        """The error that names this node."""
        node = self.node
        name = node.name or f"that writes {node.output[0] if node.output else 'nothing'}"
        return NoCopy(
            f"ONNX operator {node.op_type} (domain {node.domain or 'ai.onnx'}, opset {self.version}, node {name}) "
            f"cannot be imported: {why}."
        )

    def _schema(self, domain: str) -> Any:
        try:
            return onnx.defs.get_schema(self.node.op_type, self.version, domain)
        except onnx.defs.SchemaError:
            return None

    def _operator(self, domain: str) -> None:
        schema = self._schema(domain)
        if self.node.op_type not in {"Cast", "DequantizeLinear"}:
            # of CastLike the second input says what the first becomes
            for name in self.node.input[self.node.op_type == "CastLike" :]:
                if (value := self._look_up(name)) is not None and value.narrow:
                    raise self.refusal(
                        f"its input {name!r} has 4 bits or is an 8-bit float, and not the result of a Cast"
                    )
        for attribute in self.node.attribute:
            if schema is not None and attribute.name not in schema.attributes:
                raise self.refusal(f"its attribute {attribute.name!r} does not exist in this opset")
        version = schema.since_version if schema else self.version
        found = find_operator(domain, self.node.op_type, version)
        refusal = self.refusal("there is no function for it")
        if found is not None:
            try:
                self._apply(found, self._bind(found, schema))
                return
            except NoCopy as error:
                # what our function does not know, the one that the standard writes may
                refusal = error
        body, types = self._standard_function(schema)
        if body is None:
            raise refusal
        try:
            self._expand(body, _defaults(schema), types)
        except NoCopy:
            if found is None:
                raise
            raise refusal from None

    def _standard_function(self, schema: Any) -> tuple[FunctionProto | None, _Types]:
        """The body that the standard gives for this operator, and the types of what is in it."""
        if schema is None:
            return None, _NO_TYPES
        if schema.has_function:
            return schema.function_body, _NO_TYPES
        if not schema.has_context_dependent_function:
            return None, _NO_TYPES
        types = {name: self.types.of(name, self._look_up(name)) for name in self.node.input if name}
        if any(found is None for found in types.values()):
            return None, _NO_TYPES
        texts = [(types[name] if name else None) or TypeProto() for name in self.node.input]
        body = FunctionProto()
        body.ParseFromString(
            schema.get_context_dependent_function(
                self.node.SerializeToString(), [text.SerializeToString() for text in texts]
            )
        )
        if not body.node:
            return None, _NO_TYPES
        return body, _Types(lambda: _typed(body, texts, {entry.name: entry for entry in self.node.attribute}))

    def _look_up(self, name: str) -> Value | None:
        """The value of an input; None if it is left out."""
        if not name:
            return None
        if name not in self.scope:
            raise self.refusal(f"no node writes its input {name!r}")
        return self.scope[name]

    def _constant(self) -> None:
        if len(self.node.attribute) != 1:
            raise self.refusal("it has not exactly one attribute")
        (attribute,) = self.node.attribute
        value = _attribute(attribute)
        if attribute.name in ("value_float", "value_floats"):
            value = Value(constant=torch.tensor(value, dtype=torch.float32))
        elif attribute.name in ("value_int", "value_ints"):
            value = Value(constant=torch.tensor(value, dtype=torch.int64))
        elif attribute.name != "value":
            raise self.refusal(f"constants given as {attribute.name} are not supported")
        self.scope[self.node.output[0]] = Value(constant=value.constant, name=self.node.output[0], narrow=value.narrow)

    def _if(self) -> None:
        """The one branch of a constant condition in place of the node; otherwise both, as modules of their own."""
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
        """The values around the graphs that they read."""
        names = sorted({name for graph in graphs for name in _names_read(graph)} & set(self.scope))
        return {name: value for name in names if (value := self.scope[name]) is not None}

    def _run(
        self, function: Any, arguments: tuple[Any, ...], values: Iterable[Value], *, carried: bool = False
    ) -> None:
        """Add the call of a function that runs subgraphs; its operands are ``arguments`` and then ``values``."""
        importer = self.importer
        passed = [importer.operand(value, carried=carried) for value in values]
        modules = [importer.keep_module(a) if isinstance(a, fx.GraphModule) else a for a in arguments]
        call = importer.graph.call_function(function, (*modules, *passed))
        for place, name in enumerate(self.node.output):
            if name:
                node = importer.graph.call_function(python_operator.getitem, (call, place))
                self.scope[name] = Value(node=node, name=name)

    def _loop(self) -> None:
        """A body as a module of its own that runs again and again."""
        body = next(attribute.g for attribute in self.node.attribute if attribute.name == "body")
        count, condition, *state = [self._look_up(name) for name in self.node.input]
        if any(value is None for value in state):
            raise self.refusal("a value that it carries is left out")
        limit = None if count is None else self.importer.numbers(count, False)
        going = None if condition is None else self.importer.numbers(condition, False)
        captured = self._captured(body)
        module = self.importer.branch(body, captured, self.opsets, self.depth + 1)
        passed = [value for value in state if value] + [v for v in captured.values() if v.constant is None]
        self._run(run_loop, (limit, going, module, len(state)), passed)

    def _scan(self) -> None:
        """A body as a module of its own that runs over the entries of an axis."""
        if self.version < 9:
            raise self.refusal("before opset 9 it has sequences of several lengths")
        given = {attribute.name: _attribute(attribute) for attribute in self.node.attribute}
        body, inputs = given["body"], given["num_scan_inputs"]
        values = [value for name in self.node.input if (value := self._look_up(name)) is not None]
        states = len(values) - inputs
        outputs = len(body.output) - states
        axes = given.get("scan_input_axes") or [0] * inputs, given.get("scan_output_axes") or [0] * outputs
        backwards = given.get("scan_input_directions"), given.get("scan_output_directions")
        read = zip(axes[0], map(bool, backwards[0] or [0] * inputs), strict=True)
        written = zip(axes[1], map(bool, backwards[1] or [0] * outputs), strict=True)
        captured = self._captured(body)
        module = self.importer.branch(body, captured, self.opsets, self.depth + 1)
        passed = values + [value for value in captured.values() if value.constant is None]
        self._run(run_scan, (module, states, tuple(read), tuple(written)), passed)

    def _choose(self, condition: Value, then_branch: GraphProto, else_branch: GraphProto) -> None:
        """A condition that depends on the input: the branch is chosen when the module runs."""
        captured = self._captured(then_branch, else_branch)
        modules = [
            self.importer.branch(graph, captured, self.opsets, self.depth + 1) for graph in (then_branch, else_branch)
        ]
        passed = [value for value in captured.values() if value.constant is None]
        self._run(run_branch, (self.importer.numbers(condition, False), *modules), passed, carried=True)

    def _export(self, inner: Scope, names: Iterable[str]) -> None:
        """The outputs of a subgraph or function body become the outputs of the node."""
        for outer_name, inner_name in zip(self.node.output, names, strict=False):
            if outer_name:
                self.scope[outer_name] = inner[inner_name]

    def _expand(
        self, function: FunctionProto, defaults: dict[str, AttributeProto] | None = None, types: _Types = _NO_TYPES
    ) -> None:
        """Convert the nodes of a function's body in place of this node."""
        if len(self.node.input) > len(function.input) or len(self.node.output) > len(function.output):
            raise self.refusal("it has more inputs or outputs than its function")
        inner: Scope = dict.fromkeys(function.input)
        for formal, actual in zip(function.input, self.node.input, strict=False):
            inner[formal] = self._look_up(actual)
        given = (defaults or {}) | {attribute.name: attribute for attribute in function.attribute_proto}
        given |= {attribute.name: attribute for attribute in self.node.attribute}
        opsets = self.opsets | {_domain(entry.domain): entry.version for entry in function.opset_import}
        body = [_with_attributes(node, given) for node in function.node]
        self.importer.convert(body, inner, opsets, self.depth + 1, types)
        self._export(inner, function.output)

    def _bind(self, found: Operator, schema: Any) -> Bound:
        """Required inputs by position, optional inputs and attributes by name."""
        named: dict[str, Any] = {}
        extra: list[Value] = []
        positional = [parameter.name for parameter in found.parameters.values() if parameter.positional]
        for place, input_name in enumerate(self.node.input):
            value = self._look_up(input_name)
            formal = schema.inputs[place] if schema and place < len(schema.inputs) else None
            if formal is not None and formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
                name = formal.name
            elif place < len(positional):
                name = positional[place]
            elif found.variadic is not None and value is not None:
                extra.append(value)
                continue
            else:
                raise self.refusal(f"input {place + 1} is not known")
            if value is not None or (place < len(positional) and name == positional[place]):
                named[name] = value
        for attribute in self.node.attribute:
            if attribute.name in named:
                raise self.refusal(f"{attribute.name!r} is given twice")
            named[attribute.name] = _attribute(attribute)
        for name, attribute in _defaults(schema).items() if schema else ():
            if name in found.parameters:
                named.setdefault(name, _attribute(attribute))
        for name in named:
            if name not in found.parameters:
                raise self.refusal(f"{name!r} is not supported")
        return Bound({name: value for name, value in named.items() if value is not None or name in positional}, extra)

    def _apply(self, found: Operator, bound: Bound) -> None:
        """Compute the node now, or add it to the graph."""
        constant = not found.sequences and all(value.constant is not None for value in bound.values())
        host = (
            not found.reads_shape
            and not found.sequences
            and all(value.constant is not None or value.host for value in bound.values())
        )
        large = any(
            value.constant is not None and value.constant.numel() > MAX_HOST_CONSTANT for value in bound.values()
        )
        host = host and not large
        arguments = {
            name: self._argument(found.parameters[name], value, found, constant, host or found.reads_shape)
            for name, value in bound.named.items()
        }
        extra = [
            self._argument(found.variadic, value, found, constant, host) for value in bound.extra if found.variadic
        ]
        integers = [self._integer(found, gives, bound) for gives in found.gives]
        outputs = max((place + 1 for place, name in enumerate(self.node.output) if name), default=0)
        if "here" in found.filled_in:
            arguments["here"] = torch.empty(0) if constant else self._host_here() if host else self.importer.here()
        if "outputs" in found.filled_in:
            arguments["outputs"] = outputs
        if "integer" in found.filled_in:
            arguments["integer"] = integers[0]
        if outputs > 1 and not found.multiple:
            raise self.refusal(f"its output {outputs} is not supported")
        positional = []
        if extra:
            names = [parameter.name for parameter in found.parameters.values() if parameter.positional]
            positional = [arguments.pop(name) for name in names] + extra
        if constant:
            self._fold(found, positional, arguments, integers)
        else:
            self._call(found, positional, arguments, integers, host or found.reads_shape)

    def _host_here(self) -> fx.Node:
        value = Value(constant=torch.empty(0))
        return self.importer.operand(value, host=True)

    def _argument(self, parameter: Parameter, value: Any, found: Operator, constant: bool, host: bool) -> Any:
        """What the function gets for one parameter."""
        if not isinstance(value, Value):
            self._check_allowed(parameter, value)
            return value
        if parameter.tensor:
            if constant:
                return value.constant
            # a function that reads the shape of its operand only takes it wherever it is
            keep = found.reads_shape and value.constant is None
            return (
                value.node
                if keep
                else self.importer.operand(
                    value, host=host, carried=parameter.name in found.takes, as_float=parameter.name in found.as_float
                )
            )
        if parameter.allowed is not None and value.constant is None:
            raise self.refusal(f"{parameter.name!r} is not constant")
        if value.constant is not None and not parameter.many and value.constant.numel() != 1:
            raise self.refusal(f"{parameter.name!r} has {value.constant.numel()} values where one is expected")
        numbers = self.importer.numbers(value, parameter.many)
        self._check_allowed(parameter, numbers)
        return numbers

    def _check_allowed(self, parameter: Parameter, value: Any) -> None:
        if parameter.allowed is not None and value is not None and value not in parameter.allowed:
            raise self.refusal(f"{parameter.name} = {value!r} is not supported")

    def _integer(self, found: Operator, gives: str | torch.dtype | None, bound: Bound) -> torch.dtype | None:
        """The integer type of an output, if it is one that must be known."""
        if not isinstance(gives, str):
            return gives
        for name in gives.split():
            if found.variadic is not None and name == found.variadic.name:
                types = [dtype for value in bound.extra if (dtype := _integer_type(value))]
                if types:
                    return types[0]
            elif name in found.parameters:
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
        self, found: Operator, positional: list[Any], arguments: dict[str, Any], integers: list[torch.dtype | None]
    ) -> None:
        """Compute the node now: all of its operands are constants."""
        try:
            with torch.no_grad():
                result = found.function(*positional, **arguments)
        except Exception as error:
            raise self.refusal(f"its constant operands raise {type(error).__name__}: {error}") from error
        results = list(result) if found.multiple else [result]
        for place, name in enumerate(self.node.output):
            if not name:
                continue
            tensor = results[place]
            if tensor.numel() > MAX_ELEMENTS:
                raise self.refusal(f"it makes a constant of {tensor.numel()} elements, more than {MAX_ELEMENTS}")
            integer = integers[place] if place < len(integers) else None
            tensor = tensor if integer is None else element_types.true_integer(tensor, integer)
            self.scope[name] = Value(constant=tensor, name=name)

    def _call(
        self,
        found: Operator,
        positional: list[Any],
        arguments: dict[str, Any],
        integers: list[torch.dtype | None],
        host: bool,
    ) -> None:
        """Add the node to the graph."""
        graph = self.importer.graph
        first = _identifier(self.node.output[0])
        call = graph.create_node("call_function", found.function, tuple(positional), arguments, name=first)
        same = len(integers) == 1 and len(self.node.output) > 1
        for place, name in enumerate(self.node.output):
            if not name:
                continue
            node = graph.call_function(python_operator.getitem, (call, place)) if found.multiple else call
            integer = integers[0] if same else integers[place] if place < len(integers) else None
            if host and integer is not None:
                node = graph.call_function(element_types.true_integer, (node, integer))
            self.scope[name] = Value(node=node, host=host, integer=None if host else integer, name=name)


def _defaults(schema: Any) -> dict[str, AttributeProto]:
    """The attributes that have a default in this version of an operator."""
    return {
        name: attribute.default_value
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != AttributeProto.UNDEFINED
    }


def _integer_type(value: Value) -> torch.dtype | None:
    """The ONNX integer type of a value, where it is known."""
    if value.constant is not None and element_types.is_integer(value.constant.dtype):
        return value.constant.dtype
    return value.integer


def _typed(function: FunctionProto, inputs: list[TypeProto], given: dict[str, AttributeProto]) -> onnx.ModelProto:
    """A function's body as a model whose inputs have types, so that those of its other values can be inferred."""
    values = [onnx.ValueInfoProto(name=name, type=found) for name, found in zip(function.input, inputs, strict=False)]
    nodes = [_with_attributes(node, given) for node in function.node]
    graph = onnx.helper.make_graph(nodes, "function", [value for value in values if value.type.WhichOneof("value")], [])
    return onnx.helper.make_model(graph, opset_imports=function.opset_import)


def _with_attributes(node: NodeProto, given: dict[str, AttributeProto]) -> NodeProto:
    """A node of a function's body with the references to the function's attributes replaced."""
    result = NodeProto()
    result.CopyFrom(node)
    del result.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copied = result.attribute.add()
            copied.CopyFrom(attribute)
            graphs = [copied.g] if attribute.type == AttributeProto.GRAPH else list(copied.graphs)
            for graph in graphs:
                inner = [_with_attributes(child, given) for child in graph.node]
                del graph.node[:]
                graph.node.extend(inner)
        elif attribute.ref_attr_name in given:
            copied = result.attribute.add()
            copied.CopyFrom(given[attribute.ref_attr_name])
            copied.name = attribute.name
    return result


_ACTIVATIONS: dict[Any, str] = {
    reduction.Softmax: "softmax",
    reduction.Softmax__13: "softmax",
    quantised.QLinearSoftmax: "softmax",
    reduction.LogSoftmax: "log-softmax",
    reduction.LogSoftmax__13: "log-softmax",
    vars(elementwise)["Sigmoid"]: "sigmoid",
    quantised.QLinearSigmoid: "sigmoid",
}
_SHAPES: set[Any] = {elementwise.Identity, shape.Reshape, shape.Flatten, shape.Squeeze, shape.Unsqueeze, ml.ZipMap}
_ROUNDINGS: set[Any] = {
    elementwise.Cast,
    element_types.true_integer,
    quantised.QuantizeLinear,
    quantised.DequantizeLinear,
}


def cut_final_activation(module: fx.GraphModule, output: int = 0) -> tuple[fx.GraphModule, str]:
    """The module with one output, and without the activation that it ends in: logits instead of probabilities.

    The activation is found through nodes that only change the shape (they are kept) and through casts and
    quantisation of the probabilities (they are left out with it).

    Returns:
        The module (it shares its parameters with the old one), and "softmax", "log-softmax", "sigmoid" or "none".
    """
    graph = fx.Graph()
    outputs = graph.graph_copy(module.graph, {})
    assert isinstance(outputs, tuple)
    final = outputs[output]
    last = graph.output((final,))
    chain = _activation_chain(final)
    if chain:
        last.replace_input_with(final, _without_activation(graph, chain))
    graph.eliminate_dead_code()
    result = fx.GraphModule(module, graph, "OnnxGraph")
    names: Any = module.input_names
    _describe(result, names, (module.output_names[output],), module.fixed_batch)  # type: ignore[index, arg-type]
    return result, _ACTIVATIONS[chain[-1].target] if chain else "none"


def _activation_chain(final: fx.Node) -> list[fx.Node]:
    """The nodes from the output back to the final activation; empty if there is none."""
    chain = [final]
    while chain[-1].target in _SHAPES | _ROUNDINGS:
        source = chain[-1].args[0] if chain[-1].args else next(iter(chain[-1].kwargs.values()))
        if not isinstance(source, fx.Node):
            return []
        chain.append(source)
    activation = chain[-1]
    # a softmax over the batch is not the end of a classifier
    return chain if activation.target in _ACTIVATIONS and activation.kwargs.get("axis", -1) != 0 else []


def _without_activation(graph: fx.Graph, chain: list[fx.Node]) -> fx.Node:
    """The operand of the activation, through those nodes of the chain that change the shape."""
    *after, activation = chain
    operands = dict(activation.kwargs)
    with graph.inserting_after(activation):
        if activation.target in (quantised.QLinearSoftmax, quantised.QLinearSigmoid):
            quantisation = (operands["X"], operands["X_scale"], operands.get("X_zero_point"))
            value = graph.call_function(quantised.dequantise, quantisation)
        else:
            value = next(operand for operand in operands.values() if isinstance(operand, fx.Node))
    for node in reversed(after):
        if node.target in _ROUNDINGS:
            continue
        with graph.inserting_before(node):
            source = next(operand for operand in node.kwargs.values() if isinstance(operand, fx.Node))
            copied = graph.node_copy(node)
            copied.replace_input_with(source, value)
        value = copied
    return value
