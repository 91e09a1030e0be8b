"""Page one names the worst gaps between groups, in every format, and says so if there is none."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from auditor.report.card import render_card
from auditor.report.group_gaps import group_gaps, largest_gap
from auditor.report.html import render_html
from auditor.report.markdown import render_markdown
from auditor.report.plain_summary import plain_summary

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"


def with_gaps(count: int) -> Any:
    """Return the golden audit with ``count`` significant gaps by lighting; the last ones are the worst."""
    audit = json.loads(GOLDEN.read_text("utf-8"))
    probe = next(probe for probe in audit["probes"] if probe["id"] == "bias.groups")
    (finding,) = probe["findings"]
    first = probe["metrics"][0]
    insignificant = {**probe["metrics"][1], "low": 0.0}
    probe["findings"], gaps = [], []
    for number in range(count):
        metric = copy.deepcopy(first) | {"value": 0.2 + number / 50, "low": 0.1 + number / 50, "high": 0.9}
        metric["at"]["value"] = f"dusk {number}"
        statement = f"Accuracy is {100 * metric['value']:.1f} points lower for lighting dusk {number} than for day."
        changes = {"id": f"bias.groups/accuracy-gap/lighting/{number}", "metric": metric, "statement": statement}
        probe["findings"].append({**finding, **changes, "severity": "high" if number > 5 else "medium"})
        gaps.append(metric)
    probe["metrics"] = [*gaps, insignificant, *probe["metrics"][2:]]
    return audit


def test_worst_gaps_come_first_and_the_rest_is_counted() -> None:
    gaps = group_gaps(with_gaps(12))
    assert [entry.finding["metric"]["at"]["value"] for entry in gaps.worst if entry.finding["metric"]] == [
        f"dusk {number}" for number in (11, 10, 9, 8, 7)
    ]
    assert (gaps.found, gaps.text) == (12, "The 5 worst of 12 significant gaps; the section on bias lists all.")


def test_audit_without_a_significant_gap_says_so() -> None:
    gaps = group_gaps(with_gaps(0))
    assert (list(gaps.worst), gaps.found) == ([], 0)
    assert gaps.text.startswith("No gap between groups is significant")
    text = " ".join(plain_summary(with_gaps(0)))
    assert "The largest is in Accuracy by group: accuracy gap of source phone against camera" in text
    audit = with_gaps(0)
    audit["probes"] = [probe for probe in audit["probes"] if probe["area"] != "bias"]
    assert group_gaps(audit).text == "Gaps between groups were not measured."
    assert largest_gap(audit) is None


def test_gaps_of_an_invalidated_probe_are_no_evidence() -> None:
    audit = with_gaps(3)
    probe = next(probe for probe in audit["probes"] if probe["id"] == "bias.groups")
    probe |= {"status": "inconclusive", "invalidated_by": "sanity.labels", "reason": "the class order is wrong"}
    assert group_gaps(audit).found == 0
    assert group_gaps(audit).text == "Gaps between groups are no evidence: the class order is wrong."
    assert "gaps between groups are no evidence: the class order is wrong" in " ".join(plain_summary(audit)).lower()


def test_gap_between_classes_is_no_gap_between_groups() -> None:
    audit = with_gaps(1)
    probe = next(probe for probe in audit["probes"] if probe["id"] == "bias.groups")
    for metric in (probe["findings"][0]["metric"], probe["metrics"][0]):
        metric["at"] = {"class": "cat", "against": "dog"}
    assert group_gaps(audit).found == 0


@pytest.mark.parametrize("count", [0, 1, 12])
def test_every_format_names_the_worst_gaps(count: int, tmp_path: Path) -> None:
    audit = with_gaps(count)
    gaps = group_gaps(audit)
    # without pictures
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            finding["evidence"] = [each for each in finding["evidence"] if each["kind"] != "image-grid"]
    for render in (render_html, render_markdown, render_card):
        text = render(audit, tmp_path).decode()
        for entry in gaps.worst:
            assert entry.finding["statement"] in text
        assert gaps.text in text
    page = render_html(audit, tmp_path).decode()
    overview = page[page.index('id="overview"') : page.index('id="probes"')]
    assert "Worst gaps between groups" in overview
    assert overview.count("points lower for lighting dusk") >= min(count, 5)
