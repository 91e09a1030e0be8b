"""How numbers and names are written down: one way for the terminal, the policy and every report format.

Everything takes plain audit.json values and gives text. "No data" is a dash, never 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from auditor.findings.metric import n_of_255

NOTHING = "–"
"""What stands where there is no number."""

# Control characters have no place in a report, bidirectional overrides can reorder the text around them, and lone
# surrogates cannot be written as UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
_UNITS = {"l2": "L2", "l1": "L1", "dB": "dB", "s": "s", "nats": "nats"}

_NAMES = {
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "roc_auc_micro": "ROC AUC over all pairs of image and class",
    "ece": "Expected calibration error",
    "brier": "Brier score",
    "mce": "Mean corruption error",
    "relative_mce": "Mean corruption error less the clean error",
    "ece_of_perfect": "The same of a perfectly calibrated model",
    "certified_radius_median": "Certified radius, median",
    "certificate_contradicted": "Images with a certificate above a perturbation found",
    "clever_contradicted": "Images with a CLEVER score above a perturbation found",
    "clever_unexplained": "Of these, without a sign that the score is uncertain",
    "bracket_ratio_median": "Perturbation found by certified radius, median",
    "clever_median": "CLEVER score, median",
    "clever_fits": "CLEVER score's law fits",
    "clever_spread": "CLEVER score, half the samples against the other half",
    "clever_at_radius": "CLEVER score as large as its radius",
    "clever_below_distance": "CLEVER score below the distance found",
    "distance_median": "Distance to the nearest error, median",
    "snr_median": "Signal-to-noise ratio at the first error, median",
    "unconfirmed": "Errors of the copy that the original did not confirm",
    "deletion_auc": "Deletion AUC",
    "insertion_auc": "Insertion AUC",
}

_READINGS = {
    "robust_accuracy": "upper bound",
    "distance_median": "upper bound",
    "attack_success_rate": "lower bound",
    "certified_accuracy": "lower bound",
    "certified_radius_median": "lower bound",
    "smoothed_certified_accuracy": "lower bound",
    "clever_median": "estimate",
}


# Endings of names: which way is better. A high signal-to-noise ratio at the first error is a small perturbation. What
# ends in none of them (a share of attribution, say) has no better side.
_MORE_IS_BETTER = ("accuracy", "agreement", "advantage", "precision", "recall", "f1", "roc_auc", "roc_auc_micro",
                   "parity_ratio", "odds_ratio", "distance_median", "clever_median")  # fmt: skip
_LESS_IS_BETTER = ("attack_success_rate", "gap", "parity_difference", "odds_difference", "opportunity_difference",
                   "ece", "brier", "log_loss", "mce", "snr_median", "max_abs_difference", "clever_below_distance",
                   "confidence_drop")  # fmt: skip


def better_side(metric: Mapping[str, Any]) -> int:
    """1 where more of a metric is better, -1 where less is, 0 where it cannot be said."""
    known: str = metric["name"]
    return known.endswith(_MORE_IS_BETTER) - known.endswith(_LESS_IS_BETTER)


def clean(text: str) -> str:
    """Text without control characters, direction overrides and lone surrogates; each becomes a visible mark."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def number(value: float | None) -> str:
    """A plain number to three significant digits, whole numbers in full."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if float(value).is_integer() and abs(value) < 1e9:
        text = f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}" if abs(value) >= 10000 else "")
    elif 1000 <= abs(value) < 1e6:
        text = f"{value:.0f}"
    else:
        text = re.sub(r"e([+-])0*(\d+)", _power, f"{value:.3g}")
    return "\N{MINUS SIGN}" + text[1:] if value < 0 else text


def _power(found: re.Match[str]) -> str:
    """``e-05`` as people write it."""
    raised = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    return "·10" + ("⁻" if found[1] == "-" else "") + found[2].translate(raised)


def formatted(value: float | None, style: str) -> str:
    """A number in one of the styles of axes, tables and heat maps: number, count, percent, n/255, text."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if style == "percent":
        return f"{100 * value:.1f} %".replace("-", "\N{MINUS SIGN}")
    if style == "n/255":
        return "0" if value == 0 else n_of_255(value)
    return number(value)


def _style(metric: Mapping[str, Any]) -> tuple[str, str]:
    """The number style of a metric and what is written after it."""
    unit = metric["unit"]
    if unit == "fraction" and metric["name"].endswith(("_gap", "_gain")):
        return "points", " points"
    if unit == "fraction":
        return "percent", " %"
    if unit == "linf":
        return "n/255", "/255"
    return "number", f" {_UNITS[unit]}" if unit in _UNITS else ""


def _bare(value: float, style: str) -> str:
    """A number in the scale of its unit, without the unit."""
    if style in ("percent", "points"):
        return f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")
    if style == "n/255":
        return f"{255 * value:.3g}"
    return number(value)


def measured(metric: Mapping[str, Any]) -> str:
    """A metric's number with its interval and unit: ``61.0 % [54.1, 67.5]``; a dash where there is none."""
    if metric["value"] is None:
        return NOTHING
    style, unit = _style(metric)
    text = _bare(metric["value"], style) + unit
    return f"{text} {interval(metric)}".rstrip()


def value(metric: Mapping[str, Any]) -> str:
    """A metric's number with its unit and without its interval."""
    return measured({**metric, "low": None, "high": None})


def interval(metric: Mapping[str, Any]) -> str:
    """A metric's interval in the scale of its unit: ``[54.1, 67.5]``; empty where there is none."""
    low, high = metric["low"], metric["high"]
    if metric["value"] is None or (low is None and high is None):
        return ""
    style, _ = _style(metric)
    ends = [NOTHING if end is None else _bare(end, style) for end in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"


def difference(metric: Mapping[str, Any], apart: Mapping[str, Any]) -> str:
    """A difference of two values of a metric, with sign and interval: ``−4.5 points [−7.6, −1.3]``."""
    if apart["value"] is None:
        return NOTHING
    style, unit = _style(metric)
    if style == "percent":
        style, unit = "points", " points"
    ends = [_signed(apart[end], style) for end in ("low", "high") if apart[end] is not None]
    return _signed(apart["value"], style) + unit + (f" [{ends[0]}, {ends[1]}]" if len(ends) == 2 else "")


def _signed(value: float, style: str) -> str:
    text = _bare(value, style).replace("-", "\N{MINUS SIGN}")
    nothing = not any(digit in text for digit in "123456789")
    return text.lstrip("\N{MINUS SIGN}") if nothing else text if value < 0 else "+" + text


def probability(p: float | None) -> str:
    """A p-value: ``0.031``, ``< 0.001``; a dash where there is none."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.995 else "1"


def cell(content: Any, style: str) -> str:
    """A table cell as text: scalars by the column's style, numbers with their interval behind."""
    if isinstance(content, Mapping):
        if content["value"] is None:
            return NOTHING
        ends = [content["low"], content["high"]]
        text = formatted(content["value"], style)
        if ends == [None, None]:
            return text
        shown = [formatted(end, style).removesuffix(" %").removesuffix("/255") for end in ends]
        return f"{text} [{shown[0]}, {shown[1]}]"
    if content is None:
        return NOTHING
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, int | float):
        return formatted(content, style)
    return str(content)


def sort_key(content: Any) -> str:
    """What a table is sorted by: the number itself where there is one."""
    if isinstance(content, Mapping):
        content = content["value"]
    if content is None:
        return ""
    return str(float(content)) if isinstance(content, int | float) else str(content)


def measured_at(at: Mapping[str, Any]) -> str:
    """What a metric was measured at: ``L∞ 8/255``, ``fog, severity 3``; empty where nothing is said."""
    rest = dict(at)
    parts = []
    norm = rest.pop("norm", None)
    if "epsilon" in rest:
        epsilon = rest.pop("epsilon")
        small = norm in (None, "linf") and isinstance(epsilon, int | float)
        size = formatted(epsilon, "n/255") if small else cell(epsilon, "number")
        parts.append(f"{norm_name(str(norm))} {size}" if norm else f"epsilon {size}")
    elif norm is not None:
        parts.append(norm_name(str(norm)))
    if "group" in rest and "value" in rest:
        parts.append(f"{rest.pop('group')} {cell(rest.pop('value'), 'number')}")
    for key, item in rest.items():
        if key in ("corruption", "noise"):
            parts.append(str(item).replace("_", " "))
        else:
            style = "n/255" if key == "sigma" else "number"
            parts.append(f"{key.replace('_', ' ')} {cell(item, style)}")
    return ", ".join(parts)


def place(metric: Mapping[str, Any]) -> str:
    """The same as it follows a metric's name: `` at L∞ 8/255``, `` by lighting``."""
    at = metric["at"]
    if set(at) == {"group"}:
        return f" by {at['group']}"
    said = measured_at(at)
    return f" at {said}" if said else ""


def norm_name(norm: str) -> str:
    """Norms as people write them: ``L∞``."""
    return re.sub(r"\b(linf|l0|l1|l2)\b", lambda found: _NORMS[found[0]], norm)


def name(metric: Mapping[str, Any]) -> str:
    """A metric's name for people: ``Robust accuracy``."""
    known: str = metric["name"]
    return _NAMES.get(known, known.replace("_", " ").capitalize())


def lower(text: str) -> str:
    """The text with a small first letter, unless it starts with an abbreviation."""
    return text if text[:2].isupper() or text[:2] == "F1" else text[:1].lower() + text[1:]


def reading(metric: Mapping[str, Any]) -> str:
    """How a number reads: what an attack found bounds from one side, what a proof gives from the other."""
    if metric["name"] == "robust_accuracy" and metric["at"].get("norm") in (None, "none"):
        return "measured"
    return _READINGS.get(metric["name"], "measured")


def setting(content: Any) -> str:
    """A probe's setting as text."""
    if isinstance(content, str):
        return content
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return json.dumps(content, ensure_ascii=False)


def seconds(duration: float) -> str:
    """How long something took: ``0.4 s``, ``83 s``, ``12.5 min``."""
    if duration >= 600:
        return f"{duration / 60:.1f} min"
    return f"{duration:.1f} s" if duration < 60 else f"{duration:.0f} s"
