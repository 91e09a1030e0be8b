"""Bounds of the adversarial distance and small metrics: known answers, contradictions, no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_attack, batch_of, records
from scipy.stats import binomtest, norm

from auditor.findings.encoding import plain
from auditor.model.artefact import Artefact
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.model.scores import softmax
from auditor.plugins.metrics.bounds import Bounds
from auditor.plugins.metrics.empirical_robustness import EmpiricalRobustness
from auditor.plugins.metrics.loss_sensitivity import LossSensitivity
from auditor.plugins.metrics.smoothing import Smoothing
from auditor.policy.rules import read_policy
from auditor.policy.verdict import judge
from auditor.probes.base import Randomness

RNG = Randomness(0, "test")
SHAPE = (1, 4, 4)


def linear(classes: int, seed: int = 0) -> tuple[Classifier, np.ndarray]:
    """Build a classifier with logits = weights @ pixels, with a differentiable copy; return it and the weights."""
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes, bias=False))
    weights = np.random.default_rng(seed).normal(size=(classes, 16)).astype(np.float32)
    module[1].load_state_dict({"weight": torch.from_numpy(weights)})
    artefact = Artefact(
        format="onnx",
        runtime="numpy",
        input_shape=(None, *SHAPE),
        input_dtype="float32",
        copy=module,
        scores=lambda x: x.reshape(len(x), -1) @ weights.T,
    )
    return DeployedModel(
        artefact, Preprocessing(shape=SHAPE), path="m", sha256="0" * 64, n_classes=classes, outputs="logits"
    ), weights


def grey_images(n: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.3, 0.7, (n, *SHAPE)).astype(np.float32)


def attack(distances: dict[str, float], kind: str = "linf") -> pd.DataFrame:
    clean = pd.DataFrame({"image_id": list(distances), "epsilon": 0.0, kind: 0.0, "success": False})
    hits = clean.assign(epsilon=0.5, success=[np.isfinite(d) for d in distances.values()])
    hits[kind] = list(distances.values())
    return as_attack(pd.concat([clean, hits]), norm=kind)


def numbers_of(conclusion: Any) -> dict[str, Any]:
    return {m.name: m for m in conclusion.metrics}


def conclude_bounds(certified: list[float], clever: list[float], found: list[float], **signs: list[float]) -> Any:
    ids = list("abcd")
    trust = {"ks": [0.5] * 4, "shape": [2.0] * 4, "spread": [0.1] * 4, "slope": [2.0] * 4} | signs
    trust = {"margin": [2.0 * score for score in clever]} | trust
    return Bounds().conclude(
        records(
            pd.DataFrame({"image_id": ids}),
            others={
                "attacks.x": attack(dict(zip(ids, found, strict=True))),
                "metrics.certified": pd.DataFrame({"image_id": ids, "norm": "linf", "radius": certified}),
                "metrics.clever": pd.DataFrame({"image_id": ids, "norm": "linf", "clever": clever, **trust}),
            },
        )
    )


def judged(conclusion: Any) -> dict[str, Any]:
    return judge(
        {
            "id": "metrics.bounds",
            "status": "informative",
            "metrics": plain(conclusion.metrics),
            "metric_specs": plain(Bounds.metrics),
            "findings": plain(conclusion.findings),
        },
        read_policy("default"),
    )


def test_consistent_bounds_have_no_contradiction() -> None:
    conclusion = conclude_bounds([0.01, 0.02, 0.03, 0.0], [0.05, 0.05, 0.3, 0.1], [0.1, 0.2, 0.3, np.inf])
    found = numbers_of(conclusion)
    assert found["certificate_contradicted"].value == 0
    assert found["certificate_contradicted"].n == 4
    assert found["clever_contradicted"].value == 0
    assert found["bracket_ratio_median"].value == pytest.approx(10)
    [finding] = conclusion.findings
    table = finding.evidence[-1]
    assert table.columns[1:4] == ["lower bound: certified", "estimate: CLEVER", "upper bound: found"]
    assert table.rows[0] == ["a", 0.01, 0.05, 0.1, "attacks.x"]
    assert table.rows[-1] == ["d", 0.0, 0.1, None, "–"]
    upper, lower = finding.evidence[0].series
    assert [p.y for p in upper.points] == [1, 0.75, 0.5, 0.25]
    assert [p.y for p in lower.points] == [1, 0.75, 0.5, 0.25]
    assert [p.x for p in lower.points] == [0, 0.01, 0.02, 0.03]
    assert judged(conclusion)["status"] == "pass"


def test_certificate_above_a_perturbation_found_is_critical_and_named() -> None:
    conclusion = conclude_bounds([0.01, 0.21, 0.03, 0.0], [0.05, 0.05, 0.4, 0.1], [0.1, 0.2, 0.3, np.inf])
    found = numbers_of(conclusion)
    assert found["certificate_contradicted"].value == 1
    assert found["clever_contradicted"].value == 1
    [finding] = conclusion.findings
    assert "1 of 4 images" in finding.statement
    assert "(b)" in finding.statement
    assert [table.rows[0][0] for table in finding.evidence[1:3]] == ["b", "c"]
    record = judged(conclusion)
    assert (record["status"], record["severity"]) == ("fail", "critical")
    assert judged(conclude_bounds([np.nan] * 4, [0.1] * 4, [0.2] * 4))["status"] == "inconclusive"


def test_clever_contradiction_lists_signs_of_uncertainty() -> None:
    conclusion = conclude_bounds(
        [0.0] * 4, [0.3, 0.3, 0.21, 0.3], [0.1, 0.1, 0.2, 0.1], ks=[0.5, 0.01, 0.5, 0.5], shape=[2.0, 2.0, 2.0, 5.0]
    )
    found = numbers_of(conclusion)
    assert (found["clever_contradicted"].value, found["clever_unexplained"].value) == (4, 1)
    [finding] = conclusion.findings
    assert "on 4 of 4 images, on 1 of them without a sign" in finding.statement
    table = next(item for item in finding.evidence if "CLEVER score above" in item.title)
    signs = {row[0]: row[-1] for row in table.rows}
    assert signs["a"] == "none: random points missed the slope towards the error"
    assert "does not fit" in signs["b"]
    assert signs["c"] == "the halves of the sample differ (10 %)"
    assert "do not determine their endpoint" in signs["d"]
    assert [row[4] for row in table.rows if row[0] == "a"] == [pytest.approx(3)]
    assert (
        "the distribution does not fit its largest slopes on 1, its largest slopes do not determine their endpoint on"
        " 1, the halves of the sample differ on 1, random points missed the slope towards the error on 1: there the"
        " margin falls 3 times as fast"
    ) in finding.statement


def test_clever_score_at_the_radius_is_explained_by_it() -> None:
    # the margin allows twice the score, so the radius of the ball limits it
    conclusion = conclude_bounds([0.0] * 4, [0.3] * 4, [0.1] * 4, margin=[1.2, 0.6, 0.6, 0.6])
    [finding] = conclusion.findings
    assert numbers_of(conclusion)["clever_unexplained"].value == 3
    assert "the score is the radius of the sampled ball on 1" in finding.statement


def test_no_bounds_or_no_attacks_is_inconclusive() -> None:
    frame = pd.DataFrame({"image_id": ["a"]})
    for others in ({}, {"attacks.x": attack({"a": 0.1})}):
        conclusion = Bounds().conclude(records(frame, others=others))
        assert "no image has both an attack and a certificate" in conclusion.inconclusive


def test_loss_sensitivity_of_a_linear_model_equals_its_closed_form() -> None:
    """The gradient of a linear model is (p - 1[label]) weights."""
    classifier, weights = linear(3)
    batch = batch_of(classifier, grey_images(7))
    found = LossSensitivity().measure(classifier, batch, RNG)
    p = softmax(batch.pixels.reshape(7, -1) @ weights.T).astype(np.float64)
    p[np.arange(7), batch.labels] -= 1
    slopes = p @ weights.astype(np.float64)
    np.testing.assert_allclose(found["l2"], np.linalg.norm(slopes, axis=1), rtol=1e-4)
    np.testing.assert_allclose(found["l1"], np.abs(slopes).sum(axis=1), rtol=1e-4)
    single = LossSensitivity().measure(classifier, batch.take([3]), RNG)
    np.testing.assert_allclose(single["l2"][0], found["l2"][3], rtol=1e-5)
    frame = pd.DataFrame({"image_id": batch.ids, "label": batch.labels, "prediction": batch.labels, **found})
    metrics = numbers_of(LossSensitivity().conclude(records(frame)))
    assert metrics["loss_sensitivity_mean"].value == pytest.approx(np.linalg.norm(slopes, axis=1).mean(), rel=1e-4)
    assert metrics["loss_flat"].value == 0


def test_empirical_robustness_is_reported_with_the_success_rate() -> None:
    frame = pd.DataFrame(
        {"image_id": list("abc"), "linf": [0.5, 1.0, 1.0], "l2": [2.0, 2.0, 2.0], "l1": [9.0, 9.0, 9.0]}
    )
    conclusion = EmpiricalRobustness().conclude(
        records(
            frame,
            others={
                "attacks.x": attack({"a": 0.1, "b": 0.3, "c": np.inf}, "linf"),
                "attacks.y": attack({"a": np.inf}, "l2"),
            },
        )
    )
    found = {(m.name, m.at["norm"]): m for m in conclusion.metrics}
    assert found["empirical_robustness", "linf"].value == pytest.approx((0.1 / 0.5 + 0.3 / 1.0) / 2)
    assert found["attack_success_rate", "linf"].value == pytest.approx(2 / 3)
    assert found["empirical_robustness", "l2"].value is None
    assert found["attack_success_rate", "l2"].value == 0
    assert "66.7 %" in conclusion.findings[0].statement
    never = EmpiricalRobustness().conclude(records(frame, others={"attacks.x": attack({"a": np.inf})}))
    assert never.inconclusive
    assert [m.value for m in never.metrics if m.name == "empirical_robustness"] == [None]


def test_smoothing_of_a_linear_model_equals_its_closed_form() -> None:
    """With two classes only noise along the normal matters, so the true radius is the distance to the boundary."""
    rng = np.random.default_rng(3)
    normal = rng.normal(size=16).astype(np.float32)

    def scores(x: np.ndarray) -> np.ndarray:
        along = (x.reshape(len(x), -1) - 0.5) @ normal
        return np.stack([0 * along, along], axis=1)

    artefact = Artefact(
        format="onnx", runtime="numpy", input_shape=(None, *SHAPE), input_dtype="float32", scores=scores
    )
    classifier = DeployedModel(
        artefact, Preprocessing(shape=SHAPE), path="m", sha256="0" * 64, n_classes=2, outputs="logits"
    )
    batch = batch_of(classifier, grey_images(12))
    probe = Smoothing(sigmas=(0.08,), selection=50, draws=2000)
    found = probe.measure(classifier, batch, RNG)
    distance = np.abs((batch.pixels.reshape(12, -1) - 0.5) @ normal) / np.linalg.norm(normal)
    share = norm.cdf(distance / 0.08)
    assert np.all(found["radius"] <= distance + 1e-9)
    certain = found["smoothed_prediction"] >= 0
    np.testing.assert_array_equal(found["smoothed_prediction"][certain], batch.labels[certain])
    for hits, radius in zip(found["hits"][certain], found["radius"][certain], strict=True):
        low = binomtest(int(hits), 2000, alternative="greater").proportion_ci(1 - probe.alpha, method="exact").low
        assert radius == pytest.approx(0.08 * norm.ppf(low), abs=1e-9)
    np.testing.assert_allclose(found["hits"] / 2000, share, atol=0.04)
    wrong = pd.DataFrame(
        {
            "image_id": batch.ids,
            "label": 1 - batch.labels,
            "prediction": batch.labels,
            **{k: v for k, v in found.items() if k != "row"},
        }
    )
    right = wrong.assign(label=batch.labels)
    assert numbers_of(probe.conclude(records(wrong)))["smoothed_accuracy"].value == 0
    assert numbers_of(probe.conclude(records(right)))["smoothed_accuracy"].value == pytest.approx(certain.mean())
    with pytest.raises(ValueError, match="sigma"):
        Smoothing(sigmas=())


def test_no_certificate_contradicts_an_attack_on_digits(digits: Path, tmp_path: Path) -> None:
    from auditor.run.request import Request
    from auditor.run.session import run

    suite = tmp_path / "suite.toml"
    suite.write_text(
        """
        probes = ["attacks.pgd", "metrics.*"]
        settings."attacks.pgd" = { epsilons = [0.1, 0.3], l2_epsilons = [1.0], l1_epsilons = [], iterations = 5 }
        settings."metrics.clever" = { batches = 4, batch_samples = 8, samples = 4 }
        settings."metrics.smoothing" = { draws = 20, selection = 10 }
        settings."metrics.certified" = { iterations = 4, samples = 2 }
        """
    )
    request = Request(model=digits / "digits-cnn.onnx", suite=str(suite), samples=12, out=tmp_path / "run", formats=())
    probes = {p["id"]: p for p in run(request).audit["probes"]}
    assert [p["id"] for p in probes.values() if p["status"] == "error"] == []
    found = {(m["name"], m["at"]["norm"]): m for m in probes["metrics.bounds"]["metrics"]}
    assert found["certificate_contradicted", "linf"]["value"] == 0
    assert found["certificate_contradicted", "linf"]["n"] == 2
    assert found["certificate_contradicted", "l2"]["value"] == 0
    assert found["clever_contradicted", "linf"]["n"] > 0
    assert found["bracket_ratio_median", "linf"]["value"] > 1
    smallest = next(m for m in probes["metrics.certified"]["metrics"] if m["name"] == "certified_accuracy")
    assert smallest["at"] == {"norm": "linf", "epsilon": pytest.approx(0.5 / 255, rel=1e-4)}
    assert smallest["value"] > 0.8
    assert probes["metrics.bounds"]["status"] == "pass"
