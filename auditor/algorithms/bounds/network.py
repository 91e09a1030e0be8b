"""The graph of a copy as a list of operations on the values of one image."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from auditor.algorithms.bounds.activations import ACTIVATIONS, Activation
from auditor.algorithms.bounds.affine import FIXED, PLAIN, WEIGHTS, Affine
from auditor.algorithms.bounds.bilinear import Product
from auditor.algorithms.bounds.max_pool import MaxPool
from auditor.algorithms.bounds.node_function import ComposedFunction, NodeFunction, arguments_of
from auditor.algorithms.bounds.operation import Operation
from auditor.algorithms.bounds.softmax import softmax
from auditor.errors import NotApplicable

PIXELS = "pixels"
"""Name of the first value."""

_SHAPES = {"Shape", "Size"}
"""Operators that read only the shape of their operand."""

_VALUES = 1 << 20
"""Number of values beyond which a network is refused. A MobileNetV2 for 96 pixels has 2.4 million, and the bounds of
one image and epsilon did not finish in 20 seconds; the search for the radius needs about ten of them."""


class Network:
    """Operations from the pixels of one image to its scores. Raises NotApplicable naming an operator without bounds.

    A graph with a fixed batch size is traced with as many copies of the image; the scores are those of the first.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        preprocess: Callable[[Tensor], Tensor],
        pixels: Tensor,
        batch: int,
        check_time: Callable[[], None],
    ) -> None:
        """Trace the module for images like ``pixels`` (c, h, w), which also determine type and device.

        ``check_time`` raises when the time is over; it is called at each operation and each backward pass.
        """
        self.check_time = check_time
        self.operations: list[Operation] = []
        self.shapes: dict[str, torch.Size] = {PIXELS: pixels.shape}
        self._module = module
        self._values: dict[fx.Node, Any] = {}
        self._names: dict[fx.Node, str] = {}
        self._like = pixels.new_zeros(())
        self.scores = self._trace(preprocess, batch)
        """Name of the last value; its first ``k`` elements are the scores of the image."""
        self.widest = max(shape.numel() for shape in self.shapes.values())

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the constants."""
        return self._like.dtype

    @property
    def values(self) -> int:
        """Number of values for one image."""
        return sum(shape.numel() for shape in self.shapes.values())

    def _trace(self, preprocess: Callable[[Tensor], Tensor], batch: int) -> str:
        def to_input(x: Tensor) -> Tensor:
            one = preprocess(x[None])
            return one.expand(batch, *one.shape[1:])

        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                # preprocessing only scales, shifts and moves pixels
                function = ComposedFunction(to_input, [self.shapes[PIXELS]])
                self._names[node] = node.name
                rule = Affine("preprocess", function, self._like)
                self._append(Operation(node.name, (PIXELS,), rule, rule.at_zero.shape[1:]))
            elif node.op == "get_attr":
                self._values[node] = operator.attrgetter(str(node.target))(self._module)
            elif node.op == "output":
                result: Any = node.args[0]
                return self._names[result[0] if isinstance(result, tuple | list) else result]
            elif node.op == "call_function":
                self._call(node)
            else:
                raise NotApplicable(f"linear bounds cannot follow {node.op} {node.target}")
        raise NotApplicable("the copy's graph has no output")

    def _append(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.shapes[operation.name] = operation.shape
        if self.values > _VALUES:
            raise NotApplicable(
                f"the network is too large for linear bounds: all operators together return more than {_VALUES} values"
                " for an image; metrics.smoothing certifies networks of any size"
            )

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        moving = [source for source in node.all_input_nodes if source in self._names]
        if target is operator.getitem and moving:
            if node.args[1] != 0:
                raise NotApplicable("linear bounds cannot follow an operator with several outputs")
            self._names[node] = self._names[moving[0]]
        elif _name(target) in _SHAPES or not moving:
            args, kwargs = arguments_of(node, self._fixed)
            self._values[node] = target(*args, **kwargs)
        else:
            self._names[node] = node.name
            for operation in self._operations(node):
                self._append(operation)

    def _fixed(self, source: fx.Node) -> Any:
        """Return a value that does not depend on the image, or zeros of the shape of one that does."""
        if source in self._names:
            return self._like.new_zeros(self.shapes[self._names[source]])
        return self._values[source]

    def _operations(self, node: fx.Node) -> list[Operation]:
        """Return the operations of a node that depends on the image."""
        function = NodeFunction(node, self._names, self.shapes, self._fixed)
        operands, name = function.operands, _name(node.target)
        shape = function(*(self._like.new_zeros(size) for size in function.shapes)).shape
        if name in WEIGHTS or name in PLAIN:
            factors = function.depends(WEIGHTS.get(name, ()))
            if len(factors) > 1 and len(operands) == 2 and name in {"Mul", "MatMul"}:
                return [Operation(node.name, operands, Product(name, function), shape)]
            if len(factors) > 1 or function.depends(FIXED.get(name, ())):
                raise NotApplicable(f"linear bounds cannot follow {name} of two values that both depend on the image")
            return [Operation(node.name, operands, Affine(name, function, self._like), shape)]
        if name in ACTIVATIONS:
            return [Operation(node.name, operands, Activation(name, function), shape)]
        if name == "MaxPool":
            return [Operation(node.name, operands, MaxPool(function), shape)]
        if name == "Softmax":
            return softmax(node.name, operands[0], function, self._like)
        raise NotApplicable(f"linear bounds cannot follow the operator {name}")


def _name(target: Any) -> str:
    """Return the ONNX name of a function."""
    return str(target.__name__).split("__")[0]
