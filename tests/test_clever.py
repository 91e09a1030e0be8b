"""CLEVER against closed forms, SciPy's fit in double precision, and ART."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_attack, batch_of, records_of
from scipy.optimize import minimize
from scipy.stats import kstest, weibull_max, weibull_min

from auditor.algorithms.extreme_values import fit_end, fit_end_as_art
from auditor.data.dataset import Batch
from auditor.model.artefact import Artefact
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.plugins.metrics._clever_sampling import ball_points
from auditor.plugins.metrics.clever import Clever
from auditor.probes.base import Randomness

RNG = Randomness(0, "metrics.clever")
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


def classifier_of(module: torch.nn.Module, shape: tuple[int, int, int], classes: int) -> Classifier:
    def scores(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)).numpy())

    artefact = Artefact(
        format="onnx", runtime="torch", input_shape=(None, *shape), input_dtype="float32", copy=module, scores=scores
    )
    preprocessing = Preprocessing(shape=shape, mean=(0.4,), std=(0.3,))
    return DeployedModel(artefact, preprocessing, path="m", sha256="0" * 64, n_classes=classes, outputs="logits")


@pytest.fixture(scope="module")
def cnn() -> SimpleNamespace:
    """Build a random CNN of four classes and ten images."""
    torch.manual_seed(1)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 4),
    ).requires_grad_(requires_grad=False)
    module[-1].weight.mul_(8)
    classifier = classifier_of(module, (1, 8, 8), 4)
    pixels = np.random.default_rng(2).uniform(0.3, 0.7, (10, 1, 8, 8)).astype(np.float32)
    return SimpleNamespace(module=module, classifier=classifier, batch=batch_of(classifier, pixels))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("pooled", [False, True])
def test_clever_of_a_linear_model_equals_the_distance(classes: int, pooled: bool) -> None:
    """The slope is constant, so the score is margin / dual norm, to float precision."""
    rng = np.random.default_rng(classes)
    torch.manual_seed(classes)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, classes)).requires_grad_(requires_grad=False)
    classifier = classifier_of(module, (3, 4, 4), classes)
    batch = batch_of(classifier, rng.uniform(0, 1, (6, 3, 4, 4)).astype(np.float32))
    probe = Clever(
        norms=("linf", "l2", "l1"),
        batches=4,
        batch_samples=3,
        pooled=pooled,
        radius_linf=10,
        radius_l2=100,
        radius_l1=1000,
    )
    found = probe.measure(classifier, batch, RNG)
    weights = module[1].weight.double().numpy() / 0.3
    logits = module(torch.from_numpy((batch.pixels - np.float32(0.4)) / np.float32(0.3))).double().numpy()
    for row, norm, score, target in zip(
        found["row"], found["norm"], found["clever"], found["clever_target"], strict=True
    ):
        label = batch.labels[row]
        rest = [k for k in range(classes) if k != label]
        slopes = np.linalg.norm(weights[label] - weights[rest], ord=DUAL[norm], axis=1)
        exact = (logits[row, label] - logits[row, rest]) / slopes
        assert score == pytest.approx(exact.min(), rel=2e-5, abs=1e-8)
        assert target == rest[int(exact.argmin())]
    assert found["spread"].max() < 1e-4
    conclusion = probe.conclude(records_of(batch, found))
    assert [m.value for m in conclusion.metrics if m.name == "clever_fits"] == [None] * 3


def test_scores_are_capped_by_the_radius_and_exclude_misclassified_images(cnn: SimpleNamespace) -> None:
    batch = cnn.batch
    labels = np.where(np.arange(10) < 4, (batch.labels + 1) % 4, batch.labels)
    wrong = Batch(ids=batch.ids, pixels=batch.pixels, labels=labels, probabilities=batch.probabilities)
    found = Clever(batches=3, batch_samples=4, radius_linf=1e-4, radius_l2=1e-4).measure(cnn.classifier, wrong, RNG)
    assert sorted(set(found["row"])) == [4, 5, 6, 7, 8, 9]
    assert np.all(found["clever"] <= 1e-4)
    nothing = Clever().measure(cnn.classifier, wrong.take([0, 1]), RNG)
    assert {len(column) for column in nothing.values()} == {0}
    assert "the model misclassifies all images" in Clever().conclude(records_of(wrong, nothing)).inconclusive


def ball(rng: np.random.Generator, norm: str, radius: float, shape: tuple[int, int]) -> np.ndarray:
    """Draw points of a ball by other formulas than the probe's."""
    if norm == "linf":
        return rng.uniform(-radius, radius, shape)
    n, d = shape
    if norm == "l2":
        x = rng.normal(size=shape)
        return x / np.linalg.norm(x, axis=1, keepdims=True) * radius * rng.random((n, 1)) ** (1 / d)
    corners = np.sort(rng.random(shape), axis=1)
    return np.diff(corners, axis=1, prepend=0) * rng.choice([-1, 1], shape) * radius


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_points_are_uniform_in_the_ball(norm: str) -> None:
    """Length and coordinates have the distribution of another construction; the chunk size does not matter."""
    batch = Batch(
        ids=("a",),
        pixels=np.full((1, 1, 1, 3), 0.5, dtype=np.float32),
        labels=np.zeros(1, dtype=np.int64),
        probabilities=np.ones((1, 2), dtype=np.float32),
    )

    def offsets(chunk: int) -> np.ndarray:
        chunks = ball_points(batch, RNG, norm, 0.4, n=4000, chunk=chunk)
        return np.concatenate(list(chunks)).reshape(-1, 3) - 0.5

    ours = offsets(700)
    np.testing.assert_array_equal(offsets(33), ours)
    theirs = ball(np.random.default_rng(3), norm, 0.4, (4000, 3))
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    assert np.linalg.norm(ours, ord=order, axis=1).max() <= 0.4 + 1e-6
    for of in (lambda x: np.linalg.norm(x, ord=order, axis=1), lambda x: x[:, 0], lambda x: x[:, 2]):
        assert kstest(of(ours), of(theirs)).pvalue > 1e-3


@pytest.mark.parametrize("shape", [1.5, 3, 4])
def test_fit_finds_the_endpoint_of_a_known_distribution(shape: float) -> None:
    values = weibull_max.rvs(shape, loc=2, scale=0.5, size=(30, 1000), random_state=np.random.default_rng(4))
    fit = fit_end(values)
    assert np.median(fit.end) == pytest.approx(2, abs=0.05)
    assert np.median(fit.shape) == pytest.approx(shape, rel=0.1)
    assert (fit.ks > 0.05).mean() > 0.8
    other = np.random.default_rng(5).choice([1.0, 2.0], size=(5, 200))
    assert fit_end(other).ks.max() < 1e-6


def test_pooled_fit_equals_scipys() -> None:
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.gamma(3, 1, (12, 50)), 100 + rng.uniform(0, 1, (4, 50)) ** 0.3])
    fit = fit_end_as_art(values)
    with np.errstate(all="ignore"):
        laws = np.array([weibull_min.fit(-row, 1.0) for row in values])
    np.testing.assert_allclose(fit.shape, laws[:, 0], rtol=1e-9)
    np.testing.assert_allclose(fit.end, -laws[:, 1], rtol=1e-9)
    np.testing.assert_allclose(fit.scale, laws[:, 2], rtol=1e-9)


def likeliest_end(values: np.ndarray) -> float:
    """Return the endpoint of the likeliest distribution with a shape in [1, 5], by SciPy."""
    scaled = (values - values.max()) / np.ptp(values)

    def unlikely(free: np.ndarray) -> float:
        gap, shape, scale = np.exp(free)
        return -float(weibull_max.logpdf(scaled, shape, loc=gap, scale=scale).sum())

    bounds = [(np.log(1e-4), 5.0), (0.0, np.log(5)), (-5.0, 6.0)]
    fits = [
        minimize(unlikely, np.log([g, c, 0.5 + g]), method="L-BFGS-B", bounds=bounds)
        for g, c in ((0.03, 1.5), (0.3, 3))
    ]
    gap = np.exp(min(fits, key=lambda fit: fit.fun).x[0])
    return float(gap * np.ptp(values) + values.max())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_clever_is_within_3_percent_of_a_double_precision_reference(cnn: SimpleNamespace, norm: str) -> None:
    batch = cnn.batch.take(range(6))
    radius = {"linf": 0.05, "l2": 0.3, "l1": 2.0}[norm]
    probe = Clever(norms=(norm,), batches=100, batch_samples=20, **{f"radius_{norm}": radius})
    ours = probe.measure(cnn.classifier, batch, RNG)["clever"]
    model = copy.deepcopy(cnn.module).double()
    rng = np.random.default_rng(6)
    theirs = []
    for pixels, label in zip(batch.pixels.astype(np.float64), batch.labels, strict=True):
        points = (pixels.reshape(1, -1) + ball(rng, norm, radius, (2000, 64))).clip(0, 1)
        x = torch.from_numpy((points.reshape(-1, 1, 8, 8) - 0.4) / 0.3).requires_grad_()
        clean = model(torch.from_numpy((pixels[None] - 0.4) / 0.3))[0]
        scores = []
        for k in set(range(4)) - {int(label)}:
            logits = model(x)
            (slope,) = torch.autograd.grad((logits[:, label] - logits[:, k]).sum(), x)
            slopes = np.linalg.norm(slope.numpy().reshape(2000, -1) / 0.3, ord=DUAL[norm], axis=1)
            end = likeliest_end(slopes.reshape(100, 20).max(axis=1))
            scores.append(min(float(clean[label] - clean[k]) / end, radius))
        theirs.append(min(scores))
    assert np.median(ours / np.array(theirs)) == pytest.approx(1, abs=0.03)


def test_pooled_clever_has_the_distribution_of_arts(cnn: SimpleNamespace) -> None:
    from art.estimators.classification import PyTorchClassifier
    from art.metrics import clever_u

    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return cnn.module((x - 0.4) / 0.3)

    theirs = PyTorchClassifier(Scaled(), torch.nn.CrossEntropyLoss(), (1, 8, 8), 4, clip_values=(0, 1))
    np.random.seed(0)
    subset = cnn.batch.take(range(5))
    with np.errstate(all="ignore"):
        art = np.array([clever_u(theirs, image, 30, 8, 0.3, 2, verbose=False) for image in subset.pixels])
    probe = Clever(norms=("l2",), batches=30, batch_samples=8, radius_l2=0.3, pooled=True)
    ours = probe.measure(cnn.classifier, subset, RNG)["clever"]
    # SciPy's fit sometimes diverges to an endpoint of millions, in both, so medians are compared
    assert np.median(ours) == pytest.approx(np.median(art), rel=0.05)
    assert np.median(ours / np.maximum(art, 1e-6)) == pytest.approx(1, abs=0.05)


def attack(batch: Batch, distances: list[float]) -> pd.DataFrame:
    clean = pd.DataFrame({"image_id": batch.ids, "epsilon": 0.0, "linf": 0.0, "success": False})
    hits = clean.assign(epsilon=0.5, linf=distances, success=np.isfinite(distances))
    return as_attack(pd.concat([clean, hits]))


def test_scores_are_compared_with_attack_distances() -> None:
    batch = Batch(
        ids=tuple("abcd"),
        pixels=np.zeros((4, 1, 1, 1), dtype=np.float32),
        labels=np.zeros(4, dtype=np.int64),
        probabilities=np.ones((4, 3), dtype=np.float32),
    )
    score = np.array([0.1, 0.2, 0.3, 0.3])
    aims = ("clever_runner_up", "clever_random", "clever_least_likely", "clever_target")
    rest = (*aims, "spread", "ks", "shape", "slope", "margin")
    columns = {"row": np.arange(4), "norm": np.full(4, "linf"), "clever": score, **dict.fromkeys(rest, np.zeros(4))}
    attacks = {"attacks.any": attack(batch, [0.15, 0.25, 0.25, np.inf])}
    conclusion = Clever().conclude(records_of(batch, columns, others=attacks))
    found = {m.name: m for m in conclusion.metrics}
    assert found["clever_median"].value == pytest.approx(0.25)
    assert (found["clever_below_distance"].value, found["clever_below_distance"].n) == (pytest.approx(2 / 3), 3)
    assert found["clever_at_radius"].value == 0.5
    [finding] = conclusion.findings
    assert "all other classes" in finding.statement
    assert [len(cloud.points) for cloud in finding.evidence[0].series] == [2, 1]
    without_attacks = {m.name: m for m in Clever().conclude(records_of(batch, columns)).metrics}
    assert (without_attacks["clever_below_distance"].value, without_attacks["clever_below_distance"].n) == (None, 0)


@pytest.mark.parametrize("pooled", [False, True])
def test_smaller_pairs_score_as_on_their_own(cnn: SimpleNamespace, pooled: bool) -> None:
    settings: dict[str, Any] = {"norms": ("linf", "l2"), "pooled": pooled, "pool_factor": 3}
    several = Clever(batches=6, batch_samples=40, smaller=((3, 4), (5, 20)), **settings)
    both = several.measure(cnn.classifier, cnn.batch, RNG)
    for batches, samples in several.smaller:
        single = Clever(batches=batches, batch_samples=samples, **settings).measure(cnn.classifier, cnn.batch, RNG)
        np.testing.assert_allclose(both[f"clever_{batches}x{samples}"], single["clever"], rtol=1e-5)
    conclusion = several.conclude(records_of(cnn.batch, both, others={"attacks.any": attack(cnn.batch, [1e-9] * 10)}))
    medians = {tuple(m.at.values()): m.value for m in conclusion.metrics if m.name == "clever_median"}
    score = both["clever_5x20"][both["norm"] == "l2"]
    assert medians["l2", 5, 20] == pytest.approx(np.median(score))
    assert len(medians) == 6
    below = [m for m in conclusion.metrics if m.name == "clever_below_distance" and m.at["norm"] == "linf"]
    assert [(m.value, m.n) for m in below] == [(0.0, len(score))] * 3
    assert "by the number of batches and samples" in conclusion.findings[0].evidence[-1].title


@pytest.mark.parametrize(
    "settings",
    [
        {"norms": ("l3",)},
        {"norms": ()},
        {"batches": 1},
        {"targets": 0},
        {"radius_l1": 0.0},
        {"smaller": ((1, 5),)},
        {"smaller": ((100, 100),)},
        {"pool_factor": 0},
    ],
    ids=str,
)
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        Clever(**settings)
