"""Agreement between explanations of the same answer: rank correlation of their maps and overlap of their top cells
(Krishna et al. 2022, arXiv:2202.01602, sections 3.2 and 3.3).

Where methods disagree, a map shows the method as much as the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Finding, HeatMap, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.probes.grading import rank_correlation

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Agreement(Probe):
    """Do the methods point at the same cells? Makes no model call of its own."""

    meta = Meta(
        id="explanations.agreement",
        title="Agreement of the explanations",
        area="explanations",
        why="If two methods give different maps of one answer, at least one of them does not show what the model looks"
        " at, and a reviewer must not pick the one that looks right.",
        references=("https://arxiv.org/abs/2202.01602",),
        input_kinds=frozenset({"images", "rows"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)
    top: float = 0.1
    """Share of the cells whose overlap is counted."""

    def __post_init__(self) -> None:
        """Refuse what cannot be counted."""
        if not 0 < self.top < 1:
            raise ValueError("top must lie between 0 and 1")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing: all is in the explanations' records."""
        del classifier, batch, rng
        return {}

    def conclude(self, records: Records) -> Conclusion:
        """Each pair of methods over the images that both explained."""
        import numpy as np

        from auditor import statistics

        methods = {n.removeprefix("explanations."): f for n, f in records.others.items() if "map" in f and len(f)}
        if len(methods) < 2:
            return Conclusion(inconclusive="fewer than two explanations were run, so there is nothing to compare")
        names = list(methods)
        matrix: list[list[float | None]] = [[1.0 if a == b else None for b in names] for a in names]
        rows: list[list[Any]] = []
        metrics: list[Metric] = []
        correlations = []
        for a, b in combinations(names, 2):
            one, other = _common(methods[a], methods[b])
            if not len(one):
                continue
            correlation = rank_correlation(one, other)
            overlap = _overlap(one, other, self.top)
            at = {"pair": f"{a}, {b}"}
            ranks = statistics.mean("rank_correlation", correlation, unit="1", at=at)
            shared = statistics.mean("top_overlap", overlap, unit="fraction", at=at)
            metrics += [ranks, shared]
            rows.append([a, b, ranks.cell(), shared.cell(), ranks.n])
            correlations.append(correlation)
            i, j = names.index(a), names.index(b)
            matrix[i][j] = matrix[j][i] = ranks.value
        if not correlations:
            return Conclusion(inconclusive=f"no {records.kind[:-1]} was explained by two methods with maps of one size")
        whole = np.concatenate(correlations)
        median = statistics.median("rank_correlation", whole, unit="1")
        statement = (
            f"Over {len(rows)} pairs of methods the median rank correlation of two maps of one {records.kind[:-1]} is"
            f" {median.value:.2f} (n = {median.n} pairs of maps): {_reading(median.value)}."
            if median.value is not None
            else f"Cannot tell: the maps are constant (n = {len(whole)})."
        )
        finding = Finding(
            id=f"{self.meta.id}/pairs", title="Do the methods agree?", statement=statement, metric=median,
            evidence=[
                HeatMap(title="Mean rank correlation of maps", values=matrix, row_labels=names, column_labels=names,
                        diverging=True, caption="1: the same order of cells; 0: unrelated."),
                Table(title="By pair", columns=["method", "method", "rank correlation",
                      f"overlap of the top {100 * self.top:.0f} % of cells", "n"],
                      formats=["text", "text", "number", "percent", "count"], rows=rows),
            ],
        )  # fmt: skip
        return Conclusion(metrics=[median, *metrics], findings=[finding])


def _common(one: pd.DataFrame, other: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """The maps of both methods on the images that both explained; none where the maps differ in size."""
    import numpy as np

    both = one[["image_id", "map"]].merge(other[["image_id", "map"]], on="image_id", suffixes=("", "_other"))
    if not len(both) or len(both["map"].iloc[0]) != len(both["map_other"].iloc[0]):
        return np.zeros((0, 1)), np.zeros((0, 1))
    return np.stack(both["map"].to_list()), np.stack(both["map_other"].to_list())


def _overlap(one: NDArray[Any], other: NDArray[Any], share: float) -> NDArray[Any]:
    """Share of the top cells that two maps have in common, (n,)."""
    import numpy as np

    count = max(1, round(one.shape[1] * share))
    tops = [np.argsort(-m, axis=1, kind="stable")[:, :count] for m in (one, other)]
    return np.array([len(set(a) & set(b)) / count for a, b in zip(*tops, strict=True)])


def _reading(value: float) -> str:
    if value > 0.7:
        return "they largely agree"
    if value > 0.3:
        return "they agree in part; read no map alone"
    return "they disagree, so a single map shows the method more than the model"


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Agreement]
