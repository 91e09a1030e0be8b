"""The model-randomisation check: do the maps change when the model's weights are shuffled? (Adebayo et al. 2018,
arXiv:1810.03292, section 3.) A map that stays is an edge detector, not an explanation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.probes.grading import SHUFFLED

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Randomisation(Probe):
    """Do the maps depend on the model at all? Makes no model call of its own."""

    meta = Meta(
        id="explanations.randomisation",
        title="Maps of a model of shuffled weights",
        area="explanations",
        why="A map that looks the same for a model that has learnt nothing says nothing about this one.",
        references=("https://arxiv.org/abs/1810.03292",),
        needs=frozenset({"gradients"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing: all is in the explanations' records."""
        del classifier, batch, rng
        return {}

    def conclude(self, records: Records) -> Conclusion:
        """Each gradient method's maps against those of the shuffled copy."""
        from auditor import statistics

        rows: list[list[Any]] = []
        metrics: list[Metric] = []
        indifferent: list[str] = []
        for probe_id, frame in records.others.items():
            if "shuffled" not in frame or not len(frame):
                continue
            name = probe_id.removeprefix("explanations.")
            same = statistics.mean("shuffled_similarity", frame["shuffled"], unit="1", at={"method": name})
            if not same.n:
                continue
            metrics.append(same)
            fails = same.low is not None and same.low > SHUFFLED
            if fails:
                indifferent.append(name)
            rows.append([name, same.cell(), same.n, "depends too little on the model" if fails else "holds"])
        if not metrics:
            return Conclusion(inconclusive="no gradient method was run on a copy whose weights can be shuffled")
        n = sum(metric.n for metric in metrics)
        statement = (
            f"The maps of {', '.join(indifferent)} stay much the same when the weights are shuffled (n = {n} maps)."
            if indifferent
            else f"The maps of every gradient method change when the weights are shuffled (n = {n} maps)."
        )
        table = Table(
            title="Rank correlation with the maps of the shuffled model",
            columns=["method", "rank correlation", "n", "verdict"],
            formats=["text", "number", "count", "text"],
            rows=rows,
            caption=f"Every weight array's entries are permuted. Wanted: below {SHUFFLED}.",
        )
        finding = Finding(
            id=f"{self.meta.id}/methods", title="Do the maps depend on the model?", statement=statement,
            metric=metrics[0], evidence=[table],
        )  # fmt: skip
        return Conclusion(metrics=metrics, findings=[finding])


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Randomisation]
