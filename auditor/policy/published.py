"""What is documented of a model, beside what was measured: the entries ``[[documented]]`` of a suite.

    [[documented]]
    claim = "FGSM takes ResNet-18 from 98.8 % to 3.9 % at epsilon 0.01"
    source = "FGSM_Faces, final notebook"
    model = "faces-resnet18*"     # whose number this is: a pattern of the model file's name; without it, any
    probe = "attacks.fgsm"
    metric = "robust_accuracy"
    at = { norm = "linf" }
    over = "epsilon"              # with one of these for each value; without it ``value``, or no number at all
    steps = [0.001, 0.01]
    values = [0.943, 0.039]
    series = "ResNet-18"          # its name in the figure
    figure = "FGSM sweep"         # entries with the same one are drawn over each other
    note = "80 % of these test images had been trained on"

Numbers of others are not judged: they were measured on other images, often by other rules. The report shows where they
lie with respect to the measured interval, and the note why that may be.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from auditor.errors import BadInput
from auditor.findings.record import DocumentedRecord, MetricRecord, ProbeRecord

_TEXTS = ("claim", "source", "model", "probe", "metric", "over", "series", "figure", "note")
_UNITS = ("fraction", "l2", "linf", "l1", "dB", "s", "count", "nats", "1")
_KEYS = frozenset({*_TEXTS, "at", "steps", "values", "value", "unit"})


def check(entries: Any, probes: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], ...]:
    """The entries of a suite file, whole and of the right kinds. Raises BadInput for anything else."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{where}: documented must be tables, [[documented]]")
    return tuple(_checked(entry, probes, f"{where}: documented, entry {i + 1}") for i, entry in enumerate(entries))


def _checked(entry: Mapping[str, Any], probes: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    for key in entry:
        if key not in _KEYS:
            raise BadInput(f"{where}: unknown key {key!r}; expected some of {', '.join(sorted(_KEYS))}")
    for key in ("claim", "source", "probe", "metric"):
        if not entry.get(key):
            raise BadInput(f"{where}: has no {key}")
    for key in _TEXTS:
        if not isinstance(entry.get(key, ""), str):
            raise BadInput(f"{where}: {key} is {entry[key]!r}; expected a text")
    if entry["probe"] not in probes:
        raise BadInput(f"{where}: probe {entry['probe']!r}: no such probe (see `auditor probes`)")
    at = entry.get("at", {})
    if not isinstance(at, dict):
        raise BadInput(f'{where}: at is {at!r}; expected a table such as {{ norm = "linf" }}')
    swept = "over" in entry
    values = entry.get("values") if swept else [entry.get("value")]
    steps = entry.get("steps") if swept else [None]
    fine = isinstance(values, list) and isinstance(steps, list) and len(values) == len(steps) > 0
    if not fine or not all(_is_number(value) or (value is None and not swept) for value in values or []):
        wanted = "steps and as many values, all numbers" if swept else "value to be a number"
        raise BadInput(f"{where}: expected {wanted}")
    unit = entry.get("unit", "fraction")
    if unit not in _UNITS:
        raise BadInput(f"{where}: unit is {unit!r}; expected one of {', '.join(_UNITS)}")
    rows = [({**at, entry["over"]: step} if swept else dict(at), None if value is None else float(value))
            for step, value in zip(steps or [], values or [], strict=True)]  # fmt: skip
    texts = {key: entry.get(key, "") for key in _TEXTS}
    return {**texts, "model": texts["model"] or "*", "unit": unit, "rows": rows}


def beside(entries: Sequence[Mapping[str, Any]], records: Sequence[ProbeRecord], model: str) -> list[DocumentedRecord]:
    """Every entry as it stands in audit.json: what is documented, and what these records measured at the same place.

    Entries of other models keep their numbers, for the figure, and get none of this model's.
    """
    name = PureWindowsPath(model).name
    found: list[Any] = []
    for entry in entries:
        own = fnmatch.fnmatch(name, entry["model"]) or fnmatch.fnmatch(name.rpartition(".")[0], entry["model"])
        record = next((record for record in records if record["id"] == entry["probe"]), None)
        rows = []
        for at, value in entry["rows"]:
            metric = _metric(record["metrics"], entry["metric"], at) if record is not None and own else None
            measured = {key: None if metric is None else metric[key] for key in ("value", "low", "high", "n")}
            rows.append({"at": at, "documented": value, **measured, "reading": _reading(value, measured)})
        texts = {key: entry[key] for key in _TEXTS if key != "model"}
        found.append({**texts, "unit": entry["unit"], "this_model": own, "rows": rows})
    return found


def _metric(metrics: Sequence[MetricRecord], name: str, at: Mapping[str, Any]) -> MetricRecord | None:
    """The metric of this name that was measured at ``at``; of several the one that says least besides."""
    fitting = [
        metric for metric in metrics
        if metric["name"] == name and all(_same(metric["at"].get(key), value) for key, value in at.items())
    ]  # fmt: skip
    return min(fitting, key=lambda metric: len(metric["at"]), default=None)


def _same(found: Any, wanted: Any) -> bool:
    if _is_number(found) and _is_number(wanted):
        # audit.json keeps six digits
        return math.isclose(found, wanted, rel_tol=1e-4, abs_tol=1e-12)
    return bool(found == wanted)


def _reading(documented: float | None, measured: Mapping[str, Any]) -> str:
    value, low, high = measured["value"], measured["low"], measured["high"]
    if value is None:
        return "not measured"
    if documented is None:
        return "no number documented"
    if low is None or high is None:
        low = high = value
    if documented > high:
        return "measured lower"
    return "measured higher" if documented < low else "within the interval"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
