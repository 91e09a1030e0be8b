"""Accuracy and its relatives on the clean images, as scikit-learn defines them.

Accuracy has Wilson's interval; the others a bootstrap over images. Precision, recall and F1 are means over classes
(macro) with 0 for a class that is never predicted; ROC-AUC is one class against the rest, mean over classes, and micro
over all pairs of an image and a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import (
    Conclusion,
    Example,
    Finding,
    GridRow,
    HeatMap,
    ImageGrid,
    Meta,
    Metric,
    PerImage,
    Picture,
    Probe,
    Records,
    Table,
    hookimpl,
)
from auditor.findings.metric import percent

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_MICRO = 40
"""Classes up to which the micro ROC-AUC is taken: with many, nearly all its pairs are of classes nobody thinks of."""


@dataclass(frozen=True, kw_only=True)
class Accuracy(Probe):
    """What everybody asks first."""

    meta = Meta(
        id="performance.accuracy",
        title="Accuracy on clean data",
        area="performance",
        why="Everything else is measured against it; a figure far below what the vendor states usually means wrong"
        " preprocessing, not a wrong model.",
        references=("https://scikit-learn.org/stable/modules/model_evaluation.html",),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    shown_errors: int = 6
    """How many of the most confident errors to show."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """The clean probabilities; no passes of its own."""
        del classifier, rng
        return {"confidence": batch.probabilities.max(axis=1), "probabilities": batch.probabilities}

    def examples(self, records: Records) -> list[Example]:
        """The most confident errors."""
        frame = records.frame
        wrong = frame[frame["prediction"] != frame["label"]].sort_values("confidence", ascending=False, kind="stable")
        return [Example(image_id=image_id) for image_id in wrong["image_id"].head(self.shown_errors)]

    def conclude(self, records: Records) -> Conclusion:
        """Metrics, the table by class, the confusion matrix, the worst errors."""
        import numpy as np
        from sklearn.metrics import confusion_matrix

        from auditor import statistics

        frame = records.frame
        labels, predictions = frame["label"].to_numpy(), frame["prediction"].to_numpy()
        k = len(records.classes)
        matrix = confusion_matrix(labels, predictions, labels=np.arange(k))
        accuracy = statistics.proportion("accuracy", labels == predictions)
        metrics = [accuracy]
        for name, statistic in _OF_CONFUSION.items():
            value, low, high = statistics.bootstrap_confusion(matrix, statistic, resamples=1000 if k <= 100 else 200)
            metrics.append(Metric(name=name, value=value, low=low, high=high, n=len(frame)))
        probabilities = np.stack(frame["probabilities"].to_list()).astype(np.float64)
        value, low, high = statistics.bootstrap_weighted(
            len(frame),
            lambda w: statistics.roc_auc(labels, probabilities, w),
            resamples=1000 if len(frame) * k <= 20_000 else 200,
        )
        metrics.append(Metric(name="roc_auc", value=value, low=low, high=high, n=len(frame)))
        if k <= _MICRO:
            value, low, high = statistics.bootstrap_weighted(
                len(frame),
                lambda w: statistics.roc_auc_micro(labels, probabilities, w),
                resamples=1000 if len(frame) * k <= 20_000 else 200,
            )
            metrics.append(Metric(name="roc_auc_micro", value=value, low=low, high=high, n=len(frame)))
        metrics.append(statistics.mean("log_loss", _losses(frame), unit="nats"))
        finding = Finding(
            id="performance.accuracy/accuracy",
            title="Accuracy",
            statement=f"The model gives the right class to {int((labels == predictions).sum())} of {len(frame)}"
            f" {records.kind}: accuracy {percent(accuracy)}.",
            metric=accuracy,
            evidence=[_by_class(records, matrix), *_confusion(records, matrix), *_errors(records)],
        )
        return Conclusion(metrics=metrics, findings=[finding])

    def per_image(self, records: Records) -> list[PerImage]:
        """Whether each image is right, and its cross entropy."""
        import pandas as pd

        frame = records.frame.set_index("image_id")
        return [
            PerImage(name="accuracy", values=frame["prediction"] == frame["label"]),
            PerImage(name="log_loss", values=pd.Series(_losses(frame), index=frame.index)),
        ]


def _losses(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Cross entropy of each image, (n,), in nats."""
    import numpy as np

    probabilities = np.stack(frame["probabilities"].to_list()).astype(np.float64)
    result: NDArray[np.float64] = -np.log(
        np.clip(probabilities[np.arange(len(frame)), frame["label"].to_numpy()], 1e-15, 1)
    )
    return result


def _present(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Classes that have images, as weights that sum to 1, (b, k)."""
    present = matrices.sum(axis=2) > 0
    result: NDArray[np.float64] = present / present.sum(axis=1, keepdims=True)
    return result


def _recalls(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    return _share(_diagonal(matrices), matrices.sum(axis=2))


def _precisions(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    return _share(_diagonal(matrices), matrices.sum(axis=1))


def _f1s(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    return _share(2 * _diagonal(matrices), matrices.sum(axis=1) + matrices.sum(axis=2))


def _diagonal(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    result: NDArray[np.float64] = np.diagonal(matrices, axis1=1, axis2=2)
    return result


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _macro(values: NDArray[np.float64], matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes that occur, as a label or as an answer (what scikit-learn averages over)."""
    occurs = (matrices.sum(axis=1) + matrices.sum(axis=2)) > 0
    result: NDArray[np.float64] = (values * occurs).sum(axis=1) / occurs.sum(axis=1)
    return result


_OF_CONFUSION = {
    "balanced_accuracy": lambda m: (_recalls(m) * _present(m)).sum(axis=1),
    "precision": lambda m: _macro(_precisions(m), m),
    "recall": lambda m: _macro(_recalls(m), m),
    "f1": lambda m: _macro(_f1s(m), m),
}


def _by_class(records: Records, matrix: NDArray[Any]) -> Table:
    from auditor import statistics

    rows: list[list[Any]] = []
    for k, name in enumerate(records.classes):
        n, answered, right = int(matrix[k].sum()), int(matrix[:, k].sum()), int(matrix[k, k])
        if not (n or answered):
            continue
        recall, precision = statistics.wilson(right, n)._asdict(), statistics.wilson(right, answered)._asdict()
        rows.append([name, recall, precision, n, answered])
    rows.sort(key=lambda row: (row[1]["value"] is None, row[1]["value"]))
    return Table(
        title="By class, lowest recall first",
        columns=["class", "recall", "precision", records.kind, "answers"],
        formats=["text", "percent", "percent", "count", "count"],
        rows=rows[:50],
        caption="" if len(rows) <= 50 else f"The 50 classes with the lowest recall of {len(rows)}.",
    )


def _confusion(records: Records, matrix: NDArray[Any]) -> list[HeatMap]:
    if len(records.classes) > 40:
        # a matrix of 1,000 classes is grey on paper; the table above names the worst
        return []
    return [
        HeatMap(
            title="Confusion matrix",
            values=matrix.tolist(),
            row_labels=records.classes,
            column_labels=records.classes,
            row_title="label",
            column_title="answer",
            format="count",
        )
    ]


def _errors(records: Records) -> list[ImageGrid]:
    shown = list(records.examples.itertuples())
    if not shown:
        return []
    cells = [
        Picture(
            file=row.file,
            caption=f"{records.said(row)}; {row.image_id}",
            alt=f"image of class {records.class_name(row.label)}",
        )
        for row in shown
    ]
    return [
        ImageGrid(
            title="The most confident errors",
            columns=[f"label {records.class_name(row.label)}" for row in shown],
            rows=[GridRow(label="", cells=cells)],
            caption="Under each picture the model's answer with its confidence, and the image's id.",
        )
    ]


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Accuracy]
