"""The statistics that ``gaps.py`` compares between groups: shares, medians and means, of images or over units.

A cell is the data of a group. Without units: (hits, n), or numbers (n,). Over units: ``UnitCounts`` or ``UnitValues``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor.findings.metric import Metric, Scalar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from auditor.statistics import Interval, UnitCounts, Units

    ShareCell = tuple[int, int] | UnitCounts
    """Hits and n of a group, or its counts by unit."""


class UnitValues(NamedTuple):
    """Numbers of a group, (n,), and the unit of each."""

    values: NDArray[np.float64]
    units: NDArray[Any]


class Statistic(NamedTuple):
    """How a statistic of a group is estimated and compared."""

    interval: Callable[[Any, float], Interval]
    """Estimate from a cell, at a confidence."""
    p_lower: Callable[[Any, Any], float]
    """One-sided p-value of "the first cell is no lower than the second"."""
    size: Callable[[Any], int]
    """Number of images of a cell."""
    test: str
    """Name of the test."""
    units: Callable[[Any], NDArray[Any]] | None = None
    """Units of a cell; None if images are independent."""

    def count_units(self, *cells: Any) -> int | None:
        """Return the number of units of cells together; None if images are independent."""
        return None if self.units is None else len(set().union(*(self.units(cell).tolist() for cell in cells)))

    def sample_size(self, cell: Any) -> int:
        """Return the number of independent observations of a cell: of units if it has them, else of images."""
        return self.size(cell) if self.units is None else len(set(self.units(cell).tolist()))

    def metric(self, name: str, cell: Any, *, unit: str = "fraction", at: Mapping[str, Scalar] | None = None) -> Metric:
        """Return the statistic of a cell with its 95 % interval; ends that are not finite are None."""
        value, low, high = (end if end is None or isfinite(end) else None for end in self.interval(cell, 0.95))
        n, units = self.size(cell), self.count_units(cell)
        return Metric(name=name, value=value, low=low, high=high, n=n, unit=unit, at=at or {}, units=units)


def share_cell(hits: ArrayLike, units: Units = None) -> ShareCell:
    """Return the number of True in ``hits`` (n,) and n, by unit with ``units`` (n,)."""
    import numpy as np

    from auditor import statistics

    return (int(np.sum(hits)), len(np.asarray(hits))) if units is None else statistics.UnitCounts.of(hits, units)


def number_cell(values: NDArray[np.float64], units: Units = None) -> NDArray[np.float64] | UnitValues:
    """Return numbers (n,) with their units (n,), if any."""
    import numpy as np

    return values if units is None else UnitValues(values, np.asarray(units))


def shares(*, over_units: bool = False) -> Statistic:
    """Return the statistic of cells (hits, n), or of ``UnitCounts``."""
    from auditor import statistics

    if over_units:
        return Statistic(
            statistics.UnitCounts.interval,
            statistics.fisher_lower_over_units,
            lambda cell: int(cell.total[1]),
            "Fisher over units",
            lambda cell: cell.units,
        )
    return Statistic(
        lambda cell, confidence: statistics.wilson(*cell, confidence=confidence),
        statistics.fisher_lower,
        lambda cell: int(cell[1]),
        "Fisher",
    )


def medians(*, over_units: bool = False) -> Statistic:
    """Return the statistic of numbers that compares medians."""
    from auditor import statistics

    return _of_numbers(statistics.median_interval, over_units=over_units)


def means(*, over_units: bool = False) -> Statistic:
    """Return the statistic of numbers that compares means."""
    from auditor import statistics

    return _of_numbers(statistics.mean_interval, over_units=over_units)


def _of_numbers(interval: Callable[..., Interval], *, over_units: bool) -> Statistic:
    """Return a statistic of cells of numbers (n,), or of ``UnitValues``, whose test ranks the medians of the units."""
    from auditor import statistics

    if over_units:
        return Statistic(
            lambda cell, confidence: interval(cell.values, confidence=confidence, units=cell.units),
            lambda first, second: statistics.rank_lower(*(statistics.unit_medians(*cell) for cell in (first, second))),
            lambda cell: len(cell.values),
            "Mann-Whitney over units",
            lambda cell: cell.units,
        )
    return Statistic(
        lambda cell, confidence: interval(cell, confidence=confidence), statistics.rank_lower, len, "Mann-Whitney"
    )
