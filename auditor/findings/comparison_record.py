"""Types of comparison.json; ``auditor/schemas/compare.schema.json`` is the published contract."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from auditor.findings.finding import Area, Severity, Status
from auditor.findings.metric import Scalar, Unit
from auditor.findings.record import (
    CurveRecord,
    ImageGridRecord,
    IntervalRecord,
    MetricRecord,
    MetricSpecRecord,
    Verdict,
)

Outcome = Literal["better", "worse", "different", "no-difference", "not-tested"]
Test = Literal["mcnemar", "bootstrap", "intervals", "none"]
ComparisonVerdict = Literal["better", "worse", "mixed", "no-difference", "ranked"]


class ValueRecord(IntervalRecord):
    """The value of a metric in one run."""

    n: int


class PairRecord(TypedDict):
    """The difference of a metric between two runs, and its test."""

    runs: list[int]
    """Indices of the two runs."""
    difference: IntervalRecord
    """The second run minus the first."""
    n: int
    test: Test
    only: list[int] | None
    """Images whose value is 1 in the first run only, and in the second only (McNemar)."""
    p: float | None
    p_adjusted: float | None
    outcome: Outcome


class ComparedMetricRecord(TypedDict):
    """One metric in all runs."""

    name: str
    at: dict[str, Scalar]
    unit: Unit
    headline: bool
    """True for the key metric of its probe."""
    values: list[ValueRecord]
    pairs: list[PairRecord]


class SideRecord(TypedDict):
    """What one run says about a probe."""

    statement: str
    examples: ImageGridRecord | None
    """One row; its files are relative to the folder of the run."""


class ComparedProbeRecord(TypedDict):
    """One probe in all runs."""

    id: str
    title: str
    area: Area
    status: list[Status | None]
    severity: list[Severity | None]
    reason: str
    """Why the probe is not compared; empty if it is."""
    metric_specs: NotRequired[list[MetricSpecRecord]]
    metrics: list[ComparedMetricRecord]
    curves: list[CurveRecord]
    sides: NotRequired[list[SideRecord | None]]
    """One for each run; None where it has no finding."""


class ComparedModelRecord(TypedDict):
    """The model of a run."""

    path: str
    sha256: str
    format: str
    access: str


class ComparedDataRecord(TypedDict):
    """The data of a run."""

    path: str
    sha256: str
    n: int
    labelled: bool


class ComparedRunRecord(TypedDict):
    """One of the compared runs."""

    name: str
    """A, B, C, ..."""
    path: str
    created: str
    auditor: str
    suite: str
    seed: int
    policy: str
    model: ComparedModelRecord
    data: ComparedDataRecord
    verdict: Verdict


class ImagesRecord(TypedDict):
    """How many images the runs have in common."""

    common: int
    of: list[int]
    other_bytes: int
    """Ids with different bytes."""
    other_label: int
    """Images with different labels."""


class DifferenceRecord(TypedDict):
    """A difference between the runs other than the model, and its effect."""

    what: str
    values: list[str]
    effect: str


class TestsRecord(TypedDict):
    """Tests in each of the two families of corrected p-values."""

    headline: int
    other: int


class RankRecord(TypedDict):
    """A run in the leaderboard."""

    rank: int
    points: int
    run: int
    better: int
    worse: int
    no_difference: int


class DecidingRecord(TypedDict):
    """A metric that decided the verdict of two runs."""

    probe: str
    name: str
    at: dict[str, Scalar]
    outcome: Outcome


class RunGapRecord(TypedDict):
    """A significant gap between groups in one of the runs."""

    run: int
    finding: str
    """Id of the finding in that run."""
    severity: Severity
    statement: str


class ComparisonRecord(TypedDict):
    """The whole comparison.json."""

    schema: Literal["auditor-compare/1"]
    auditor: str
    runs: list[ComparedRunRecord]
    images: ImagesRecord
    differences: list[DifferenceRecord]
    alpha: float
    tests: TestsRecord
    probes: list[ComparedProbeRecord]
    leaderboard: list[RankRecord]
    verdict: ComparisonVerdict
    verdict_reason: str
    decided_by: NotRequired[list[DecidingRecord]]
    """The metrics that decided; empty without a difference, and for more than two runs."""
    gaps: NotRequired[list[RunGapRecord]]
    """The worst gaps between groups of each run, as in its own report."""


def metric_of(metric: ComparedMetricRecord, value: ValueRecord) -> MetricRecord:
    """Return a compared metric with its value in one run."""
    # spelled out, because MetricRecord has a key that may be missing
    return {
        "name": metric["name"],
        "value": value["value"],
        "low": value["low"],
        "high": value["high"],
        "n": value["n"],
        "unit": metric["unit"],
        "at": metric["at"],
    }
