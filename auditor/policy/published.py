"""Published numbers shown next to the measured ones: the entries ``[[documented]]`` of a suite.

    [[documented]]
    claim = "FGSM takes ResNet-18 from 98.8 % to 3.9 % at epsilon 0.01"
    source = "FGSM_Faces, final notebook"
    model = "faces-resnet18*"     # pattern of the model files that the number is about; any model by default
    probe = "attacks.fgsm"
    metric = "robust_accuracy"
    at = { norm = "linf" }
    over = "epsilon"              # a sweep: one of ``values`` for each of ``steps``; otherwise ``value``, or no number
    steps = [0.001, 0.01]
    values = [0.943, 0.039]
    series = "ResNet-18"          # name in the figure
    figure = "FGSM sweep"         # entries of the same figure share one chart
    note = "80 % of these test images had been trained on"

Published numbers are not judged: they were measured on other images, often by other rules. The report shows whether
they lie within the measured interval, and the note explains why they may differ.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

from auditor.errors import BadInput
from auditor.findings.metric import Scalar, Unit
from auditor.findings.record import DocumentedRecord, MetricRecord, ProbeRecord
from auditor.toml import Text, nearest

_TEXTS = ("claim", "source", "probe", "metric", "over", "series", "figure", "note")


@dataclass(frozen=True, kw_only=True)
class PublishedNumber:
    """A published claim with its number, or with a sweep of numbers."""

    claim: Text
    source: Text
    probe: Text
    """Id of the probe that measures the same."""
    metric: Text
    model: Text = "*"
    """Pattern of the names of model files that the number is about."""
    at: Mapping[str, Scalar] = field(default_factory=dict)
    """What the metric was measured at."""
    over: str = ""
    """The key of ``at`` that a sweep varies."""
    steps: tuple[float, ...] = ()
    """The values of ``over``."""
    values: tuple[float, ...] = ()
    """The published number at each step."""
    value: float | None = None
    """The published number without a sweep; omitted if the claim has none."""
    unit: Unit = "fraction"
    series: str = ""
    """Name of the line in the figure."""
    figure: str = ""
    """Entries of the same figure share one chart."""
    note: str = ""
    """Why the published number may differ."""

    def __post_init__(self) -> None:
        """Raise ValueError unless a sweep has as many values as steps."""
        if bool(self.over) != bool(self.steps) or len(self.steps) != len(self.values):
            raise ValueError("expected over, steps and as many values, or value alone")

    def rows(self) -> list[tuple[dict[str, Scalar], float | None]]:
        """What each number was measured at, with the number."""
        if not self.over:
            return [(dict(self.at), self.value)]
        sweep = zip(self.steps, self.values, strict=True)
        return [({**self.at, self.over: step}, value) for step, value in sweep]

    def is_about(self, model: str) -> bool:
        """Whether the number is about the model file called ``model``."""
        return any(fnmatch.fnmatch(name, self.model) for name in (model, model.rpartition(".")[0]))


def check_probes(entries: Sequence[PublishedNumber], probes: Collection[str], where: str) -> None:
    """Raise BadInput for an entry about a probe that does not exist."""
    for i, entry in enumerate(entries):
        if entry.probe not in probes:
            hint = nearest(entry.probe, probes)
            raise BadInput(
                f"{where}: documented {i + 1}: probe is {entry.probe!r}; no such probe{hint} (see `auditor probes`)"
            )


def compare_published(
    entries: Sequence[PublishedNumber], records: Sequence[ProbeRecord], model: str
) -> list[DocumentedRecord]:
    """Every entry as recorded in audit.json: the published number and what ``records`` measured at the same place.

    Entries about other models keep their published numbers, for the figure, without a measured one.
    """
    name = PureWindowsPath(model).name
    found: list[Any] = []
    for entry in entries:
        own = entry.is_about(name)
        record = next((record for record in records if record["id"] == entry.probe), None)
        rows = []
        for at, value in entry.rows():
            metric = _metric(record["metrics"], entry.metric, at) if record is not None and own else None
            measured = {key: None if metric is None else metric[key] for key in ("value", "low", "high", "n")}
            rows.append({"at": at, "documented": value, **measured, "reading": _agreement(value, measured)})
        texts = {key: getattr(entry, key) for key in _TEXTS}
        found.append({**texts, "unit": entry.unit, "this_model": own, "rows": rows})
    return found


def _metric(metrics: Sequence[MetricRecord], name: str, at: Mapping[str, Any]) -> MetricRecord | None:
    """The metric ``name`` measured at ``at``; of several, the one with the fewest further conditions."""
    fitting = [
        metric
        for metric in metrics
        if metric["name"] == name and all(_same(metric["at"].get(key), value) for key, value in at.items())
    ]
    return min(fitting, key=lambda metric: len(metric["at"]), default=None)


def _same(found: Any, wanted: Any) -> bool:
    if _is_number(found) and _is_number(wanted):
        # audit.json keeps six digits
        return math.isclose(found, wanted, rel_tol=1e-4, abs_tol=1e-12)
    return bool(found == wanted)


def _agreement(documented: float | None, measured: Mapping[str, Any]) -> str:
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
