"""Format numbers and names for the terminal, the policy and every report format.

All functions return text. A missing value is a dash, never 0. What a metric means (label, bound, difference) comes from
its spec alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Literal

from auditor.findings.metric import Metric, MetricSpec, n_of_255
from auditor.findings.record import CellRecord, DataRecord, IntervalRecord, Json, MetricRecord, MetricSpecRecord

NOTHING = "–"
"""Text of a missing number."""

# Control characters are not allowed in reports, bidirectional overrides can reorder the text around them, and lone
# surrogates cannot be encoded as UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
_UNITS = {"l2": " L2", "l1": " L1", "dB": " dB", "s": " s", "nats": " nats"}
_BOUNDS = {
    "upper": "upper bound",
    "lower": "lower bound",
    "estimate": "estimate",
    "exact": "exact",
    "measured": "measured",
}

Spec = MetricSpec | MetricSpecRecord
_Style = Literal["percent", "points", "n/255", "number"]


def clean(text: str) -> str:
    """Replace control characters, direction overrides and lone surrogates by a visible mark."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def number(value: float | None) -> str:
    """Format a number to three significant digits, and a whole number in full."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if float(value).is_integer() and abs(value) < 1e9:
        text = f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}" if abs(value) >= 10000 else "")
    elif 1000 <= abs(value) < 1e6:
        text = f"{value:.0f}"
    else:
        text = re.sub(r"e([+-])0*(\d+)", _power_of_ten, f"{value:.3g}")
    return "\N{MINUS SIGN}" + text[1:] if value < 0 else text


def _power_of_ten(exponent: re.Match[str]) -> str:
    """Write ``e-05`` as ``·10⁻⁵``."""
    raised = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    return "·10" + ("⁻" if exponent[1] == "-" else "") + exponent[2].translate(raised)


def formatted(value: float | None, style: str) -> str:
    """Format a number in a style of axes, tables and heat maps: number, count, percent, n/255, text."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if style == "percent":
        return f"{100 * value:.1f} %".replace("-", "\N{MINUS SIGN}")
    if style == "n/255":
        return "0" if value == 0 else n_of_255(value)
    return number(value)


def is_difference(spec: Spec | None) -> bool:
    """Whether a metric is a difference of two fractions, written in percentage points."""
    return spec is not None and (spec.difference if isinstance(spec, MetricSpec) else spec["difference"])


def bound(spec: MetricSpecRecord) -> str:
    """Return how a metric bounds the true value: ``upper bound``, ``estimate``, ``measured``."""
    return _BOUNDS[spec["bound"]]


def direction(spec: MetricSpecRecord) -> int:
    """Return 1 if higher is better, -1 if lower is better, 0 if neither is."""
    return {"higher": 1, "lower": -1, "neither": 0}[spec["better"]]


def measured(metric: Metric | MetricRecord, spec: Spec | None = None) -> str:
    """Format a metric with interval and unit: ``61.0 % [54.1, 67.5]``, ``−4.5 points``; a dash without a value."""
    return f"{value(metric, spec)} {interval(metric, spec)}".rstrip()


def value(metric: Metric | MetricRecord, spec: Spec | None = None) -> str:
    """Format a metric with its unit, without its interval."""
    point = _ends(metric)["value"]
    if point is None:
        return NOTHING
    style, unit = _style(_unit(metric), difference=is_difference(spec))
    return _scaled(point, style) + unit


def interval(metric: Metric | MetricRecord, spec: Spec | None = None) -> str:
    """Format the interval of a metric in the scale of its unit: ``[54.1, 67.5]``; empty without an interval."""
    ends = _ends(metric)
    low, high = ends["low"], ends["high"]
    if ends["value"] is None or (low is None and high is None):
        return ""
    style, _ = _style(_unit(metric), difference=is_difference(spec))
    texts = [NOTHING if end is None else _scaled(end, style) for end in (low, high)]
    return f"[{texts[0]}, {texts[1]}]"


def sample_size(metric: Metric | MetricRecord) -> str:
    """Format the number of images, with that of their units if the interval is over units: ``1200, 120 units``."""
    n, units = (metric["n"], metric.get("units")) if isinstance(metric, Mapping) else (metric.n, metric.units)
    return str(n) if units is None else f"{n}, {counted(units, 'unit')}"


def of_units(data: DataRecord) -> str:
    """Format the number of units of the data after that of the images: `` of 120 units``; empty without units."""
    units = data.get("units")
    return "" if units is None else f" of {counted(units['n'], 'unit')} ({units['name']})"


def percent(metric: Metric) -> str:
    """Format a proportion in a statement: ``61.0 % [54.1, 67.5]``, or ``not measured``."""
    return "not measured" if metric.value is None else measured(metric)


def points(metric: Metric | MetricRecord) -> str:
    """Format a difference of two fractions with its interval, in percentage points: ``8.7 points [0.0, 48.3]``."""
    name = metric.name if isinstance(metric, Metric) else metric["name"]
    return measured(metric, MetricSpec(name=name, label=name, better="neither", difference=True))


def difference(unit: str, apart: IntervalRecord) -> str:
    """Format the difference of two values of a metric, with sign and interval: ``−4.5 points [−7.6, −1.3]``."""
    low, high = apart["low"], apart["high"]
    if apart["value"] is None:
        return NOTHING
    style, ending = _style(unit, difference=True)
    text = _signed(apart["value"], style) + ending
    return text if low is None or high is None else f"{text} [{_signed(low, style)}, {_signed(high, style)}]"


def _ends(metric: Metric | MetricRecord) -> IntervalRecord:
    return {"value": metric.value, "low": metric.low, "high": metric.high} if isinstance(metric, Metric) else metric


def _unit(metric: Metric | MetricRecord) -> str:
    return metric.unit if isinstance(metric, Metric) else metric["unit"]


def _style(unit: str, *, difference: bool) -> tuple[_Style, str]:
    """Return the number style of a unit and the text after the number."""
    if unit == "fraction":
        return ("points", " points") if difference else ("percent", " %")
    if unit == "linf":
        return "n/255", "/255"
    return "number", _UNITS.get(unit, "")


def _scaled(value: float, style: _Style) -> str:
    """Format a number in the scale of its unit, without the unit."""
    if style in ("percent", "points"):
        return f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")
    if style == "n/255":
        return f"{255 * value:.3g}"
    return number(value)


def _signed(value: float, style: _Style) -> str:
    text = _scaled(value, style).replace("-", "\N{MINUS SIGN}")
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("\N{MINUS SIGN}")
    return text if value < 0 else "+" + text


def probability(p: float | None) -> str:
    """Format a p-value: ``0.031``, ``< 0.001``; a dash without one."""
    if p is None:
        return NOTHING
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2g}" if p < 0.995 else "1"


def p_value(p: float) -> str:
    """Format a p-value in a sentence: ``p = 0.031``, ``p < 0.001``."""
    text = probability(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 gap``, ``3 gaps``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def cell(content: CellRecord, style: str) -> str:
    """Format a table cell: a scalar in the column's style, a number with its interval."""
    if isinstance(content, Mapping):
        return _cell_with_interval(content, style)
    if content is None:
        return NOTHING
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, int | float):
        return formatted(content, style)
    return str(content)


def _cell_with_interval(content: IntervalRecord, style: str) -> str:
    text = formatted(content["value"], style)
    if content["value"] is None or (content["low"] is None and content["high"] is None):
        return text
    low, high = (
        formatted(end, style).removesuffix(" %").removesuffix("/255") for end in (content["low"], content["high"])
    )
    return f"{text} [{low}, {high}]"


def sort_key(content: CellRecord) -> str:
    """Return the text that tables sort by: the number, if there is one."""
    if isinstance(content, Mapping):
        content = content["value"]
    if content is None:
        return ""
    return str(float(content)) if isinstance(content, int | float) else str(content)


def measured_at(at: Mapping[str, Json]) -> str:
    """Format the setting of a measurement: ``L∞ 8/255``, ``fog, severity 3``; empty without a setting."""
    rest = dict(at)
    parts = [_size(rest), _group(rest)]
    parts += [_setting_at(key, item) for key, item in rest.items()]
    return ", ".join(part for part in parts if part)


def _size(rest: dict[str, Json]) -> str:
    """Take norm and epsilon out of ``rest`` and format them."""
    norm = rest.pop("norm", None)
    if "epsilon" not in rest:
        return "" if norm is None else norm_name(str(norm))
    epsilon = rest.pop("epsilon")
    small = norm in (None, "linf") and isinstance(epsilon, int | float)
    size = cell(_scalar(epsilon), "n/255" if small else "number")
    return f"{norm_name(str(norm))} {size}" if norm else f"epsilon {size}"


def _group(rest: dict[str, Json]) -> str:
    """Take a group, its value and the group that it is compared with out of ``rest`` and format them."""
    if {"group", "value"} <= set(rest):
        text = f"{rest.pop('group')} {cell(_scalar(rest.pop('value')), 'number')}"
    elif {"class", "against"} <= set(rest):
        text = f"class {cell(_scalar(rest.pop('class')), 'number')}"
    else:
        return ""
    return f"{text} against {cell(_scalar(rest.pop('against')), 'number')}" if "against" in rest else text


def _setting_at(key: str, item: Json) -> str:
    if key in ("corruption", "noise"):
        return str(item).replace("_", " ")
    return f"{key.replace('_', ' ')} {cell(_scalar(item), 'n/255' if key == 'sigma' else 'number')}"


def _scalar(item: Json) -> CellRecord:
    return str(item) if isinstance(item, list | dict) else item


def place(at: Mapping[str, Json]) -> str:
    """Format the setting of a measurement after a metric's label: `` at L∞ 8/255``, `` by lighting``, `` of class 3``.

    A gap: `` of lighting dark against bright``.
    """
    if set(at) == {"group"}:
        return f" by {at['group']}"
    if set(at) == {"class"}:
        return f" of class {at['class']}"
    if set(at) in ({"order"}, {"preset"}):
        # the name of an alternative: `` (alphabetical order)``
        return f" ({next(iter(at.values()))})"
    text = measured_at(at)
    if text and "against" in at:
        return f" of {text}"
    return f" at {text}" if text else ""


def norm_name(text: str) -> str:
    """Replace the names of norms in a text: ``linf`` becomes ``L∞``."""
    return re.sub(r"\b(linf|l0|l1|l2)\b", lambda norm: _NORMS[norm[0]], text)


def lower(text: str) -> str:
    """Write the first letter in lower case, except in an abbreviation."""
    return text if text[:2].isupper() or text[:2] == "F1" else text[:1].lower() + text[1:]


def setting(content: Json) -> str:
    """Format a probe's setting."""
    if isinstance(content, str):
        return content
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return json.dumps(content, ensure_ascii=False)


def seconds(duration: float) -> str:
    """Format a duration: ``0.4 s``, ``83 s``, ``12.5 min``."""
    if duration >= 600:
        return f"{duration / 60:.1f} min"
    return f"{duration:.1f} s" if duration < 60 else f"{duration:.0f} s"
