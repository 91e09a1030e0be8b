"""Metrics of confusion matrices (b, k, k), indexed by label and prediction, for ``performance.accuracy``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
