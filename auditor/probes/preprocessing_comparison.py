"""Compare common preprocessings with the one in use, image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from auditor.model.presets import PRESETS
from auditor.probes.class_orders import majority_share
from auditor.probes.paired_accuracy import is_better, paired_accuracy
from auditor.probes.units import units_by_image

_ENOUGH = 5
"""Images of a class from which on it counts that none of them is classified correctly."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from auditor.findings.metric import Metric


class Alternative(NamedTuple):
    """Another preprocessing, compared with the one in use on the same images."""

    name: str
    accuracy: Metric
    only_other: int
    """Images that are correct only with this preprocessing."""
    only_used: int
    """Images that are correct only with the one in use."""
    gain: Metric
    """Difference of the accuracies; its interval has a Bonferroni correction over all alternatives."""
    p_value: float
    """McNemar's exact test, over units if the data states them, adjusted with Holm's method."""

    @property
    def better(self) -> bool:
        """Whether it is significantly better than the preprocessing in use."""
        return is_better(self.p_value, self.gain)


def compare_preprocessings(frame: pd.DataFrame) -> list[Alternative]:
    """Compare every alternative in the records of ``sanity.preprocessing`` with the one in use (the empty name)."""
    from auditor import statistics

    if not len(frame):
        return []
    correct = {
        str(name): part.set_index("image_id")["correct"].astype(bool)
        for name, part in frame.groupby("preprocessing", sort=False)
    }
    used = correct.pop("", None)
    if used is None:
        return []
    units = units_by_image(frame, used.index)
    found = []
    for name, values in correct.items():
        compared = paired_accuracy(
            values.reindex(used.index),
            used,
            gain="preprocessing_gain",
            at={"preset": name},
            alternatives=len(correct),
            units=units,
        )
        found.append(Alternative(**compared._asdict(), name=name))
    adjusted = statistics.holm([other.p_value for other in found])
    return [other._replace(p_value=p) for other, p in zip(found, adjusted, strict=True)]


def best_of(alternatives: Sequence[Alternative]) -> Alternative:
    """Return the alternative with the best established gain; of several that are as good, the smallest change.

    Neighbouring presets (those of ImageNet, CIFAR-10 and CLIP) differ by less than the intervals.
    """
    top = max(alternatives, key=lambda other: (other.gain.low or 0.0, other.gain.value or 0.0))
    names = [name for name in (other.name for other in alternatives) if name not in PRESETS]
    simplest = [*names, *PRESETS]
    return min(equally_good(top, alternatives), key=lambda other: simplest.index(other.name), default=top)


def equally_good(top: Alternative, alternatives: Sequence[Alternative]) -> list[Alternative]:
    """Return the better alternatives whose interval of the accuracy contains that of ``top`` or lies above it."""
    return [other for other in alternatives if other.better and (other.accuracy.high or 0) >= (top.accuracy.value or 0)]


def best_preprocessing(frame: pd.DataFrame | None) -> Alternative | None:
    """Return the most accurate alternative that is better than the one in use and than the commonest class, or None."""
    if frame is None or not len(frame):
        return None
    better = [other for other in compare_preprocessings(frame) if other.better and not objection(other, frame)]
    return max(better, key=lambda other: other.accuracy.value or 0.0, default=None)


def objection(other: Alternative, frame: pd.DataFrame) -> str:
    """Say why an alternative cannot be the model's preprocessing: with the right one, the model knows most classes.

    A model that always gives the same answer gives a second one at some other range of values, which is no better.
    """
    rows = frame[frame["preprocessing"] == other.name]
    majority = majority_share(rows["label"].to_numpy())
    if (other.accuracy.low or 0.0) > majority:
        by_class = rows.groupby("label")["correct"].agg(["any", "size"])
        known = by_class["any"][by_class["size"] >= _ENOUGH]
        if known.sum() * 2 >= len(known):
            return ""
        return f"no image of {len(known) - int(known.sum())} of the {len(known)} classes is classified correctly"
    return f"it is not more accurate than always answering the commonest class ({100 * majority:.1f} %)"
