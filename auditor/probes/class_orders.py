"""Test whether another order of the classes fits labels and predictions significantly better than the one in use.

The candidates are the common orders of ``auditor/data/class_orders.py`` and the best one-to-one matching of labels and
model outputs. The matching is chosen on one half of the images and tested on the other (Cox 1975, Biometrika 62,
441-444), the common orders are tested on all images. McNemar's exact test compares each with the order in use, on the
same images; p-values are adjusted with Holm's method, intervals with Bonferroni's.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from auditor.data.class_orders import common_orders, reordered
from auditor.findings.formatting import percent
from auditor.probes.gaps import ALPHA
from auditor.probes.paired_accuracy import is_better, paired_accuracy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.findings.metric import Metric
    from auditor.statistics.cluster import Units

_LISTED = 20
"""With more classes, the warning does not list the order."""

MATCHING = "best one-to-one matching of labels and outputs"


class ClassOrder(NamedTuple):
    """Another class order, compared with the one in use on the same images."""

    name: str
    mapping: NDArray[np.int64]
    """Model output of each label, (k,)."""
    accuracy: Metric
    used: Metric
    """Accuracy of the order in use on the same images."""
    gain: Metric
    """Difference of the accuracies, with an interval corrected for the number of orders."""
    only_other: int
    """Images that are correct only with this order."""
    only_used: int
    """Images that are correct only with the order in use."""
    p_value: float
    """McNemar's exact one-sided test, adjusted with Holm's method."""
    objection: str
    """Why it does not count as the model's order, even where it is significantly better; empty if nothing speaks
    against it."""

    @property
    def fits(self) -> bool:
        """Whether the order is significantly better than the one in use, and a plausible order."""
        return is_better(self.p_value, self.gain) and not self.objection

    def explains_better(self, preset: Metric) -> bool:
        """Whether it explains the data better than another preprocessing with the accuracy ``preset``.

        If both are equal, a common order does: a wrong preprocessing makes answers worse, but rarely permutes them. A
        matching chosen among all k! orders does not.
        """
        own, other = self.accuracy.value or 0.0, preset.value or 0.0
        return own > other or (own == other and self.name != MATCHING)

    def warning(self, classes: Sequence[str]) -> str:
        """Say that this order fits better, and how to set it."""
        names = reordered(classes, self.mapping)
        how = f"--classes {','.join(names)}"
        if len(names) > _LISTED or any("," in name or " " in name for name in names):
            how = "--classes FILE; FILE lists the names in the order of the model's outputs, one per line, and"
            how += " sanity.labels shows it"
        return (
            f"Another order of the classes fits significantly better ({self.name}): accuracy {percent(self.accuracy)}"
            f" instead of {percent(self.used)} (n = {self.accuracy.n}). If it is the model's order, set it with {how}."
        )


def other_orders(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    units: Units = None,
) -> list[ClassOrder]:
    """Compare other class orders with the one in use, the most accurate first.

    Args:
        labels: Class index of each image by the order in use, (n,).
        predictions: Model output with the highest score, (n,).
        ids: Image ids; they decide which half an image belongs to.
        classes: Class names in the order in use.
        units: Unit of each image, (n,): images of one unit belong to the same half, and tests are over units.
    """
    import numpy as np

    from auditor import statistics

    if not len(labels):
        return []
    everything = np.ones(len(labels), dtype=bool)
    candidates = [(name, mapping, everything) for name, mapping in common_orders(classes).items()]
    names = ids if units is None else list(np.asarray(units))
    half = np.array([sha256(f"class order\0{name}".encode()).digest()[0] < 128 for name in names])
    matching = _matching(labels[half], predictions[half], len(classes), statistics.keep(units, half))
    if matching is not None and not half.all() and not any(np.array_equal(matching, c[1]) for c in candidates):
        candidates.append((MATCHING, matching, ~half))
    found = []
    for name, mapping, tested in candidates:
        used, other = (labels == predictions)[tested], (mapping[labels] == predictions)[tested]
        among = statistics.keep(units, tested)
        compared = paired_accuracy(
            other, used, gain="class_order_gain", at={"order": name}, alternatives=len(candidates), units=among
        )
        order = ClassOrder(
            **compared._asdict(),
            name=name,
            mapping=mapping,
            used=statistics.proportion("accuracy", used, at={"order": "in use"}, units=among),
            objection=_objection(mapping, labels[tested], predictions[tested], among),
        )
        found.append(order)
    adjusted = statistics.holm([order.p_value for order in found])
    found = [order._replace(p_value=p) for order, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda order: -(order.accuracy.value or 0.0))


def fitting_order(orders: Sequence[ClassOrder]) -> ClassOrder | None:
    """Return the most accurate order that fits significantly better than the one in use, or None."""
    return next((order for order in orders if order.fits), None)


def majority_share(labels: NDArray[np.int64]) -> float:
    """Return the accuracy of always answering the commonest class of ``labels``."""
    import numpy as np

    return float(np.bincount(labels).max() / len(labels)) if len(labels) else 0.0


def _matching(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], k: int, units: Units
) -> NDArray[np.int64] | None:
    """Return the one-to-one matching with the most agreements; None if none is better than the order in use.

    It departs from the order in use only in cycles that gain significantly on these images: otherwise a few errors of
    a small class would move its name. Kuhn 1955 (Hungarian method).
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    from auditor import statistics

    counts = np.zeros((k, k), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    # among equal matchings, the one nearest to the order in use
    _, best = linear_sum_assignment(2 * k * counts + np.eye(k, dtype=np.int64), maximize=True)
    mapping = np.arange(k)
    for cycle in _cycles(best):
        inside = np.isin(labels, cycle)
        change = (inside & (predictions == best[labels])).astype(int) - (inside & (predictions == labels)).astype(int)
        if statistics.sign_flip(change, units) < ALPHA:
            mapping[cycle] = best[cycle]
    return None if np.array_equal(mapping, np.arange(k)) else mapping


def _cycles(mapping: NDArray[np.int64]) -> list[list[int]]:
    """Return the cycles of a permutation that move something."""
    left, cycles = set(range(len(mapping))), []
    while left:
        current = min(left)
        cycle = []
        while current in left:
            left.remove(current)
            cycle.append(current)
            current = int(mapping[current])
        if len(cycle) > 1:
            cycles.append(cycle)
    return cycles


def _objection(
    mapping: NDArray[np.int64], labels: NDArray[np.int64], predictions: NDArray[np.int64], units: Units
) -> str:
    """Say why an order cannot be the model's: it explains no more than guessing, or too few classes.

    An untrained network answers a few outputs for everything, and some assignment of names to them is better than
    another. The model's own order makes it better than the commonest class, and makes each class's own output its most
    frequent answer.
    """
    import numpy as np

    from auditor import statistics

    majority = majority_share(labels)
    hits = statistics.effective_count(mapping[labels] == predictions, units)
    low = statistics.wilson(*hits).low or 0.0
    if low <= majority:
        return f"it is not more accurate than always answering the commonest class ({100 * majority:.1f} %)"
    moved = [int(c) for c in np.unique(labels) if mapping[c] != c]
    own = [np.bincount(predictions[labels == c]).argmax() == mapping[c] for c in moved]
    others = len(own) - sum(own)
    if others >= sum(own):
        return f"for {others} of the {len(own)} classes that it moves, another output is the most frequent answer"
    return ""
