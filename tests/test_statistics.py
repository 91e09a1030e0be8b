"""Intervals, tests and calibration errors by hand, by published examples, and by SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from auditor import statistics
from auditor.statistics import calibration, cluster, intervals, metrics, roc, tests, unit_counts
from auditor.statistics.bootstrap import RESAMPLES, bootstrap, bootstrap_confusion, bootstrap_weighted, paired_means
from auditor.statistics.intervals import NOTHING, Interval

Z = stats.norm.ppf(0.975)

# intervals of proportions


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 10), (5, 10), (81, 263), (10, 10), (1, 1)])
@pytest.mark.parametrize("confidence", [0.95, 0.9, 0.999])
def test_wilson_is_scipys(hits: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    found = intervals.wilson(hits, n, confidence=confidence)
    assert found == pytest.approx((hits / n, expected.low, expected.high), abs=1e-12)
    if confidence == 0.95:
        assert intervals.wilson(hits, n) == found


def test_wilson_has_exact_ends_and_nothing_without_data() -> None:
    assert intervals.wilson(0, 3).low == 0.0
    assert intervals.wilson(3, 3).high == 1.0
    assert intervals.wilson(0, 0) == NOTHING == (None, None, None)


def test_newcombes_published_examples() -> None:
    """Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10: examples (a), (d) and (g)."""
    assert intervals.newcombe((56, 48), (70, 80)) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert intervals.newcombe((9, 3), (10, 10)) == pytest.approx((0.6, 0.1705, 0.8090), abs=5e-5)
    assert intervals.newcombe((5, 0), (56, 29)) == pytest.approx((0.0893, -0.0381, 0.1926), abs=5e-5)
    assert intervals.newcombe((10, 0), (10, 10)) == pytest.approx((1.0, 0.6075, 1.0), abs=5e-5)
    assert intervals.newcombe((0, 10), (10, 10)) == pytest.approx((-1.0, -1.0, -0.6075), abs=5e-5)


def test_newcombe_at_another_confidence() -> None:
    a, b = intervals.wilson(9, 10, confidence=0.8), intervals.wilson(3, 10, confidence=0.8)
    low = 0.6 - math.hypot(0.9 - (a.low or 0), (b.high or 0) - 0.3)
    assert intervals.newcombe((9, 3), (10, 10), confidence=0.8).low == pytest.approx(low)
    assert intervals.newcombe((0, 3), (0, 10)) == intervals.newcombe((3, 0), (10, 0)) == NOTHING


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 5, 80), (0, 3, 10), (1, 1, 5)])
def test_matched_proportions_are_walds_after_half_in_each_cell(gained: int, lost: int, n: int) -> None:
    """Wald's interval of a table of four cells, computed from the cells instead of the margins."""
    b, c, total = gained + 0.5, lost + 0.5, n + 2
    centre = (b - c) / total
    half = Z * math.sqrt((b + c - (b - c) ** 2 / total) / total**2)
    value = (gained - lost) / n
    expected = (value, max(-1, min(value, centre - half)), min(1, max(value, centre + half)))
    assert intervals.matched(gained, lost, n) == pytest.approx(expected, rel=1e-12)


def test_matched_proportions_at_the_ends() -> None:
    assert intervals.matched(0, 0, 0) == NOTHING
    assert intervals.matched(2, 0, 2).high == 1.0
    assert intervals.matched(0, 2, 2).low == -1.0
    wide, narrow = (intervals.matched(5, 3, 40, confidence=level) for level in (0.99, 0.9))
    assert (wide.high or 0) - (wide.low or 0) == pytest.approx(
        ((narrow.high or 0) - (narrow.low or 0)) * stats.norm.ppf(0.995) / stats.norm.ppf(0.95)
    )


def test_bonett_and_price_by_hand() -> None:
    """p1 = (4 + 1) / 102, p2 = (13 + 1) / 102."""
    p1, p2 = 5 / 102, 14 / 102
    half = Z * math.sqrt((p1 + p2 - (p2 - p1) ** 2) / 102)
    assert intervals.paired_proportions(4, 13, 100) == pytest.approx((0.09, p2 - p1 - half, p2 - p1 + half))
    assert intervals.paired_proportions(0, 1, 1).high == 1.0
    assert intervals.paired_proportions(1, 0, 1).low == -1.0


# intervals of medians and means


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (20, 6), (100, 40)])
def test_interval_of_the_median_is_that_of_the_sign_test(n: int, rank: int) -> None:
    """Published ranks of the 95 % interval (Hahn and Meeker 1991): the rank-th from each end."""
    assert stats.binom.cdf(rank - 1, n, 0.5) <= 0.025 < stats.binom.cdf(rank, n, 0.5)
    values = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert intervals.median_interval(values) == (np.median(values), rank, n + 1 - rank)


def test_interval_of_the_median_of_few_values_is_open() -> None:
    assert intervals.median_interval(np.arange(5.0)) == (2.0, -math.inf, math.inf)
    assert intervals.median_interval(np.array([])) == NOTHING


def test_students_interval() -> None:
    values = np.array([3.0, 5.0, 6.0, 10.0])
    expected = stats.t.interval(0.9, 3, loc=values.mean(), scale=stats.sem(values))
    assert intervals.mean_interval(values, confidence=0.9) == pytest.approx((6.0, *expected))
    assert intervals.mean_interval(np.array([2.0])) == (2.0, -math.inf, math.inf)
    assert intervals.mean_interval(np.array([])) == NOTHING


# tests


def test_one_sided_tests_are_scipys() -> None:
    assert tests.mcnemar(9, 3) == pytest.approx(stats.binomtest(9, 12, alternative="greater").pvalue)
    assert tests.mcnemar(0, 0) == tests.mcnemar(0, 5) == 1.0
    assert tests.mcnemar(4, 4) == pytest.approx(stats.binomtest(4, 8, alternative="greater").pvalue)
    assert tests.binomial_greater(7, 20, 0.2) == pytest.approx(stats.binomtest(7, 20, 0.2, "greater").pvalue)
    assert tests.binomial_greater(0, 20, 0.2) == tests.binomial_greater(0, 0, 0.2) == 1.0
    assert tests.mcnemar_two_sided(9, 3) == pytest.approx(stats.binomtest(9, 12).pvalue)
    assert tests.mcnemar_two_sided(4, 4) == 1.0


@pytest.mark.parametrize(("first", "second"), [((3, 10), (9, 12)), ((0, 5), (4, 6)), ((8, 9), (2, 7))])
def test_fisher_is_scipys(first: tuple[int, int], second: tuple[int, int]) -> None:
    table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
    expected = stats.fisher_exact(table, alternative="less").pvalue
    assert tests.fisher_lower(first, second) == pytest.approx(expected, rel=1e-9)


def test_tests_without_data_prove_nothing() -> None:
    assert tests.fisher_lower((0, 0), (1, 2)) == tests.fisher_lower((1, 2), (0, 0)) == 1.0
    assert tests.rank_lower(np.array([]), np.ones(3)) == tests.rank_lower(np.ones(3), np.array([])) == 1.0
    assert tests.rank_lower(np.ones(3), np.ones(4)) == 1.0


def test_rank_sum_is_scipys() -> None:
    first, second = np.array([1.0, 3.0, 4.0]), np.array([2.0, 5.0, 6.0, 7.0])
    expected = stats.mannwhitneyu(first, second, alternative="less").pvalue
    assert tests.rank_lower(first, second) == pytest.approx(expected)


@pytest.mark.parametrize("z", [0.0, 1.96, -1.96, 9.0])
def test_two_sided_p_value(z: float) -> None:
    assert tests.two_sided(z) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)


def test_difference_from_intervals_by_hand() -> None:
    """Zou and Donner 2008, equation 4: the squared distances to the ends are added."""
    first, second = Interval(0.5, 0.4, 0.7), Interval(0.8, 0.75, 0.95)
    found, p = tests.from_intervals(first, second)
    assert found == pytest.approx((0.3, 0.3 - math.hypot(0.05, 0.2), 0.3 + math.hypot(0.15, 0.1)))
    assert p == pytest.approx(2 * stats.norm.sf(0.3 / math.hypot(0.05, 0.2) * Z))
    back, p = tests.from_intervals(second, first)
    assert back == pytest.approx((-0.3, -0.3 - math.hypot(0.1, 0.15), -0.3 + math.hypot(0.2, 0.05)))
    assert p == pytest.approx(2 * stats.norm.sf(0.3 / math.hypot(0.2, 0.05) * Z))
    assert tests.from_intervals(Interval(0.5, 0.5, 0.5), Interval(0.5, 0.5, 0.5)) == (Interval(0.0, None, None), None)


def test_holm_by_hand() -> None:
    """Sorted: 0.01 * 4, 0.02 * 3, max(0.06, 0.03 * 2), 0.9 * 1."""
    assert tests.holm([0.9, 0.01, 0.03, 0.02]) == pytest.approx([0.9, 0.04, 0.06, 0.06])
    assert tests.holm([0.6, 0.7]) == [1.0, 1.0]
    assert tests.holm([0.01, 0.02], [1, 3]) == pytest.approx([0.02667, 0.02667], abs=1e-5)


# calibration


def test_calibration_error_by_hand() -> None:
    """Two bins of two images: |0.6 - 0.5| and |0.9 - 1|, each with weight 1/2; one bin: |0.75 - 0.75|."""
    confidence, correct = np.array([0.85, 0.55, 0.95, 0.65]), np.array([1, 0, 1, 1])
    assert calibration.calibration_error(confidence, correct, bins=2) == pytest.approx(0.1)
    assert calibration.calibration_error(confidence, correct, bins=1) == pytest.approx(0.0)
    # every image is a bin: |0.85 - 1|, 0.55, |0.95 - 1|, |0.65 - 1|
    assert calibration.calibration_error(confidence, correct) == pytest.approx((0.15 + 0.55 + 0.05 + 0.35) / 4)


def test_calibration_error_has_15_bins_of_equal_mass() -> None:
    """30 images, two in each of 15 bins; of each pair one is right, so that |mean confidence - 1/2| remains."""
    confidence = np.linspace(0.5, 1, 30)
    correct = np.arange(30) % 2
    expected = np.mean([abs(confidence[i : i + 2].mean() - 0.5) for i in range(0, 30, 2)])
    assert calibration.calibration_error(confidence, correct) == pytest.approx(expected)
    assert calibration.calibration_error(confidence, 1 - correct) == pytest.approx(expected)


def test_debiased_calibration_error_by_hand() -> None:
    """Bins of two images: accuracy 1/2, so the bias is 1/4 / (2 - 1); (0.6 - 0.5)^2 - 1/4 and (0.9 - 1)^2 - 0."""
    confidence, correct = np.array([0.85, 0.55, 0.95, 0.65]), np.array([1, 0, 1, 1])
    assert calibration.calibration_error_debiased(confidence, correct, bins=2) == 0.0
    certain = np.array([0.9, 0.9, 0.7, 0.7])
    assert calibration.calibration_error_debiased(certain, np.ones(4), bins=2) == pytest.approx(
        math.sqrt((0.01 + 0.09) / 2)
    )
    # accuracy 1/2 and 0: (0.5 - 0.5)^2 - 1/4 and 0.9^2, of the same weight
    found = calibration.calibration_error_debiased(np.array([0.5, 0.5, 0.9, 0.9]), np.array([1, 0, 0, 0]), bins=2)
    assert found == pytest.approx(math.sqrt((0.81 - 0.25) / 2))
    # bins of 2 and 1: the bin of one image has no variance and is left out
    assert calibration.calibration_error_debiased(np.array([0.7, 0.7, 0.9]), np.ones(3), bins=2) == pytest.approx(0.3)
    assert calibration.calibration_error_debiased(np.array([0.7]), np.ones(1)) == 0.0
    # three images, one wrong: (0.9 - 2/3)^2 - (2/3)(1/3) / 2
    found = calibration.calibration_error_debiased(np.full(9, 0.99), np.array([1, 1, 0] * 3), bins=1)
    assert found == pytest.approx(math.sqrt((0.99 - 2 / 3) ** 2 - 2 / 9 / 8))


def test_calibration_intervals_contain_their_value_and_wilsons_end() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 60)
    correct = rng.uniform(size=60) < confidence
    for interval in (calibration.calibration_interval, calibration.debiased_interval):
        value, low, high = interval(confidence, correct)
        assert low is not None
        assert low <= (value or 0) <= (high or 0) < 1
    value, low, high = calibration.calibration_interval(np.ones(20), np.ones(20))
    assert (value, low) == (0.0, 0.0)
    assert high == pytest.approx(1 - (intervals.wilson(20, 20).low or 0))
    assert calibration.debiased_interval(confidence, correct).value == calibration.calibration_error_debiased(
        confidence, correct
    )
    value, low, high = calibration.calibration_interval(confidence, correct, 10)
    pairs = np.column_stack([confidence, correct])
    drawn = bootstrap(pairs, lambda draws: calibration._calibration_errors(draws, 10))
    assert value == pytest.approx(calibration.calibration_error(confidence, correct, 10))
    assert low == pytest.approx(min(drawn.low or 0, value or 0))


# areas under the curve


def test_areas_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], [10, 15, 20])
    # one decimal, so that scores tie
    scores = rng.dirichlet(np.ones(3), 45).round(1)
    weights = np.stack([np.ones(45), rng.integers(0, 4, 45).astype(float)])
    for row, found, micro in zip(
        weights, roc.roc_auc(labels, scores, weights), roc.roc_auc_micro(labels, scores, weights), strict=True
    ):
        expected = [roc_auc_score(labels == k, scores[:, k], sample_weight=row) for k in range(3)]
        assert found == pytest.approx(np.mean(expected))
        flat = roc_auc_score(np.eye(3)[labels].ravel(), scores.ravel(), sample_weight=np.repeat(row, 3))
        assert micro == pytest.approx(flat)


def test_area_without_both_sides_is_nan() -> None:
    scores = np.array([[0.2, 0.8], [0.6, 0.4]])
    assert np.isnan(roc.roc_auc(np.zeros(2, dtype=int), scores, np.ones((1, 2)))).all()
    found = roc.roc_auc(np.array([0, 1]), scores, np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert np.isnan(found[0])
    assert found[1] == 0.0
    assert np.isnan(roc.roc_auc_micro(np.array([0, 1]), scores, np.zeros((1, 2)))).all()


# metrics


def test_metrics_by_hand() -> None:
    found = metrics.proportion("p", [True, True, False, True], at={"epsilon": 0.1})
    assert (found.value, found.n, found.at, found.unit) == (0.75, 4, {"epsilon": 0.1}, "fraction")
    assert (found.value, found.low, found.high) == pytest.approx(intervals.wilson(3, 4))
    assert metrics.proportion("p", []).value is None
    middle = metrics.median("m", [3.0, np.nan, 1.0, math.inf, 2.0], unit="l2")
    assert (middle.value, middle.n, middle.unit) == (2.5, 4, "l2")
    assert (middle.low, middle.high) == (1.0, math.inf)
    assert metrics.median("m", [], unit="l2").value is None
    average = metrics.mean("a", [1.0, 2.0, np.nan, 6.0], unit="s")
    assert (average.value, average.n) == (3.0, 3)
    assert 1.0 <= (average.low or 0) < 3.0 < (average.high or 0) <= 6.0
    same = metrics.mean("a", [0.25] * 8, unit="fraction", share=True)
    assert (same.value, same.low, same.high) == pytest.approx(intervals.wilson(2, 8))
    assert metrics.mean("a", [0.25] * 8, unit="fraction").low == 0.25


def test_interval_of_a_median_metric_is_that_of_its_resamples() -> None:
    values = np.random.default_rng(3).normal(size=50)
    rng = np.random.default_rng(20260101)
    draws = np.median(np.concatenate([values[rows] for rows in cluster.resamples(np.arange(50), 1000, rng)]), axis=1)
    found = metrics.median("m", values, unit="l2", at={"norm": "l2"})
    assert (found.low, found.high) == (np.sort(draws)[24], np.sort(draws)[975])
    assert found.at == {"norm": "l2"}
    assert metrics.mean("m", values, unit="l2", at={"norm": "l2"}).at == {"norm": "l2"}


def test_interval_of_the_debiased_calibration_error_is_that_of_its_resamples() -> None:
    generator = np.random.default_rng(5)
    confidence, correct = generator.uniform(0.5, 1, 40), (generator.uniform(size=40) < 0.6).astype(float)
    rng = np.random.default_rng(20260101)
    rows = np.concatenate(list(cluster.resamples(np.arange(40), 200, rng)))
    draws = [calibration.calibration_error_debiased(confidence[row], correct[row]) for row in rows]
    value, low, high = calibration.debiased_interval(confidence, correct)
    assert value is not None
    assert low == pytest.approx(min(value, np.quantile(draws, 0.025)))
    assert high == pytest.approx(max(value, np.quantile(draws, 0.975)))


def test_draw_without_any_value_of_a_run_is_left_out() -> None:
    (value, low, high), _ = paired_means(np.array([np.nan, 1.0]), np.array([1.0, 2.0]))
    assert value == 0.5
    assert low is not None
    assert high is not None
    assert low <= 0.5 <= high


def test_intervals_of_one_unit_are_unknown() -> None:
    confidence, correct, units = np.array([0.6, 0.7, 0.9]), np.array([1, 0, 1]), ["a", "a", "a"]
    for interval in (calibration.calibration_interval, calibration.debiased_interval):
        assert interval(confidence, correct, units=units)[1:] == (None, None)
    assert bootstrap_weighted(2, lambda weights: weights[:, 0], units=["a", "a"]) == (1.0, None, None)
    assert bootstrap_weighted(2, lambda weights: weights[:, 0], units=["a", "b"]) == (1.0, 0.0, 2.0)
    assert paired_means(np.zeros(2), np.ones(2), units=["a", "a"])[0] == (1.0, None, None)


def test_median_of_one_unit_has_no_interval() -> None:
    found = metrics.median("m", [1.0, 2.0, 9.0], unit="l2", units=["a"] * 3)
    assert (found.value, found.low, found.high, found.units) == (2.0, None, None, 1)


# bootstraps


def test_bootstrap_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    value, low, high = bootstrap(values)
    error = values.std() / 20
    assert value == pytest.approx(values.mean())
    assert low == pytest.approx(values.mean() - Z * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + Z * error, abs=0.15 * error)
    assert bootstrap([]) == bootstrap([np.nan]) == NOTHING
    assert bootstrap([3.0]) == (3.0, None, None)
    assert RESAMPLES == 1000


def test_bootstrap_of_a_confusion_matrix_is_that_of_its_accuracy() -> None:
    matrix = np.array([[40, 10], [5, 45]])

    def accuracy(matrices: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.trace(matrices, axis1=1, axis2=2) / matrices.sum(axis=(1, 2))
        return result

    value, low, high = bootstrap_confusion(matrix, accuracy)
    error = math.sqrt(0.85 * 0.15 / 100)
    assert value == 0.85
    assert low == pytest.approx(0.85 - Z * error, abs=0.015)
    assert high == pytest.approx(0.85 + Z * error, abs=0.015)
    assert bootstrap_confusion(np.zeros((2, 2), dtype=int), accuracy) == NOTHING
    # units without the pairs of label and prediction cannot be drawn
    assert bootstrap_confusion(matrix, accuracy, units=np.arange(100)) == (value, low, high)
    pairs = np.array([[i, j] for i in range(2) for j in range(2) for _ in range(matrix[i, j])])
    single = bootstrap_confusion(matrix, accuracy, pairs=pairs, units=np.arange(100))
    assert single.value == 0.85
    assert single.low == pytest.approx(low, abs=0.02)
    assert bootstrap_confusion(matrix, accuracy, pairs=pairs, units=np.zeros(100)) == (0.85, None, None)


def test_paired_means_by_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=300)
    second = first + rng.normal(0.1, 1, size=300)
    (value, low, high), p = paired_means(first, second)
    change = second - first
    error = change.std(ddof=1) / math.sqrt(300)
    assert value == pytest.approx(change.mean())
    assert low == pytest.approx(change.mean() - Z * error, abs=0.2 * error)
    assert high == pytest.approx(change.mean() + Z * error, abs=0.2 * error)
    assert p == pytest.approx(2 * stats.norm.sf(change.mean() / error), abs=0.02)


def test_p_value_of_paired_means_is_at_least_that_of_the_signs() -> None:
    (value, _, _), p = paired_means(np.zeros(4), np.ones(4))
    assert (value, p) == (1.0, 2.0**-3)
    assert paired_means(np.ones(4), np.ones(4)) == (Interval(0.0, 0.0, 0.0), 1.0)
    assert paired_means(np.full(2, np.nan), np.ones(2)) == (NOTHING, None)


def test_weighted_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=200)
    found = bootstrap_weighted(200, lambda weights: weights @ values / weights.sum(axis=1))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - Z * values.std() / math.sqrt(200), abs=0.03)
    assert bootstrap_weighted(0, lambda weights: weights[:, 0]) == NOTHING


# units


def test_effective_n_by_hand() -> None:
    """Units a (1, 1) and b (1, 0): mean 3/4, residuals sum to 1/2 and -1/2, v = 2 (1/4 + 1/4) / 16 = 1/16."""
    assert cluster.effective_n([1, 1, 1, 0], ["a", "a", "b", "b"]) == pytest.approx(min(4, 1 + (3 / 16) / (1 / 16)))
    # a (1, 1, 0), b (0, 0, 0): mean 1/3, totals 1 and -1, v = 2 * 2 / 36 = 1/9; variance 2/9
    assert cluster.effective_n([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]) == pytest.approx(1 + (2 / 9) / (1 / 9))
    # all equal: n^2 / sum of squared sizes
    assert cluster.effective_n([1, 1, 1, 1], ["a", "a", "a", "b"]) == pytest.approx(16 / 10)
    assert cluster.effective_n([1, 0, 1]) == 3.0
    assert cluster.effective_n([], []) == 0.0
    assert cluster.effective_count([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]) == pytest.approx((1.0, 3.0))
    assert cluster.effective_change([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]) == pytest.approx((1.0, 0.0, 3.0))
    assert cluster.effective_change([1, -1, 0]) == (1, 1, 3)


def test_sign_flip_of_three_units_by_hand() -> None:
    """Nets 3, 2 and -1: of 8 signs, the sum is at least 4 for (+, +, +) = 6 and (+, +, -) = 4."""
    change = [1, 1, 1, 1, 1, -1]
    units = ["a", "a", "a", "b", "b", "c"]
    assert cluster.sign_flip(change, units) == pytest.approx(2 / 8)
    assert cluster.sign_flip_two_sided(change, units) == pytest.approx(4 / 8)
    assert cluster.sign_flip([-each for each in change], units) == pytest.approx(7 / 8)
    assert cluster.sign_flip([0, 0]) == cluster.sign_flip([]) == 1.0


def test_sign_flip_of_many_units_is_normal() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(9000), rng.integers(1, 5, 9000))
    change = rng.choice([-1, 0, 1], len(units), p=[0.32, 0.35, 0.33])
    change = np.r_[change, np.ones(3, dtype=int)]
    units = np.r_[units, [10_000] * 3]
    assert np.abs(np.bincount(units, weights=change)).sum() < 20_000 < len(units)
    exact = cluster.sign_flip(change, units)
    large, larger = np.tile(change, 2), np.r_[units, units + 20_000]
    net = np.bincount(larger, weights=large)
    assert np.abs(net).sum() > 20_000 or exact <= 1
    z = net.sum() / math.sqrt((net**2).sum())
    assert cluster.sign_flip(large, larger) == pytest.approx(stats.norm.sf(z), abs=2e-3)


def test_medians_of_units() -> None:
    found = cluster.unit_medians([1.0, 9.0, 3.0, 4.0, 6.0], ["a", "b", "a", "b", "a"])
    assert found.tolist() == [3.0, 6.5]
    assert cluster.unit_medians([2.0, 1.0]).tolist() == [2.0, 1.0]


def test_codes_are_in_order_of_appearance() -> None:
    assert cluster.codes(["z", "a", "z", None], 4).tolist() == [0, 1, 0, 2]
    assert cluster.codes(None, 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(3,\)"):
        cluster.codes(["a", "b"], 3)


def test_counts_of_units_by_hand() -> None:
    counts = unit_counts.UnitCounts.of([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1])
    assert counts.total == (2, 6)
    assert unit_counts.design_effect(counts) == pytest.approx(2.0)
    assert counts.interval() == pytest.approx((1 / 3, *intervals.wilson(1, 3)[1:]))
    assert unit_counts.design_effect(unit_counts.UnitCounts.of([1, 1, 1, 1], list("aaab"))) == pytest.approx(10 / 4)
    empty = unit_counts.UnitCounts.of([], [])
    assert empty.interval() == NOTHING
    assert unit_counts.fisher_lower_over_units(empty, counts) == 1.0


def test_design_effect_without_a_variance_between_units() -> None:
    one, other = (unit_counts.UnitCounts.of(hits, [0] * len(hits)) for hits in ([1, 0, 0], [1, 1, 0, 0, 0]))
    # a single unit in each group: its images count as copies
    assert unit_counts.design_effect(one, other) == pytest.approx((9 + 25) / 8)
    # equal shares in all units
    assert unit_counts.design_effect(unit_counts.UnitCounts.of([1, 0, 1, 0], list("aabb"))) == 1.0


def test_weights_are_drawn_as_often_as_asked() -> None:
    blocks = list(cluster.weights(np.arange(1000), 5000, np.random.default_rng(0)))
    assert [block.shape for block in blocks] == [(4000, 1000), (1000, 1000)]
    assert (blocks[1].sum(axis=1) == 1000).all()


def test_effects_of_two_groups_are_pooled() -> None:
    """Residuals (1, -1) of the first group and none of the second, 12 images and 4 units."""
    first = unit_counts.UnitCounts.of([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1])
    second = unit_counts.UnitCounts.of([1, 1, 0, 1, 1, 0], [2, 2, 2, 3, 3, 3])
    variance = (2 / 9 * 6 + 2 / 9 * 6) / 12
    between = 4 / 3 * 2 / 144
    assert unit_counts.design_effect(first, second) == pytest.approx(max(1, 12 / (1 + variance / between)))
    assert statistics.NOTHING == NOTHING
