"""Group fairness statistics for correlated images: bootstrap and permutation test over units.

A block is the images of one unit (a patient, a person, a video) in one group. The bootstrap draws blocks within each
group; the permutation test permutes the groups of the blocks. Blocks of one unit in several groups count as
independent, which makes the test conservative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from auditor import Metric
from auditor.plugins.bias._fairness import FAIRNESS, SEED

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray


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


def fairness_over_units(
    name: str, images: GroupedImages, *, grouping: str, resamples: int = 400
) -> tuple[Metric, float]:
    """Return a fairness statistic with its interval and p-value, as ``fairness`` does for independent images."""
    import numpy as np

    statistic = FAIRNESS[name]
    missing = Metric(name=name, value=None, n=len(images.cell), at={"group": grouping}, units=images.units)
    if images.shape[0] < 2:
        return missing, 1.0
    value = float(statistic(images.counts(images.group)))
    rng = np.random.default_rng(SEED)
    drawn = np.zeros((resamples, len(images.group)))
    for number in range(images.shape[0]):
        blocks = np.flatnonzero(images.group == number)
        drawn[:, blocks] = rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=resamples)
    draws = [float(statistic(images.counts(images.group, weights))) for weights in drawn]
    permuted = np.array([float(statistic(images.counts(rng.permutation(images.group)))) for _ in range(resamples)])
    lower_is_better = statistic.spec.better == "lower"
    extreme = permuted >= value - 1e-12 if lower_is_better else permuted <= value + 1e-12
    low, high = np.quantile(draws, [0.025, 0.975])
    metric = Metric(
        name=name,
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        n=len(images.cell),
        at={"group": grouping},
        units=images.units,
    )
    return metric, (1 + int(extreme.sum())) / (1 + resamples)
