"""Metrics of ``performance.accuracy`` with bootstrap intervals: from the confusion matrix, the ranking and the loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from auditor import Metric
from auditor.plugins.performance._confusion_metrics import CONFUSION_METRICS, not_a_point

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_MAX_MICRO_CLASSES = 40
"""With more classes, the micro ROC AUC is omitted: most of its pairs would be trivial."""


def confusion_metrics(frame: pd.DataFrame, matrix: NDArray[np.int64]) -> list[Metric]:
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


def roc_metrics(frame: pd.DataFrame, k: int) -> list[Metric]:
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
            **not_a_point(
                statistics.bootstrap_weighted(
                    len(frame), partial(area, labels, probabilities), resamples=resamples, units=units
                ),
                frame,
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


def losses(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the cross entropy of each image in nats, (n,)."""
    import numpy as np

    of_label = _probabilities(frame)[np.arange(len(frame)), frame["label"].to_numpy()]
    losses: NDArray[np.float64] = -np.log(np.clip(of_label, 1e-15, 1))
    return losses
