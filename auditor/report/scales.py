"""Axes: from values to pixels, and where the ticks are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from auditor.findings.record import AxisRecord


@dataclass(frozen=True)
class Scale:
    """Map the values of an axis to pixels."""

    kind: Literal["linear", "log", "symlog"]
    low: float
    high: float
    start: float
    end: float
    zero_apart: bool = False
    """True for a logarithmic axis that also shows 0: it is at the start, before a break."""
    unit: float = 1.0
    """Value at which a symlog axis changes from linear to logarithmic."""

    def _transformed(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value)
        if self.kind == "symlog":
            return math.copysign(math.log1p(abs(value) / self.unit), value)
        return value

    def __call__(self, value: float) -> float:
        """Return the position of a value in pixels."""
        if self.kind == "log" and value <= 0:
            return self.start
        low, high = self._transformed(self.low), self._transformed(self.high)
        position = (self._transformed(value) - low) / (high - low)
        if self.zero_apart:
            position = 0.1 + 0.9 * position
        return self.start + position * (self.end - self.start)


def scale(axis: AxisRecord, values: Sequence[float], start: float, end: float) -> Scale:
    """Return the scale of an axis that includes all values, from pixel ``start`` to pixel ``end``."""
    kind = axis["scale"]
    if kind == "log" and any(value < 0 for value in values):
        kind = "symlog"
    included = [*values, *(limit for limit in (axis["low"], axis["high"]) if limit is not None)]
    if kind == "log":
        included = [value for value in included if value > 0]
    if axis["format"] == "percent" and kind == "linear":
        # the full range from 0 to 100 % keeps small drops small
        included += [0.0, 1.0]
    low, high = min(included, default=0.0 if kind != "log" else 0.1), max(included, default=1.0)
    if low == high:
        low, high = (low / 2, high * 2) if kind == "log" else (low - abs(low or 1) / 2, high + abs(high or 1) / 2)
    unit = min((abs(value) for value in values if value), default=1.0)
    zero_apart = kind == "log" and any(value == 0 for value in values)
    return Scale(kind, low, high, start, end, zero_apart, unit)


def ticks(axis: AxisRecord, along: Scale, values: Sequence[float], room: Callable[[float], float]) -> list[float]:
    """Return the ticks of an axis; ``room`` returns the pixels along the axis that the label of a tick takes.

    A linear axis has round numbers, a logarithmic one the measured values if they are few.
    """
    factor = 255.0 if axis["format"] == "n/255" else 1.0
    if along.kind == "linear":
        steps = [tick / factor for tick in _round_numbers(along.low * factor, along.high * factor)]
        whole = axis["format"] == "number" and all(float(value).is_integer() for value in values)
        return [tick for tick in steps if not whole or float(tick).is_integer()]
    distinct = sorted(set(values))
    kept: list[float] = []
    for tick in distinct if len(distinct) <= 12 else _powers(along, factor):
        if not kept or abs(along(tick) - along(kept[-1])) >= (room(tick) + room(kept[-1])) / 2:
            kept.append(tick)
    return kept


def _round_numbers(low: float, high: float, about: int = 5) -> list[float]:
    """Return about this many round numbers between two ends."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _powers(along: Scale, factor: float) -> list[float]:
    """Return the powers of ten (of two for n/255) inside the scale; also their 2- and 5-fold if they are few."""
    base = 2.0 if factor != 1.0 else 10.0
    top = max(abs(along.low), abs(along.high)) * factor
    bottom = (along.low if along.kind == "log" else along.unit) * factor
    exponents = range(math.floor(math.log(bottom, base)), math.ceil(math.log(top, base)) + 1)
    multiples = (1.0, 2.0, 5.0) if base == 10.0 and len(exponents) <= 4 else (1.0,)
    sizes = [multiple * base**exponent / factor for exponent in exponents for multiple in multiples]
    signed = sizes if along.kind == "log" else [*(-size for size in reversed(sizes)), 0.0, *sizes]
    return [value for value in signed if along.low <= value <= along.high]
