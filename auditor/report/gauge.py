"""The bars of page one: a fraction with its interval, the good direction, and the threshold."""

from __future__ import annotations

from typing import NamedTuple

from auditor.findings import formatting
from auditor.findings.record import MetricRecord, ProbeRecord, spec_of
from auditor.report.ranking import is_comparable


class Gauge(NamedTuple):
    """A bar from 0 to 100 %. All positions are fractions, 0 to 1."""

    value: float
    low: float
    high: float
    better: str
    """Which end is good: "higher" or "lower"."""
    threshold: float | None
    """The strictest threshold that applies to the metric; None if no rule judges it."""
    text: str
    """Direction and threshold: ``higher is better, threshold 70.0 %``."""


def gauge(probe: ProbeRecord, metric: MetricRecord) -> Gauge | None:
    """Return the bar of a metric; None for a number that is not a fraction with a better direction."""
    spec = spec_of(probe, metric)
    value = metric["value"]
    if value is None or not is_comparable(metric, spec):
        return None
    low = value if metric["low"] is None else max(metric["low"], 0.0)
    high = value if metric["high"] is None else min(metric["high"], 1.0)
    threshold = _threshold(probe, metric, higher=spec["better"] == "higher")
    text = f"{spec['better']} is better"
    if threshold is not None:
        text += f", threshold {formatting.formatted(threshold, 'percent')}"
    return Gauge(value, low, high, spec["better"], threshold, text)


def _threshold(probe: ProbeRecord, metric: MetricRecord, *, higher: bool) -> float | None:
    """Return the strictest threshold on the value; a limit on the loss counts from the clean value."""
    found = []
    for judgement in probe.get("judgements", []):
        if judgement["metric"] != metric["name"] or judgement["at"] != metric["at"] or "limit" not in judgement:
            continue
        lost = judgement.get("side") == "at_most_lost"
        found.append(metric.get("clean", 1.0) - judgement["limit"] if lost else judgement["limit"])
    inside = [min(max(limit, 0.0), 1.0) for limit in found]
    return (max(inside) if higher else min(inside)) if inside else None
