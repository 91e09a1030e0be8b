"""Group fairness statistics for correlated images: bootstrap and permutation test over units.

A block is the images of one unit (a patient, a person, a video) in one group. The bootstrap draws blocks within each
group; the permutation test permutes the groups of the blocks. Blocks of one unit in several groups count as
independent, which makes the test conservative.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from auditor.plugins.bias._fairness import FAIRNESS, SEED, measured_statistics, undecided_statistics

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from auditor import Metric


class GroupedImages(NamedTuple):
    """The images of the compared groups."""

    cell: NDArray[np.int64]
    """(n,) label and prediction of each image as one number, label * classes + prediction."""
    block: NDArray[np.int64]
    """(n,) block of each image."""
    group: NDArray[np.int64]
    """(blocks,) group of each block."""
    shape: tuple[int, int, int]
    """Groups, classes, classes."""
    units: int
    """Number of units."""

    @classmethod
    def of(
        cls,
        values: pd.Series,
        labels: pd.Series,
        predictions: pd.Series,
        units: ArrayLike,
        *,
        k: int,
        minimum: int,
    ) -> GroupedImages:
        """Select the groups of at least ``minimum`` units."""
        import numpy as np

        from auditor import statistics

        text, every = values.astype(str).to_numpy(), np.asarray(units).astype(str)
        names = [name for name in np.unique(text) if len(np.unique(every[text == name])) >= minimum]
        mask = np.isin(text, names)
        group = np.searchsorted(names, text[mask]) if names else np.zeros(0, dtype=np.int64)
        code = statistics.codes(every[mask], int(mask.sum()))
        pairs, block = np.unique(np.stack([group, code]), axis=1, return_inverse=True)
        cell = labels.to_numpy()[mask] * k + predictions.to_numpy()[mask]
        return cls(cell, block.ravel(), pairs[0], (len(names), k, k), len(np.unique(code)))

    def counts(self, group: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Count the images by group, label and prediction, (groups, k, k), for groups and weights of the blocks."""
        import numpy as np

        size = self.shape[1] * self.shape[2]
        place = group[self.block] * size + self.cell
        of_image = None if weights is None else weights[self.block]
        table = np.bincount(place, weights=of_image, minlength=self.shape[0] * size)
        return table.reshape(self.shape).astype(np.float64)

    def drawn(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the blocks of each group with replacement; return how often each is drawn, (blocks,)."""
        import numpy as np

        weights = np.zeros(len(self.group))
        for number in range(self.shape[0]):
            blocks = np.flatnonzero(self.group == number)
            # far faster than one multinomial draw
            weights[blocks] = np.bincount(rng.integers(0, len(blocks), len(blocks)), minlength=len(blocks))
        return weights


def fairness_statistics_over_units(
    images: GroupedImages, *, grouping: str, resamples: int = 400, names: Iterable[str] = FAIRNESS
) -> dict[str, tuple[Metric, float]]:
    """Return fairness statistics with intervals and p-values, as ``fairness_statistics`` does for images."""
    import numpy as np

    table = images.counts(images.group)
    if len(table) < 2:
        return undecided_statistics(table, grouping=grouping, names=names, units=images.units)
    rng = np.random.default_rng(SEED)
    resampled = np.stack([images.counts(images.group, images.drawn(rng)) for _ in range(resamples)])
    permuted = np.stack([images.counts(rng.permutation(images.group)) for _ in range(resamples)])
    return measured_statistics(table, resampled, permuted, grouping=grouping, names=names, units=images.units)
