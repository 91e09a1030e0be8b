"""The verdict of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from auditor.compare.runs import Run
from auditor.findings import formatting

ALPHA = 0.05


def outcome_of(metric: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """Say whether a tested difference is better, worse, different or none."""
    difference = pair["difference"]["value"]
    if pair["p_adjusted"] >= ALPHA or not difference:
        return "no-difference"
    side = formatting.better_side(metric) * (1 if difference > 0 else -1)
    return {1: "better", -1: "worse", 0: "different"}[side]


# all of it


def decide(result: Mapping[str, Any]) -> tuple[str, str]:
    """Headline numbers decide; where none of them differs, the others do."""
    runs, n = result["runs"], result["images"]["common"]
    seen = f"(n = {n} images in common)"
    if len(runs) > 2:
        first = [row for row in result["leaderboard"] if row["rank"] == 1]
        best, names = first[0], " and ".join(runs[row["run"]]["name"] for row in first)
        tests = best["better"] + best["worse"] + best["no_difference"]
        return "ranked", (
            f"{names} {'lead together, each' if len(first) > 1 else 'leads,'} significantly better than another run in"
            f" {best['better']} of {tests} comparisons of headline numbers and worse in {best['worse']} {seen}"
        )
    found = {headline: Counter(metric["pairs"][0]["outcome"] for probe in result["probes"]
                               for metric in probe["metrics"] if metric["headline"] is headline)
             for headline in (True, False)}  # fmt: skip
    decisive = found[True] if found[True]["better"] or found[True]["worse"] else found[False]
    better, worse = decisive["better"] > 0, decisive["worse"] > 0
    a, b = (run["name"] for run in runs)
    verdict, words = (
        ("mixed", f"{b} is worse than {a} in some respects and better in others") if worse and better
        else ("worse", f"{b} is worse than {a}") if worse
        else ("better", f"{b} is better than {a}") if better
        else ("no-difference", f"no significant difference of {b} from {a} was found, which does not show that there is"
                               " none")
    )  # fmt: skip
    parts = [words]
    for headline, kind in ((True, "headline"), (False, "further")):
        tested = sum(found[headline].values()) - found[headline]["not-tested"]
        if tested:
            worse_ones, better_ones = found[headline]["worse"], found[headline]["better"]
            parts.append(f"of {tested} {kind} numbers {worse_ones} significantly worse, {better_ones} better")
    for side in ("worse", "better"):
        changed = [probe["id"] for probe in result["probes"]
                 if any(metric["pairs"][0]["outcome"] == side for metric in probe["metrics"])]  # fmt: skip
        parts += [f"{side}: {', '.join(changed)}"] if changed else []
    return verdict, "; ".join(parts) + f" {seen}"


def leaderboard(runs: Sequence[Run], probes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs by how often they are significantly better less how often worse than another in a headline number."""
    tally = [{"run": i, "better": 0, "worse": 0, "no_difference": 0} for i in range(len(runs))]
    for probe in probes:
        for metric in probe["metrics"]:
            for pair in metric["pairs"]:
                i, j = pair["runs"]
                if pair["outcome"] in {"better", "worse"}:
                    winner, loser = (j, i) if pair["outcome"] == "better" else (i, j)
                    tally[winner]["better"] += 1
                    tally[loser]["worse"] += 1
                elif pair["outcome"] != "not-tested":
                    tally[i]["no_difference"] += 1
                    tally[j]["no_difference"] += 1
    rows = sorted(tally, key=lambda row: (row["worse"] - row["better"], row["run"]))
    points = [row["better"] - row["worse"] for row in rows]
    return [{"rank": 1 + sum(p > point for p in points), "points": point} | row
            for point, row in zip(points, rows, strict=True)]  # fmt: skip
