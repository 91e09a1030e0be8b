"""Performance by class, without group labels: recall, precision, prediction frequency and confidence, and asymmetric
confusions.

A low recall of a class is no bias against a group of people or images, so no threshold judges it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, Meta, MetricSpec, Records
from auditor.findings.formatting import counted, points, sample_size
from auditor.plugins.bias._confusions import asymmetry_finding
from auditor.probes.breakdown import Breakdown, Column, Comparison, compare, gap_table, share_comparison
from auditor.probes.gap_statistics import share_cell
from auditor.probes.shared_metrics import RECALL
from auditor.probes.units import unit_codes

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
        title="Recall by class",
        area="bias",
        why="A model can reach a high average accuracy by preferring frequent classes at the expense of rare ones. This"
        " concerns its performance; it is no bias against a group.",
        references=("https://arxiv.org/abs/1706.04599", "https://doi.org/10.1007/BF02295996"),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (
        MetricSpec(name="recall_gap", label="Recall gap", better="lower", difference=True),
        RECALL,
    )
    rows_shown = 40
    minimum: int = 10
    """Classes with fewer images (or units, if the data states them) are listed but not compared."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the confidence of each prediction; no model calls."""
        del classifier, rng
        return {"confidence": batch.probabilities.max(axis=1).astype("float64")}

    def conclude(self, records: Records) -> Conclusion:
        """Compare recall between classes and test the asymmetry of confusions."""
        import numpy as np

        from auditor import statistics

        frame, k = records.frame, len(records.classes)
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind} were measured")
        matrix = np.zeros((k, k), dtype=np.int64)
        np.add.at(matrix, (frame["label"].to_numpy(), frame["prediction"].to_numpy()), 1)
        labels, units = frame["label"].to_numpy(), unit_codes(frame)
        correct = frame["prediction"].to_numpy() == labels
        counts = {
            records.class_name(c): share_cell(correct[labels == c], statistics.keep(units, labels == c))
            for c in range(k)
            if matrix[c].any()
        }
        prepared = share_comparison(
            "class", counts, self.minimum, metric="recall", gap="recall_gap", at={}, key="class"
        )
        (comparison,), _ = compare([prepared])
        gaps = [gap.metric for gap in comparison.gaps[: self.rows_shown]] or [comparison.gap]
        return Conclusion(
            metrics=[*gaps, *list(comparison.groups.values())[: self.rows_shown]],
            findings=[
                self._recall(records, matrix, comparison),
                *self.gap_findings(comparison.gaps[: self.rows_shown], "Recall gap", "Recall"),
                asymmetry_finding(records, matrix),
            ],
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
            metric=None if comparison.significant else comparison.gap,
            n=comparison.gap.n if comparison.significant else None,
            evidence=[table, gap_table(comparison.gaps, title="Recall gaps between classes")],
        )

    def _recall_statement(self, records: Records, comparison: Comparison) -> str:
        gaps, found = comparison.gaps, comparison.significant
        if not gaps:
            return self.undecided(records, comparison)
        n = sample_size(comparison.compared)
        where = f"(n = {n}, {counted(len(comparison.stratum.cells), 'class', 'classes')})"
        if found:
            shown = f" The {self.rows_shown} clearest follow." if len(found) > self.rows_shown else ""
            text = f"differs significantly between classes: {counted(len(found), 'significant gap')} {where}.{shown}"
        else:
            text = (
                f"does not differ significantly between classes: largest gap {points(gaps[0].metric)} {where},"
                f" {gaps[0].test}."
            )
        return f"Recall {text} {self.extremes_text(comparison)}"


def _class_columns(records: Records, matrix: NDArray[np.int64]) -> list[Column]:
    """Return precision, frequencies and confidence of each class with images, by class name."""
    import numpy as np

    from auditor import statistics

    frame, n = records.frame, int(matrix.sum())
    confidence, predictions = frame["confidence"].to_numpy(), frame["prediction"].to_numpy()
    correct, units = predictions == frame["label"].to_numpy(), frame.get("unit")
    cells: dict[str, list[Cell]] = {}
    for c in range(len(matrix)):
        mask = predictions == c
        labels, predicted = matrix[c].sum() / n, matrix[:, c].sum() / n
        row: list[Cell] = [None, labels, predicted, predicted - labels, None, None]
        if mask.any():
            row[0] = statistics.proportion("precision", correct[mask], units=statistics.keep(units, mask)).cell()
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
