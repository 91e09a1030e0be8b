"""Certified lower bounds of a classifier's margins, by linear bound propagation through the graph of its copy.

Every operator is enclosed between two affine functions of its operands, valid on their range. These are propagated
backwards from the margins to the pixels, where their minimum over the ball has a closed form (CROWN, Zhang et al. 2018,
arXiv:1811.00866; on general graphs Xu et al. 2020, arXiv:2002.12920). The range of the operands of an activation comes
from interval arithmetic (Gowal et al. 2018, arXiv:1810.12715) and, for operands that may lie on both sides of a kink,
from the same backward pass.

All computation is in double precision. Operators are identified by name: affine ones are differentiated by autograd, so
none needs its own adjoint. A graph with any other operator raises NotApplicable with its name.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx

from auditor.errors import NotApplicable

if TYPE_CHECKING:
    from auditor.model.classifier import Classifier

_SHAPES = {"Shape", "Size"}
"""Operators that read only the shape of their operand."""

_WEIGHTS = {
    "Conv": ("W",),
    "ConvTranspose": ("W",),
    "Gemm": ("A", "B", "alpha"),
    "MatMul": ("A", "B"),
    "matmul_add": ("weight",),
    "Mul": ("A", "B"),
    "Div": ("A", "B"),
    "BatchNormalization": ("scale",),
}
"""Affine operators and the parameters that multiply their operand; at most one of these may depend on the image."""

_PLAIN = {
    "Add",
    "AveragePool",
    "Concat",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "Identity",
    "Mean",
    "Neg",
    "Pad",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Sum",
    "Transpose",
    "Unsqueeze",
}
"""Affine operators that only move, add and average their operands."""

_KEEPS = {
    "BatchNormalization",
    "Div",
    "Dropout",
    "Flatten",
    "Identity",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Affine operators with one operand that add nothing."""

_PARAMETERS = {
    "Gather": ("indices",),
    "BatchNormalization": ("scale", "B", "mean", "var"),
    "Conv": ("W", "B"),
    "Div": ("B",),
}
"""Parameters that must not depend on the image."""

_ELEMENTS = 1 << 24
"""Number of coefficients propagated backwards at once."""


class Interval(NamedTuple):
    """Range of the values of a node, (n, ...) each."""

    lower: Tensor
    upper: Tensor


class Between(NamedTuple):
    """Enclosure of an elementwise function: slope and offset of the line below it and of the line above it."""

    low_slope: Tensor
    low_offset: Tensor
    high_slope: Tensor
    high_offset: Tensor


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A node in the backward pass: its operands, and the affine functions that enclose it."""

    node: fx.Node
    operands: tuple[fx.Node, ...]
    shapes: tuple[torch.Size, ...]
    below: Callable[..., Tensor]
    above: Callable[..., Tensor] | None = None
    """None if the node itself is affine."""
    between: Between | None = None
    """Used instead of both for elementwise functions."""


class _AffineValue(NamedTuple):
    """A value that is affine in the pixels, because no activation precedes it."""

    centre: Tensor
    """Value at the image, (n, ...)."""
    length: Tensor
    """Upper bound of the L2 length of its slope in pixels, (n, ...)."""
    single: bool
    """True if it depends on one pixel only."""


class _Ball(NamedTuple):
    """Reachable pixels: at most ``epsilon`` away in ``norm``, and in [0, 1]."""

    centre: Tensor
    epsilon: Tensor
    norm: str

    @property
    def box(self) -> Interval:
        """Smallest box around the ball; an L2 ball is contained in the L-infinity ball of its radius."""
        size = self.epsilon.reshape(-1, *[1] * (self.centre.dim() - 1))
        return Interval((self.centre - size).clamp(0, 1), (self.centre + size).clamp(0, 1))

    def smallest(self, slope: Tensor) -> Tensor:
        """Return a lower bound of linear functions (r, n, c, h, w) over the ball, (r, n); exact in L-infinity."""
        low, high = self.box
        in_box = (slope.clamp(min=0) * low + slope.clamp(max=0) * high).flatten(2).sum(2)
        if self.norm == "linf":
            return in_box
        flat = slope.flatten(2)
        at_centre = (flat * self.centre.flatten(1)).sum(2)
        return torch.maximum(in_box, at_centre - self.epsilon * flat.norm(dim=2))


class Bounder:
    """A classifier's differentiable copy, prepared for bounding. Raises NotApplicable if it has no graph."""

    def __init__(self, classifier: Classifier, *, refine: int) -> None:
        """Prepare the copy; activations with more than ``refine`` neurons are bounded by interval arithmetic only."""
        module = classifier.copy
        if not isinstance(module, fx.GraphModule):
            raise NotApplicable("the copy is a TorchScript module, which has no operator graph; audit the ONNX file")
        if classifier.artefact.precision != "float32" or classifier.preprocessing.dtype != "float32":
            raise NotApplicable(
                f"the model computes in {classifier.artefact.precision} from {classifier.preprocessing.dtype}, whose"
                " rounding errors are not bounded"
            )
        # MPS has no double precision
        self._device = "cpu" if classifier.device.startswith("mps") else classifier.device
        self._module = copy.deepcopy(module).to(self._device).double()
        self._calls = classifier.calls
        self._preprocess = classifier.preprocessing.differentiable
        self._fixed_batch = classifier.fixed_batch
        self._refine = refine

    def logits(self, pixels: Tensor) -> Tensor:
        """Return scores (n, k) of pixels (n, c, h, w), in double precision."""
        with torch.no_grad():
            result = self._module(self._preprocess(pixels.to(self._device).double()))
        scores: Tensor = (result[0] if isinstance(result, tuple) else result).flatten(1)
        return scores

    def margins(self, pixels: Tensor, labels: Tensor, epsilon: Tensor, norm: str) -> Tensor:
        """Return lower bounds (n,) of the label's score minus the largest other score, over the ball.

        pixels (n, c, h, w) in [0, 1]; labels (n,); epsilon (n,), the radius of each image's ball; norm "linf" or "l2".
        """
        n = self._fixed_batch or len(pixels)
        pieces = []
        for start in range(0, len(pixels), n):
            parts = (part[start : start + n].to(self._device) for part in (pixels.double(), labels, epsilon.double()))
            x, y, e = (_filled(part, n) for part in parts)
            pieces.append(_Pass(self._module, self._preprocess, _Ball(x, e, norm), self._refine).margins(y))
            self._calls.forward += len(x)
            self._calls.backward += len(x)
        return torch.cat(pieces)[: len(pixels)].to(pixels.device)


def _filled(part: Tensor, n: int) -> Tensor:
    """Pad the last piece to the fixed batch size of the graph."""
    return torch.cat([part, part[:1].expand(n - len(part), *part.shape[1:])]) if len(part) < n else part


class _Pass:
    """One pass through the graph, with one ball around each image."""

    def __init__(
        self, module: fx.GraphModule, preprocess: Callable[[Tensor], Tensor], ball: _Ball, refine: int
    ) -> None:
        self._module = module
        self._preprocess = preprocess
        self._ball = ball
        self._refine = refine
        self._steps: list[_Step] = []
        self._intervals: dict[fx.Node, Interval] = {}
        self._values: dict[fx.Node, Any] = {}
        self._alias: dict[fx.Node, fx.Node] = {}
        self._widest = ball.centre[0].numel()
        self._affine: dict[fx.Node, _AffineValue] = {}

    def margins(self, labels: Tensor) -> Tensor:
        """Return lower bounds of the margins, (n,)."""
        final = self._forward()
        n, k = len(labels), self._intervals[final].lower[0].numel()
        shape = self._intervals[final].lower.shape
        rows = torch.eye(k, dtype=torch.float64, device=labels.device)
        bounds = torch.full((n,), torch.inf, dtype=torch.float64, device=labels.device)
        for classes in torch.arange(k, device=labels.device).split(self._rows_at_once()):
            # the label's score minus that of each class; the label itself is excluded
            slope = rows[labels][None] - rows[classes][:, None]
            lower = self._backward(final, slope.reshape(len(classes), *shape))
            lower[classes[:, None] == labels[None]] = torch.inf
            bounds = torch.minimum(bounds, lower.amin(0))
        return bounds

    def _rows_at_once(self) -> int:
        return max(1, _ELEMENTS // (self._widest * len(self._ball.centre)))

    def _forward(self) -> fx.Node:
        """Enclose every node, starting from the input; return the node of the scores."""
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                self._intervals[node] = self._input()
                centre = self._preprocess(self._ball.centre)
                self._affine[node] = _AffineValue(
                    centre, (self._preprocess(self._ball.centre + 1) - centre).abs(), single=True
                )
            elif node.op == "get_attr":
                self._values[node] = operator.attrgetter(str(node.target))(self._module)
            elif node.op == "output":
                result: Any = node.args[0]
                final: fx.Node = result[0] if isinstance(result, tuple | list) else result
                return self._alias.get(final, final)
            elif node.op == "call_function":
                self._call(node)
            else:
                raise NotApplicable(f"linear bounds cannot follow {node.op} {node.target}")
        raise NotApplicable("the copy's graph has no output")

    def _input(self) -> Interval:
        """Enclose the model's input: preprocessing only scales, shifts and moves pixels, so ends map to ends."""
        one, other = (self._preprocess(end) for end in self._ball.box)
        return Interval(torch.minimum(one, other), torch.maximum(one, other))

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        name = target.__name__.split("__")[0]
        sources = [self._alias.get(source, source) for source in node.all_input_nodes]
        moving = [source for source in dict.fromkeys(sources) if source in self._intervals]
        if target is operator.getitem and moving:
            if node.args[1] != 0:
                raise NotApplicable("linear bounds cannot follow an operator with several outputs")
            self._alias[node] = moving[0]
        elif name in _SHAPES or not moving:
            placeholders = {source: self._intervals[source].lower for source in moving}
            arguments, named = self._arguments(node, placeholders)
            self._values[node] = target(*arguments, **named)
        elif name in _WEIGHTS or name in _PLAIN:
            self._add_affine(node, name, moving)
        elif name in _ACTIVATIONS:
            self._add_activation(node, name, moving[0])
        elif name == "MaxPool":
            self._add_max_pool(node, moving[0])
        else:
            raise NotApplicable(f"linear bounds cannot follow the operator {name}")

    def _arguments(self, node: fx.Node, moving: Mapping[fx.Node, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a node with tensors in place of nodes."""

        def value(source: fx.Node) -> Any:
            source = self._alias.get(source, source)
            return moving[source] if source in moving else self._values[source]

        return fx.map_arg(node.args, value), fx.map_arg(dict(node.kwargs), value)

    def _function(
        self, node: fx.Node, moving: Sequence[fx.Node], weights: Sequence[str] = (), power: int = 1
    ) -> Callable[..., Tensor]:
        """Return the node as a function of its operands; constants in ``weights`` become powers of their magnitude."""
        target: Any = node.target
        signature = inspect.signature(target)

        def function(*operands: Tensor) -> Tensor:
            tensors = dict(zip(moving, operands, strict=True))
            arguments, named = self._arguments(node, tensors)
            bound = signature.bind(*arguments, **named)
            for name in weights:
                constant = bound.arguments.get(name)
                if constant is not None and not any(constant is operand for operand in operands):
                    bound.arguments[name] = abs(constant) ** power
            result = target(*bound.args, **bound.kwargs)
            value: Tensor = result[0] if isinstance(result, tuple) else result
            return value

        return function

    def _add_affine(self, node: fx.Node, name: str, moving: Sequence[fx.Node]) -> None:
        function = self._function(node, moving)
        steep = self._function(node, moving, _WEIGHTS.get(name, ()))
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
        fixed = [bound.arguments.get(p) for p in _PARAMETERS.get(name, ())]
        products = [bound.arguments.get(p) for p in _WEIGHTS.get(name, ())]
        depends = [p for p in products if isinstance(p, fx.Node) and self._alias.get(p, p) in self._intervals]
        if len(depends) > 1 or any(isinstance(p, fx.Node) and self._alias.get(p, p) in self._intervals for p in fixed):
            raise NotApplicable(f"linear bounds cannot follow {name} of two values that both depend on the image")
        ends = [self._intervals[source] for source in moving]
        middle = [(low + high) / 2 for low, high in ends]
        zeros = [torch.zeros_like(low) for low, _ in ends]
        centre = function(*middle)
        if len(centre) != len(self._ball.centre):
            raise NotApplicable(f"linear bounds cannot follow {name} over the batch")
        origin = steep(*zeros)
        radius = torch.zeros_like(centre)
        for index, (low, high) in enumerate(ends):
            half_width = [*zeros[:index], (high - low) / 2, *zeros[index + 1 :]]
            radius = radius + (steep(*half_width) - origin).abs()
        self._intervals[node] = Interval(centre - radius, centre + radius)
        self._widest = max(self._widest, centre[0].numel())
        self._steps.append(
            _Step(node=node, operands=tuple(moving), shapes=tuple(low.shape for low, _ in ends), below=function)
        )
        if all(source in self._affine for source in moving):
            self._add_affine_value(node, name, moving, function, steep)

    def _add_affine_value(
        self,
        node: fx.Node,
        name: str,
        moving: Sequence[fx.Node],
        function: Callable[..., Tensor],
        steep: Callable[..., Tensor],
    ) -> None:
        """Bound a value affine in the pixels: its distance from the centre is at most epsilon times its L2 slope."""
        values = [self._affine[source] for source in moving]
        zeros = [torch.zeros_like(value.length) for value in values]
        if name in {"Conv", "Gemm", "MatMul", "matmul_add"} and values[0].single:
            # no two operands share a pixel, so the squared lengths add up
            squares = self._function(node, moving, _WEIGHTS[name], power=2)
            length = (squares(values[0].length ** 2) - squares(*zeros)).clamp_min(0).sqrt()
            single = False
        else:
            origin = steep(*zeros)
            length = torch.zeros_like(origin)
            for index, value in enumerate(values):
                length = length + (steep(*zeros[:index], value.length, *zeros[index + 1 :]) - origin).abs()
            single = values[0].single and name in _KEEPS and length.numel() <= values[0].length.numel()
        self._affine[node] = _AffineValue(function(*(value.centre for value in values)), length, single)
        if self._ball.norm == "l2":
            low, high = self._intervals[node]
            size = self._ball.epsilon.reshape(-1, *[1] * (low.dim() - 1)) * length
            centre = self._affine[node].centre
            self._intervals[node] = Interval(torch.maximum(low, centre - size), torch.minimum(high, centre + size))

    def _add_activation(self, node: fx.Node, name: str, source: fx.Node) -> None:
        arguments, named = self._arguments(node, {source: self._intervals[source].lower})
        settings = inspect.signature(node.target).bind(*arguments, **named)  # type: ignore[arg-type]
        settings.apply_defaults()
        parameters = list(settings.arguments.values())[1:]
        function = self._function(node, [source])
        low, high = self._intervals[source]
        undecided = _UNDECIDED[name](low, high, *parameters) if name in _UNDECIDED else low < high
        if source not in self._affine:
            self._tighten(source, undecided)
        low, high = self._intervals[source]
        self._intervals[node] = Interval(function(low), function(high))
        between = _ACTIVATIONS[name](function, low, high, *parameters)
        self._steps.append(_Step(node=node, operands=(source,), shapes=(low.shape,), below=function, between=between))

    def _add_max_pool(self, node: fx.Node, source: fx.Node) -> None:
        """Enclose max-pooling: above each value of a window, and below gamma + sum of relu(value - gamma).

        Each relu is replaced by the chord over its interval, with gamma such that the slopes of the chords sum to 1 if
        possible (Boopathy et al. 2018, arXiv:1811.12395, section 3).
        """
        function = self._function(node, [source])
        low, high = self._intervals[source]
        windows = _Windows(node, low)
        if source not in self._affine:
            self._tighten(source, windows.contested(low, high))
        low, high = self._intervals[source]
        below, above = windows.lines(low, high)
        self._intervals[node] = Interval(function(low), function(high))
        self._steps.append(_Step(node=node, operands=(source,), shapes=(low.shape,), below=below, above=above))

    def _tighten(self, node: fx.Node, which: Tensor) -> None:
        """Tighten those values of a node where ``which`` (n, ...) is True, by the backward pass."""
        low, high = self._intervals[node]
        n, size = len(low), low[0].numel()
        flags = which.flatten(1)
        most = int(flags.sum(1).max())
        if not most or size > self._refine:
            return
        # each image has its own list, padded with its first other values
        selected = flags.double().argsort(dim=1, descending=True, stable=True)[:, :most]
        new_low, new_high = low.flatten(1).clone(), high.flatten(1).clone()
        for piece in selected.split(max(1, self._rows_at_once() // 2), dim=1):
            units = torch.zeros(piece.shape[1], n, size, dtype=torch.float64, device=low.device)
            units.scatter_(2, piece.T[:, :, None], 1.0)
            slopes = torch.cat([units, -units]).reshape(-1, *low.shape)
            bounds = self._backward(node, slopes)
            lower, upper = bounds[: piece.shape[1]].T, -bounds[piece.shape[1] :].T
            new_low.scatter_(1, piece, torch.maximum(new_low.gather(1, piece), lower))
            new_high.scatter_(1, piece, torch.minimum(new_high.gather(1, piece), upper))
        # rounding may let two valid bounds cross
        middle = (new_low + new_high) / 2
        new_low, new_high = torch.minimum(new_low, middle), torch.maximum(new_high, middle)
        self._intervals[node] = Interval(new_low.view_as(low), new_high.view_as(high))

    def _backward(self, start: fx.Node, slope: Tensor) -> Tensor:
        """Return lower bounds (r, n) over the ball of linear functions (r, n, ...) of a node."""
        slopes = {start: slope}
        constant = torch.zeros(slope.shape[:2], dtype=torch.float64, device=slope.device)
        for step in reversed(self._steps):
            slope_at_node = slopes.pop(step.node, None)
            if slope_at_node is None:
                continue
            if step.between is not None:
                low_slope, low_offset, high_slope, high_offset = step.between
                up, down = slope_at_node.clamp(min=0), slope_at_node.clamp(max=0)
                constant = constant + (up * low_offset + down * high_offset).flatten(2).sum(2)
                back = [up * low_slope + down * high_slope]
            elif step.above is None:
                constant, back = _through(step.below, step.shapes, slope_at_node, constant)
            else:
                constant, back = _through(step.below, step.shapes, slope_at_node.clamp(min=0), constant)
                constant, more = _through(step.above, step.shapes, slope_at_node.clamp(max=0), constant)
                back = [a + b for a, b in zip(back, more, strict=True)]
            for source, part in zip(step.operands, back, strict=True):
                slopes[source] = slopes[source] + part if source in slopes else part
        # the remaining slope belongs to the model's input
        [at_input] = slopes.values()
        shape = self._ball.centre.shape
        constant, [at_pixels] = _through(self._preprocess, (shape,), at_input, constant)
        return constant + self._ball.smallest(at_pixels)


def _through(
    function: Callable[..., Tensor], shapes: Sequence[torch.Size], slope: Tensor, constant: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Rewrite linear functions (r, n, ...) of an affine function's value as linear functions of its operands."""
    with torch.enable_grad():
        origin = [torch.zeros(shape, dtype=torch.float64, device=slope.device, requires_grad=True) for shape in shapes]
        value = function(*origin)
    back = torch.autograd.grad(value, origin, slope.reshape(len(slope), *value.shape), is_grads_batched=True)
    return constant + (slope.flatten(2) * value.detach().flatten(1)).sum(2), list(back)


class _Windows:
    """Windows of a max-pooling, extracted by an affine function: (n, c, values of a window, windows)."""

    def __init__(self, node: fx.Node, example: Tensor) -> None:
        from auditor.onnx.operators.linear import window_pads

        settings = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
        settings.apply_defaults()
        options = settings.arguments
        if example.dim() != 4 or options["ceil_mode"]:
            raise NotApplicable("linear bounds support MaxPool only in two dimensions and without ceil_mode")
        self.kernel = list(options["kernel_shape"])
        self.strides = list(options["strides"] or [1, 1])
        self.dilations = list(options["dilations"] or [1, 1])
        sizes = list(example.shape[2:])
        before, after = window_pads(
            sizes, self.kernel, self.strides, self.dilations, options["auto_pad"], options["pads"]
        )
        self.pads = [before[1], after[1], before[0], after[0]]
        span = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        self.sizes = [
            (size + b + a - s) // stride + 1
            for size, b, a, s, stride in zip(sizes, before, after, span, self.strides, strict=True)
        ]

    def of(self, x: Tensor, padding: float = 0.0) -> Tensor:
        """Return the windows of x (n, c, h, w)."""
        padded = torch.nn.functional.pad(x, self.pads, value=padding)
        windows = torch.nn.functional.unfold(
            padded, tuple(self.kernel), dilation=tuple(self.dilations), stride=tuple(self.strides)
        )
        return windows.reshape(len(x), x.shape[1], -1, windows.shape[2])

    def contested(self, low: Tensor, high: Tensor) -> Tensor:
        """Return True (n, c, h, w) for values that may be a window's largest, if another value may be so as well."""
        lows, highs = self.of(low, _FAR), self.of(high, _FAR)
        may = highs > lows.amax(2, keepdim=True)
        # the value with the largest lower bound may always be the largest
        may.scatter_(2, lows.argmax(2, keepdim=True), value=True)
        open_windows = (may & (may.sum(2, keepdim=True) > 1)).double()
        padded = low.new_zeros(low.shape).requires_grad_()
        with torch.enable_grad():
            spread = self.of(padded)
        (count,) = torch.autograd.grad(spread, padded, open_windows)
        return count > 0

    def lines(self, low: Tensor, high: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Return the affine functions below and above the pooling."""
        lows, highs = self.of(low, _FAR), self.of(high, _FAR)
        floor, first = lows.max(2, keepdim=True)
        selected = torch.zeros_like(lows).scatter_(2, first, 1.0)
        width = (highs - lows).clamp_min(1e-300)
        counted = (highs > floor).double()
        weight = counted / width
        slack = (counted * highs / width).sum(2, keepdim=True) - 1
        gamma = (slack / weight.sum(2, keepdim=True).clamp_min(1e-300)).clamp(max=highs.amax(2, keepdim=True))
        gamma = torch.maximum(gamma, floor)
        chord = ((highs - gamma).clamp_min(0) / width).clamp(max=1)
        # the chord of relu(x - gamma), or the relu itself if the interval is a point
        offset = torch.where(highs - lows > 1e-300, -chord * lows, (highs - gamma).clamp_min(0))
        chord = torch.where(highs - lows > 1e-300, chord, torch.zeros_like(chord))
        offset = torch.where(lows <= _FAR / 2, torch.zeros_like(offset), offset)
        constant = (gamma + offset.sum(2, keepdim=True))[:, :, 0]
        shape = (*low.shape[:2], *self.sizes)

        def below(x: Tensor) -> Tensor:
            return (self.of(x) * selected).sum(2).reshape(shape)

        def above(x: Tensor) -> Tensor:
            return ((self.of(x) * chord).sum(2) + constant).reshape(shape)

        return below, above


_FAR = -1e100
"""Padding value of a max-pooling: never the largest."""


def _relu(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Between:
    return _kinked(low, high, 0.0)


def _leaky_relu(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, alpha: float) -> Between:
    if not 0 <= alpha <= 1:
        raise NotApplicable(f"linear bounds cannot follow LeakyRelu with alpha {alpha}; expected 0 to 1")
    return _kinked(low, high, alpha)


def _kinked(low: Tensor, high: Tensor, alpha: float) -> Between:
    """Enclose max(x, alpha x): above by the chord, below by the one of its two lines with the smaller gap."""
    chord = (high - alpha * low) / (high - low).clamp_min(1e-300)
    crossing = (low < 0) & (high > 0)
    line = torch.where(low >= 0, 1.0, alpha).to(low.dtype)
    high_slope = torch.where(crossing, chord, line)
    high_offset = torch.where(crossing, (1 - chord) * high, torch.zeros_like(low))
    low_slope = torch.where(crossing, torch.where(high > -low, 1.0, alpha).to(low.dtype), line)
    return Between(low_slope, torch.zeros_like(low), high_slope, high_offset)


def _clip(
    function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, least: Any = None, most: Any = None
) -> Between:
    """Enclose max(least, .), then min(most, .), by composition; if both kinks are inside, by the ends."""
    floor = float("-inf") if least is None else float(least)
    ceiling = float("inf") if most is None else float(most)
    at_floor, at_ceiling = low < floor, high > ceiling
    nothing = torch.zeros_like(low)
    one, other = _kinked(low - floor, high - floor, 0.0), _kinked(ceiling - high, ceiling - low, 0.0)
    result = Between(torch.ones_like(low), nothing, torch.ones_like(low), nothing)
    if floor > float("-inf"):
        shifted = Between(
            one.low_slope,
            floor + one.low_offset - one.low_slope * floor,
            one.high_slope,
            floor + one.high_offset - one.high_slope * floor,
        )
        result = _where(at_floor & ~at_ceiling, shifted, result)
    if ceiling < float("inf"):
        # min(x, c) = c - relu(c - x): below and above swap
        turned = Between(
            other.high_slope,
            ceiling - other.high_offset - other.high_slope * ceiling,
            other.low_slope,
            ceiling - other.low_offset - other.low_slope * ceiling,
        )
        result = _where(at_ceiling & ~at_floor, turned, result)
    return _where(at_floor & at_ceiling, Between(nothing, function(low), nothing, function(high)), result)


def _where(which: Tensor, one: Between, other: Between) -> Between:
    return Between(*(torch.where(which, a, b) for a, b in zip(one, other, strict=True)))


def _bell(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Between:
    """Enclose sigmoid or tanh, whose slope rises up to 0 and falls after it.

    Within an interval the slope is at least that at one of its ends; lines of that slope through the ends enclose them.
    """
    ends = []
    for end in (low, high):
        with torch.enable_grad():
            x = end.detach().requires_grad_()
            (slope,) = torch.autograd.grad(function(x).sum(), x)
        ends.append(slope)
    slope = torch.minimum(*ends)
    return Between(slope, function(low) - slope * low, slope, function(high) - slope * high)


_ACTIVATIONS: Mapping[str, Callable[..., Between]] = {
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "Sigmoid": _bell,
    "Tanh": _bell,
}


def _crossing(low: Tensor, high: Tensor, *_: Any) -> Tensor:
    return (low < 0) & (high > 0)


def _clipped(low: Tensor, high: Tensor, least: Any = None, most: Any = None) -> Tensor:
    floor = float("-inf") if least is None else float(least)
    ceiling = float("inf") if most is None else float(most)
    return ((low < floor) & (high > floor)) | ((low < ceiling) & (high > ceiling))


_UNDECIDED: Mapping[str, Callable[..., Tensor]] = {"Relu": _crossing, "LeakyRelu": _crossing, "Clip": _clipped}
"""Functions that return True for values whose activation is not linear over their interval."""
