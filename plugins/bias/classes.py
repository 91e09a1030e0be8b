"""Bias between classes, without group labels: recall, precision, prediction frequency and confidence by class.

Asymmetry of confusions: for each pair of classes an exact binomial test of the two directions against one half, as in
McNemar's test, adjusted with Holm's method over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, HeatMap, Meta, MetricSpec, Probe, Records, Table, hookimpl
from auditor.probes.breakdown import ALPHA, Breakdown, Column, Comparison, compare_counts, points
from auditor.probes.shared_metrics import RECALL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.findings.evidence import Cell, Evidence
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_PAIRS_SHOWN = 20
_MAX_HEAT_MAP = 20
"""Classes up to which the matrix of confusions is drawn."""


@dataclass(frozen=True, kw_only=True)
class Classes(Breakdown):
    """Compare recall, prediction frequency and confidence between classes."""

    meta = Meta(
        id="bias.classes",
        title="Bias between classes",
        area="bias",
        why="A model can reach a high average accuracy by preferring frequent classes at the expense of rare ones.",
        references=("https://arxiv.org/abs/1706.04599", "https://doi.org/10.1007/BF02295996"),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (MetricSpec(name="recall_gap", label="Recall gap", better="lower", difference=True), RECALL)
    rows_shown = 40
    minimum: int = 10
    """Classes with fewer images are listed but not compared."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the confidence of each prediction; no model calls."""
        del classifier, rng
        return {"confidence": batch.probabilities.max(axis=1).astype("float64")}

    def conclude(self, records: Records) -> Conclusion:
        """Compare recall between classes and test the asymmetry of confusions."""
        import numpy as np

        frame, k = records.frame, len(records.classes)
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind} were measured")
        matrix = np.zeros((k, k), dtype=np.int64)
        np.add.at(matrix, (frame["label"].to_numpy(), frame["prediction"].to_numpy()), 1)
        counts = {records.class_name(c): (int(matrix[c, c]), int(matrix[c].sum())) for c in range(k) if matrix[c].any()}
        found = compare_counts("class", counts, self.minimum, metric="recall", gap="recall_gap")
        recall = {name: replace(metric, at={"class": name}) for name, metric in found.groups.items()}
        comparison = replace(found, groups=recall, gap=replace(found.gap, at={}))
        return Conclusion(
            metrics=[comparison.gap, *list(recall.values())[: self.rows_shown]],
            findings=[self._recall(records, matrix, comparison), self._asymmetry(records, matrix)],
        )

    def _recall(self, records: Records, matrix: NDArray[np.int64], comparison: Comparison) -> Finding:
        table = self.table(
            comparison,
            title="Classes, lowest recall first",
            statistic="recall",
            columns=_class_columns(records, matrix),
            caption="Overconfidence: mean confidence in predictions of the class minus their precision.",
        )
        return Finding(
            id=f"{self.meta.id}/recall",
            title="Recall, predictions and confidence by class",
            statement=self._recall_statement(records, comparison),
            metric=comparison.gap,
            evidence=[table],
        )

    def _recall_statement(self, records: Records, comparison: Comparison) -> str:
        gap = comparison.gap
        if gap.value is None or gap.low is None:
            return self.undecided(records, comparison)
        differs = "differs significantly" if gap.low > 0 else "does not differ significantly"
        compared = len(comparison.groups) - len(comparison.small)
        return (
            f"Recall {differs} between classes: gap {points(gap)} (n = {gap.n}, {compared} classes)."
            f" {self.extremes_text(comparison)}"
        )

    def _asymmetry(self, records: Records, matrix: NDArray[np.int64]) -> Finding:
        """Report pairs of classes that are confused significantly more often in one direction."""
        pairs = _confused_pairs(matrix)
        one_sided = sum(p < ALPHA for *_, p in pairs)
        rows: list[list[Cell]] = [
            [
                f"{records.class_name(label)} predicted as {records.class_name(predicted)}",
                int(matrix[label, predicted]),
                int(matrix[predicted, label]),
                f"{p:.2g}",
                "one-sided" if p < ALPHA else "not significant",
            ]
            for label, predicted, p in pairs[:_PAIRS_SHOWN]
        ]
        table = Table(
            title="Confusions, most one-sided first",
            columns=["confusion", "count", "opposite direction", "p (Holm)", "verdict"],
            formats=["text", "count", "count", "text", "text"],
            rows=rows,
            caption=f"First {_PAIRS_SHOWN} of {len(pairs)} pairs." if len(pairs) > _PAIRS_SHOWN else "",
        )
        evidence: list[Evidence] = [table, *_difference_map(records, matrix)] if rows else []
        errors = int(matrix.sum() - matrix.trace())
        return Finding(
            id=f"{self.meta.id}/asymmetry",
            title="Asymmetric confusions",
            statement=f"{one_sided} of {len(pairs)} pairs of classes are confused significantly more often in one"
            f" direction (n = {errors} errors; exact binomial tests, Holm).",
            evidence=evidence,
        )


def _class_columns(records: Records, matrix: NDArray[np.int64]) -> list[Column]:
    """Return precision, frequencies and confidence of each class with images, by class name."""
    import numpy as np

    from auditor import statistics

    frame, n = records.frame, int(matrix.sum())
    confidence, predictions = frame["confidence"].to_numpy(), frame["prediction"].to_numpy()
    correct = predictions == frame["label"].to_numpy()
    cells: dict[str, list[Cell]] = {}
    for c in range(len(matrix)):
        mask = predictions == c
        labels, predicted = matrix[c].sum() / n, matrix[:, c].sum() / n
        row: list[Cell] = [None, labels, predicted, predicted - labels, None, None]
        if mask.any():
            row[0] = statistics.proportion("precision", correct[mask]).cell()
            row[4] = float(confidence[mask].mean())
            row[5] = float(np.mean(confidence[mask] - correct[mask]))
        cells[records.class_name(c)] = row
    names = (
        "precision",
        "share of labels",
        "share of predictions",
        "predictions minus labels",
        "mean confidence",
        "overconfidence",
    )
    return [Column(name, {key: row[i] for key, row in cells.items()}) for i, name in enumerate(names)]


def _confused_pairs(matrix: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Return (label, prediction, adjusted p-value) in the more frequent direction, most one-sided pair first."""
    from scipy.stats import binomtest

    from auditor import statistics

    k = len(matrix)
    pairs = [(a, b) for a in range(k) for b in range(a + 1, k) if matrix[a, b] + matrix[b, a]]
    pairs.sort(key=lambda pair: -abs(int(matrix[pair]) - int(matrix[pair[::-1]])))
    p_values = [float(binomtest(int(matrix[a, b]), int(matrix[a, b] + matrix[b, a]), 0.5).pvalue) for a, b in pairs]
    adjusted = statistics.holm(p_values)
    return [(a, b, p) if matrix[a, b] >= matrix[b, a] else (b, a, p) for (a, b), p in zip(pairs, adjusted, strict=True)]


def _difference_map(records: Records, matrix: NDArray[np.int64]) -> list[HeatMap]:
    """Return the confusions minus those of the opposite direction; empty for many classes."""
    if len(matrix) > _MAX_HEAT_MAP:
        return []
    return [
        HeatMap(
            title="Confusions minus those in the opposite direction",
            values=(matrix - matrix.T).astype(float).tolist(),
            row_labels=list(records.classes),
            column_labels=list(records.classes),
            row_title="label",
            column_title="prediction",
            format="count",
            diverging=True,
        )
    ]


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Classes]
