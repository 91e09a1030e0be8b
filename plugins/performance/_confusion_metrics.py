"""Metrics of confusion matrices (b, k, k), indexed by label and prediction, for ``performance.accuracy``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.statistics import Interval

    Floats = NDArray[np.float64]


def balanced_accuracy(matrices: Floats) -> Floats:
    """Return the mean recall over the classes with images, (b,)."""
    present = matrices.sum(axis=2) > 0
    weights = present / present.sum(axis=1, keepdims=True)
    result: Floats = (_recalls(matrices) * weights).sum(axis=1)
    return result


def precision(matrices: Floats) -> Floats:
    """Return the macro precision, (b,)."""
    return _macro(_share(_correct(matrices), matrices.sum(axis=1)), matrices)


def recall(matrices: Floats) -> Floats:
    """Return the macro recall, (b,)."""
    return _macro(_recalls(matrices), matrices)


def f1(matrices: Floats) -> Floats:
    """Return the macro F1, (b,)."""
    return _macro(_share(2 * _correct(matrices), matrices.sum(axis=1) + matrices.sum(axis=2)), matrices)


CONFUSION_METRICS: Mapping[str, Callable[[Any], Any]] = {
    "balanced_accuracy": balanced_accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
}


def not_a_point(found: Interval, frame: pd.DataFrame) -> Interval:
    """Return a bootstrap interval, or Wilson's if all resamples are equal: the model is right (or wrong) everywhere.

    n is that of equally large classes with the same variance of the mean recall: k^2 / sum(1 / n_c) for k classes with
    n_c images, or units of correlated images.
    """
    from auditor import statistics

    if found.value is None or found.low != found.high:
        return found
    counted = frame.drop_duplicates(["label", "unit"]) if "unit" in frame else frame
    sizes = counted["label"].value_counts().to_numpy()
    n = len(sizes) ** 2 / float((1 / sizes).sum())
    return statistics.wilson(found.value * n, n)


def _recalls(matrices: Floats) -> Floats:
    return _share(_correct(matrices), matrices.sum(axis=2))


def _correct(matrices: Floats) -> Floats:
    import numpy as np

    result: Floats = np.diagonal(matrices, axis1=1, axis2=2)
    return result


def _share(part: Floats, whole: Floats) -> Floats:
    import numpy as np

    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _macro(values: Floats, matrices: Floats) -> Floats:
    """Average over the classes that occur as label or prediction, as scikit-learn does."""
    occurs = (matrices.sum(axis=1) + matrices.sum(axis=2)) > 0
    result: Floats = (values * occurs).sum(axis=1) / occurs.sum(axis=1)
    return result
