"""Gaps between groups: intervals and p-values by hand, false alarms without a gap, every planted gap found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from auditor import Conclusion, Metric, statistics
from auditor.findings.encoding import plain
from auditor.findings.formatting import place
from auditor.plugins.bias import _fairness
from auditor.plugins.bias.groups import Groups
from auditor.plugins.bias.robustness import RobustnessBias
from auditor.policy.rules import read_policy
from auditor.policy.verdict import judge
from auditor.probes.base import Records, no_examples
from auditor.probes.gap_statistics import Statistic, means, medians, shares
from auditor.probes.gaps import ALPHA, Gap, Stratum, find_gaps

N = 600


def stratum(cells: dict[str, Any], name: str = "kind", **options: Any) -> Stratum:
    options = {"statistic": shares(), "at": {"group": name}, "family": (name,)} | options
    return Stratum(gap="accuracy_gap", cells=cells, **options)


def records(frame: pd.DataFrame, k: int, **others: pd.DataFrame) -> Records:
    names = [f"class {c}" for c in range(k)]
    given = {name.replace("_", "."): other for name, other in others.items()}
    return Records(frame=frame, examples=no_examples(), classes=names, labelled=True, others=given)


def data(seed: int, accuracy: float, k: int = 3) -> pd.DataFrame:
    """Return images in groups of three columns, some of them small, and predictions independent of the groups."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, N)
    correct = rng.random(N) < accuracy
    return pd.DataFrame(
        {
            "image_id": [f"{i:05d}" for i in range(N)],
            "label": labels,
            "prediction": np.where(correct, labels, (labels + rng.integers(1, k, N)) % k),
            "correct": correct,
            "group:sex": rng.choice(["f", "m"], N),
            "group:skin": rng.choice(["1", "2", "3", "4", "5"], N, p=[0.4, 0.3, 0.16, 0.08, 0.06]),
            "group:camera": rng.choice(["x", "y", "z"], N, p=[0.6, 0.33, 0.07]),
        }
    )


def attacked(frame: pd.DataFrame, success: np.ndarray) -> pd.DataFrame:
    """Return records of an attack that succeeds on these images at 4/255."""
    clean = frame.assign(norm="linf", epsilon=0.0, success=False)
    return pd.concat([clean, frame.assign(norm="linf", epsilon=4 / 255, success=success)], ignore_index=True)


def test_two_groups_have_newcombes_interval_and_fishers_test() -> None:
    from scipy.stats import fisher_exact

    (gap,) = find_gaps([stratum({"a": (90, 100), "b": (60, 90)})])
    value, low, high = statistics.newcombe((90, 60), (100, 90))
    assert (gap.metric.value, gap.metric.low, gap.metric.high) == pytest.approx((value, low, high))
    assert gap.metric.at == {"group": "kind", "value": "b", "against": "a"}
    assert gap.metric.n == 190
    # one-sided, for each of two groups
    p_value = fisher_exact([[60, 30], [90, 10]], alternative="less").pvalue
    assert gap.p_value == pytest.approx(2 * p_value)


def test_weighted_holm_by_hand() -> None:
    p = [0.01, 0.04, 0.03]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm(p, [2, 2, 2]) == pytest.approx(statistics.holm(p))
    # Holm 1979: p / w in order, times the weights that remain
    assert statistics.holm([0.01, 0.01], [3, 1]) == pytest.approx([0.01 / 3 * 4, 0.01 / 3 * 4])
    assert statistics.holm([0.02, 0.004], [1, 3]) == pytest.approx([0.02, 0.004 / 3 * 4])


def test_intervals_of_many_groups_hold_jointly() -> None:
    pairs = 6 * 5 / 2 + 1
    cells = {str(i): (80 + 2 * i, 100) for i in range(6)}
    gaps = find_gaps([stratum(cells), stratum({"a": (70, 100), "b": (90, 100)}, "other")])
    gap = next(gap for gap in gaps if gap.group == "0")
    _, low, high = statistics.newcombe((90, 80), (100, 100), confidence=1 - ALPHA / 2 / (pairs - 1))
    assert gap.against == "5"
    assert (gap.metric.high, max(low or 0.0, 0.0)) == pytest.approx((high, gap.metric.low))
    # the other grouping has half of the level, for any number of groups in the first
    _, low, high = statistics.newcombe((90, 70), (100, 100), confidence=1 - ALPHA / 2)
    other = next(gap for gap in gaps if gap.stratum.at["group"] == "other")
    assert (other.metric.low, other.metric.high) == pytest.approx((low, high))


def test_clear_gap_is_not_hidden_by_a_small_perfect_group() -> None:
    """The best group has 20 images; the gap to the large group next to it is clearer than that to the best one."""
    gap = find_gaps([stratum({"tiny": (20, 20), "large": (970, 1000), "low": (20, 40)})])[0]
    assert (gap.group, gap.against, gap.significant) == ("low", "large", True)
    assert gap.metric.value == pytest.approx(0.47)


def test_order_statistics_cover_the_median_and_infinite_distances_count() -> None:
    values = np.arange(1.0, 26)
    # binomial(25, 1/2): P(X <= 7) = 0.0216, so the 8th and the 18th value
    assert statistics.median_interval(values) == (13, 8, 18)
    infinite = np.where(values > 20, np.inf, values)
    assert statistics.median_interval(infinite) == (13, 8, 18)
    (gap,) = find_gaps([stratum({"a": values + 20, "b": infinite}, statistic=medians(), unit="linf")])
    assert (gap.group, gap.metric.value, gap.significant) == ("b", 20, True)
    assert find_gaps([stratum({"a": np.full(30, np.inf), "b": values}, statistic=medians())]) == []


def test_mean_interval_is_students() -> None:
    from scipy.stats import t

    values = np.random.default_rng(0).normal(size=12)
    expected = t.interval(0.95, 11, values.mean(), values.std(ddof=1) / 12**0.5)
    assert statistics.mean_interval(values)[1:] == pytest.approx(expected)
    gaps = find_gaps([stratum({"a": values, "b": values + 5}, statistic=means(), worse=1)])
    assert (gaps[0].group, gaps[0].metric.value) == ("b", pytest.approx(5))


def test_equal_or_single_groups_have_no_significant_gap() -> None:
    assert find_gaps([]) == []
    assert find_gaps([stratum({"a": (5, 30)})]) == []
    assert not any(gap.significant for gap in find_gaps([stratum({"a": (30, 30), "b": (40, 40)})]))
    assert not any(gap.significant for gap in find_gaps([stratum({"a": (0, 30), "b": (0, 40)})]))


def test_place_of_a_gap_names_both_groups() -> None:
    at = {"group": "sex", "value": "f", "against": "m"}
    assert place(at) == " of sex f against m"
    assert place({**at, "class": "cat"}) == " of sex f against m, class cat"
    assert place({"class": "cat", "against": "dog"}) == " of class cat against dog"
    assert place({"group": "sex", "value": "f"}) == " at sex f"


def test_place_of_an_alternative_is_its_name() -> None:
    assert place({"order": "alphabetical order"}) == " (alphabetical order)"
    assert place({"preset": "imagenet"}) == " (imagenet)"


# false alarms


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the permutations of the fairness statistics, which have no findings."""
    monkeypatch.setattr(_fairness, "fairness_statistics", partial(_fairness.fairness_statistics, resamples=5))


def alarms(findings: Sequence[Any]) -> list[str]:
    """Return the ids of the findings about one gap."""
    return [f.id for f in findings if f.metric is not None and f.metric.low and "against" in f.metric.at]


@pytest.mark.usefixtures("fast")
def test_data_without_a_gap_raise_an_alarm_in_at_most_five_per_cent() -> None:
    """25 data sets of two accuracies, each with some 30 groups in 6 groupings and the rates of each class."""
    sets = [data(seed, 0.8 if seed % 2 else 0.97) for seed in range(25)]
    assert sum(bool(alarms(Groups().conclude(records(frame, 3)).findings)) for frame in sets) <= 1


def test_attacks_without_a_gap_raise_an_alarm_in_at_most_five_per_cent() -> None:
    found = 0
    for seed in range(25):
        frame, rng = data(seed, 0.95).drop(columns=["group:camera"]), np.random.default_rng(1000 + seed)
        attack = attacked(frame, rng.random(N) < 0.3)
        found += bool(alarms(RobustnessBias().conclude(records(frame, 3, attacks_one=attack)).findings))
    assert found <= 1


def test_many_tiny_groups_of_an_accurate_model_raise_no_alarm() -> None:
    """Wilson's interval alone fails here: two errors in 20 images are rare at 99 %, but not among a hundred groups."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        cells = {str(i): (int(rng.binomial(20, 0.99)), 20) for i in range(100)}
        found += any(gap.significant for gap in find_gaps([stratum(cells)]))
    assert found <= 5


@pytest.mark.parametrize("statistic", [medians(), means()])
def test_distances_and_drops_without_a_gap_raise_an_alarm_in_at_most_five_per_cent(statistic: Statistic) -> None:
    """Skewed numbers in groups of 10 to 60, as those of score drops and distances."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        cells = {str(i): rng.exponential(size=n) for i, n in enumerate((10, 15, 20, 30, 60))}
        found += any(gap.significant for gap in find_gaps([stratum(cells, statistic=statistic, worse=1)]))
    assert found <= 10


# planted gaps


@pytest.mark.usefixtures("fast")
def test_every_planted_gap_is_found_and_named_in_every_grouping() -> None:
    """One group of each column has 40 images and 48 points less; all three are findings, in each of 20 data sets."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frame = data(seed, 1.0)
        places = rng.permutation(N)
        columns = {"group:sex": "other", "group:skin": "6", "group:camera": "w"}
        correct = frame["correct"].to_numpy().copy()
        for number, (column, value) in enumerate(columns.items()):
            rows = places[40 * number : 40 * number + 40]
            frame.loc[rows, column] = value
            correct[rows] = np.arange(40) < 40 * 0.47
        frame["correct"] = correct
        frame["prediction"] = np.where(correct, frame["label"], (frame["label"] + 1) % 3)
        conclusion = Groups().conclude(records(frame, 3))
        by_id = {f.id: f for f in conclusion.findings}
        for column, value in columns.items():
            name = column.removeprefix("group:")
            finding = by_id[f"bias.groups/accuracy-gap/{name}/{value}"]
            assert finding.metric in conclusion.metrics
            assert finding.metric is not None
            assert finding.metric.low is not None
            assert finding.metric.low > 0.15
            against = finding.metric.at["against"]
            n = int((frame[column] == against).sum())
            accuracy = 100 * correct[(frame[column] == against).to_numpy()].mean()
            assert f"lower for {name} {value} than for {name} {against}: 47.5 % [" in finding.statement
            assert f"(n = 40) against {accuracy:.1f} % [" in finding.statement
            assert f"(n = {n}). Corrected p < 0.001 (Fisher, Holm over" in finding.statement


def test_gap_in_one_class_only_is_found() -> None:
    """Group f has 90 % of its errors in class 1, which is 1 of 10 classes: equal opportunity, not overall accuracy."""
    frame = data(3, 0.99, k=10).assign(**{"group:skin": "1", "group:camera": "x"})
    hit = ((frame["label"] == 1) & (frame["group:sex"] == "f")).to_numpy()
    frame.loc[hit, "prediction"] = 2
    frame["correct"] = frame["prediction"] == frame["label"]
    conclusion = Groups().conclude(records(frame, 10))
    finding = next(f for f in conclusion.findings if f.id == "bias.groups/accuracy-gap/sex/class 1/f")
    assert finding.statement.startswith("Accuracy on class class 1 (recall) is ")
    assert "0.0 %" in finding.statement


def test_classes_with_different_recall_are_no_bias_between_groups() -> None:
    """One class is always wrong, equally in both groups: no finding between groups, and no grouping named class."""
    frame = data(5, 1.0)
    frame.loc[frame["label"] == 2, ["prediction", "correct"]] = [0, False]
    conclusion = Groups().conclude(records(frame, 3))
    assert alarms(conclusion.findings) == []
    assert not [m for m in conclusion.metrics if m.at.get("group") == "class"]


def test_data_without_groups_are_inconclusive() -> None:
    frame = data(0, 0.9)[["image_id", "label", "prediction", "correct"]]
    assert Groups().conclude(records(frame, 3)).inconclusive.startswith("the data name no groups")


def test_metrics_of_gaps_are_json() -> None:
    gaps: list[Gap] = find_gaps([stratum({"a": (30, 30), "b": (10, 40)})])
    assert plain(gaps[0].metric)["at"]["against"] == "a"


def judged(conclusion: Any, tmp_path: Path, accepted: str = "") -> dict[str, Any]:
    """Return the record of bias.groups with this conclusion, judged by the default policy and further text."""
    (tmp_path / "own.toml").write_text(f'extends = "default"\n{accepted}')
    record: Any = {
        "id": "bias.groups",
        "status": "informative",
        "severity": "none",
        "reason": "",
        "metric_specs": [plain(spec) for spec in Groups.metrics],
        "metrics": plain(conclusion.metrics),
        "findings": plain(conclusion.findings),
    }
    return dict(judge(record, read_policy(str(tmp_path / "own.toml"))))


def two_gaps() -> pd.DataFrame:
    """Return images with a gap of 60 points by sex and one of 30 points by camera."""
    frame = data(0, 1.0).assign(**{"group:skin": "1"})
    rng = np.random.default_rng(1)
    rate = 0.6 * (frame["group:sex"] == "f") + 0.3 * (frame["group:camera"] == "y")
    frame["correct"] = rng.random(N) >= rate
    frame["prediction"] = np.where(frame["correct"], frame["label"], (frame["label"] + 1) % 3)
    return frame


@pytest.mark.usefixtures("fast")
def test_each_finding_has_the_severity_of_its_own_gap(tmp_path: Path) -> None:
    conclusion = Groups().conclude(records(two_gaps(), 3))
    record = judged(conclusion, tmp_path)
    severity = {f["id"].removeprefix("bias.groups/"): f["severity"] for f in record["findings"]}
    assert record["severity"] == severity["accuracy-gap/sex/f"] == "critical"
    assert severity["accuracy-gap/camera/y"] in ("medium", "high")
    for finding in record["findings"]:
        metric = finding["metric"]
        limits = {"critical": 0.35, "high": 0.2, "medium": 0.1, "low": 0.05}
        low = (metric["low"] or 0.0) if metric and metric["name"] == "accuracy_gap" else 0.0
        assert finding["severity"] == next((name for name, limit in limits.items() if low > limit), "none")
    failed = sum(m["name"] == "accuracy_gap" and (m["low"] or 0) > 0.05 for m in record["metrics"])
    assert record["reason"].endswith(f"; {failed - 1} more failed")


@pytest.mark.usefixtures("fast")
def test_accepted_gap_excuses_no_other_gap(tmp_path: Path) -> None:
    accepted = (
        '[[accepted]]\nprobe = "bias.groups"\nseverity = "critical"\njustification = "known"\nauthor = "Ada"\n'
        'expires = 2999-01-01\nat = { group = "sex" }\n'
    )
    conclusion = Groups().conclude(records(two_gaps(), 3))
    record = judged(conclusion, tmp_path, accepted)
    assert record["status"] == "fail"
    by_id = {f["id"]: f for f in record["findings"]}
    assert by_id["bias.groups/accuracy-gap/sex/f"]["accepted"]
    assert by_id["bias.groups/accuracy-gap/camera/y"]["severity"] != "none"
    assert record["severity"] != "none"


def test_metric_over_no_images_is_not_judged(tmp_path: Path) -> None:
    gap = Metric(name="accuracy_gap", value=0.5, low=0.4, high=0.6, n=0, at={"group": "sex"})
    record = judged(Conclusion(metrics=[gap], findings=[]), tmp_path)
    assert (record["status"], record["severity"]) == ("inconclusive", "none")
    assert "which was not measured" in record["reason"]
