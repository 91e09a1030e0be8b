"""Accuracy and related metrics on the clean images, as scikit-learn defines them.

Accuracy has Wilson's interval, the others a bootstrap over images. Precision, recall and F1 are means over classes
(macro), with 0 for a class that is never predicted. ROC AUC is one class against the rest, averaged over classes, and
micro over all pairs of image and class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Conclusion, Example, Finding, Meta, MetricSpec, PerImage, Probe, Records
from auditor.findings.formatting import percent
from auditor.plugins.performance._accuracy_evidence import class_recalls, confusion_map, error_images, recall_finding
from auditor.plugins.performance._accuracy_metrics import confusion_metrics, losses, roc_metrics
from auditor.plugins.performance._guessing import GUESSING_METRICS, compare_with_guessing
from auditor.probes.class_orders import fitting_order, other_orders
from auditor.probes.shared_metrics import ACCURACY, RECALL

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Accuracy(Probe):
    """Measure accuracy, precision, recall, F1, ROC AUC and log loss."""

    meta = Meta(
        id="performance.accuracy",
        title="Accuracy on clean data",
        area="performance",
        why="The reference for all other results. An accuracy far below the vendor's usually indicates wrong"
        " preprocessing, not a wrong model.",
        references=("https://scikit-learn.org/stable/modules/model_evaluation.html",),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (
        ACCURACY,
        MetricSpec(name="balanced_accuracy", label="Balanced accuracy", better="higher"),
        MetricSpec(name="precision", label="Precision", better="higher"),
        RECALL,
        MetricSpec(name="f1", label="F1", better="higher"),
        MetricSpec(name="roc_auc", label="ROC AUC", better="higher"),
        MetricSpec(name="roc_auc_micro", label="ROC AUC over all pairs of image and class", better="higher"),
        MetricSpec(name="log_loss", label="Log loss", better="lower", unit="nats"),
        MetricSpec(name="class_recall", label="Recall rate", better="higher"),
        *GUESSING_METRICS,
    )
    examples_shown: int = 6
    """Number of the most confident errors to show."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the clean probabilities; no model calls."""
        del classifier, rng
        return {"confidence": batch.probabilities.max(axis=1), "probabilities": batch.probabilities}

    def examples(self, records: Records) -> list[Example]:
        """Request the most confident errors."""
        frame = records.frame
        wrong = frame[frame["prediction"] != frame["label"]].sort_values("confidence", ascending=False, kind="stable")
        return [Example(image_id=image_id) for image_id in wrong["image_id"].head(self.examples_shown)]

    def conclude(self, records: Records) -> Conclusion:
        """Report all metrics, a table by class, the confusion matrix and the most confident errors."""
        import numpy as np
        from sklearn.metrics import confusion_matrix

        from auditor import statistics

        frame = records.frame
        labels, predictions = frame["label"].to_numpy(), frame["prediction"].to_numpy()
        matrix = confusion_matrix(labels, predictions, labels=np.arange(len(records.classes)))
        units = frame.get("unit")
        accuracy = statistics.proportion("accuracy", labels == predictions, units=units)
        of_matrix = confusion_metrics(frame, matrix)
        balanced = next(metric for metric in of_matrix if metric.name == "balanced_accuracy")
        guessing = compare_with_guessing(labels, predictions, balanced, records.classes, records.kind, units=units)
        right = f"{int((labels == predictions).sum())} of {len(frame)} {records.kind}"
        order = fitting_order(other_orders(labels, predictions, list(frame["image_id"]), records.classes, units=units))
        finding = Finding(
            id="performance.accuracy/accuracy",
            title="Accuracy",
            statement=f"{guessing.sentence} The model classifies {right} correctly: accuracy {percent(accuracy)}."
            f" {order.warning(records.classes) if order else ''}".strip(),
            metric=accuracy,
            evidence=[*confusion_map(records, matrix), *error_images(records)],
        )
        metrics = [accuracy, *of_matrix]
        if records.scores:
            metrics += roc_metrics(frame, len(records.classes))
            metrics.append(statistics.mean("log_loss", losses(frame), unit="nats", units=units))
        metrics += [*guessing.metrics, *class_recalls(records)]
        return Conclusion(
            metrics=metrics,
            findings=[finding, *recall_finding(records), guessing.finding],
            inconclusive=guessing.undecided,
            warnings=[order.warning(records.classes)] if order else [],
        )

    def per_image(self, records: Records) -> list[PerImage]:
        """Return whether each image is classified correctly, and its cross entropy."""
        import pandas as pd

        frame = records.frame.set_index("image_id")
        values = [PerImage(name="accuracy", values=frame["prediction"] == frame["label"])]
        if records.scores:
            values.append(PerImage(name="log_loss", values=pd.Series(losses(frame), index=frame.index)))
        return values
