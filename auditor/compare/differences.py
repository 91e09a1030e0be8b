"""Test the difference of a metric between two runs, and correct the p-values for their number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor import statistics
from auditor.compare.verdict import ALPHA
from auditor.findings import formatting
from auditor.findings.comparison_record import (
    ComparedMetricRecord,
    ComparedProbeRecord,
    Outcome,
    PairRecord,
    Test,
    TestsRecord,
)
from auditor.findings.encoding import plain
from auditor.findings.record import MetricRecord, MetricSpecRecord, metric_spec

if TYPE_CHECKING:
    import pandas as pd


class _Difference(NamedTuple):
    """A difference with its interval, p-value and test."""

    interval: statistics.Interval
    p: float | None
    test: Test
    n: int
    only: list[int] | None = None


def compare_values(
    pair: tuple[int, int],
    metrics: Sequence[MetricRecord],
    values: Sequence[pd.Series | None],
    units: pd.Series | None = None,
) -> PairRecord:
    """Return the difference of two runs with its p-value, before correction.

    ``metrics`` and ``values`` (each image's contribution) have an entry per run. ``units`` by image id: tests are over
    units (patients, persons, videos).
    """
    i, j = pair
    first, second = metrics[i], metrics[j]
    if _is_mean(values[i], first) and _is_mean(values[j], second):
        difference = _paired(values[i], values[j], n=min(first["n"], second["n"]), units=units)
    else:
        difference = _unpaired(first, second)
    return {
        "runs": [i, j],
        "difference": plain(difference.interval._asdict()),
        "n": difference.n,
        "test": "none" if difference.p is None else difference.test,
        "only": difference.only,
        "p": None if difference.p is None else float(difference.p),
        "p_adjusted": None,
        "outcome": "not-tested",
    }


def _is_mean(values: pd.Series | None, metric: MetricRecord) -> bool:
    """Whether a metric is the mean of the values that its probe reports per image."""
    if values is None or metric["value"] is None:
        return False
    return math.isclose(float(values.astype(float).mean()), metric["value"], rel_tol=1e-4, abs_tol=1e-6)


def _paired(first: pd.Series, second: pd.Series, *, n: int, units: pd.Series | None) -> _Difference:
    """Compare image by image: proportions by McNemar's test, other means by the bootstrap."""
    import numpy as np

    aligned = first.astype(float).align(second.astype(float))
    a, b = (each.to_numpy() for each in aligned)
    of_image = None if units is None else units.reindex(aligned[0].index).to_numpy()
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        interval, p = statistics.paired_means(a, b, units=of_image)
        return _Difference(interval, p, "bootstrap", n)
    lost, gained = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    change = (b - a).astype(int)
    more, fewer, effective = statistics.effective_change(change, of_image)
    interval = statistics.paired_proportions(fewer, more, effective)
    p = (
        statistics.mcnemar_two_sided(lost, gained)
        if units is None
        else statistics.sign_flip_two_sided(change, of_image)
    )
    return _Difference(interval, p, "mcnemar", len(a), [lost, gained])


def _unpaired(first: MetricRecord, second: MetricRecord) -> _Difference:
    """Compare two published intervals as if the images were different ones."""
    intervals = (statistics.Interval(each["value"], each["low"], each["high"]) for each in (first, second))
    interval, p = statistics.from_intervals(*intervals)
    return _Difference(interval, p, "intervals", min(first["n"], second["n"]))


def correct_p_values(probes: Sequence[ComparedProbeRecord]) -> TestsRecord:
    """Set the corrected p-values and the outcomes; return the number of tests in each family.

    Holm's method corrects within each family; the families share the significance level equally.
    """
    families = [list(_tests(probes, headline=headline)) for headline in (True, False)]
    n_families = sum(bool(family) for family in families)
    for family in families:
        adjusted = statistics.holm([p for _, _, p in family])
        for (spec, pair, _), p in zip(family, adjusted, strict=True):
            pair["p_adjusted"] = min(1.0, n_families * p)
            pair["outcome"] = _outcome(spec, pair)
    return {"headline": len(families[0]), "other": len(families[1])}


def _tests(
    probes: Sequence[ComparedProbeRecord], *, headline: bool
) -> Iterator[tuple[MetricSpecRecord, PairRecord, float]]:
    for probe in probes:
        for metric in probe["metrics"]:
            for pair in metric["pairs"] if metric["headline"] is headline else ():
                if pair["p"] is not None:
                    yield _spec(probe, metric), pair, pair["p"]


def _spec(probe: ComparedProbeRecord, metric: ComparedMetricRecord) -> MetricSpecRecord:
    return metric_spec(probe.get("metric_specs", []), metric["name"])


def _outcome(spec: MetricSpecRecord, pair: PairRecord) -> Outcome:
    """Return whether a tested difference is better, worse, different or none."""
    difference = pair["difference"]["value"]
    if pair["p_adjusted"] is None or pair["p_adjusted"] >= ALPHA or not difference:
        return "no-difference"
    direction = formatting.direction(spec) * (1 if difference > 0 else -1)
    outcomes: dict[int, Outcome] = {1: "better", -1: "worse", 0: "different"}
    return outcomes[direction]
