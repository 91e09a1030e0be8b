"""Who is compared with whom: groups from the data's columns, in bands and crossed, and the fairness statistics on them.

All statistics are functions of counts ``(groups, classes, answers)``, so that resampling images is resampling cells:
one bootstrap or permutation costs the same for a hundred images as for a million.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from auditor.findings.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Counts = NDArray[np.float64]

_SEED = 20260102


def counts(
    values: pd.Series, labels: NDArray[Any], answers: NDArray[Any], k: int, minimum: int
) -> tuple[list[str], Counts]:
    """Groups of at least ``minimum`` images, and their images by label and answer, (groups, k, k)."""
    import numpy as np

    sizes = values.value_counts()
    names = sorted(str(value) for value, n in sizes.items() if n >= minimum)
    table = np.zeros((len(names), k, k))
    for i, name in enumerate(names):
        here = (values == name).to_numpy()
        np.add.at(table[i], (labels[here], answers[here]), 1)
    return names, table


def selection_rates(table: Counts) -> Counts:
    """Share of each group that gets each answer, (..., groups, k) from counts (..., groups, k, k)."""
    import numpy as np

    chosen, n = table.sum(axis=-2), table.sum(axis=(-2, -1))[..., None]
    result: Counts = np.divide(chosen, n, out=np.full_like(chosen, np.nan), where=n > 0)
    return result


def true_positive_rates(table: Counts) -> Counts:
    """Recall of each class in each group, (..., groups, k)."""
    import numpy as np

    right, n = np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-1)
    result: Counts = np.divide(right, n, out=np.full(n.shape, np.nan), where=n > 0)
    return result


def false_positive_rates(table: Counts) -> Counts:
    """Share of the others that get the class for an answer, (..., groups, k)."""
    import numpy as np

    own = table.sum(axis=-1)
    false = table.sum(axis=-2) - np.diagonal(table, axis1=-2, axis2=-1)
    others = own.sum(axis=-1, keepdims=True) - own
    result: Counts = np.divide(false, others, out=np.full(own.shape, np.nan), where=others > 0)
    return result


def _spread(rates: Counts) -> Counts:
    """Largest difference between groups over all classes, (...)."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        wide: Counts = np.nanmax(rates, axis=-2, initial=-np.inf) - np.nanmin(rates, axis=-2, initial=np.inf)
    result: Counts = np.where(np.isfinite(wide), wide, 0).max(axis=-1)
    return result


def demographic_parity_difference(table: Counts) -> Counts:
    """Largest difference in the share that gets an answer (Fairlearn's, the largest over all classes)."""
    return _spread(selection_rates(table))


def equal_opportunity_difference(table: Counts) -> Counts:
    """Largest difference in recall, over all classes (Hardt, Price and Srebro 2016, arXiv:1610.02413)."""
    return _spread(true_positive_rates(table))


def equal_opportunity_ratio(table: Counts) -> Counts:
    """Smallest ratio of the least to the largest recall, over all classes."""
    return _ratio(true_positive_rates(table))


def equalised_odds_difference(table: Counts) -> Counts:
    """The larger of the differences in recall and in the false positive rate (Fairlearn's, over all classes)."""
    import numpy as np

    result: Counts = np.maximum(_spread(true_positive_rates(table)), _spread(false_positive_rates(table)))
    return result


def demographic_parity_ratio(table: Counts) -> Counts:
    """Smallest ratio of the least to the most selected group, over the classes that anybody gets."""
    import numpy as np

    rates = selection_rates(table)
    most, least = rates.max(axis=-2), rates.min(axis=-2)
    ratio = np.divide(least, most, out=np.ones_like(most), where=most > 0)
    result: Counts = ratio.min(axis=-1)
    return result


def equalised_odds_ratio(table: Counts) -> Counts:
    """The smaller of the ratios in recall and in the false positive rate (Fairlearn's, over all classes)."""
    import numpy as np

    result: Counts = np.minimum(_ratio(true_positive_rates(table)), _ratio(false_positive_rates(table)))
    return result


def _ratio(rates: Counts) -> Counts:
    """Smallest ratio of the least to the largest rate of a group, over the classes that have any."""
    import numpy as np

    most = np.nanmax(rates, axis=-2, initial=-np.inf)
    least = np.nanmin(rates, axis=-2, initial=np.inf)
    known = np.isfinite(most) & np.isfinite(least) & (most > 0)
    result: Counts = np.divide(least, most, out=np.ones_like(most), where=known).min(axis=-1)
    return result


FAIRNESS: Mapping[str, Callable[[Any], Any]] = {
    "demographic_parity_difference": demographic_parity_difference,
    "demographic_parity_ratio": demographic_parity_ratio,
    "equal_opportunity_difference": equal_opportunity_difference,
    "equal_opportunity_ratio": equal_opportunity_ratio,
    "equalised_odds_difference": equalised_odds_difference,
    "equalised_odds_ratio": equalised_odds_ratio,
}


def fairness(name: str, table: Counts, *, grouping: str, resamples: int = 400) -> tuple[Metric, float]:
    """A fairness statistic with its bootstrap interval, and the p-value of a permutation of the groups.

    Each group is resampled by itself. A difference of extremes is above zero by chance alone, so it is the permutation,
    which keeps that chance, and not the interval that says whether the groups differ.
    """
    import numpy as np

    statistic = FAIRNESS[name]
    sizes = table.sum(axis=(1, 2))
    n = int(sizes.sum())
    if len(table) < 2:
        return Metric(name=name, value=None, n=n, at={"group": grouping}), 1.0
    value = float(statistic(table))
    rng = np.random.default_rng(_SEED)
    draws = np.stack([
        rng.multinomial(int(size), (group / size).ravel(), size=resamples).reshape(-1, *group.shape)
        for group, size in zip(table, sizes, strict=True)
    ], axis=1).astype(np.float64)  # fmt: skip
    low, high = np.quantile(statistic(draws), [0.025, 0.975])
    chance = np.concatenate([statistic(p[None]) for p in _permuted(table, rng, resamples)])
    beyond = chance <= value + 1e-12 if name.endswith("ratio") else chance >= value - 1e-12
    p_value = (1 + int(beyond.sum())) / (1 + len(chance))
    metric = Metric(name=name, value=value, low=min(float(low), value), high=max(float(high), value), n=n,
                    at={"group": grouping})  # fmt: skip
    return metric, p_value


def _permuted(table: Counts, rng: np.random.Generator, times: int) -> Iterator[Counts]:
    """Tables of the same images with the groups dealt out anew."""
    import numpy as np

    whole = table.sum(axis=0).ravel().astype(np.int64)
    sizes = table.sum(axis=(1, 2)).astype(np.int64)
    for _ in range(times):
        left, dealt = whole.copy(), []
        for size in sizes[:-1]:
            hand = rng.multivariate_hypergeometric(left, int(size), method="marginals")
            dealt.append(hand)
            left = left - hand
        dealt.append(left)
        yield np.stack(dealt).reshape(table.shape).astype(np.float64)
