"""Class order: whether labels and predictions agree significantly better under another order of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, Probe, Records, Table
from auditor.findings.formatting import counted, percent
from auditor.probes.class_orders import fitting_order, other_orders
from auditor.probes.preprocessing_comparison import best_preprocessing
from auditor.probes.shared_metrics import ACCURACY

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness
    from auditor.findings.evidence import Cell
    from auditor.probes.class_orders import ClassOrder


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
        reason = ""
        if best is None and (objected := _objected(orders)):
            reason = f"no order of the classes explains the data: under {objected.name}, accuracy is"
            reason += f" {percent(objected.accuracy)}, but {objected.objection}"
        elif best and other and not best.explains_better(other.accuracy):
            reason = f"another preprocessing ({other.name}) explains the data at least as well as another order of the"
            reason += f" classes: accuracy {percent(other.accuracy)} against {percent(best.accuracy)};"
            reason += " see sanity.preprocessing"
            best = None
        shown = best or max(orders, key=lambda order: (order.gain.low or 0.0, order.gain.value or 0.0))
        warning = best.warning(records.classes) if best else ""
        gain = _no_gain(len(frame)) if reason else shown.gain
        reading = warning or "No other order fits better."
        if best and other and other.accuracy.value == best.accuracy.value:
            reading += f" Another preprocessing ({other.name}) explains the data as well; see sanity.preprocessing."
        finding = Finding(
            id="sanity.labels/best",
            title="Best other class order",
            statement=f"{_statement(accuracy, shown, len(orders))} {reading}",
            metric=gain,
            evidence=[_comparison(accuracy, orders), *([_names(shown, records)] if best else [])],
        )
        metrics = [gain, accuracy, *(order.accuracy for order in orders)]
        warnings = [warning] if warning else []
        return Conclusion(metrics=metrics, findings=[finding], inconclusive=reason, warnings=warnings)


def _no_gain(n: int) -> Metric:
    return Metric(name="class_order_gain", value=None, n=n)


def _objected(orders: list[ClassOrder]) -> ClassOrder | None:
    """Return the most accurate order that is significantly better than the one in use, but cannot be the model's."""
    return next((order for order in orders if order.objection and (order.gain.low or 0.0) > 0), None)


def _statement(accuracy: Metric, best: ClassOrder, tests: int) -> str:
    return (
        f"Accuracy {percent(accuracy)} with the class order in use (n = {accuracy.n}), {percent(best.accuracy)} with"
        f" another order: {best.name} (n = {best.accuracy.n}; McNemar's exact test, Holm over"
        f" {counted(tests, 'order')}: p = {best.p_value:.2g})."
    )


def _comparison(accuracy: Metric, orders: list[ClassOrder]) -> Table:
    rows: list[list[Cell]] = [["in use", accuracy.cell(), None, None, None, "", accuracy.n]]
    for order in orders:
        counts = [order.only_other, order.only_used, order.p_value]
        rows.append([order.name, order.accuracy.cell(), *counts, order.objection, order.accuracy.n])
    return Table(
        title="Accuracy by class order",
        columns=["order", "accuracy", "correct only with it", "correct only in use", "p (Holm)", "objection", "n"],
        formats=["text", "percent", "count", "count", "number", "text", "count"],
        rows=rows,
        caption="p: probability of such an advantage over the order in use by chance. The best matching is chosen on"
        " one half of the images and tested on the other.",
    )


def _names(best: ClassOrder, records: Records) -> Table:
    """List the name of every model output in use and under the order that fits."""
    from auditor.data.class_orders import reordered

    pairs = zip(records.classes, reordered(records.classes, best.mapping), strict=True)
    return Table(
        title="Names of the model's outputs",
        columns=["output", "name in use", "name that fits"],
        formats=["count", "text", "text"],
        rows=[[output, used, fits] for output, (used, fits) in enumerate(pairs)],
    )
