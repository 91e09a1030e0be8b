"""Bias between classes, for which no group labels are needed: recall and precision of each class, answers that are
given more often than the class occurs, confusions that go one way, and confidence that misleads by class.

Confusion asymmetry: of the images confused between two classes, does one direction prevail? Exact binomial test
against one half (as McNemar's), Holm over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, HeatMap, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.findings.metric import percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Classes(Probe):
    """Which classes does the model favour?"""

    meta = Meta(
        id="bias.classes",
        title="Bias between classes",
        area="bias",
        why="A model can be right on average by preferring the common answer: the rare class pays.",
        references=("https://arxiv.org/abs/1706.04599", "https://doi.org/10.1007/BF02295996"),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    minimum: int = 10
    """Classes with fewer images are listed but not compared."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """The confidence of the answer; no passes of its own."""
        del classifier, rng
        return {"confidence": batch.probabilities.max(axis=1).astype("float64")}

    def conclude(self, records: Records) -> Conclusion:
        """Classes with their recall, share of answers and confidence; pairs that are confused one way."""
        import numpy as np

        from auditor import statistics

        frame, k = records.frame, len(records.classes)
        labels, answers = frame["label"].to_numpy(), frame["prediction"].to_numpy()
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind[:-1]} was measured")
        matrix = np.zeros((k, k), dtype=np.int64)
        np.add.at(matrix, (labels, answers), 1)
        present = [c for c in range(k) if matrix[c].sum()]
        recall = {c: statistics.proportion("recall", answers[labels == c] == c, at={"class": records.class_name(c)})
                  for c in present}  # fmt: skip
        compared = [c for c in present if recall[c].n >= self.minimum]
        gap = _gap(recall, compared)
        findings = [self._recall(records, matrix, recall, compared, gap), _asymmetry(records, matrix)]
        metrics = [gap, *(recall[c] for c in present[:_SHOWN])]
        return Conclusion(metrics=metrics, findings=findings)

    def _recall(
        self, records: Records, matrix: NDArray[np.int64], recall: dict[int, Metric], compared: list[int], gap: Metric
    ) -> Finding:
        import numpy as np

        from auditor import statistics

        frame, n = records.frame, int(matrix.sum())
        confidence = frame["confidence"].to_numpy()
        answers = frame["prediction"].to_numpy()
        correct = answers == frame["label"].to_numpy()
        rows: list[list[Any]] = []
        for c in sorted(recall, key=lambda c: recall[c].value or 0.0):
            here = answers == c
            prior, asked = matrix[c].sum() / n, matrix[:, c].sum() / n
            precision = statistics.proportion("precision", correct[here]).cell() if here.any() else None
            over = float(np.mean(confidence[here] - correct[here])) if here.any() else None
            rows.append([records.class_name(c), recall[c].cell(), precision, prior, asked, asked - prior,
                         float(confidence[here].mean()) if here.any() else None, over, recall[c].n])  # fmt: skip
        table = Table(
            title="Classes, lowest recall first",
            columns=["class", "recall", "precision", "share of labels", "share of answers", "answers over labels",
                     "mean confidence", "overconfidence", "n"],
            formats=["text", "percent", "percent", "percent", "percent", "percent", "percent", "percent", "count"],
            rows=rows[:_SHOWN],
            caption="Overconfidence: mean confidence of the answers of this class less how often they are right."
            + ("" if len(rows) <= _SHOWN else f" The {_SHOWN} lowest of {len(rows)}."),
        )  # fmt: skip
        if gap.value is None or gap.low is None:
            statement = f"Cannot tell: fewer than two classes have {self.minimum} {records.kind} or more."
        else:
            worst = min(compared, key=lambda c: recall[c].value or 0.0)
            shown = "differs" if gap.low > 0 else "does not differ demonstrably"
            statement = (
                f"Recall {shown} between classes: {records.class_name(worst)} has the lowest, {percent(recall[worst])};"
                f" the gap to the highest is {percent(gap)} (n = {gap.n}, {len(compared)} classes)."
            )
        return Finding(
            id=f"{self.meta.id}/recall", title="Recall, answers and confidence by class", statement=statement,
            metric=gap, evidence=[table],
        )  # fmt: skip


def _gap(recall: dict[int, Metric], compared: list[int]) -> Metric:
    """Highest less lowest recall, with Newcombe's interval at a level shared out over all pairs (Bonferroni)."""
    from auditor import statistics

    n = sum(recall[c].n for c in compared)
    if len(compared) < 2:
        return Metric(name="recall_gap", value=None, n=n)
    best = max(compared, key=lambda c: recall[c].value or 0.0)
    worst = min(compared, key=lambda c: recall[c].value or 0.0)
    hits = [round((recall[c].value or 0.0) * recall[c].n) for c in (best, worst)]
    pairs = len(compared) * (len(compared) - 1) / 2
    value, low, high = statistics.newcombe(
        (hits[0], hits[1]), (recall[best].n, recall[worst].n), confidence=1 - 0.05 / pairs
    )  # fmt: skip
    return Metric(name="recall_gap", value=value, low=None if low is None else max(0.0, low), high=high, n=n)


def _asymmetry(records: Records, matrix: NDArray[np.int64]) -> Finding:
    """Pairs of classes that are confused more in one direction than in the other."""
    from scipy.stats import binomtest

    from auditor import statistics

    k = len(matrix)
    pairs = [(a, b) for a in range(k) for b in range(a + 1, k) if matrix[a, b] + matrix[b, a]]
    pairs.sort(key=lambda p: -abs(int(matrix[p]) - int(matrix[p[1], p[0]])))
    found = [
        float(binomtest(int(matrix[a, b]), int(matrix[a, b] + matrix[b, a]), 0.5).pvalue) for a, b in pairs
    ]  # fmt: skip
    adjusted = statistics.holm(found)
    rows: list[list[Any]] = []
    one_way = 0
    for (a, b), p in zip(pairs, adjusted, strict=True):
        x, y = (a, b) if matrix[a, b] >= matrix[b, a] else (b, a)
        one_way += p < 0.05
        rows.append([f"{records.class_name(x)} taken for {records.class_name(y)}", int(matrix[x, y]),
                     int(matrix[y, x]), f"{p:.2g}", "one way" if p < 0.05 else "not shown"])  # fmt: skip
    errors = int(matrix.sum() - matrix.trace())
    statement = (
        f"{one_way} of {len(pairs)} pairs of classes are confused demonstrably more one way than the other"
        f" (n = {errors} errors; exact binomial tests, Holm)."
    )
    table = Table(
        title="Confusions, most one-sided first",
        columns=["confusion", "times", "the other way", "p (Holm)", "reading"],
        formats=["text", "count", "count", "text", "text"], rows=rows[:20],
        caption="" if len(rows) <= 20 else f"The 20 most one-sided of {len(rows)}.",
    )  # fmt: skip
    evidence: list[Any] = [table] if rows else []
    if rows and k <= 20:
        names = list(records.classes)
        difference = (matrix - matrix.T).astype(float)
        evidence.append(
            HeatMap(
                title="Confusions less those of the other way", values=difference.tolist(), row_labels=names,
                column_labels=names, row_title="label", column_title="answer", format="count", diverging=True,
            )
        )  # fmt: skip
    return Finding(
        id="bias.classes/asymmetry", title="Confusions that go one way", statement=statement, evidence=evidence
    )


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Classes]
