"""A node of the copy's graph as a function of those operands that depend on the image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, fx


class Function(Protocol):
    """A function of values of one image."""

    shapes: list[torch.Size]
    """Shapes of the operands."""

    def __call__(self, *operands: Tensor, weights: Sequence[str] = (), power: int = 1) -> Tensor:
        """Return the value; constants in ``weights`` are replaced by powers of their magnitude."""


class NodeFunction:
    """The function of one node, for one image: operands and value have the shapes of the traced batch."""

    def __init__(self, node: fx.Node, moving: Mapping[fx.Node, str], shapes: Mapping[str, torch.Size], fixed: Any):
        """Prepare the function: ``moving`` names the values that depend on the image, ``fixed`` returns the others."""
        self._target = cast("Callable[..., Any]", node.target)
        self.name: str = self._target.__name__
        self._names: list[str] = list(
            dict.fromkeys(moving[source] for source in node.all_input_nodes if source in moving)
        )
        self.shapes = [shapes[name] for name in self._names]

        def value(source: fx.Node) -> Any:
            return _Operand(moving[source]) if source in moving else fixed(source)

        args, kwargs = arguments_of(node, value)
        self._signature = inspect.signature(self._target)
        self.arguments: dict[str, Any] = self._signature.bind(*args, **kwargs).arguments
        """Arguments by parameter; an operand stands for each value that depends on the image."""

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the values that depend on the image."""
        return tuple(self._names)

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments, with the defaults of those that the node does not set."""
        bound = inspect.BoundArguments(self._signature, dict(self.arguments))
        bound.apply_defaults()
        return dict(bound.arguments)

    def depends(self, parameters: Sequence[str]) -> list[str]:
        """Return those of the parameters that depend on the image."""
        return [name for name in parameters if isinstance(self.arguments.get(name), _Operand)]

    def __call__(self, *operands: Tensor, weights: Sequence[str] = (), power: int = 1) -> Tensor:
        """Return the value; constants in ``weights`` are replaced by powers of their magnitude."""
        tensors = dict(zip(self._names, operands, strict=True))
        arguments = {name: _filled(value, tensors) for name, value in self.arguments.items()}
        for name in weights:
            constant = arguments.get(name)
            if constant is not None and not isinstance(self.arguments[name], _Operand):
                arguments[name] = abs(constant) ** power
        bound = inspect.BoundArguments(self._signature, arguments)
        result = self._target(*bound.args, **bound.kwargs)
        value: Tensor = result[0] if isinstance(result, tuple) else result
        return value


def arguments_of(node: fx.Node, value: Callable[[fx.Node], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a node by position and by name, with ``value`` of each node among them."""
    return cast("Any", fx.map_arg(node.args, value)), cast("Any", fx.map_arg(dict(node.kwargs), value))


class _Operand(str):
    """Name of a value that depends on the image, in place of the value."""

    __slots__ = ()


def _filled(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, _Operand):
        return tensors[value]
    if isinstance(value, list | tuple):
        return type(value)(_filled(part, tensors) for part in value)
    return value


class ComposedFunction:
    """A function of operands without constants, for operators that are composed of several."""

    def __init__(self, function: Callable[..., Tensor], shapes: Sequence[torch.Size]) -> None:
        self._function = function
        self.shapes = list(shapes)

    def __call__(self, *operands: Tensor, weights: Sequence[str] = (), power: int = 1) -> Tensor:
        """Return the value; there are no constants."""
        del weights, power
        return self._function(*operands)
