"""Bias between classes, without group labels: recall, precision, prediction frequency and confidence by class, and
asymmetric confusions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, Meta, MetricSpec, Records
from auditor.findings.formatting import points
from auditor.plugins.bias._confusions import asymmetry_finding
from auditor.probes.breakdown import Breakdown, Column, Comparison, compare_counts
from auditor.probes.shared_metrics import RECALL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Randomness
    from auditor.findings.evidence import Cell


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
            findings=[self._recall(records, matrix, comparison), asymmetry_finding(records, matrix)],
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
