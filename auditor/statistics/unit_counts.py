"""Shares of groups whose images belong to units: Wilson's interval and Fisher's test with effective counts.

Counts are divided by the design effect (Rao and Scott 1992, Biometrics 48, 577-585). An interval uses that of one
group, the test that of both together: a small group without an error among its few units has no visible design
effect, which would raise false alarms at the strict levels of many tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.statistics.intervals import NOTHING, Interval, wilson
from auditor.statistics.tests import fisher_lower


class UnitCounts(NamedTuple):
    """The hits and images of each unit of a group, (k,) each."""

    units: NDArray[Any]
    """The distinct units, in order."""
    hits: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, hits: ArrayLike, units: ArrayLike) -> UnitCounts:
        """Count hits (n,) and images by unit (n,)."""
        distinct, code = np.unique(np.asarray(units), return_inverse=True)
        flags = np.asarray(hits, dtype=bool)
        return cls(distinct, np.bincount(code[flags], minlength=len(distinct)), np.bincount(code))

    @property
    def total(self) -> tuple[int, int]:
        """Hits and images of the group."""
        return int(self.hits.sum()), int(self.sizes.sum())

    def effective(self, design_effect: float) -> tuple[float, float]:
        """Return hits and images divided by a design effect."""
        hits, n = self.total
        return hits / design_effect, n / design_effect

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the share with Wilson's interval over units."""
        hits, n = self.total
        if not n:
            return NOTHING
        return wilson(*self.effective(design_effect(self)), confidence=confidence)._replace(value=hits / n)


def design_effect(*groups: UnitCounts) -> float:
    """Return the design effect of the shares of groups, together: images divided by ``effective_n``, at least 1."""
    sizes = np.concatenate([group.sizes for group in groups]).astype(np.float64)
    n, k = float(sizes.sum()), len(sizes)
    shares = [hits / images if images else 0.0 for hits, images in (group.total for group in groups)]
    variance = sum(p * (1 - p) * group.total[1] for p, group in zip(shares, groups, strict=True)) / n
    if not variance or k <= len(groups):
        # unknown, so images of a unit count as copies of each other
        return float((sizes**2).sum()) / n
    residuals = [group.hits - p * group.sizes for p, group in zip(shares, groups, strict=True)]
    between = k / (k - 1) * sum(float((part**2).sum()) for part in residuals) / n**2
    return max(1.0, n / (1 + variance / between)) if between > 0 else 1.0


def fisher_lower_over_units(first: UnitCounts, second: UnitCounts) -> float:
    """Return the p-value of ``fisher_lower`` with rounded effective counts.

    Units in both groups count as independent, which is conservative if their images resemble each other.
    """
    if not (first.total[1] and second.total[1]):
        return 1.0
    effect = design_effect(first, second)
    (hits, n), (other_hits, other_n) = (
        [round(count) for count in group.effective(effect)] for group in (first, second)
    )
    return fisher_lower((hits, n), (other_hits, other_n))
