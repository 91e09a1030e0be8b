"""Class order: whether labels and predictions agree significantly better under another order of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, Probe, Records
from auditor.plugins.sanity import _class_order_evidence as evidence
from auditor.probes.class_orders import fitting_order, other_orders
from auditor.probes.preprocessing_comparison import best_preprocessing
from auditor.probes.shared_metrics import ACCURACY

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Labels(Probe):
    """Compare the accuracy with that under other orders of the classes, on the same images."""

    meta = Meta(
        id="sanity.labels",
        title="Class order compared with alternatives",
        area="sanity",
        why="If the names of the classes are in another order than the model's outputs, every accuracy in the audit is"
        " wrong, and the model looks much worse than it is.",
        references=("https://doi.org/10.1007/BF02295996", "https://doi.org/10.1093/biomet/62.2.441"),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (
        MetricSpec(
            name="class_order_gain", label="Accuracy gain of another class order", better="lower", difference=True
        ),
        ACCURACY,
    )
    depends_on = ("sanity.preprocessing",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return whether the clean prediction is correct; no model calls."""
        del classifier, rng
        return {"correct": batch.predictions == batch.labels}

    def conclude(self, records: Records) -> Conclusion:
        """Report the gain of the best other order that could be the model's."""
        from auditor import statistics

        frame = records.frame
        labels, predictions = frame["label"].to_numpy(), frame["prediction"].to_numpy()
        orders = other_orders(labels, predictions, list(frame["image_id"]), records.classes, units=frame.get("unit"))
        accuracy = statistics.proportion(
            "accuracy", labels == predictions, at={"order": "in use"}, units=frame.get("unit")
        )
        if not orders:
            return Conclusion(metrics=[_no_gain(len(frame))], inconclusive="there is no other order of the classes")
        best = fitting_order(orders)
        other = best_preprocessing(records.others.get("sanity.preprocessing"))
        doubt = evidence.doubt_about(best, orders, other)
        best = None if doubt else best
        shown = best or max(orders, key=lambda order: (order.gain.low or 0.0, order.gain.value or 0.0))
        warning = best.warning(records.classes) if best else ""
        gain = _no_gain(len(frame)) if doubt else shown.gain
        reading = warning or "No other order fits better."
        if best and other and other.accuracy.value == best.accuracy.value:
            reading += f" Another preprocessing ({other.name}) explains the data as well; see sanity.preprocessing."
        finding = Finding(
            id="sanity.labels/best",
            title="Best other class order",
            statement=f"{evidence.statement(accuracy, shown, len(orders))} {reading}",
            metric=gain,
            evidence=[evidence.table(accuracy, orders), *([evidence.names_table(shown, records)] if best else [])],
        )
        metrics = [gain, accuracy, *(order.accuracy for order in orders)]
        warnings = [warning] if warning else []
        return Conclusion(metrics=metrics, findings=[finding], inconclusive=doubt, warnings=warnings)


def _no_gain(n: int) -> Metric:
    return Metric(name="class_order_gain", value=None, n=n)
