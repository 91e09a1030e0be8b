"""Stability of explanations under another random seed and under small noise (Alvarez-Melis and Jaakkola 2018,
arXiv:1806.08049; Yeh et al. 2019, arXiv:1901.09392).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, Records, Table
from auditor.probes.derived import DerivedProbe
from auditor.probes.grading import MAX_SENSITIVITY, MIN_STABILITY, SEED_STABILITY, explanation_records

if TYPE_CHECKING:
    from auditor.findings.evidence import Cell


@dataclass(frozen=True, kw_only=True)
class Stability(DerivedProbe):
    """Compare repeated maps of the same image; no model calls."""

    meta = Meta(
        id="explanations.stability",
        title="Stability of the explanations",
        area="explanations",
        why="A decision must not rest on a map that changes with the random seed or with imperceptible noise.",
        references=("https://arxiv.org/abs/1806.08049", "https://arxiv.org/abs/1901.09392"),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (MAX_SENSITIVITY, SEED_STABILITY)
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)

    def conclude(self, records: Records) -> Conclusion:
        """Report both kinds of stability of each method."""
        from auditor import statistics

        frames = explanation_records(records)
        if not frames:
            return Conclusion(inconclusive="no explanation was run, so there is nothing to repeat")
        rows: list[list[Cell]] = []
        metrics: list[Metric] = []
        unstable: list[str] = []
        for name, frame in frames.items():
            at, units = {"method": name}, frame.get("unit")
            seeds = statistics.mean("seed_stability", frame["stability"], unit="1", at=at, units=units)
            noise = statistics.mean("max_sensitivity", frame["sensitivity"], unit="1", at=at, units=units)
            rows.append([name, seeds.cell() if seeds.n else "deterministic", noise.cell(), len(frame)])
            metrics += [noise, *([seeds] if seeds.n else [])]
            if seeds.n and seeds.value is not None and seeds.value < MIN_STABILITY:
                measure = "" if unstable else "mean rank correlation "
                unstable.append(f"{name} ({measure}{seeds.value:.2f})")
        first = ", ".join(unstable[:-1])
        listed = f"{first} and {unstable[-1]}" if first else "".join(unstable)
        subject = f"The maps of {listed} change" if unstable else "No method's maps change"
        limit = f"limit {MIN_STABILITY}" if unstable else f"mean rank correlation below {MIN_STABILITY}"
        n = sum(len(frame) for frame in frames.values())
        table = Table(
            title="Stability by method",
            columns=["method", "rank correlation under another random seed", "max-sensitivity", "n"],
            formats=["text", "number", "number", "count"],
            rows=rows,
            caption="Max-sensitivity: largest relative change of the map under uniform noise of 0.02; lower is better.",
        )
        finding = Finding(
            id=f"{self.meta.id}/methods",
            title="Stability by method",
            statement=f"{subject} with the random seed ({limit}; n = {n} maps)."
            " The table lists the sensitivity to small noise.",
            metric=metrics[0],
            evidence=[table],
        )
        return Conclusion(metrics=metrics, findings=[finding])
