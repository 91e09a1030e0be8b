"""Model randomisation check: whether the maps change when the model's weights are shuffled (Adebayo et al. 2018,
arXiv:1810.03292, section 3). A map that does not change acts as an edge detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, Records, Table
from auditor.probes.derived import DerivedProbe
from auditor.probes.grading import MAX_SHUFFLED_SIMILARITY, SHUFFLED_SIMILARITY, explanation_records

if TYPE_CHECKING:
    from auditor.findings.evidence import Cell


@dataclass(frozen=True, kw_only=True)
class Randomisation(DerivedProbe):
    """Compare the maps with those of a model with shuffled weights; no model calls."""

    meta = Meta(
        id="explanations.randomisation",
        title="Model randomisation check",
        area="explanations",
        why="A map that is unchanged for random weights carries no information about the model.",
        references=("https://arxiv.org/abs/1810.03292",),
        needs=frozenset({"gradients"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (SHUFFLED_SIMILARITY,)
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)

    def conclude(self, records: Records) -> Conclusion:
        """Compare each gradient method's maps with those of the shuffled copy."""
        from auditor import statistics

        found = [
            statistics.mean(
                "shuffled_similarity", frame["shuffled"], unit="1", at={"method": name}, units=frame.get("unit")
            )
            for name, frame in explanation_records(records).items()
        ]
        metrics = [metric for metric in found if metric.n]
        if not metrics:
            return Conclusion(inconclusive="no gradient method was run on a copy whose weights can be shuffled")
        rows: list[list[Cell]] = [
            [metric.at["method"], metric.cell(), metric.n, "fails" if _insensitive(metric) else "does not fail"]
            for metric in metrics
        ]
        table = Table(
            title="Rank correlation with the maps of the shuffled model",
            columns=["method", "rank correlation", "n", "result"],
            formats=["text", "number", "count", "text"],
            rows=rows,
            caption="The entries of every weight array are permuted. A method fails if the interval lies above"
            f" {MAX_SHUFFLED_SIMILARITY}.",
        )
        finding = Finding(
            id=f"{self.meta.id}/methods",
            title="Dependence of the maps on the model",
            statement=_statement(metrics),
            metric=metrics[0],
            evidence=[table],
        )
        return Conclusion(metrics=metrics, findings=[finding])


def _insensitive(metric: Metric) -> bool:
    """Return whether the whole interval lies above the limit."""
    return metric.low is not None and metric.low > MAX_SHUFFLED_SIMILARITY


def _statement(metrics: Sequence[Metric]) -> str:
    n = sum(metric.n for metric in metrics)
    insensitive = [str(metric.at["method"]) for metric in metrics if _insensitive(metric)]
    if insensitive:
        return f"The maps of {', '.join(insensitive)} change little when the weights are shuffled (n = {n} maps)."
    return f"The maps of every gradient method change when the weights are shuffled (n = {n} maps)."
