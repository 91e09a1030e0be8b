"""Accuracy and related metrics on the clean images, as scikit-learn defines them.

Accuracy has Wilson's interval, the others a bootstrap over images. Precision, recall and F1 are means over classes
(macro), with 0 for a class that is never predicted. ROC AUC is one class against the rest, averaged over classes, and
micro over all pairs of image and class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from auditor import Conclusion, Example, Finding, Meta, Metric, MetricSpec, PerImage, Probe, Records
from auditor.findings.formatting import percent
from auditor.plugins.performance._accuracy_evidence import class_recalls, confusion_map, error_images, recall_finding
from auditor.plugins.performance._confusion_metrics import CONFUSION_METRICS, not_a_point
from auditor.plugins.performance._guessing import GUESSING_METRICS, compare_with_guessing
from auditor.probes.class_orders import fitting_order, other_orders
from auditor.probes.shared_metrics import ACCURACY, RECALL

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Randomness

_MAX_MICRO_CLASSES = 40
"""With more classes, the micro ROC AUC is omitted: most of its pairs would be trivial."""


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
        MetricSpec(name="class_recall", label="Recall of a class", better="higher"),
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
        of_matrix = _confusion_metrics(frame, matrix)
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
        metrics = [accuracy, *of_matrix, *_roc_metrics(frame, len(records.classes))]
        metrics.append(statistics.mean("log_loss", _losses(frame), unit="nats", units=units))
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
        return [
            PerImage(name="accuracy", values=frame["prediction"] == frame["label"]),
            PerImage(name="log_loss", values=pd.Series(_losses(frame), index=frame.index)),
        ]


def _confusion_metrics(frame: pd.DataFrame, matrix: NDArray[np.int64]) -> list[Metric]:
    """Return the metrics of the confusion matrix (k, k) with bootstrap intervals."""
    from auditor import statistics

    resamples = 1000 if len(matrix) <= 100 else 200
    pairs, units = frame[["label", "prediction"]].to_numpy(), frame.get("unit")
    return [
        Metric(
            name=name,
            **not_a_point(
                statistics.bootstrap_confusion(matrix, statistic, resamples=resamples, pairs=pairs, units=units), frame
            )._asdict(),
            n=int(matrix.sum()),
            units=statistics.count_units(units),
        )
        for name, statistic in CONFUSION_METRICS.items()
    ]


def _roc_metrics(frame: pd.DataFrame, k: int) -> list[Metric]:
    """Return the macro and, for few classes, the micro ROC AUC with bootstrap intervals."""
    from auditor import statistics

    labels, probabilities, units = frame["label"].to_numpy(), _probabilities(frame), frame.get("unit")
    areas: dict[str, Callable[..., NDArray[np.float64]]] = {"roc_auc": statistics.roc_auc}
    if k <= _MAX_MICRO_CLASSES:
        areas["roc_auc_micro"] = statistics.roc_auc_micro
    resamples = 1000 if len(frame) * k <= 20_000 else 200
    return [
        Metric(
            name=name,
            **statistics.bootstrap_weighted(
                len(frame), partial(area, labels, probabilities), resamples=resamples, units=units
            )._asdict(),
            n=len(frame),
            units=statistics.count_units(units),
        )
        for name, area in areas.items()
    ]


def _probabilities(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the clean probabilities, (n, k)."""
    import numpy as np

    return np.stack(frame["probabilities"].to_list()).astype(np.float64)


def _losses(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the cross entropy of each image in nats, (n,)."""
    import numpy as np

    of_label = _probabilities(frame)[np.arange(len(frame)), frame["label"].to_numpy()]
    losses: NDArray[np.float64] = -np.log(np.clip(of_label, 1e-15, 1))
    return losses
