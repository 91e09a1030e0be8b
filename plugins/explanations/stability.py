"""Stability of explanations: does the same image, explained again with other random numbers or with invisible noise,
get the same map? (Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049; Yeh et al. 2019, arXiv:1901.09392.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.probes.grading import SAME

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Stability(Probe):
    """Would the report show other maps tomorrow? Makes no model call of its own."""

    meta = Meta(
        id="explanations.stability",
        title="Stability of the explanations",
        area="explanations",
        why="A map that changes with the random numbers or with noise that nobody sees cannot carry a decision.",
        references=("https://arxiv.org/abs/1806.08049", "https://arxiv.org/abs/1901.09392"),
        input_kinds=frozenset({"images", "rows"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing: all is in the explanations' records."""
        del classifier, batch, rng
        return {}

    def conclude(self, records: Records) -> Conclusion:
        """Both kinds of stability of each method."""
        from auditor import statistics

        frames = {
            n.removeprefix("explanations."): f for n, f in records.others.items() if "sensitivity" in f and len(f)
        }
        if not frames:
            return Conclusion(inconclusive="no explanation was run, so there is nothing to repeat")
        rows: list[list[Any]] = []
        metrics: list[Metric] = []
        unstable: list[str] = []
        for name, frame in frames.items():
            seeds = statistics.mean("seed_stability", frame["stability"], unit="1", at={"method": name})
            noise = statistics.mean("max_sensitivity", frame["sensitivity"], unit="1", at={"method": name})
            rows.append([name, seeds.cell() if seeds.n else "draws no random numbers", noise.cell(), len(frame)])
            metrics += [noise, *([seeds] if seeds.n else [])]
            if seeds.n and seeds.value is not None and seeds.value < SAME:
                unstable.append(f"{name} ({seeds.value:.2f})")
        n = sum(len(frame) for frame in frames.values())
        statement = (
            f"Under other random numbers the maps of {', '.join(unstable)} change (mean rank correlation below {SAME});"
            if unstable
            else "No method's maps change much under other random numbers;"
        ) + f" the table says how much invisible noise moves each (n = {n} maps)."
        table = Table(
            title="Stability by method",
            columns=["method", "rank correlation under other random numbers", "max-sensitivity", "n"],
            formats=["text", "number", "number", "count"],
            rows=rows,
            caption="Max-sensitivity: largest relative change of the map under uniform noise of 0.02; lower is better.",
        )
        finding = Finding(
            id=f"{self.meta.id}/methods", title="Would another run show the same maps?", statement=statement,
            metric=metrics[0], evidence=[table],
        )  # fmt: skip
        return Conclusion(metrics=metrics, findings=[finding])


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Stability]
