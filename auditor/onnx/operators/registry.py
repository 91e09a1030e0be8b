"""How an ONNX operator becomes a Python function: the decorator, and what the importer reads from a signature.

A function has the name of its operator, and its parameters have the names that the ONNX standard gives to inputs and
attributes. Required inputs are bound in order, optional inputs and attributes by name, so that an operand that moved
from attribute to input between two opsets needs no second implementation. What a signature says:

    ``x: Tensor``               a tensor operand
    ``axes: list[int] | None``  Python numbers: constants at import, otherwise read from a tensor on the host
    ``mode: Literal["a"]``      any other value is refused at import
    ``x: TensorSequence``       an ONNX sequence of tensors
    ``-> tuple[...]``           several outputs; ``-> Tensor`` or ``-> TensorSequence`` exactly one

Three parameter names are filled in by the importer and are never ONNX names: ``here`` (an empty tensor with the device
and the floating type that the module has now), ``outputs`` (how many outputs the node has), ``integer`` (the ONNX
integer type of the result, None where it is not an integer).

Integers that carry gradients. A torch integer tensor has no gradient, therefore quantised values are *carried*: a
floating tensor that holds whole numbers, of which the importer knows the ONNX integer type. ``takes`` names the
operands in which a function accepts carried integers (in all others they become true integers, and the gradient ends
there); ``gives`` says whose integer type the result has.
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
Gives = str | torch.dtype | None

FILLED_IN = ("here", "outputs", "integer")
MAX_ELEMENTS = 2**27
"""No single tensor that an operator makes from nothing (Expand, Tile, ConstantOfShape, ...) may have more elements."""


class TensorSequence(list[Tensor]):
    """An ONNX sequence of tensors. Functions with one are never computed at import."""


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
    """An operator function and what its signature says."""

    function: Callable[..., Any]
    domain: str
    since: int
    parameters: dict[str, Parameter]
    variadic: Parameter | None
    filled_in: tuple[str, ...]
    multiple: bool
    takes: tuple[str, ...]
    gives: tuple[Gives, ...]
    as_float: tuple[str, ...]
    reads_shape: bool
    sequences: bool

    @property
    def name(self) -> str:
        """The ONNX name of the operator."""
        return self.function.__name__.split("__")[0]


OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *,
    domain: str = "",
    since: int = 1,
    takes: str = "",
    gives: str | torch.dtype | tuple[Gives, ...] = "",
    as_float: str = "",
    reads_shape: bool = False,
) -> Callable[[F], F]:
    """Register a function for the operator of the same name (text after ``__`` in the name is not part of it).

    Args:
        domain: the ONNX domain.
        since: the first version of the operator that the function is right for.
        takes: operands that may be carried integers, separated by spaces.
        gives: whose integer type the result has: names of operands or of a type attribute (the first that has one
            counts, a torch type may end the list), or a torch type; a tuple for several outputs.
        as_float: integer constants that are held as floats, so that they are not converted at every call.
        reads_shape: the result depends on the shapes of the operands only and lies on the host.
    """

    def register(function: F) -> F:
        hints = typing.get_type_hints(function)
        parameters: dict[str, Parameter] = {}
        variadic = None
        filled_in = []
        for name, found in inspect.signature(function).parameters.items():
            parameter = Parameter(
                name=name,
                tensor=_mentions(hints[name], Tensor) or _mentions(hints[name], TensorSequence),
                many=_mentions(hints[name], list),
                positional=found.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD,
                allowed=_allowed(hints[name]),
            )
            if name in FILLED_IN:
                filled_in.append(name)
            elif found.kind is inspect.Parameter.VAR_POSITIONAL:
                variadic = parameter
            else:
                parameters[name] = parameter
        entry = Operator(
            function=function,
            domain=domain,
            since=since,
            parameters=parameters,
            variadic=variadic,
            filled_in=tuple(filled_in),
            multiple=typing.get_origin(hints["return"]) in (tuple, list),
            takes=tuple(takes.split()),
            gives=gives if isinstance(gives, tuple) else (gives,),
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
    """The newest function that is right for this version of the operator, if there is one."""
    fitting = [entry for entry in OPERATORS.get((domain, name), []) if entry.since <= version]
    return fitting[-1] if fitting else None


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint itself."""
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def _mentions(hint: Any, wanted: type) -> bool:
    return any(part is wanted or typing.get_origin(part) is wanted for part in _parts(hint))


def _allowed(hint: Any) -> tuple[Any, ...] | None:
    parts = _parts(hint)
    if not any(typing.get_origin(part) is Literal for part in parts):
        return None
    return tuple(value for part in parts if part is not type(None) for value in typing.get_args(part))


def check_size(shape: typing.Iterable[int], what: str) -> None:
    """Refuse a shape that a few bytes of a model file blow up to gigabytes."""
    elements = 1
    for size in shape:
        elements *= int(size)
    if elements > MAX_ELEMENTS:
        raise NotImplementedError(f"{what} would make {elements} elements, more than {MAX_ELEMENTS}")
