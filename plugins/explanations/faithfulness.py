"""Faithfulness of all explanations of a run, side by side. The grades are from ``auditor/probes/grading.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Records, Table
from auditor.findings.formatting import points
from auditor.probes.derived import DerivedProbe
from auditor.probes.grading import GRADE_METRICS, Grades, explanation_records, grade, random_sample

if TYPE_CHECKING:
    from auditor.findings.evidence import Cell


@dataclass(frozen=True, kw_only=True)
class Faithfulness(DerivedProbe):
    """Compare the grades of all explanations; no model calls."""

    meta = Meta(
        id="explanations.faithfulness",
        title="Explanation faithfulness",
        area="explanations",
        why="A saliency map that fails its faithfulness checks does not describe the model, even if it is plausible.",
        references=("https://arxiv.org/abs/1806.07421", "https://arxiv.org/abs/1901.09392"),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = GRADE_METRICS
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)

    def conclude(self, records: Records) -> Conclusion:
        """Report the grades of each method, best first."""
        found = {name: grade(random_sample(frame)) for name, frame in explanation_records(records).items()}
        if not found:
            return Conclusion(inconclusive="no explanation was run, so there is nothing to grade")
        graded = dict(sorted(found.items(), key=lambda item: -(item[1].metrics[0].value or 0.0)))
        metrics = [
            replace(metric, at={"method": name, **metric.at})
            for name, grades in graded.items()
            for metric in grades.metrics
            if metric.n
        ]
        finding = Finding(
            id=f"{self.meta.id}/methods",
            title="Faithfulness by method",
            statement=_statement(graded),
            metric=metrics[0],
            evidence=[_table(graded)],
        )
        return Conclusion(metrics=metrics, findings=[finding])


def _statement(graded: Mapping[str, Grades]) -> str:
    passed = [name for name, grades in graded.items() if grades.passed]
    best, grades = next(iter(graded.items()))
    advantage = grades.metrics[0]
    return (
        f"The maps of {len(passed)} of {len(graded)} methods passed the faithfulness checks"
        f"{': ' + ', '.join(passed) if passed else ''}. Largest deletion advantage over chance: {best},"
        f" {points(advantage)} (n = {advantage.n})."
    )


def _table(graded: Mapping[str, Grades]) -> Table:
    names = ("deletion_advantage", "insertion_advantage", "infidelity", "max_sensitivity")
    rows: list[list[Cell]] = []
    for method, grades in graded.items():
        cells = {metric.name: metric.cell() for metric in grades.metrics}
        rows.append([method, *(cells.get(name) for name in names), grades.metrics[0].n, grades.verdict])
    return Table(
        title="Grades by method",
        columns=[
            "method",
            "deletion advantage",
            "insertion advantage",
            "infidelity",
            "max-sensitivity",
            "n",
            "result",
        ],
        formats=["text", "percent", "percent", "number", "number", "count", "text"],
        rows=rows,
        caption="Infidelity and max-sensitivity: lower is better. Each method is measured on its own sample.",
    )
