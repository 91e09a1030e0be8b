"""Unknown inputs and refusal: metrics against scikit-learn and closed forms, and ``--unknown`` from end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score, roc_curve

from auditor import BadInput, Table, statistics
from auditor.plugin import registry
from auditor.run.request import Request
from auditor.run.session import run

Linear = Callable[..., Path]
SHAPE = (3, 4, 4)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(3, 48))
BIAS = -WEIGHTS.sum(axis=1) / 2
"""Grey has the logits 0, so images of little contrast have a low confidence."""


def scores_with_ties(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    positive = rng.random(n) < 0.6
    return positive, np.round(rng.normal(size=n) + positive, 1)


@pytest.mark.parametrize("n", [20, 333])
def test_detection_metrics_agree_with_scikit_learn(n: int) -> None:
    positive, scores = scores_with_ties(n)
    weights = np.concatenate([np.ones((1, n)), np.random.default_rng(1).integers(0, 3, (4, n))]).astype(float)
    areas = statistics.binary_roc_auc(positive, scores, weights)
    rates = statistics.false_positive_rate(positive, scores, weights)
    for row, area, rate in zip(weights, areas, rates, strict=True):
        assert area == pytest.approx(roc_auc_score(positive, scores, sample_weight=row))
        false, true, _ = roc_curve(positive, scores, sample_weight=row, drop_intermediate=False)
        assert rate == pytest.approx(false[true >= 0.95 - 1e-9][0])


def test_false_positive_rate_counts_19_of_20_known_images_as_95_percent() -> None:
    scores = np.concatenate([np.arange(20.0), [0.5, 1.0, 30.0]])
    positive = np.arange(23) < 20
    # 1 of 0, 1, ..., 19 is the largest threshold that 19 of 20 reach; two of the others reach it
    assert statistics.threshold_at(scores[:20], np.ones((1, 20))) == [1]
    assert statistics.false_positive_rate(positive, scores, np.ones((1, 23))) == pytest.approx(2 / 3)


def test_aurc_is_the_mean_risk_over_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    confidence, wrong = np.round(rng.random(60), 2), rng.random(60) < 0.3
    by_definition = np.mean([wrong[confidence >= threshold].mean() for threshold in confidence])
    assert statistics.aurc(confidence, wrong, np.ones((1, 60))) == pytest.approx(by_definition)
    # a weight of 2 is a second copy of the image
    twice = np.r_[np.arange(60), [3, 8]]
    weights = np.bincount(twice)[None].astype(float)
    copied = statistics.aurc(confidence[twice], wrong[twice], np.ones((1, 62)))
    assert statistics.aurc(confidence, wrong, weights) == pytest.approx(copied)


def test_aurc_has_closed_forms_for_a_perfect_a_constant_and_a_reversed_confidence() -> None:
    n, errors = 4000, 1000
    wrong = np.arange(n) < errors
    ones = np.ones((1, n))
    perfect = statistics.aurc(np.arange(n) / n, wrong, ones)[0]
    assert statistics.least_aurc(0.25) == pytest.approx(0.25 + 0.75 * math.log(0.75))
    assert perfect == pytest.approx(statistics.least_aurc(0.25), abs=1e-3)
    assert statistics.aurc(np.full(n, 0.5), wrong, ones) == [0.25]
    # all errors first: risk 1 up to a coverage of 1/4, then 1/4 over the coverage
    assert statistics.aurc(-np.arange(n) / n, wrong, ones)[0] == pytest.approx(0.25 * (1 + math.log(4)), abs=1e-3)


def test_aurc_without_errors_has_the_interval_of_the_error_rate() -> None:
    found = statistics.aurc_interval(np.linspace(0, 1, 50), np.zeros(50, dtype=bool))
    assert found == statistics.wilson(0, 50)
    assert found.high is not None
    assert found.high > 0.05


def write_images(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def prepared(tmp_path: Path, linear_model: Linear) -> dict[str, Any]:
    """A linear model of logits, 60 labelled images and 45 images of no class."""
    rng = np.random.default_rng(3)
    model = linear_model(tmp_path / "model.onnx", WEIGHTS, BIAS, SHAPE)
    known = rng.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    logits = known.transpose(0, 3, 1, 2).reshape(60, -1) / 255 @ WEIGHTS.T + BIAS
    np.savez(tmp_path / "data.npz", images=known, labels=logits.argmax(axis=1))
    unknown = rng.integers(60, 196, (45, 4, 4, 3), dtype=np.uint8)
    others = unknown.transpose(0, 3, 1, 2).reshape(45, -1) / 255 @ WEIGHTS.T + BIAS
    return {
        "model": model,
        "data": tmp_path / "data.npz",
        "unknown": write_images(tmp_path / "unknown", unknown),
        "logits": np.concatenate([logits, others]),
    }


def audited(folder: Path, prepared: dict[str, Any], **options: Any) -> dict[str, Any]:
    request = Request(
        model=prepared["model"],
        data=prepared["data"],
        unknown=options.pop("unknown", prepared["unknown"]),
        probes=["performance.unknown-inputs"],
        out=folder / "run",
        formats=(),
        **options,
    )
    return run(request).audit  # type: ignore[return-value]


def metrics_of(audit: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    (probe,) = audit["probes"]
    return {(metric["name"], metric["at"]["score"]): metric for metric in probe["metrics"]}


def test_both_scores_agree_with_scikit_learn_in_batches_of_any_size(tmp_path: Path, prepared: dict[str, Any]) -> None:
    audit = audited(tmp_path, prepared, batch_size=7)
    found = metrics_of(audit)
    positive, logits = np.arange(105) < 60, prepared["logits"]
    for name, scores in {
        "maximum probability": softmax(logits, axis=1).max(axis=1),
        "energy": logsumexp(logits, axis=1),
    }.items():
        area, rate = found["unknown_auroc", name], found["unknown_fpr_at_95_tpr", name]
        assert area["value"] == pytest.approx(roc_auc_score(positive, scores), abs=1e-5)
        false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
        assert rate["value"] == pytest.approx(false[true >= 0.95][0], abs=1e-5)
        for metric in (area, rate):
            assert 0 < metric["low"] < metric["value"] <= metric["high"] <= 1
            assert metric["n"] == 105
    assert audit["data"]["unknown"]["n"] == 45
    assert audit["probes"][0]["n"] == 60
    again = audited(tmp_path / "again", prepared, batch_size=60)
    assert again["probes"][0]["metrics"] == audit["probes"][0]["metrics"]


def test_changed_unknown_images_are_measured_again(tmp_path: Path, prepared: dict[str, Any]) -> None:
    before = metrics_of(audited(tmp_path, prepared))
    other = write_images(tmp_path / "other", np.zeros((5, 4, 4, 3), dtype=np.uint8))
    after = metrics_of(audited(tmp_path, prepared, unknown=other))
    assert before["unknown_auroc", "energy"]["n"] == 105
    assert after["unknown_auroc", "energy"]["n"] == 65


def test_perfect_separation_has_an_interval(tmp_path: Path, linear_model: Linear) -> None:
    """White images get confidence 1, black ones 1/2: 20 disjoint pairs of a known and an unknown image agree."""
    weights = np.stack([np.full(48, 1.0), np.zeros(48)])
    model = linear_model(tmp_path / "model.onnx", weights, np.zeros(2), SHAPE)
    np.savez(
        tmp_path / "data.npz", images=255 - np.arange(30, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), "u1")
    )
    np.savez(tmp_path / "unknown.npz", images=np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), "u1"))
    found = metrics_of(
        audited(tmp_path, {"model": model, "data": tmp_path / "data.npz", "unknown": tmp_path / "unknown.npz"})
    )
    area, rate = found["unknown_auroc", "energy"], found["unknown_fpr_at_95_tpr", "energy"]
    wilson = statistics.wilson(20, 20)
    assert (area["value"], area["high"]) == (1, 1)
    assert area["low"] == pytest.approx(wilson.low, abs=1e-5)
    assert rate["value"] == 0
    assert rate["high"] == pytest.approx(statistics.wilson(0, 20).high, abs=1e-5)


def test_probabilities_have_no_energy_and_the_finding_says_so(
    tmp_path: Path, prepared: dict[str, Any], linear_model: Linear
) -> None:
    model = linear_model(tmp_path / "softmax.onnx", WEIGHTS, BIAS, SHAPE, softmax=True)
    audit = audited(tmp_path, {**prepared, "model": model})
    assert {name for _, name in metrics_of(audit)} == {"maximum probability"}
    statement = audit["probes"][0]["findings"][0]["statement"]
    assert "The energy was not measured: the model returns probabilities" in statement


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("missing", "no such file or folder"),
        ("same", "45 of 45 images are also part of"),
        ("empty", "found no images"),
    ],
)
def test_unusable_unknown_images_are_refused(
    tmp_path: Path, prepared: dict[str, Any], problem: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    paths = {"missing": tmp_path / "none", "same": prepared["unknown"], "empty": tmp_path / "empty"}
    options = {"data": prepared["unknown"]} if problem == "same" else {}
    with pytest.raises(BadInput, match=message):
        audited(tmp_path, {**prepared, **options}, unknown=paths[problem])


def test_option_without_its_probe_is_refused(
    tmp_path: Path, prepared: dict[str, Any], auditor_cli: Callable[..., Result]
) -> None:
    result = auditor_cli(
        "run",
        prepared["model"],
        "--data",
        prepared["data"],
        "--unknown",
        prepared["unknown"],
        "--probe",
        "performance.accuracy",
    )
    assert result.exit_code == 2
    assert "--unknown: no probe of this run uses images that belong to no class" in result.output


def test_probe_without_unknown_images_is_not_applicable(tmp_path: Path, prepared: dict[str, Any]) -> None:
    (probe,) = audited(tmp_path, prepared, unknown=None)["probes"]
    assert probe["status"] == "not-applicable"
    assert "--unknown DIR" in probe["reason"]


def test_conclusion_from_records_alone_is_the_same(tmp_path: Path, prepared: dict[str, Any]) -> None:
    from auditor.run.reconclusion import conclude_again, difference
    from auditor.run.stored import open_stored

    audited(tmp_path, prepared)
    stored = open_stored(tmp_path / "run")
    (concluded,) = conclude_again(stored, registry.load())
    published = json.loads((tmp_path / "run" / "audit.json").read_text())["probes"][0]
    assert concluded.problem == ""
    assert difference(published["metrics"], concluded.record["metrics"]) == ""


def test_threshold_table_counts_what_is_accepted() -> None:
    import pandas as pd
    from helpers import records

    from auditor.plugins.performance._risk_coverage import risk_coverage

    confidence, correct = np.array([0.99, 0.95, 0.9, 0.6, 0.4]), np.array([True, False, True, False, True])
    area, finding = risk_coverage(records(pd.DataFrame()), confidence, correct, None)
    table = next(item for item in finding.evidence if isinstance(item, Table))
    by_threshold = {row[0]: row[1:] for row in table.rows}
    coverage, accuracy, accepted, errors = by_threshold[0.9]
    assert (coverage["value"], accuracy["value"], accepted, errors) == (0.6, pytest.approx(2 / 3), 3, 1)
    # risks at the five thresholds: 0, 1/2, 1/3, 1/2, 2/5
    assert area.value == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2 + 2 / 5) / 5)
