"""The verdict of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from auditor.findings.comparison_record import (
    ComparedProbeRecord,
    ComparisonRecord,
    ComparisonVerdict,
    Outcome,
    RankRecord,
)

ALPHA = 0.05
"""Probability of calling an unchanged model better or worse in any metric."""

_Counts = Counter[Outcome]


def decide(result: ComparisonRecord) -> tuple[ComparisonVerdict, str]:
    """Return the verdict and its reason.

    Key metrics decide; without a difference in any of them, the other metrics do.
    """
    images = f"(n = {result['images']['common']} images in common)"
    if len(result["runs"]) > 2:
        return "ranked", f"{_leaders(result)} {images}"
    key, other = _counts(result["probes"], headline=True), _counts(result["probes"], headline=False)
    decisive = key if key["better"] or key["worse"] else other
    baseline, new = (run["name"] for run in result["runs"])
    verdict, text = _of_two(baseline, new, better=decisive["better"] > 0, worse=decisive["worse"] > 0)
    parts = [text, *_tallies(key, other), *_changed(result["probes"])]
    return verdict, "; ".join(parts) + f" {images}"


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


def _changed(probes: Sequence[ComparedProbeRecord]) -> Iterable[str]:
    """Name the probes with worse and with better metrics."""
    for outcome in ("worse", "better"):
        names = [
            probe["id"]
            for probe in probes
            if any(metric["pairs"][0]["outcome"] == outcome for metric in probe["metrics"])
        ]
        if names:
            yield f"{outcome}: {', '.join(names)}"


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
