"""Compare another way to read the model with the one in use, on the same images: a class order, a preprocessing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from auditor.probes.gaps import ALPHA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from auditor.findings.metric import Metric, Scalar
    from auditor.statistics import Units


class PairedAccuracy(NamedTuple):
    """The accuracy of an alternative, and its gain over the one in use."""

    accuracy: Metric
    gain: Metric
    """Difference of the accuracies; its interval has a Bonferroni correction over all alternatives."""
    only_other: int
    """Images that are correct only with the alternative."""
    only_used: int
    """Images that are correct only with the one in use."""
    p_value: float
    """McNemar's exact one-sided test, over units if the data states them; not adjusted."""


def paired_accuracy(
    other: ArrayLike, used: ArrayLike, *, gain: str, at: Mapping[str, Scalar], alternatives: int, units: Units
) -> PairedAccuracy:
    """Compare which images are correct, (n,) each, with an alternative and with the one in use.

    Args:
        other: Whether each image is correct with the alternative.
        used: Whether it is correct with the one in use.
        gain: Name of the metric of the difference.
        at: Names the alternative.
        alternatives: Number of alternatives that are compared, for the interval.
        units: Unit of each image, (n,), if any.
    """
    import numpy as np

    from auditor import statistics

    change = np.asarray(other, dtype=int) - np.asarray(used, dtype=int)
    accuracy = statistics.proportion("accuracy", other, at=at, units=units)
    interval = statistics.matched(*statistics.effective_change(change, units), confidence=1 - ALPHA / alternatives)
    return PairedAccuracy(
        accuracy=accuracy,
        gain=replace(accuracy, name=gain, **interval._asdict()),
        only_other=int((change > 0).sum()),
        only_used=int((change < 0).sum()),
        p_value=statistics.sign_flip(change, units),
    )


def is_better(p_value: float, gain: Metric) -> bool:
    """Whether an alternative is significantly better, by its adjusted p-value and by its interval."""
    return p_value < ALPHA and (gain.low or 0.0) > 0
