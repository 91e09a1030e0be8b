"""Register Python functions for ONNX operators, and describe their signatures for the importer.

A function has the name of its operator, and its parameters have the ONNX names of inputs and attributes. Required
inputs are bound in order, optional inputs and attributes by name, so that an operand that moved from attribute to input
between two opsets needs no second implementation. The signature specifies:

    ``x: Tensor``               a tensor operand
    ``axes: list[int] | None``  Python numbers: constants at import, otherwise read from a tensor on the host
    ``mode: Literal["a"]``      any other value is refused at import
    ``x: TensorSequence``       an ONNX sequence of tensors
    ``-> tuple[...]``           several outputs; ``-> Tensor`` or ``-> TensorSequence`` exactly one

The importer injects three parameters, whose names are never ONNX names: ``reference`` (an empty tensor with the current
device and floating-point type of the module), ``outputs`` (number of outputs of the node), ``integer`` (ONNX integer
type of the result, or None).

Integers that carry gradients: a torch integer tensor has no gradient, therefore quantised values are *carried*, as a
floating-point tensor of whole numbers whose ONNX integer type the importer tracks. ``carried`` names the operands in
which a function accepts carried integers; in all others they become true integers, and the gradient ends.
``integer_type`` names the operands that determine the integer type of the result.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])
TypeSource = str | torch.dtype | None

INJECTED = ("reference", "outputs", "integer")
MAX_ELEMENTS = 2**27
"""Largest number of elements of a tensor that an operator creates (Expand, Tile, ConstantOfShape, ...)."""


class TensorSequence(list[Tensor]):
    """An ONNX sequence of tensors. Functions of sequences are never computed at import."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operator function."""

    name: str
    tensor: bool
    many: bool
    positional: bool
    allowed: tuple[Any, ...] | None


@dataclass(frozen=True)
class Operator:
    """An operator function and its signature."""

    function: Callable[..., Any]
    domain: str
    since: int
    parameters: dict[str, Parameter]
    variadic: Parameter | None
    injected: tuple[str, ...]
    multiple: bool
    carried: tuple[str, ...]
    integer_type: tuple[TypeSource, ...]
    as_float: tuple[str, ...]
    reads_shape: bool
    sequences: bool

    @property
    def name(self) -> str:
        """ONNX name of the operator."""
        return self.function.__name__.split("__")[0]


OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *,
    domain: str = "",
    since: int = 1,
    carried: str = "",
    integer_type: str | torch.dtype | tuple[TypeSource, ...] = "",
    as_float: str = "",
    reads_shape: bool = False,
) -> Callable[[F], F]:
    """Register a function for the operator of the same name (a suffix after ``__`` is ignored).

    Args:
        domain: the ONNX domain.
        since: the first operator version that the function implements.
        carried: operands that may be carried integers, separated by spaces.
        integer_type: source of the integer type of the result: names of operands or of a type attribute (the first
            that has one counts, a torch type may end the list), or a torch type; a tuple for several outputs.
        as_float: integer constants stored as floats, so that they are not converted at every call.
        reads_shape: True if the result depends only on the shapes of the operands and lies on the host.
    """

    def register(function: F) -> F:
        hints = typing.get_type_hints(function)
        parameters: dict[str, Parameter] = {}
        variadic = None
        injected = []
        for name, declared in inspect.signature(function).parameters.items():
            parameter = Parameter(
                name=name,
                tensor=_mentions(hints[name], Tensor) or _mentions(hints[name], TensorSequence),
                many=_mentions(hints[name], list),
                positional=declared.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD,
                allowed=_allowed(hints[name]),
            )
            if name in INJECTED:
                injected.append(name)
            elif declared.kind is inspect.Parameter.VAR_POSITIONAL:
                variadic = parameter
            else:
                parameters[name] = parameter
        entry = Operator(
            function=function,
            domain=domain,
            since=since,
            parameters=parameters,
            variadic=variadic,
            injected=tuple(injected),
            multiple=typing.get_origin(hints["return"]) in (tuple, list),
            carried=tuple(carried.split()),
            integer_type=integer_type if isinstance(integer_type, tuple) else (integer_type,),
            as_float=tuple(as_float.split()),
            reads_shape=reads_shape,
            sequences=TensorSequence in hints.values(),
        )
        versions = OPERATORS.setdefault((domain, entry.name), [])
        versions.append(entry)
        versions.sort(key=lambda version: version.since)
        return function

    return register


def find_operator(domain: str, name: str, version: int) -> Operator | None:
    """Return the newest function for this version of the operator, or None."""
    fitting = [entry for entry in OPERATORS.get((domain, name), []) if entry.since <= version]
    return fitting[-1] if fitting else None


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint itself."""
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def _mentions(hint: Any, kind: type) -> bool:
    return any(part is kind or typing.get_origin(part) is kind for part in _parts(hint))


def _allowed(hint: Any) -> tuple[Any, ...] | None:
    parts = _parts(hint)
    if not any(typing.get_origin(part) is Literal for part in parts):
        return None
    return tuple(value for part in parts if part is not type(None) for value in typing.get_args(part))


def check_size(shape: typing.Iterable[int], what: str) -> None:
    """Raise NotImplementedError for a shape with more than ``MAX_ELEMENTS`` elements."""
    elements = 1
    for size in shape:
        elements *= int(size)
    if elements > MAX_ELEMENTS:
        raise NotImplementedError(f"{what} would create {elements} elements, more than {MAX_ELEMENTS}")
