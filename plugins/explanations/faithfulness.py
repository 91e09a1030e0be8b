"""All explanations side by side: which maps may be read, and which method points best at what the answer rests on.

The grades themselves are taken where the maps are made (``auditor/attribution.py``); this is the table of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.findings.metric import percent
from auditor.probes.grading import Grades, fair, grade

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Probe):
    """Which explanations may be read? Makes no model call of its own."""

    meta = Meta(
        id="explanations.faithfulness",
        title="Which explanations may be read",
        area="explanations",
        why="A saliency map is a claim about the model. One that fails its checks is decoration, however plausible it"
        " looks.",
        references=("https://arxiv.org/abs/1806.07421", "https://arxiv.org/abs/1901.09392"),
        input_kinds=frozenset({"images", "rows"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing: all is in the explanations' records."""
        del classifier, batch, rng
        return {}

    def conclude(self, records: Records) -> Conclusion:
        """The grades of each method, best first."""
        frames = {n.removeprefix("explanations."): f for n, f in records.others.items() if "deletion" in f and len(f)}
        if not frames:
            return Conclusion(inconclusive="no explanation was run, so there is nothing to grade")
        graded = {name: grade(fair(frame)) for name, frame in frames.items()}
        order = sorted(graded, key=lambda name: -(graded[name].metrics[0].value or 0.0))
        readable = [name for name in order if graded[name].readable]
        best = graded[order[0]].metrics[0]
        statement = (
            f"{len(readable)} of {len(graded)} methods give maps that hold every check"
            f"{': ' + ', '.join(readable) if readable else ''}. Furthest above chance in deletion is {order[0]}:"
            f" {percent(best)} (n = {best.n})."
        )
        rows = [_row(name, graded[name]) for name in order]
        table = Table(
            title="Grades by method",
            columns=["method", "deletion over chance", "insertion over chance", "infidelity", "max-sensitivity", "n",
                     "verdict"],
            formats=["text", "percent", "percent", "number", "number", "count", "text"],
            rows=rows,
            caption="Infidelity and max-sensitivity: lower is better. Each method is measured on its own sample.",
        )  # fmt: skip
        metrics = [_named(metric, name) for name in order for metric in graded[name].metrics if metric.n]
        finding = Finding(
            id=f"{self.meta.id}/methods", title="Grades of the explanations", statement=statement, metric=metrics[0],
            evidence=[table],
        )  # fmt: skip
        return Conclusion(metrics=metrics, findings=[finding])


def _named(metric: Metric, method: str) -> Metric:
    from dataclasses import replace

    return replace(metric, at={"method": method, **metric.at})


def _row(name: str, grades: Grades) -> list[Any]:
    by_name = {metric.name: metric for metric in grades.metrics}
    cells = [by_name[key].cell() if key in by_name else None
             for key in ("deletion_advantage", "insertion_advantage", "infidelity", "max_sensitivity")]  # fmt: skip
    return [name, *cells, grades.metrics[0].n, grades.verdict]


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Faithfulness]
