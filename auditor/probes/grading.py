"""Grade attribution maps from the records of an explanation: deletion, insertion, infidelity, sensitivity, stability,
dependence on the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from auditor.findings.metric import Metric, MetricSpec, Scalar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from auditor.probes.base import Records

MIN_ADVANTAGE = 0.05
"""Advantage over a random order that is relevant, as the mean difference of probabilities; a convention. Significance
alone is not enough: maps of an untrained network can be better than chance by 0.002."""
MIN_STABILITY = 0.9
"""Mean rank correlation of two maps of one image above which they count as equal."""

MAX_SHUFFLED_SIMILARITY = 0.5
"""Mean rank correlation with the maps of shuffled weights above which a map does not depend on the model."""

MAX_SENSITIVITY = MetricSpec(name="max_sensitivity", label="Max-sensitivity", better="lower", unit="1")
SEED_STABILITY = MetricSpec(
    name="seed_stability", label="Rank correlation under another random seed", better="higher", unit="1"
)
SHUFFLED_SIMILARITY = MetricSpec(
    name="shuffled_similarity", label="Rank correlation with the maps of shuffled weights", better="lower", unit="1"
)
GRADE_METRICS = (
    MetricSpec(name="deletion_advantage", label="Deletion advantage over chance", better="higher", difference=True),
    MetricSpec(name="insertion_advantage", label="Insertion advantage over chance", better="higher", difference=True),
    MetricSpec(name="deletion_auc", label="Deletion AUC", better="neither"),
    MetricSpec(name="insertion_auc", label="Insertion AUC", better="neither"),
    MetricSpec(name="infidelity", label="Infidelity", better="lower", unit="1"),
    MAX_SENSITIVITY,
    SEED_STABILITY,
    SHUFFLED_SIMILARITY,
)

GRADED_COLUMNS = frozenset(
    {
        "map",
        "deletion",
        "insertion",
        "deletion_random",
        "insertion_random",
        "infidelity",
        "sensitivity",
        "stability",
        "shuffled",
    }
)
"""Columns of the records of every explanation."""

Result = Literal["holds", "fails", "undecided"]


class Check(NamedTuple):
    """One check of a method's maps."""

    name: str
    metric: Metric
    requirement: str
    result: Result


class Grades(NamedTuple):
    """All checks of a method's maps, and their overall result."""

    metrics: Sequence[Metric]
    """The deletion advantage first."""
    checks: Sequence[Check]
    verdict: str
    passed: bool


def explanation_records(records: Records) -> dict[str, pd.DataFrame]:
    """Return the records of the explanations of this run, by method name without the area."""
    return {
        name.removeprefix("explanations."): frame
        for name, frame in records.others.items()
        if len(frame) and set(frame.columns) >= GRADED_COLUMNS
    }


def random_sample(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the random sample; images selected for their errors would bias every mean."""
    sampled = frame[frame["sampled"].astype(bool)] if "sampled" in frame else frame
    return sampled if len(sampled) else frame


def grade(frame: pd.DataFrame) -> Grades:
    """Grade the maps of an explanation's records; ``frame`` has at least one row."""
    from auditor import statistics

    areas, units = _areas(frame), frame.get("unit")

    def mean(name: str, values: ArrayLike, unit: str, at: Mapping[str, Scalar] | None = None) -> Metric:
        return statistics.mean(name, values, unit=unit, at=at, units=units)

    deletion = mean("deletion_advantage", areas["deletion_random"] - areas["deletion"], "fraction")
    insertion = mean("insertion_advantage", areas["insertion"] - areas["insertion_random"], "fraction")
    curves = [
        mean(f"{kind}_auc", areas[kind + suffix], "fraction", {"order": order})
        for kind in ("deletion", "insertion")
        for suffix, order in (("", "map"), ("_random", "random"))
    ]
    infidel = mean("infidelity", frame["infidelity"], "1")
    sensitivity = mean("max_sensitivity", frame["sensitivity"], "1")
    stability = mean("seed_stability", frame["stability"], "1")
    similarity = mean("shuffled_similarity", frame["shuffled"], "1")
    checks = [
        _above("deletion advantage over chance", deletion, MIN_ADVANTAGE),
        _above("insertion advantage over chance", insertion, 0),
        _below("infidelity (unexplained share)", infidel, 1),
        _below("max-sensitivity to small noise", sensitivity, 1),
    ]
    if stability.n:
        checks.append(_above("rank correlation under another random seed", stability, MIN_STABILITY))
    if similarity.n:
        checks.append(_below("rank correlation with the maps of shuffled weights", similarity, MAX_SHUFFLED_SIMILARITY))
    verdict, passed = _overall(deletion, checks)
    metrics = [deletion, insertion, *curves]
    if deletion.low is not None:
        metrics += [infidel, sensitivity, stability, similarity]
    return Grades(metrics, checks, verdict, passed)


def _areas(frame: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the area under each image's curves, (n,), by column."""
    import numpy as np

    columns = ("deletion", "insertion", "deletion_random", "insertion_random")
    return {name: curve_area(np.stack(frame[name].to_list()).astype(np.float64)) for name in columns}


def _overall(advantage: Metric, checks: Sequence[Check]) -> tuple[str, bool]:
    """Return the overall result as text, and whether the maps passed."""
    failed = [check.name for check in checks if check.result == "fails"]
    undecided = [check.name for check in checks if check.result == "undecided"]
    if advantage.low is None or advantage.high is None:
        return "too few images to grade the maps", False
    if advantage.high < 0:
        return "the maps are worse than chance: do not use them", False
    if advantage.low <= 0:
        return "the maps are not significantly better than chance: do not rely on them", False
    if advantage.low <= MIN_ADVANTAGE:
        text = f"the maps are not shown to be better than chance by a relevant amount ({100 * MIN_ADVANTAGE:g} points)"
        return text, False
    if failed:
        return f"the maps are better than chance but fail a check ({'; '.join(failed)})", False
    if undecided:
        return f"the maps are better than chance; undecided: {'; '.join(undecided)}", False
    return "the maps passed the faithfulness checks", True


def _above(name: str, metric: Metric, bound: float) -> Check:
    """Check that the whole interval lies above ``bound``."""
    result: Result = "undecided"
    if metric.low is not None and metric.high is not None:
        result = "holds" if metric.low > bound else "fails" if metric.high < bound else "undecided"
    return Check(name, metric, f"above {bound:g}", result)


def _below(name: str, metric: Metric, bound: float) -> Check:
    """Check that the whole interval lies below ``bound``."""
    result: Result = "undecided"
    if metric.low is not None and metric.high is not None:
        result = "holds" if metric.high < bound else "fails" if metric.low > bound else "undecided"
    return Check(name, metric, f"below {bound:g}", result)


def infidelity(predicted: NDArray[np.float64], drop: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of ``drop`` (n, sets) that ``predicted`` (n, sets) leaves unexplained at its best scale, (n,).

    NaN for images without any drop.
    """
    import numpy as np

    both, own = (predicted * drop).sum(axis=1), (predicted**2).sum(axis=1)
    scale = np.divide(both, own, out=np.zeros_like(both), where=own > 0)
    residual, total = ((scale[:, None] * predicted - drop) ** 2).sum(axis=1), (drop**2).sum(axis=1)
    # a smaller drop is rounding
    defined = total > 1e-12 * drop.shape[1]
    share: NDArray[np.float64] = np.divide(residual, total, out=np.full_like(residual, np.nan), where=defined)
    return share


def rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return Spearman's correlation of corresponding rows, (n,); NaN for constant rows."""
    import numpy as np
    from scipy.stats import rankdata

    # rounding errors must not decide ranks
    a, b = (rankdata(np.asarray(x, dtype=np.float64).round(9), axis=1) for x in (one, other))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    result: NDArray[np.float64] = np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0)
    return result


def curve_area(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean height of each curve (n, steps + 1) by the trapezoid rule, (n,)."""
    result: NDArray[np.float64] = (curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2
    return result
