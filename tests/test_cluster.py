"""Statistics over units: ten copies of every image tell no more than one, correlated images less than their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from auditor import statistics
from auditor.conformance.subject import Breach
from auditor.conformance.units import check_units
from auditor.findings.finding import Conclusion
from auditor.findings.metric import Metric
from auditor.plugins.bias._fairness_over_units import GroupedImages, fairness_statistics_over_units
from auditor.probes.base import Meta, Probe, Records, no_examples
from auditor.statistics import cluster

RNG = np.random.default_rng(5)
HITS = RNG.random(40) < 0.7
VALUES = RNG.normal(size=40)
UNITS = np.repeat([f"patient {i:02d}" for i in range(40)], 10)


def ten(values: Any) -> Any:
    """Return every value ten times."""
    return np.repeat(np.asarray(values), 10, axis=0)


def ends(metric: Any) -> tuple[Any, ...]:
    return (metric.value, metric.low, metric.high)


@pytest.mark.parametrize("hits", [HITS, np.zeros(40, bool), np.ones(40, bool)])
def test_wilson_of_ten_copies_is_exactly_that_of_the_originals(hits: Any) -> None:
    copies = statistics.proportion("p", ten(hits), units=UNITS)
    assert ends(copies) == pytest.approx(ends(statistics.proportion("p", hits)), abs=1e-12)
    assert (copies.n, copies.units) == (400, 40)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda x, u: statistics.mean("m", x, unit="1", units=u),
        lambda x, u: statistics.median("m", x, unit="1", units=u),
        lambda x, u: statistics.median("m", np.where(x > 1, np.inf, x), unit="1", units=u),
        lambda x, u: statistics.bootstrap_weighted(len(x), lambda w: w @ x / w.sum(axis=1), units=u),
        lambda x, u: statistics.paired_means(x, x**2, units=u)[0],
        lambda x, u: statistics.calibration_interval(1 / (1 + np.exp(-x)), x > 0, 8, units=u),
        lambda x, u: statistics.paired_proportions(*statistics.effective_change(np.sign(x.round()), u)),
        lambda x, u: statistics.matched(*statistics.effective_change(np.sign(x.round()), u)),
    ],
)
def test_intervals_of_ten_copies_are_those_of_the_originals(statistic: Callable[[Any, Any], Any]) -> None:
    """Bootstraps draw units, so they draw the same originals: equal up to rounding."""
    assert ends(statistic(ten(VALUES), UNITS)) == pytest.approx(ends(statistic(VALUES, None)), abs=1e-9)


def test_bootstrap_of_the_confusion_matrix_draws_units() -> None:
    pairs = np.stack([RNG.integers(0, 3, 60), RNG.integers(0, 3, 60)], axis=1)
    matrix = np.zeros((3, 3), dtype=np.int64)
    np.add.at(matrix, (pairs[:, 0], pairs[:, 1]), 1)

    def accuracy(m: Any) -> Any:
        return np.trace(m, axis1=1, axis2=2) / m.sum(axis=(1, 2))

    one = statistics.bootstrap_confusion(matrix, accuracy)
    copies = statistics.bootstrap_confusion(
        10 * matrix, accuracy, pairs=ten(pairs), units=np.repeat(np.arange(60).astype(str), 10)
    )
    assert ends(copies) == pytest.approx(ends(one), abs=0.1 * (one.high - one.low))


@pytest.mark.parametrize("sizes", [(1, 1), (10, 10), (1, 3)])
def test_sign_flip_is_mcnemar_over_units(sizes: tuple[int, int]) -> None:
    """Equal sizes give McNemar's test over units; images of different units are images."""
    change = np.array([1] * 9 + [-1] * 3 + [0] * 5)
    size = np.where(change > 0, *sizes)
    p = statistics.sign_flip_two_sided(np.repeat(change, size), np.repeat(np.arange(len(change)), size))
    if sizes[0] == sizes[1]:
        assert p == pytest.approx(statistics.mcnemar_two_sided(9, 3), rel=1e-9)
        assert statistics.sign_flip(change) == pytest.approx(statistics.mcnemar(9, 3), rel=1e-9)
    else:
        # by enumeration of all signs
        net = np.array([1] * 9 + [3] * 3)
        signs = 2 * (np.arange(2**12)[:, None] >> np.arange(12) & 1) - 1
        assert p == pytest.approx(min(1, 2 * (signs @ net >= abs(9 - 3 * 3)).mean()), rel=1e-9)


def test_sign_flip_without_differences_is_one() -> None:
    assert statistics.sign_flip_two_sided(np.zeros(5), ["a"] * 5) == 1
    assert statistics.sign_flip_two_sided([], []) == 1


def test_effective_n_of_independent_images_is_their_number() -> None:
    assert statistics.effective_n(HITS, np.arange(40)) == pytest.approx(40)
    assert statistics.effective_n(HITS) == 40


def test_effective_n_of_equal_values_counts_units_by_size() -> None:
    """At 0 % and 100 % the design effect is unknown: n^2 / sum of squared unit sizes."""
    units = np.repeat(["a", "b", "c"], [8, 1, 1])
    assert statistics.effective_n(np.ones(10), units) == pytest.approx(100 / 66)
    assert statistics.effective_n(np.zeros(30), np.repeat(np.arange(6), 5)) == pytest.approx(6)


def test_units_with_balanced_errors_give_no_narrower_interval_than_independent_images() -> None:
    """Each unit has one hit and one miss: the units do not vary at all, which may be chance."""
    hits, units = np.tile([True, False], 20), np.repeat(np.arange(20), 2)
    assert ends(statistics.proportion("p", hits, units=units)) == ends(statistics.proportion("p", hits))


def test_a_single_unit_has_no_bootstrap_interval() -> None:
    units = ["a"] * 5
    assert ends(statistics.mean("m", range(5), unit="1", units=units)) == (2, None, None)
    assert ends(statistics.median("m", range(5), unit="1", units=units)) == (2, None, None)


def test_missing_values_drop_their_units() -> None:
    metric = statistics.mean("m", [1.0, np.nan, 3.0], unit="1", units=["a", "b", "c"])
    assert (metric.n, metric.units) == (2, 2)


def test_number_of_units_must_be_that_of_images() -> None:
    with pytest.raises(ValueError, match=r"units has shape \(2,\); expected \(3,\), one unit per image"):
        statistics.proportion("p", [True, False, True], units=["a", "b"])


def test_resamples_hold_whole_units_of_any_size() -> None:
    code = statistics.codes(["b", "a", "b", "c", "b"], 5)
    assert code.tolist() == [0, 1, 0, 2, 0]
    for rows in cluster.resamples(code, 50, np.random.default_rng(0)):
        counts = np.bincount(rows[0], minlength=5)
        assert counts[0] == counts[2] == counts[4]


@pytest.mark.parametrize("between", [0.0, 1.5])
def test_intervals_over_units_cover_the_truth(between: float) -> None:
    """60 patients with 8 images each: at least 92 % of intervals contain the true accuracy, also if patients differ."""
    rng = np.random.default_rng(1)
    effects = rng.normal(0, between, 400_000)
    truth = float((1 / (1 + np.exp(-1 - effects))).mean())
    covered = {"units": 0, "images": 0}
    units = np.repeat(np.arange(60), 8)
    for _ in range(300):
        chance = 1 / (1 + np.exp(-1 - rng.normal(0, between, 60)))
        hits = rng.random(480) < np.repeat(chance, 8)
        for name, of in (("units", units), ("images", None)):
            metric = statistics.proportion("p", hits, units=of)
            assert metric.low is not None
            assert metric.high is not None
            covered[name] += metric.low <= truth <= metric.high
    assert covered["units"] / 300 > 0.92
    assert (covered["images"] / 300 < 0.85) == (between > 0)


def test_fairness_of_patients_without_a_difference_is_rarely_significant() -> None:
    """Groups differ in patients, not in images: permuting images finds differences that are patients."""
    rng, significant = np.random.default_rng(3), 0
    units = np.repeat(np.arange(40), 10)
    sides = pd.Series(np.where(units % 2, "right", "left"))
    labels = pd.Series(np.tile([0, 1], 200))
    for _ in range(40):
        flips = rng.random(400) < np.repeat(rng.beta(0.5, 1.5, 40), 10)
        images = GroupedImages.of(sides, labels, labels ^ flips, units, k=2, minimum=10)
        found = fairness_statistics_over_units(images, grouping="side", resamples=99)
        metric, p = found["equal_opportunity_difference"]
        significant += p < 0.05
        assert (metric.n, metric.units) == (400, 40)
    assert significant <= 6


class _Ignores(Probe):
    meta = Meta(id="performance.ignores", title="Ignores units", area="performance", why="A test.")

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        raise NotImplementedError

    def conclude(self, records: Records) -> Conclusion:
        return Conclusion(metrics=[self._metric(records.frame)])

    def _metric(self, frame: pd.DataFrame) -> Metric:
        return statistics.proportion("hit", frame["hit"])


class _Respects(_Ignores):
    def _metric(self, frame: pd.DataFrame) -> Metric:
        return statistics.proportion("hit", frame["hit"], units=frame.get("unit"))


def test_conformance_check_finds_a_probe_that_ignores_units() -> None:
    frame = pd.DataFrame({"image_id": [f"{i:02d}" for i in range(40)], "hit": HITS})
    records = Records(frame=frame, examples=no_examples(), classes=["0", "1"], labelled=True)
    with pytest.raises(Breach, match=r"with ten copies of every image, the interval of hit is 0\.3. times as wide"):
        check_units(_Ignores(), records)
    assert len(check_units(_Respects(), records)) == 1
