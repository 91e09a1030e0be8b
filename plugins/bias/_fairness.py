"""Group fairness statistics with intervals and tests.

All statistics are functions of counts (groups, labels, predictions). Resampling images is resampling these cells, so
the cost of a bootstrap or permutation does not depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor.findings.metric import Metric, MetricSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.statistics import Units

    Counts = NDArray[np.float64]

SEED = 20260102


def counts(
    values: pd.Series, labels: NDArray[Any], predictions: NDArray[Any], k: int, minimum: int, *, units: Units = None
) -> tuple[list[str], Counts]:
    """Return groups of at least ``minimum`` images and their counts by label and prediction, (groups, k, k).

    With ``units`` (n,), the minimum is one of units.
    """
    import numpy as np
    import pandas as pd

    once = pd.DataFrame({"value": values.to_numpy(), "unit": np.arange(len(values)) if units is None else units})
    sizes = once.drop_duplicates()["value"].value_counts()
    names = sorted(str(value) for value, n in sizes.items() if n >= minimum)
    table = np.zeros((len(names), k, k))
    for i, name in enumerate(names):
        mask = (values == name).to_numpy()
        np.add.at(table[i], (labels[mask], predictions[mask]), 1)
    return names, table


def selection_rates(table: Counts) -> Counts:
    """Return the share of each group predicted as each class, (..., groups, k), from counts (..., groups, k, k)."""
    import numpy as np

    selected, n = table.sum(axis=-2), table.sum(axis=(-2, -1))[..., None]
    result: Counts = np.divide(selected, n, out=np.full_like(selected, np.nan), where=n > 0)
    return result


def true_positive_rates(table: Counts) -> Counts:
    """Return the recall of each class in each group, (..., groups, k)."""
    import numpy as np

    right, n = np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-1)
    result: Counts = np.divide(right, n, out=np.full(n.shape, np.nan), where=n > 0)
    return result


def false_positive_rates(table: Counts) -> Counts:
    """Return the false positive rate of each class in each group, (..., groups, k)."""
    import numpy as np

    positives = table.sum(axis=-1)
    false = table.sum(axis=-2) - np.diagonal(table, axis1=-2, axis2=-1)
    negatives = positives.sum(axis=-1, keepdims=True) - positives
    result: Counts = np.divide(false, negatives, out=np.full(positives.shape, np.nan), where=negatives > 0)
    return result


def _spread(rates: Counts) -> Counts:
    """Return the largest difference between groups over all classes, (...)."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        wide: Counts = np.nanmax(rates, axis=-2, initial=-np.inf) - np.nanmin(rates, axis=-2, initial=np.inf)
    result: Counts = np.where(np.isfinite(wide), wide, 0).max(axis=-1)
    return result


def demographic_parity_difference(table: Counts) -> Counts:
    """Return the largest difference in selection rate (as Fairlearn, maximum over classes)."""
    return _spread(selection_rates(table))


def equal_opportunity_difference(table: Counts) -> Counts:
    """Return the largest difference in recall over classes (Hardt, Price and Srebro 2016, arXiv:1610.02413)."""
    return _spread(true_positive_rates(table))


def equal_opportunity_ratio(table: Counts) -> Counts:
    """Return the smallest ratio of the lowest to the highest recall over classes."""
    return _ratio(true_positive_rates(table))


def equalised_odds_difference(table: Counts) -> Counts:
    """Return the larger difference of recall and false positive rate (as Fairlearn, maximum over classes)."""
    import numpy as np

    result: Counts = np.maximum(_spread(true_positive_rates(table)), _spread(false_positive_rates(table)))
    return result


def demographic_parity_ratio(table: Counts) -> Counts:
    """Return the smallest ratio of selection rates over the classes that are predicted at all."""
    import numpy as np

    rates = selection_rates(table)
    most, least = rates.max(axis=-2), rates.min(axis=-2)
    ratio = np.divide(least, most, out=np.ones_like(most), where=most > 0)
    result: Counts = ratio.min(axis=-1)
    return result


def equalised_odds_ratio(table: Counts) -> Counts:
    """Return the smaller ratio of recall and false positive rate (as Fairlearn, minimum over classes)."""
    import numpy as np

    result: Counts = np.minimum(_ratio(true_positive_rates(table)), _ratio(false_positive_rates(table)))
    return result


def _ratio(rates: Counts) -> Counts:
    """Return the smallest ratio of the lowest to the highest rate over the classes with a positive rate."""
    import numpy as np

    most = np.nanmax(rates, axis=-2, initial=-np.inf)
    least = np.nanmin(rates, axis=-2, initial=np.inf)
    known = np.isfinite(most) & np.isfinite(least) & (most > 0)
    result: Counts = np.divide(least, most, out=np.ones_like(most), where=known).min(axis=-1)
    return result


@dataclass(frozen=True, kw_only=True)
class FairnessStatistic:
    """A fairness statistic and the spec of its metric."""

    spec: MetricSpec
    function: Callable[[Counts], Counts]

    def __call__(self, table: Counts) -> Counts:
        """Return the statistic, (...), of counts (..., groups, k, k)."""
        return self.function(table)


def _difference(name: str, function: Callable[[Counts], Counts]) -> FairnessStatistic:
    label = name.replace("_", " ").capitalize()
    spec = MetricSpec(name=name, label=label, better="lower", difference=True)
    return FairnessStatistic(spec=spec, function=function)


def _minimum_ratio(name: str, function: Callable[[Counts], Counts]) -> FairnessStatistic:
    spec = MetricSpec(name=name, label=name.replace("_", " ").capitalize(), better="higher")
    return FairnessStatistic(spec=spec, function=function)


FAIRNESS: Mapping[str, FairnessStatistic] = {
    statistic.spec.name: statistic
    for statistic in (
        _difference("demographic_parity_difference", demographic_parity_difference),
        _minimum_ratio("demographic_parity_ratio", demographic_parity_ratio),
        _difference("equal_opportunity_difference", equal_opportunity_difference),
        _minimum_ratio("equal_opportunity_ratio", equal_opportunity_ratio),
        _difference("equalised_odds_difference", equalised_odds_difference),
        _minimum_ratio("equalised_odds_ratio", equalised_odds_ratio),
    )
}


def fairness(name: str, table: Counts, *, grouping: str, resamples: int = 400) -> tuple[Metric, float]:
    """Return one of ``fairness_statistics``."""
    return fairness_statistics(table, grouping=grouping, resamples=resamples, names=[name])[name]


def fairness_statistics(
    table: Counts, *, grouping: str, resamples: int = 400, names: Iterable[str] = FAIRNESS
) -> dict[str, tuple[Metric, float]]:
    """Return fairness statistics with their bootstrap intervals and the p-values of permutation tests.

    The bootstrap resamples each group separately. The permutation test decides whether groups differ: a difference of
    extremes is above zero by chance, which the permutations reproduce and the interval does not.
    """
    import numpy as np

    sizes = table.sum(axis=(1, 2))
    if len(table) < 2:
        return undecided_statistics(table, grouping=grouping, names=names)
    rng = np.random.default_rng(SEED)
    samples = [
        rng.multinomial(int(size), (group / size).ravel(), size=resamples).reshape(-1, *group.shape)
        for group, size in zip(table, sizes, strict=True)
    ]
    resampled = np.stack(samples, axis=1).astype(np.float64)
    permuted = np.stack(list(_permuted(table, rng, resamples)))
    return measured_statistics(table, resampled, permuted, grouping=grouping, names=names)


def undecided_statistics(
    table: Counts, *, grouping: str, names: Iterable[str], units: int | None = None
) -> dict[str, tuple[Metric, float]]:
    """Return fairness statistics without a value, for fewer than two groups."""
    n, at = int(table.sum()), {"group": grouping}
    return {name: (Metric(name=name, value=None, n=n, at=at, units=units), 1.0) for name in names}


def measured_statistics(
    table: Counts, resampled: Counts, permuted: Counts, *, grouping: str, names: Iterable[str], units: int | None = None
) -> dict[str, tuple[Metric, float]]:
    """Return fairness statistics of counts with intervals and p-values, from resampled and permuted counts (b, ...)."""
    import numpy as np

    found = {}
    for name in names:
        statistic = FAIRNESS[name]
        value = float(statistic(table))
        low, high = (float(end) for end in np.quantile(statistic(resampled), [0.025, 0.975]))
        chance = statistic(permuted)
        extreme = chance >= value - 1e-12 if statistic.spec.better == "lower" else chance <= value + 1e-12
        p_value = (1 + int(extreme.sum())) / (1 + len(permuted))
        metric = Metric(name=name, value=value, low=min(low, value), high=max(high, value), n=int(table.sum()))
        found[name] = replace(metric, at={"group": grouping}, units=units), p_value
    return found


def including_equality(metric: Metric) -> Metric:
    """Extend the interval of a fairness statistic to the value of equal groups."""
    if metric.value is None:
        return metric
    return replace(metric, low=0.0) if FAIRNESS[metric.name].spec.better == "lower" else replace(metric, high=1.0)


def _permuted(table: Counts, rng: np.random.Generator, times: int) -> Iterator[Counts]:
    """Yield counts of the same images with randomly permuted groups."""
    import numpy as np

    whole = table.sum(axis=0).ravel().astype(np.int64)
    sizes = table.sum(axis=(1, 2)).astype(np.int64)
    for _ in range(times):
        left, groups = whole.copy(), []
        for size in sizes[:-1]:
            group = rng.multivariate_hypergeometric(left, int(size), method="marginals")
            groups.append(group)
            left = left - group
        groups.append(left)
        yield np.stack(groups).reshape(table.shape).astype(np.float64)
