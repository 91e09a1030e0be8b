"""Base class of attacks that try every position of a finite grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from auditor.findings.metric import Metric, MetricSpec
from auditor.probes.base import Probe
from auditor.probes.levels import Level
from auditor.probes.robustness_metrics import ATTACK_SUCCESS_RATE, ROBUST_ACCURACY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from auditor.data.dataset import Pixels
    from auditor.model.classifier import Classifier
    from auditor.statistics.cluster import Units


class GridAnswers(NamedTuple):
    """Answers of the deployed model at every position of a grid."""

    label_probability: NDArray[np.float32]
    """Probability of the label, (n, positions)."""
    misclassified: NDArray[np.bool_]
    """(n, positions)"""


class GridSearch(Probe):
    """Query the deployed model at every position of a grid; the worst position of each image counts.

    Robust accuracy is an upper bound: a finer grid can only lower it.
    """

    metrics: ClassVar[Sequence[MetricSpec]] = (ROBUST_ACCURACY, ATTACK_SUCCESS_RATE)

    def query_grid(self, classifier: Classifier, labels: NDArray[np.int64], positions: Iterable[Pixels]) -> GridAnswers:
        """Query the deployed model with the images at each position.

        Args:
            classifier: The deployed model.
            labels: (n,)
            positions: Images (n, c, h, w) at each position.
        """
        import numpy as np

        answers = [classifier.predict(images) for images in positions]
        rows = np.arange(len(labels))
        return GridAnswers(
            np.stack([answer[rows, labels] for answer in answers], axis=1),
            np.stack([answer.argmax(axis=1) != labels for answer in answers], axis=1),
        )


def robust_accuracy(correct: ArrayLike, misclassified: ArrayLike, at: Level, *, units: Units = None) -> Metric:
    """Return the share of images that are correct without an attack and at no position misclassified.

    Args:
        correct: Whether each image is correct without an attack, (n,).
        misclassified: Whether any position is misclassified, (n,).
        at: What the metric is measured at.
        units: The unit of each image, (n,).
    """
    import numpy as np

    from auditor import statistics

    clean = np.asarray(correct, dtype=bool)
    hits = clean & ~np.asarray(misclassified, dtype=bool)
    robust = statistics.proportion("robust_accuracy", hits, at=at, units=units)
    return robust.lost_from(float(clean.mean()) if len(clean) else None)


def success_rate(correct: ArrayLike, misclassified: ArrayLike, at: Level, *, units: Units = None) -> Metric:
    """Return the share of the correct images misclassified at any position; arguments as ``robust_accuracy``."""
    import numpy as np

    from auditor import statistics

    attacked = np.asarray(correct, dtype=bool)
    hits = np.asarray(misclassified, dtype=bool)[attacked]
    return statistics.proportion("attack_success_rate", hits, at=at, units=statistics.keep(units, attacked))
