"""ONNX values during import: constants and nodes of the graph, their names and types."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto, TypeProto, numpy_helper
from torch import Tensor, fx

from auditor.errors import NoCopy
from auditor.onnx.operators import element_types
from auditor.onnx.operators.registry import MAX_ELEMENTS


@dataclass(frozen=True, eq=False)
class Value:
    """One ONNX value during import: a constant or a node."""

    constant: Tensor | None = None
    node: fx.Node | None = None
    host: bool = False
    integer: torch.dtype | None = None
    name: str = ""
    narrow: bool = False
    """True for 4-bit types and 8-bit floats: held in a wider type, readable only through a Cast."""


Scope = MutableMapping[str, Value | None]
"""Values by name; None for an omitted optional input."""


def domain_of(name: str) -> str:
    """Return the operator domain, with "ai.onnx" as the empty string."""
    return "" if name == "ai.onnx" else name


def identifier_of(name: str) -> str:
    """Convert an ONNX name to a similar Python identifier."""
    return "v" + cleaned if (cleaned := re.sub(r"\W+", "_", name).strip("_"))[:1].isdigit() else cleaned or "v"


def to_tensor(proto: TensorProto) -> Tensor:
    """Convert a constant to a tensor with its own memory; raise NoCopy if it cannot be read."""
    if proto.data_location == TensorProto.EXTERNAL:
        raise NoCopy(f"The tensor {proto.name!r} refers to external data that was not loaded.")
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


class Types:
    """Types of the values of a graph, inferred on first use.

    Needed only for functions that the standard defines depending on the input types of a node.
    """

    def __init__(self, model: Callable[[], onnx.ModelProto]) -> None:
        self._model = model

    @functools.cached_property
    def _by_name(self) -> dict[str, TypeProto]:
        graph = self._model().graph
        try:
            inferred = onnx.shape_inference.infer_shapes(self._model(), data_prop=True).graph
        except Exception:  # larger than protobuf's 2 GiB, or invalid
            inferred = graph
        types = {tensor.name: _tensor_type(tensor) for tensor in graph.initializer}
        return types | {value.name: value.type for value in [*inferred.value_info, *graph.input, *inferred.output]}

    def of(self, name: str, value: Value | None) -> TypeProto | None:
        """Return the type of a value, None if unknown."""
        if value is not None and value.constant is not None:
            array = element_types.to_numpy(value.constant)
            return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        known = self._by_name.get(name)
        return known if known is not None and known.tensor_type.elem_type else None


NO_TYPES = Types(onnx.ModelProto)


def _tensor_type(tensor: TensorProto) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
