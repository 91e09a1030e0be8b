"""Preprocessing: whether another common preprocessing gives a higher accuracy on the same images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, Probe, Records, Table
from auditor.findings.formatting import percent
from auditor.probes.class_orders import fitting_order, other_orders
from auditor.probes.preprocessing_comparison import (
    Alternative,
    best_of,
    compare_preprocessings,
    equally_good,
    objection,
)
from auditor.probes.shared_metrics import ACCURACY

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness
    from auditor.findings.evidence import Cell


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Probe):
    """Compare the accuracy with every common preprocessing, paired with the one in use."""

    meta = Meta(
        id="sanity.preprocessing",
        title="Preprocessing compared with common alternatives",
        area="sanity",
        why="A wrong mean, range or channel order is the most common reason for a wrong audit. The model still"
        " predicts, with lower accuracy, and the audit describes a model that is not deployed.",
        references=("https://doi.org/10.1007/BF02295996", "https://doi.org/10.1002/sim.1781"),
        needs=frozenset({"labels"}),
    )
    metrics = (
        MetricSpec(
            name="preprocessing_gain", label="Accuracy gain of another preprocessing", better="lower", difference=True
        ),
        ACCURACY,
    )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and preprocessing; the one in use has an empty name."""
        del rng
        import numpy as np

        from auditor.model import presets

        correct = {"": batch.predictions == batch.labels}
        for name, other in presets.others(classifier.preprocessing).items():
            correct[name] = presets.answers(classifier.with_preprocessing(other), batch.pixels) == batch.labels
        return {
            "row": np.tile(np.arange(len(batch)), len(correct)),
            "preprocessing": np.repeat(np.array(list(correct), dtype=object), len(batch)),
            "correct": np.concatenate(list(correct.values())),
        }

    def conclude(self, records: Records) -> Conclusion:
        """Report the gain of the best alternative, with an interval that accounts for the selection."""
        from auditor import statistics

        frame = records.frame
        used = frame[frame["preprocessing"] == ""] if len(frame) else frame
        alternatives = compare_preprocessings(frame)
        if not alternatives:
            return _no_alternatives(len(used))
        best = best_of(alternatives)
        accuracy = statistics.proportion("accuracy", used["correct"], at={"preset": "in use"}, units=used.get("unit"))
        doubt = _doubt(best, records) if best.better else ""
        gain = replace(best.gain, value=None, low=None, high=None) if doubt else best.gain
        finding = Finding(
            id="sanity.preprocessing/best",
            title="Best alternative preprocessing",
            statement=_statement(accuracy, best, alternatives, doubt),
            metric=gain,
            evidence=[_table(accuracy, alternatives)],
        )
        metrics = [gain, accuracy, *(other.accuracy for other in alternatives)]
        return Conclusion(metrics=metrics, findings=[finding], inconclusive=doubt)


def _doubt(best: Alternative, records: Records) -> str:
    """Say why a better alternative is not accused: it explains the data no better than guessing or a class order."""
    if objected := objection(best, records.frame):
        return f"no common preprocessing explains the data: with the preset {best.name}, {objected}"
    used = records.frame[records.frame["preprocessing"] == ""]
    labels, predictions = used["label"].to_numpy(), used["prediction"].to_numpy()
    order = fitting_order(
        other_orders(labels, predictions, list(used["image_id"]), records.classes, units=used.get("unit"))
    )
    if order is None or not order.explains_better(best.accuracy):
        return ""
    return (
        f"another order of the classes ({order.name}) explains the data at least as well as the preset {best.name}:"
        f" accuracy"
        f" {percent(order.accuracy)} against {percent(best.accuracy)}; see sanity.labels"
    )


def _no_alternatives(n: int) -> Conclusion:
    gain = Metric(name="preprocessing_gain", value=None, n=n)
    finding = Finding(
        id="sanity.preprocessing/best",
        title="No alternative preprocessing",
        metric=gain,
        statement="Undecided: there is no other common preprocessing for this input (n = 0 alternatives).",
    )
    reason = "there is no other common preprocessing for this input"
    return Conclusion(metrics=[gain], findings=[finding], inconclusive=reason)


def _statement(accuracy: Metric, best: Alternative, alternatives: list[Alternative], doubt: str) -> str:
    reading = "No common preprocessing is significantly better than the one in use."
    if best.better:
        reading = "The preprocessing in use is probably not the one used in training."
        others = [other.name for other in equally_good(best, alternatives) if other is not best]
        reading += f" As good within the intervals: {', '.join(others)}." if others else ""
    if doubt:
        reading = f"This does not show that the preprocessing in use is wrong: {doubt}."
    return (
        f"Accuracy {percent(accuracy)} with the preprocessing in use, {percent(best.accuracy)} with the preset"
        f" {best.name} (n = {accuracy.n}; McNemar's exact test, Holm over {len(alternatives)} alternatives:"
        f" p = {best.p_value:.2g}). {reading}"
    )


def _table(accuracy: Metric, alternatives: list[Alternative]) -> Table:
    rows: list[list[Cell]] = [["in use", accuracy.cell(), None, None, None, accuracy.n]]
    for other in sorted(alternatives, key=lambda other: -(other.accuracy.value or 0.0)):
        cells = [other.only_other, other.only_used, other.p_value, accuracy.n]
        rows.append([other.name, other.accuracy.cell(), *cells])
    return Table(
        title="Accuracy by preprocessing",
        columns=["preprocessing", "accuracy", "correct only with it", "correct only in use", "p (Holm)", "n"],
        formats=["text", "percent", "count", "count", "number", "count"],
        rows=rows,
        caption="p: probability of such an advantage over the preprocessing in use by chance. Size and crop are"
        " unchanged.",
    )
