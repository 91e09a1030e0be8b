"""Bias probes: agreement with Fairlearn, detection of planted biases, and no detection in unbiased controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from auditor import statistics
from auditor.data.dataset import Batch
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.bias._fairness import FAIRNESS, counts, fairness
from auditor.plugins.bias._slice_search import last_layer_inputs
from auditor.plugins.bias.classes import Classes
from auditor.plugins.bias.counterfactual_occlusion import CounterfactualOcclusion
from auditor.plugins.bias.groups import Groups
from auditor.plugins.bias.robustness import RobustnessBias
from auditor.plugins.bias.slices import Slices
from auditor.plugins.explanations.occlusion import OcclusionMap
from auditor.plugins.performance.calibration import Calibration
from auditor.probes.base import Randomness, Records, RunContext, no_examples
from auditor.probes.breakdown import compare, share_comparison
from auditor.probes.groupings import groupings
from auditor.run.opening import open_audit
from auditor.run.request import Request
from auditor.run.session import run

RNG = Randomness(0, "test")


def records(frame: pd.DataFrame, k: int, **others: pd.DataFrame) -> Records:
    """Return records of ``frame`` with class names, without examples."""
    names = [f"class {c}" for c in range(k)]
    given = {name.replace("_", "."): other for name, other in others.items()}
    return Records(frame=frame, examples=no_examples(), classes=names, labelled=True, others=given)


def people(n: int, k: int, seed: int, bias: float = 0.0) -> pd.DataFrame:
    """Return predictions that are correct in 85 % of cases, and in ``bias`` less for group "b"."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    group = rng.choice(["a", "b"], n)
    correct = rng.random(n) < 0.85 - bias * (group == "b")
    predictions = np.where(correct, labels, (labels + rng.integers(1, k, n)) % k)
    return pd.DataFrame(
        {
            "image_id": [f"{i:05d}" for i in range(n)],
            "label": labels,
            "prediction": predictions,
            "correct": correct,
            "group:kind": group,
            "confidence": np.clip(0.85 + 0.1 * rng.normal(size=n), 0.3, 1.0),
        }
    )


def test_fairness_statistics_equal_fairlearn() -> None:
    import fairlearn.metrics as fl

    frame = people(600, 2, seed=1, bias=0.2)
    y, p, g = frame["label"], frame["prediction"], frame["group:kind"]
    _, table = counts(g, y.to_numpy(), p.to_numpy(), 2, 1)
    expected = {
        "demographic_parity_difference": fl.demographic_parity_difference(y, p, sensitive_features=g),
        "equalised_odds_difference": fl.equalized_odds_difference(y, p, sensitive_features=g),
    }
    for name, value in expected.items():
        assert float(FAIRNESS[name](table)) == pytest.approx(value)
    # ratios and equal opportunity are the worse of Fairlearn's values for either positive class
    both = [(y, p), (1 - y, 1 - p)]
    assert float(FAIRNESS["demographic_parity_ratio"](table)) == pytest.approx(
        min(fl.demographic_parity_ratio(a, b, sensitive_features=g) for a, b in both)
    )
    assert float(FAIRNESS["equalised_odds_ratio"](table)) == pytest.approx(
        min(fl.equalized_odds_ratio(a, b, sensitive_features=g) for a, b in both)
    )
    assert float(FAIRNESS["equal_opportunity_difference"](table)) == pytest.approx(
        max(fl.equal_opportunity_difference(a, b, sensitive_features=g) for a, b in both)
    )
    assert float(FAIRNESS["equal_opportunity_ratio"](table)) == pytest.approx(
        min(fl.equal_opportunity_ratio(a, b, sensitive_features=g) for a, b in both)
    )


def test_rates_by_group_and_class_equal_fairlearn_and_scikit_learn() -> None:
    import fairlearn.metrics as fl
    from sklearn.metrics import precision_score, roc_auc_score

    frame = people(700, 3, seed=12, bias=0.2)
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 700)
    scores[np.arange(700), frame["prediction"]] += 1
    scores /= scores.sum(axis=1, keepdims=True)
    accuracy = frame.assign(probabilities=list(scores.astype(np.float64)))
    conclusion = Groups().conclude(records(frame, 3, performance_accuracy=accuracy))
    kind: Any = next(f for f in conclusion.findings if f.id == "bias.groups/kind")
    table = next(e for e in kind.evidence if e.title.startswith("Rates by kind and class"))
    rows = {(row[0], row[1]): row for row in table.rows}
    assert len(rows) == 6
    for c in range(3):
        expected = fl.MetricFrame(
            metrics={
                "recall": fl.true_positive_rate,
                "false": fl.false_positive_rate,
                "precision": precision_score,
                "selected": fl.selection_rate,
            },
            y_true=(frame["label"] == c).astype(int),
            y_pred=(frame["prediction"] == c).astype(int),
            sensitive_features=frame["group:kind"],
        ).by_group
        for group in "ab":
            row, mask = rows[group, f"class {c}"], (frame["group:kind"] == group).to_numpy()
            found = [cell["value"] for cell in row[2:6]]
            np.testing.assert_allclose(found, expected.loc[group], atol=1e-12)
            area = roc_auc_score(frame["label"][mask] == c, scores[mask, c])
            assert row[7]["value"] == pytest.approx(area)
            error = statistics.calibration_error(scores[mask, c], (frame["label"][mask] == c).to_numpy())
            assert row[6]["value"] == pytest.approx(error)
            assert all(cell["low"] < cell["value"] < cell["high"] for cell in row[2:6])
    # groups are also compared within each class: equal opportunity
    in_class = [m for m in conclusion.metrics if m.name == "accuracy_gap" and "class" in m.at and m.low]
    assert in_class
    for gap in in_class:
        mask = (frame["label"] == int(str(gap.at["class"])[-1])).to_numpy()
        by_group = frame[mask].groupby("group:kind")["correct"].mean()
        assert gap.value == pytest.approx(by_group["a"] - by_group["b"])


def test_interval_of_insignificant_gap_includes_zero() -> None:
    """20 of 20 against 14 of 20 is significant alone, not among several groupings; policy and statement agree."""
    correct = np.r_[np.ones(20, dtype=bool), np.arange(20) < 14]
    frame = people(40, 2, seed=1)
    frame["group:kind"] = ["a"] * 20 + ["b"] * 20
    frame["prediction"] = np.where(correct, frame["label"], 1 - frame["label"])
    frame["correct"] = correct
    frame["group:other"] = ["c", "d"] * 20
    conclusion = Groups().conclude(records(frame, 2))
    kind = next(f for f in conclusion.findings if f.id == "bias.groups/kind")
    low, _ = statistics.newcombe((20, 14), (20, 20))[1:]
    assert low is not None
    assert low > 0.05
    assert "does not differ significantly" in kind.statement
    assert kind.metric is not None
    assert kind.metric.low == 0.0
    assert kind.metric.value == pytest.approx(0.3)


def test_rate_of_small_class_in_group_is_omitted() -> None:
    frame = people(300, 2, seed=13)
    frame.loc[(frame["group:kind"] == "b") & (frame["label"] == 1) & (frame.index > 30), "group:kind"] = "a"
    kind: Any = next(f for f in Groups().conclude(records(frame, 2)).findings if f.id == "bias.groups/kind")
    table = next(e for e in kind.evidence if e.title.startswith("Rates by kind and class"))
    row = next(row for row in table.rows if row[:2] == ["b", "class 1"])
    assert row[2] is None
    assert row[-1] == "too small"


def test_fairness_ignores_group_names_and_grows_with_bias() -> None:
    values = {}
    for bias in (0.0, 0.15, 0.4):
        frame = people(800, 3, seed=2, bias=bias)
        y, p = frame["label"].to_numpy(), frame["prediction"].to_numpy()
        _, table = counts(frame["group:kind"], y, p, 3, 1)
        _, renamed = counts(frame["group:kind"].map({"a": "z", "b": "c"}), y, p, 3, 1)
        for statistic in FAIRNESS.values():
            assert float(statistic(table)) == pytest.approx(float(statistic(renamed)))
        values[bias] = float(FAIRNESS["equalised_odds_difference"](table))
    assert values[0.0] < values[0.15] < values[0.4]


def test_planted_gap_is_significant_and_chance_is_not() -> None:
    false_alarms = 0
    for seed in range(20):
        frame = people(300, 2, seed=100 + seed)
        _, table = counts(frame["group:kind"], frame["label"].to_numpy(), frame["prediction"].to_numpy(), 2, 1)
        _, p = fairness("equalised_odds_difference", table, grouping="kind", resamples=100)
        false_alarms += p < 0.05
    assert false_alarms <= 4
    frame = people(600, 2, seed=3, bias=0.3)
    _, table = counts(frame["group:kind"], frame["label"].to_numpy(), frame["prediction"].to_numpy(), 2, 1)
    metric, p = fairness("equalised_odds_difference", table, grouping="kind", resamples=200)
    assert p < 0.01
    assert metric.low is not None
    assert metric.low > 0.1


def test_groupings_divide_numbers_into_bands_and_cross_columns() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "group:age": [str(age) for age in rng.integers(1, 90, 200)],
            "group:sex": rng.choice(["f", "m"], 200),
            "group:brightness": [f"{x:.3f}" for x in rng.random(200)],
            "group:code": rng.choice(["1", "2"], 200),
        }
    )
    found = groupings(frame)
    assert set(found["age"]) <= {"below 18", "18 to below 30", "30 to below 45", "45 to below 60", "60 and over"}
    assert found["brightness"].nunique() == 4
    assert found["brightness"].value_counts().min() >= 45
    assert set(found["code"]) == {"1", "2"}
    assert set(found["age x sex"].str.split(", ").str[1]) == {"f", "m"}
    assert "age x sex" not in groupings(frame, cross=False)


def test_rank_test_equals_scipy_and_ranks_infinity_highest() -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    one, other = rng.normal(size=30).round(1), rng.normal(0.5, size=40).round(1)
    expected = float(mannwhitneyu(one, other, alternative="less").pvalue)
    assert statistics.rank_lower(one, other) == pytest.approx(expected)
    infinite = np.where(one > 1, np.inf, one)
    finite = np.minimum(infinite, 1e9)
    assert statistics.rank_lower(infinite, other) == pytest.approx(statistics.rank_lower(finite, other))
    assert statistics.rank_lower(np.full(5, np.inf), np.full(5, np.inf)) == 1


def test_comparison_of_shares_lists_small_groups_and_needs_two_large_ones() -> None:
    counts = {"a": (30, 40), "b": (10, 40), "c": (1, 2)}
    (found,), _ = compare([share_comparison("kind", counts, 20, metric="accuracy", gap="accuracy_gap")])
    assert (found.highest, found.lowest, found.verdict) == ("a", "b", "groups differ")
    assert (found.gap.value, found.gap.n, dict(found.small)) == (0.5, 80, {"c": 2})
    assert found.gap.at == {"group": "kind", "value": "b", "against": "a"}
    (alone,), _ = compare([share_comparison("kind", counts, 41, metric="accuracy", gap="accuracy_gap")])
    assert (alone.gap.value, alone.verdict) == (None, "undecided")
    assert Groups.small_text(alone) == "Too small to compare: a (40), b (40), c (2)."


def test_groups_report_fairness_and_undecided_groupings() -> None:
    frame = people(400, 2, seed=4, bias=0.35)
    frame["group:tiny"] = ["only"] * 399 + ["one"]
    conclusion = Groups().conclude(records(frame, 2))
    by_id = {finding.id: finding for finding in conclusion.findings}
    assert "Accuracy differs significantly by kind" in by_id["bias.groups/kind"].statement
    table = next(e for e in by_id["bias.groups/kind"].evidence if e.title == "Fairness by kind")
    assert {row[-1] for row in table.rows} >= {"groups differ"}  # type: ignore[union-attr]
    assert by_id["bias.groups/tiny"].statement.startswith("Undecided")
    names = {m.name for m in conclusion.metrics}
    assert set(FAIRNESS) <= names


def test_classes_detect_low_recall_and_asymmetric_confusions() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 600)
    # class 2 is predicted as 0 in a third of the cases, never the reverse
    predictions = np.where((labels == 2) & (rng.random(600) < 0.33), 0, labels)
    ids = [str(i) for i in range(600)]
    frame = pd.DataFrame({"image_id": ids, "label": labels, "prediction": predictions, "confidence": 0.9})
    conclusion = Classes().conclude(records(frame, 3))
    gap = conclusion.metrics[0]
    assert gap.low is not None
    assert gap.low > 0.15
    recall, *gaps, asymmetry = conclusion.findings
    assert "Lowest: class 2" in recall.statement
    assert [gap.id for gap in gaps] == ["bias.classes/recall-gap/class 2"]
    assert gaps[0].metric == gap
    assert asymmetry.statement.startswith("1 of the 1 pairs")
    table: Any = asymmetry.evidence[0]
    assert table.rows[0][0] == "class 2 predicted as class 0"

    fair = frame.assign(prediction=frame["label"])
    assert Classes().conclude(records(fair, 3)).metrics[0].low == 0


def attack(frame: pd.DataFrame, success: np.ndarray) -> pd.DataFrame:
    """Return records of an attack that succeeds on these images at 4/255."""
    clean = frame.assign(norm="linf", epsilon=0.0, success=False)
    attacked = frame.assign(norm="linf", epsilon=4 / 255, success=success)
    return pd.concat([clean, attacked[frame["label"] == frame["prediction"]]], ignore_index=True)


def test_robustness_is_compared_by_group() -> None:
    frame = people(600, 3, seed=6)
    rng = np.random.default_rng(7)
    weak = (frame["group:kind"] == "b").to_numpy()
    biased = attack(frame, rng.random(600) < np.where(weak, 0.8, 0.3))
    fair = attack(frame, rng.random(600) < 0.5)
    found = RobustnessBias().conclude(records(frame, 3, attacks_one=biased, attacks_two=fair))
    by_id = {f.id: f for f in found.findings}
    kind: Any = by_id["bias.robustness/kind"]
    rows = {row[0]: row for row in kind.evidence[0].rows}
    assert (rows["attacks.one"][2], rows["attacks.one"][-1]) == ("b", "groups differ")
    assert rows["attacks.two"][-1] == "not significant"
    assert found.metrics[0].at == {"probe": "attacks.one", "group": "kind", "value": "b", "against": "a"}
    assert found.findings[0].metric == found.metrics[0]
    assert found.findings[0].statement.startswith("Share of correct images lost is ")
    value = found.metrics[0].value
    assert value is not None
    right = frame["label"] == frame["prediction"]
    hit = biased[biased["epsilon"] > 0].set_index("image_id")["success"]
    shares = [hit[frame["image_id"][right & (frame["group:kind"] == g)]].mean() for g in "ab"]
    assert value == pytest.approx(abs(shares[0] - shares[1]))
    assert RobustnessBias().conclude(records(frame, 3)).inconclusive


def test_distances_are_compared_by_group() -> None:
    """Group b has half the distance under one attack and the same distance under the other."""
    frame = people(500, 2, seed=14)
    rng = np.random.default_rng(0)
    draw = rng.uniform(2, 10, 500) / 255

    def search(distance: np.ndarray) -> pd.DataFrame:
        clean = frame.assign(norm="linf", epsilon=0.0, success=False)
        return pd.concat([clean, frame.assign(norm="linf", epsilon=distance, success=True)], ignore_index=True)

    near = (frame["group:kind"] == "b").to_numpy()
    uneven, even = search(np.where(near, draw / 2, draw)), search(draw)
    found = RobustnessBias().conclude(records(frame, 2, attacks_one=uneven, attacks_two=even))
    kind: Any = next(f for f in found.findings if f.id == "bias.robustness/kind")
    table = next(e for e in kind.evidence if e.title.startswith("Median distance"))
    rows = {row[0]: row for row in table.rows}
    assert (rows["attacks.one"][1], rows["attacks.one"][3], rows["attacks.one"][-1]) == ("b", "a", "groups differ")
    assert rows["attacks.two"][-1] == "not significant"
    right = (frame["label"] == frame["prediction"]).to_numpy()
    at = {"probe": "attacks.one", "group": "kind", "norm": "linf", "value": "b", "against": "a"}
    gap = next(m for m in found.metrics if m.name == "distance_gap" and m.at == at)
    expected = np.median(draw[right & ~near]) - np.median(draw[right & near] / 2)
    assert gap.value == pytest.approx(expected, rel=1e-6)
    assert gap.low is not None
    assert gap.low > 0


def sliced(seed: int, *, planted: bool) -> Records:
    """Return features of two clusters; the smaller has an error rate of 50 %, or that of all others."""
    rng = np.random.default_rng(seed)
    n = 600
    odd = rng.random(n) < 0.15
    features = rng.normal(size=(n, 8)) + np.where(odd, 6.0, 0.0)[:, None]
    wrong = rng.random(n) < (np.where(odd, 0.5, 0.05) if planted else 0.1)
    frame = pd.DataFrame(
        {
            "image_id": [f"{seed} {i}" for i in range(n)],
            "label": 0,
            "prediction": wrong.astype(int),
            "features": list(features.astype(np.float32)),
            "source": "last layer",
        }
    )
    return records(frame, 2)


def test_planted_slice_is_found_and_chance_is_not() -> None:
    found = sum((Slices().conclude(sliced(seed, planted=True)).metrics[0].value or 0) >= 1 for seed in range(6))
    assert found >= 5
    alarms = sum((Slices().conclude(sliced(seed, planted=False)).metrics[0].value or 0) > 0 for seed in range(12))
    assert alarms <= 2


@pytest.fixture(scope="module")
def subject(digits: Path) -> tuple[Any, Batch]:
    """Return the reference model and eight digits."""
    loaded = registry.load()
    classifier, images = open_audit(
        loaded, Request(model=digits / "digits-cnn.onnx", samples=8), find_suite("full", loaded), "cpu"
    )
    pixels = images.pixels(images.ids)
    assert images.labels is not None
    batch = Batch(ids=images.ids, pixels=pixels, labels=images.labels, probabilities=classifier.predict(pixels))
    return classifier, batch


def test_features_are_the_input_of_the_last_layer(subject: tuple[Any, Batch]) -> None:
    import torch

    classifier, batch = subject
    features = last_layer_inputs(classifier, batch)
    assert features is not None
    # the logits are a linear function of them
    with torch.no_grad():
        logits = classifier.logits(classifier.tensor(batch.pixels)).numpy()
    augmented = np.column_stack([features, np.ones(len(features))])
    fitted = augmented @ np.linalg.lstsq(augmented, logits, rcond=None)[0]
    np.testing.assert_allclose(fitted, logits, atol=1e-3)


def test_recorded_change_is_that_of_the_covered_region(subject: tuple[Any, Batch]) -> None:
    classifier, batch = subject
    method = OcclusionMap(grid=4)
    probe = CounterfactualOcclusion(grid=4, share=0.25)
    ready: Any = probe.prepare(
        RunContext(classifier=classifier, probes=[probe, method], ids=batch.ids, batch=lambda ids: batch, rng=RNG)
    )
    columns = ready.measure(classifier, batch, RNG)
    assert columns["named"].shape == columns["control"].shape == (8, 4)
    for named, control in zip(columns["named"], columns["control"], strict=True):
        assert not set(named) & set(control)
    covered = batch.pixels.copy()
    for i, numbers in enumerate(columns["named"]):
        for number in numbers:
            top, left = 2 * (number // 4), 2 * (number % 4)
            covered[i, :, top : top + 2, left : left + 2] = batch.pixels[i].mean()
    np.testing.assert_allclose(columns["change"], classifier.predict(covered) - batch.probabilities, atol=1e-5)


def test_effect_of_region_is_distinguished_from_control(subject: tuple[Any, Batch]) -> None:
    """In one case only the region has an effect, in the other any region has."""
    rng = np.random.default_rng(0)

    def conclude(drop: float, control: float) -> Any:
        change = np.zeros((40, 2), dtype=np.float32)
        other = change.copy()
        change[:, 0] = -drop + 0.05 * rng.normal(size=40)
        other[:, 0] = -control + 0.05 * rng.normal(size=40)
        frame = pd.DataFrame(
            {
                "image_id": [str(i) for i in range(40)],
                "label": 0,
                "prediction": 0,
                "change": list(change),
                "change_control": list(other),
                "flipped": False,
                "flipped_control": False,
                "cells": 64,
                "named": [[3, 4]] * 40,
            }
        )
        return CounterfactualOcclusion().conclude(records(frame, 2))

    found = conclude(0.4, 0.05)
    assert "depends on the attributed region more than on others" in found.findings[0].statement
    assert "cell is row 1, column 4 of an 8 x 8 grid (" in found.findings[0].statement
    assert "no larger than elsewhere" in conclude(0.2, 0.2).findings[0].statement


def test_effect_of_region_is_compared_by_group() -> None:
    """The region has an effect of 0.4 for group b only; in the control of 0.2 for both."""

    def conclude(a: float, b: float) -> Any:
        rng = np.random.default_rng(1)
        group = np.array(["a", "b"])[np.arange(60) % 2]
        change = np.zeros((60, 2), dtype=np.float32)
        change[:, 0] = -np.where(group == "a", a, b) + 0.1 * rng.normal(size=60)
        frame = pd.DataFrame(
            {
                "image_id": [str(i) for i in range(60)],
                "label": 0,
                "prediction": 0,
                "change": list(change),
                "change_control": list(0 * change),
                "flipped": False,
                "flipped_control": False,
                "cells": 64,
                "named": [[9] if g == "b" else [0] for g in group],
                "group:kind": group,
            }
        )
        return CounterfactualOcclusion().conclude(records(frame, 2)).findings[1]

    biased, unbiased = conclude(0.0, 0.4), conclude(0.2, 0.2)
    assert "differs significantly by kind. Clearest, by kind: The score drop over the control is " in biased.statement
    assert " higher for kind b than for kind a: " in biased.statement
    assert [e.title for e in biased.evidence][-2:] == [
        "Attribution frequency of each cell, kind b",
        "Attribution frequency of each cell, kind a",
    ]
    assert biased.evidence[-2].values[1][1] == 1
    assert "differs significantly by none of" in unbiased.statement


def test_calibration_by_group_and_confidence_threshold() -> None:
    frame = people(900, 2, seed=8).assign(brier=0.1, log_loss=0.2)
    confident_errors = attack(frame, np.ones(900, dtype=bool)).assign(linf=4 / 255)
    conclusion = Calibration().conclude(records(frame, 2, attacks_one=confident_errors))
    calibration, _, threshold = conclusion.findings
    groups: Any = next(e for e in calibration.evidence if e.title == "Calibration by group")
    mask = (frame["group:kind"] == "a").to_numpy()
    correct = (frame["label"] == frame["prediction"]).to_numpy()
    confidence = frame["confidence"].to_numpy()
    expected = statistics.calibration_error(confidence[mask], correct[mask])
    assert groups.rows[0][2]["value"] == pytest.approx(expected)
    assert groups.rows[0][2]["low"] <= expected
    assert [s.name for e in calibration.evidence if e.title == "Reliability by kind" for s in e.series] == ["a", "b"]
    table: Any = threshold.evidence[0]
    row = next(row for row in table.rows if row[0] == 0.9)
    assert row[2]["value"] == pytest.approx((confidence[correct] < 0.9).mean())
    assert row[3]["value"] == pytest.approx((confidence[~correct] < 0.9).mean())


def test_debiased_calibration_error_of_calibrated_and_overconfident_model() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 4000)
    calibrated = rng.random(4000) < confidence
    assert statistics.calibration_error(confidence, calibrated) > 0.01
    assert statistics.calibration_error_debiased(confidence, calibrated) < 0.02
    overconfident = rng.random(4000) < confidence - 0.2
    assert statistics.calibration_error_debiased(confidence, overconfident) == pytest.approx(0.2, abs=0.03)


def test_counterfactual_occlusion_requires_its_explanation(digits: Path, tmp_path: Path) -> None:
    outcome = run(
        Request(
            model=digits / "digits-cnn.onnx",
            suite="full",
            probes=["bias.counterfactual-occlusion"],
            samples=20,
            out=tmp_path / "run",
            formats=(),
        )
    )
    (probe,) = outcome.audit["probes"]
    assert probe["status"] == "not-applicable"
    assert "explanations.occlusion" in probe["reason"]


def test_reason_names_the_columns_that_cannot_be_compared() -> None:
    frame = people(300, 2, seed=4).drop(columns="group:kind")
    frame["group:camera"] = [f"c{i % 200}" for i in range(300)]
    frame["group:site"] = "one"
    reason = Groups().conclude(records(frame, 2)).inconclusive
    assert "camera with 200, site with 1" in reason
    found = RobustnessBias().conclude(records(frame, 2, attacks_one=attack(frame, np.ones(300, bool))))
    assert "site with 1" in found.inconclusive
    alone = frame.drop(columns=["group:camera", "group:site"])
    found = RobustnessBias().conclude(records(alone, 2, attacks_one=attack(alone, np.ones(300, bool))))
    assert "name no groups" in found.inconclusive
