"""Agreement between explanations of the same prediction: rank correlation of their maps and overlap of their top cells
(Krishna et al. 2022, arXiv:2202.01602, sections 3.2 and 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from auditor import Conclusion, Finding, HeatMap, Meta, Metric, MetricSpec, Records, Table
from auditor.probes.derived import DerivedProbe
from auditor.probes.grading import explanation_records, rank_correlation
from auditor.probes.units import units_by_image

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell


class Pair(NamedTuple):
    """Two methods on the images that both explained."""

    one: str
    other: str
    correlations: NDArray[np.float64]
    """Rank correlation of each image's maps."""
    units: NDArray[Any]
    """The unit of each image; the image itself if the data states no units."""
    correlation: Metric
    overlap: Metric


@dataclass(frozen=True, kw_only=True)
class Agreement(DerivedProbe):
    """Compare the maps of every pair of explanations; no model calls."""

    meta = Meta(
        id="explanations.agreement",
        title="Agreement of the explanations",
        area="explanations",
        why="If two methods give different maps of one prediction, at least one of them is not faithful. A reviewer"
        " must not select the more plausible one.",
        references=("https://arxiv.org/abs/2202.01602",),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (
        MetricSpec(name="rank_correlation", label="Rank correlation of two methods' maps", better="neither", unit="1"),
        MetricSpec(name="top_overlap", label="Overlap of the top cells", better="neither"),
    )
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)
    top: float = 0.1
    """Share of the cells whose overlap is counted."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not 0 < self.top < 1:
            raise ValueError("top must lie between 0 and 1")

    def conclude(self, records: Records) -> Conclusion:
        """Compare each pair of methods over the images that both explained."""
        import numpy as np

        from auditor import statistics

        methods = explanation_records(records)
        if len(methods) < 2:
            return Conclusion(inconclusive="fewer than two explanations were run, so there is nothing to compare")
        compared = [self._pair(a, b, methods) for a, b in combinations(methods, 2)]
        pairs = [pair for pair in compared if pair is not None]
        if not pairs:
            return Conclusion(inconclusive=f"no {records.kind} were explained by two methods with maps of equal size")
        correlations = np.concatenate([pair.correlations for pair in pairs])
        # an image has a correlation for each pair of methods, so without units the images are the units
        units = np.concatenate([pair.units for pair in pairs])
        median = statistics.median("rank_correlation", correlations, unit="1", units=units)
        if not any("unit" in frame for frame in methods.values()):
            median = replace(median, units=None)
        statement = (
            f"Median rank correlation between the maps of two methods: {median.value:.2f} (n = {median.n} pairs of"
            f" maps, {len(pairs)} pairs of methods). {_reading(median.value)}"
            if median.value is not None
            else f"Undecided: the maps are constant (n = {len(correlations)})."
        )
        finding = Finding(
            id=f"{self.meta.id}/pairs",
            title="Agreement by pair of methods",
            statement=statement,
            metric=median,
            evidence=[_matrix(list(methods), pairs), self._table(pairs)],
        )
        metrics = [metric for pair in pairs for metric in (pair.correlation, pair.overlap)]
        return Conclusion(metrics=[median, *metrics], findings=[finding])

    def _pair(self, a: str, b: str, methods: dict[str, pd.DataFrame]) -> Pair | None:
        """Compare two methods; None if they have no maps of equal size in common."""
        from auditor import statistics

        ids, one, other = _common(methods[a], methods[b])
        if not len(one):
            return None
        correlations, units = rank_correlation(one, other), units_by_image(methods[a], ids)
        at = {"pair": f"{a}, {b}"}
        return Pair(
            a,
            b,
            correlations,
            ids if units is None else units,
            statistics.mean("rank_correlation", correlations, unit="1", at=at, units=units),
            statistics.mean("top_overlap", _overlap(one, other, self.top), unit="fraction", at=at, units=units),
        )

    def _table(self, pairs: Sequence[Pair]) -> Table:
        rows: list[list[Cell]] = [
            [pair.one, pair.other, pair.correlation.cell(), pair.overlap.cell(), pair.correlation.n] for pair in pairs
        ]
        overlap = f"overlap of the top {100 * self.top:.0f} % of cells"
        return Table(
            title="Agreement by pair",
            columns=["method", "method", "rank correlation", overlap, "n"],
            formats=["text", "text", "number", "percent", "count"],
            rows=rows,
        )


def _common(one: pd.DataFrame, other: pd.DataFrame) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Return common images and both methods' maps of them, (n, cells) each; n = 0 if they differ in size."""
    import numpy as np

    both = one[["image_id", "map"]].merge(other[["image_id", "map"]], on="image_id", suffixes=("", "_other"))
    if not len(both) or len(both["map"].iloc[0]) != len(both["map_other"].iloc[0]):
        return np.zeros(0), np.zeros((0, 1)), np.zeros((0, 1))
    return both["image_id"].to_numpy(), np.stack(both["map"].to_list()), np.stack(both["map_other"].to_list())


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the share of the top cells that two maps have in common, (n,)."""
    import numpy as np

    count = max(1, round(one.shape[1] * share))
    tops = [np.argsort(-maps, axis=1, kind="stable")[:, :count] for maps in (one, other)]
    return np.array([len(set(a) & set(b)) / count for a, b in zip(*tops, strict=True)])


def _matrix(names: list[str], pairs: Sequence[Pair]) -> HeatMap:
    values: list[list[float | None]] = [[1.0 if a == b else None for b in names] for a in names]
    for pair in pairs:
        i, j = names.index(pair.one), names.index(pair.other)
        values[i][j] = values[j][i] = pair.correlation.value
    return HeatMap(
        title="Mean rank correlation of maps",
        values=values,
        row_labels=names,
        column_labels=names,
        diverging=True,
        caption="1: equal order of cells; 0: unrelated.",
    )


def _reading(value: float) -> str:
    if value > 0.7:
        return "The methods largely agree."
    if value > 0.3:
        return "The methods agree only partly; do not rely on the map of a single method."
    return "The methods disagree, so a single map depends more on the method than on the model."
