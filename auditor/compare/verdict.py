"""The verdict of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from auditor.findings.comparison_record import (
    ComparedMetricRecord,
    ComparedProbeRecord,
    ComparisonRecord,
    ComparisonVerdict,
    DecidingRecord,
    Outcome,
    RankRecord,
)
from auditor.findings.formatting import difference, lower, place, probability
from auditor.findings.record import metric_spec

ALPHA = 0.05
"""Probability of calling an unchanged model better or worse in any metric."""

_NAMED = 3
"""Metrics named in the reason of the verdict; comparison.json lists all that decided."""

_Counts = Counter[Outcome]


def decide(result: ComparisonRecord) -> tuple[ComparisonVerdict, str, list[DecidingRecord]]:
    """Return the verdict, its reason, and the metrics that decided it.

    Key metrics decide; without a difference in any of them, the other metrics do.
    """
    images = f"(n = {result['images']['common']} images in common)"
    if len(result["runs"]) > 2:
        return "ranked", f"{_leaders(result)} {images}", []
    changed = [_Changed(probe, metric) for probe in result["probes"] for metric in probe["metrics"]]
    changed = [each for each in changed if each.outcome in ("better", "worse")]
    key = [each for each in changed if each.metric["headline"]]
    other = [each for each in changed if not each.metric["headline"]]
    deciding = key or other
    baseline, new = (run["name"] for run in result["runs"])
    outcomes = {each.outcome for each in deciding}
    verdict, text = _of_two(baseline, new, better="better" in outcomes, worse="worse" in outcomes)
    parts = [text if key or not other else f"{text}, in no key metric but in other metrics"]
    parts += _named(deciding)
    parts += _tallies(*(_counts(result["probes"], headline=headline) for headline in (True, False)))
    if key and other:
        parts.append(f"other metrics that differ: {_listed([each.name for each in other])}")
    return verdict, "; ".join(parts) + f" {images}", [each.record() for each in deciding]


class _Changed(NamedTuple):
    """A metric that is significantly better or worse in the second of two runs."""

    probe: ComparedProbeRecord
    metric: ComparedMetricRecord

    @property
    def outcome(self) -> Outcome:
        return self.metric["pairs"][0]["outcome"]

    @property
    def name(self) -> str:
        """The metric with its setting and probe: ``accuracy at kind b (performance.accuracy)``."""
        spec = metric_spec(self.probe.get("metric_specs", []), self.metric["name"])
        return f"{lower(spec['label'])}{place(dict(self.metric['at']))} ({self.probe['id']})"

    @property
    def text(self) -> str:
        """The metric with its difference and corrected p-value."""
        pair = self.metric["pairs"][0]
        p = probability(pair["p_adjusted"])
        return f"{self.name} {difference(self.metric['unit'], pair['difference'])}, p {p if p[0] == '<' else '= ' + p}"

    def record(self) -> DecidingRecord:
        """The metric in comparison.json."""
        metric = self.metric
        return {"probe": self.probe["id"], "name": metric["name"], "at": metric["at"], "outcome": self.outcome}


def _named(deciding: Sequence[_Changed]) -> Iterator[str]:
    """Name the deciding metrics with their differences, the worse ones first, most significant first."""
    for outcome in ("worse", "better"):
        found = [each for each in deciding if each.outcome == outcome]
        found.sort(key=lambda each: each.metric["pairs"][0]["p_adjusted"] or 0.0)
        if found:
            yield f"{outcome}: {_listed([each.text for each in found])}"


def _listed(names: Sequence[str]) -> str:
    named = ", ".join(names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"


def _leaders(result: ComparisonRecord) -> str:
    first = [row for row in result["leaderboard"] if row["rank"] == 1]
    best, names = first[0], " and ".join(result["runs"][row["run"]]["name"] for row in first)
    tests = best["better"] + best["worse"] + best["no_difference"]
    leads = "lead together, each" if len(first) > 1 else "leads,"
    return (
        f"{names} {leads} significantly better than another run in {best['better']} of {tests} comparisons of key"
        f" metrics and worse in {best['worse']}"
    )


def _counts(probes: Iterable[ComparedProbeRecord], *, headline: bool) -> _Counts:
    return Counter(
        metric["pairs"][0]["outcome"]
        for probe in probes
        for metric in probe["metrics"]
        if metric["headline"] is headline
    )


def _of_two(baseline: str, new: str, *, better: bool, worse: bool) -> tuple[ComparisonVerdict, str]:
    if better and worse:
        return "mixed", f"{new} is worse than {baseline} in some respects and better in others"
    if worse:
        return "worse", f"{new} is worse than {baseline}"
    if better:
        return "better", f"{new} is better than {baseline}"
    return (
        "no-difference",
        f"no significant difference between {new} and {baseline} was found, which does not prove that there is none",
    )


def _tallies(key: _Counts, other: _Counts) -> Iterable[str]:
    for counts, kind in ((key, "key"), (other, "other")):
        tested = sum(counts.values()) - counts["not-tested"]
        if tested:
            yield f"of {tested} {kind} metrics {counts['worse']} significantly worse, {counts['better']} better"


def leaderboard(n_runs: int, probes: Sequence[ComparedProbeRecord]) -> list[RankRecord]:
    """Rank the runs by the comparisons that they win minus those that they lose, in key metrics."""
    tally: list[RankRecord] = [
        {"rank": 0, "points": 0, "run": run, "better": 0, "worse": 0, "no_difference": 0} for run in range(n_runs)
    ]
    for pair in (pair for probe in probes for metric in probe["metrics"] for pair in metric["pairs"]):
        i, j = pair["runs"]
        if pair["outcome"] in ("better", "worse"):
            winner, loser = (j, i) if pair["outcome"] == "better" else (i, j)
            tally[winner]["better"] += 1
            tally[loser]["worse"] += 1
        elif pair["outcome"] != "not-tested":
            tally[i]["no_difference"] += 1
            tally[j]["no_difference"] += 1
    for row in tally:
        row["points"] = row["better"] - row["worse"]
    for row in tally:
        row["rank"] = 1 + sum(other["points"] > row["points"] for other in tally)
    return sorted(tally, key=lambda row: (row["rank"], row["run"]))
