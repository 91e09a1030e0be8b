"""The chance gate: a model that is no better than guessing fails, and everything that depends on it is inconclusive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from auditor import statistics
from auditor.findings.metric import Metric
from auditor.findings.record import ProbeRecord
from auditor.plugin import registry
from auditor.plugins.performance._confusion_metrics import CONFUSION_METRICS
from auditor.plugins.performance._guessing import compare_with_guessing
from auditor.policy.rules import builtin, read_policy
from auditor.policy.verdict import judge_all, verdict
from auditor.probes.base import Records, no_examples
from auditor.run.folder import Cost
from auditor.run.record import probe_record


def accuracy_record(labels: Any, predictions: Any, k: int) -> ProbeRecord:
    probabilities = np.full((len(labels), k), 0.01)
    probabilities[np.arange(len(labels)), predictions] = 1 - 0.01 * (k - 1)
    frame = pd.DataFrame({"image_id": [str(i) for i in range(len(labels))], "label": labels, "prediction": predictions})
    frame["confidence"], frame["probabilities"] = probabilities.max(axis=1), list(probabilities)
    classes = [f"class {i}" for i in range(k)]
    given = Records(frame=frame, examples=no_examples(), classes=classes, labelled=True)
    probe = registry.load().configure("performance.accuracy", {}, where="test")
    return probe_record(probe, Cost(), conclusion=probe.conclude(given), n=len(frame))


def passing(probe_id: str, metric: str) -> ProbeRecord:
    spec = {"name": metric, "label": metric, "better": "higher", "unit": "fraction", "bound": "upper"}
    number = {"name": metric, "value": 0.998, "low": 0.995, "high": 1.0, "n": 400, "unit": "fraction", "at": {}}
    given: Any = {"id": probe_id, "status": "informative", "severity": "none", "reason": "", "findings": []}
    return {**given, "metrics": [number], "metric_specs": [spec | {"difference": False}]}


def judged(labels: Any, predictions: Any, k: int, policy: str = "default") -> ProbeRecord:
    return judge_all([accuracy_record(labels, predictions, k)], read_policy(policy))[0]


@pytest.mark.parametrize("policy", builtin())
def test_constant_answer_fails_under_every_policy_although_it_is_right_for_95_per_cent(policy: str) -> None:
    labels = np.repeat([0, 1, 2], [380, 10, 10])
    loaded = read_policy(policy)
    others = [passing("sanity.parity", "label_agreement"), passing("explanations.occlusion", "deletion_advantage")]
    probes = judge_all([accuracy_record(labels, np.zeros(400, dtype=int), 3), *others], loaded)
    assert (probes[0]["status"], probes[0]["severity"]) == ("fail", "critical")
    assert "The model answers class 0 for every one of 400 images" in probes[0]["findings"][0]["statement"]
    assert [probe["status"] for probe in probes[1:]] == ["inconclusive", "inconclusive"]
    outcome, why = verdict(probes, loaded, [])
    assert outcome == "fail"
    assert "the model is no better than guessing" in why
    assert "1 other probe is inconclusive" in why


def test_screening_model_below_the_majority_does_not_guess() -> None:
    """Accuracy 90 % against 95 % for "always healthy", but 95 % of the sick are found: that is no guess."""
    labels = np.repeat([0, 1], [950, 50])
    predictions = labels.copy()
    predictions[:98] = 1
    predictions[950:952] = 0
    found = {metric["name"]: metric for metric in accuracy_record(labels, predictions, 2)["metrics"]}
    assert found["gain_over_majority"]["high"] < 0
    assert found["guessing_signs"]["value"] == 0


def test_few_images_are_not_enough_to_tell() -> None:
    labels = np.arange(12) % 3
    record = accuracy_record(labels, labels, 3)
    assert {m["name"]: m["value"] for m in record["metrics"]}["guessing_signs"] is None
    assert "too few images" in record["caveat"]
    assert judge_all([record], read_policy("default"))[0]["status"] == "inconclusive"


def test_images_of_one_class_cannot_show_that_the_model_does_not_guess() -> None:
    zeros = np.zeros(100, dtype=int)
    assert judged(zeros, zeros, 3)["status"] == "inconclusive"


def test_class_without_correct_answers_fails() -> None:
    labels = np.repeat([0, 1], [950, 50])
    predictions = labels.copy()
    predictions[950:] = 0
    predictions[:3] = 1
    result = judged(labels, predictions, 2)
    assert result["status"] == "fail"
    severities = {finding["id"]: finding["severity"] for finding in result["findings"]}
    assert severities["performance.accuracy/recall"] == "medium"


def signs_of_guessing(labels: Any, predictions: Any, k: int) -> float | None:
    matrix = confusion_matrix(labels, predictions, labels=np.arange(k))
    interval = statistics.bootstrap_confusion(matrix, CONFUSION_METRICS["balanced_accuracy"], resamples=200)
    balanced = Metric(name="balanced_accuracy", **interval._asdict(), n=len(labels))
    found = compare_with_guessing(labels, predictions, balanced, [str(c) for c in range(k)], "images")
    return found.metrics[0].value


@pytest.mark.parametrize(("k", "share"), [(2, 0.5), (3, 0.95), (10, 0.1)])
def test_false_alarms_of_the_gate_over_200_seeds(k: int, share: float) -> None:
    """Random answers are cleared in about 5 % of the draws; a model that knows 30 % is accused in no more than 1 %."""
    cleared = accused = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.choice(k, 400, p=[share, *np.full(k - 1, (1 - share) / (k - 1))])
        random = rng.choice(k, 400)
        cleared += signs_of_guessing(labels, random, k) == 0
        accused += signs_of_guessing(labels, np.where(rng.random(400) < 0.3, labels, random), k) == 1
    assert cleared <= 16
    assert accused <= 2


def test_tests_agree_with_scipy() -> None:
    for hits, n, share in ((0, 10, 0.1), (7, 10, 0.5), (120, 400, 0.25), (10, 10, 0.9)):
        expected = binomtest(hits, n, share, alternative="greater").pvalue
        assert statistics.binomial_greater(hits, n, share) == pytest.approx(expected, abs=1e-12)
