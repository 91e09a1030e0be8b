"""Attacks, corruptions, statistics and metrics against closed forms, other libraries and published tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import MetricFrame
from helpers import batch_of, metrics_of, records_of
from scipy.stats import binomtest, norm
from sklearn import metrics as sk

from auditor import Level, statistics
from auditor.algorithms.art import ArtClassifier
from auditor.data.dataset import Batch
from auditor.model.artefact import Artefact
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.model.scores import softmax
from auditor.plugins.attacks.fgsm import Fgsm
from auditor.plugins.attacks.noise import Noise
from auditor.plugins.attacks.occlusion import Occlusion
from auditor.plugins.bias.groups import Groups
from auditor.plugins.explanations.occlusion import OcclusionMap
from auditor.plugins.metrics.loss_sensitivity import LossSensitivity
from auditor.plugins.performance._confusion_metrics import CONFUSION_METRICS
from auditor.plugins.performance.accuracy import Accuracy
from auditor.probes.attack import breaking_epsilon
from auditor.probes.base import Example, Magnified, Randomness
from auditor.probes.perturbation import example_pictures, shrink_to_budget

RNG = Randomness(0, "test")
EXAMPLES = pd.DataFrame({"example": []})


def linear(weights: np.ndarray, bias: np.ndarray, shape: tuple[int, int, int], **how: Any) -> Classifier:
    """Build a classifier with logits = weights (k, c*h*w) @ pixels + bias (k,), with a differentiable copy."""
    copy = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(weights.shape[1], len(bias)))
    copy[1].load_state_dict({"weight": torch.tensor(weights), "bias": torch.tensor(bias)})
    artefact = Artefact(
        format="onnx",
        runtime="numpy",
        input_shape=(None, *shape),
        input_dtype="float32",
        copy=copy,
        scores=lambda x: x.reshape(len(x), -1) @ weights.T + bias,
    )
    return DeployedModel(
        artefact,
        Preprocessing(shape=shape, **how),
        path="linear",
        sha256="0" * 64,
        n_classes=len(bias),
        outputs="logits",
    )


@pytest.fixture(params=[2, 3, 10], ids="{} classes".format)
def random_linear(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Build a random linear model, and images so far from 0 and 1 that no perturbation is clipped."""
    rng = np.random.default_rng(request.param)
    shape = (3, 4, 5)
    weights = rng.normal(size=(request.param, 60)).astype(np.float32) / 4
    bias = rng.normal(size=request.param).astype(np.float32) / 10
    pixels = rng.uniform(0.3, 0.7, (50, *shape)).astype(np.float32)
    classifier = linear(weights, bias, shape)
    batch = batch_of(classifier, pixels)
    # a fifth of the labels is wrong, so that images are misclassified without an attack
    labels = np.where(np.arange(50) % 5 == 0, (batch.labels + 1) % request.param, batch.labels)
    return SimpleNamespace(
        weights=weights.astype(np.float64),
        bias=bias.astype(np.float64),
        classifier=classifier,
        batch=batch_of(classifier, pixels, labels),
    )


def gradient(model: SimpleNamespace, batch: Batch) -> np.ndarray:
    """Return the gradient of the margin: weights of the best other class less those of the label, (n, c*h*w)."""
    logits = batch.pixels.reshape(len(batch), -1).astype(np.float64) @ model.weights.T + model.bias
    logits[np.arange(len(batch)), batch.labels] = -np.inf
    return model.weights[logits.argmax(axis=1)] - model.weights[batch.labels]


def cross_entropy_gradient(model: SimpleNamespace, batch: Batch) -> np.ndarray:
    """Return the gradient of the cross-entropy: sum of (probability - 1[label]) weights, (n, c*h*w)."""
    x = batch.pixels.reshape(len(batch), -1).astype(np.float64)
    p = np.exp(x @ model.weights.T + model.bias)
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(batch)), batch.labels] -= 1
    return p @ model.weights


def step(slope: np.ndarray, kind: str) -> np.ndarray:
    return np.sign(slope) if kind == "linf" else slope / np.linalg.norm(slope, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("kind", "epsilon"), [("linf", 0.01), ("linf", 8 / 255), ("linf", 0.2), ("l2", 0.1), ("l2", 0.5)]
)
def test_fgsm_equals_its_closed_form(random_linear: SimpleNamespace, kind: str, epsilon: float) -> None:
    batch = random_linear.batch
    found = Fgsm().perturbed(random_linear.classifier, batch, RNG, {"norm": kind, "epsilon": epsilon})
    expected = batch.pixels + epsilon * step(gradient(random_linear, batch), kind).reshape(batch.pixels.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    size = (found - batch.pixels).reshape(len(batch), -1).astype(np.float64)
    sizes = np.abs(size).max(axis=1) if kind == "linf" else np.linalg.norm(size, axis=1)
    np.testing.assert_allclose(sizes, epsilon, rtol=1e-5)


@pytest.mark.parametrize("margin", [1, 17, 40])
def test_fgsm_equals_its_closed_form_at_any_confidence(margin: float) -> None:
    """In float32 the usual gradient, p - 1 for the label, is 0 above margin 17, and the step is wrong."""
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=np.float32)
    classifier = linear(weights, np.array([margin, 0, 0], dtype=np.float32), (1, 2, 2))
    batch = batch_of(classifier, np.full((1, 1, 2, 2), 0.5, dtype=np.float32))
    found = Fgsm().perturbed(classifier, batch, RNG, {"norm": "l2", "epsilon": 0.1})
    expected = 0.5 + 0.1 * np.array([-2, 1, 1, 0]) / math.sqrt(6)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)


def test_loss_gradient_of_art_has_the_direction_of_the_margin(random_linear: SimpleNamespace) -> None:
    batch = random_linear.batch
    found = ArtClassifier(random_linear.classifier).loss_gradient(batch.pixels, batch.labels).reshape(len(batch), -1)
    np.testing.assert_allclose(step(found, "l2"), step(gradient(random_linear, batch), "l2"), rtol=1e-4, atol=1e-6)


def test_loss_sensitivity_is_that_of_cross_entropy(random_linear: SimpleNamespace) -> None:
    batch = random_linear.batch
    found = LossSensitivity().measure(random_linear.classifier, batch, RNG)
    expected = cross_entropy_gradient(random_linear, batch)
    np.testing.assert_allclose(found["l2"], np.linalg.norm(expected, axis=1), rtol=1e-4)
    np.testing.assert_allclose(found["l1"], np.abs(expected).sum(axis=1), rtol=1e-4)


def test_fgsm_accuracy_at_each_epsilon_equals_the_closed_form(random_linear: SimpleNamespace) -> None:
    model, batch = random_linear, random_linear.batch
    probe = Fgsm(epsilons=(0.001, 0.003, 0.01, 0.03, 0.1), l2_epsilons=(0.01, 0.03, 0.1, 0.3))
    conclusion = probe.conclude(records_of(batch, probe.measure(model.classifier, batch, RNG)))
    robust = metrics_of(conclusion, "robust_accuracy")
    success = metrics_of(conclusion, "attack_success_rate")
    slope = gradient(model, batch)
    x = batch.pixels.reshape(len(batch), -1).astype(np.float64)
    correct = batch.predictions == batch.labels
    assert 0 < correct.sum() < len(batch)
    for kind, epsilons in (("linf", probe.epsilons), ("l2", probe.l2_epsilons)):
        misclassified = ~correct
        assert robust[kind, 0.0].value == correct.mean()
        for epsilon in epsilons:
            answer = ((x + epsilon * step(slope, kind)) @ model.weights.T + model.bias).argmax(axis=1)
            misclassified = misclassified | (answer != batch.labels)
            assert robust[kind, epsilon].value == pytest.approx(1 - misclassified.mean())
            assert success[kind, epsilon].value == pytest.approx((misclassified & correct).sum() / correct.sum())
            assert (robust[kind, epsilon].n, success[kind, epsilon].n) == (len(batch), correct.sum())
        assert misclassified.sum() > (~correct).sum(), "the sweep must reach epsilons at which the attack succeeds"


def test_fgsm_on_two_classes_succeeds_exactly_within_epsilon() -> None:
    """The distance to a plane is |margin| / ||w||_1 in L-inf, |margin| / ||w||_2 in L2."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=48).astype(np.float32)
    classifier = linear(np.stack([w, -w]) / 2, np.array([-w.sum() / 4, w.sum() / 4], dtype=np.float32), (3, 4, 4))
    batch = batch_of(classifier, rng.uniform(0.35, 0.65, (200, 3, 4, 4)).astype(np.float32))
    margin = np.abs((batch.pixels.reshape(200, -1).astype(np.float64) - 0.5) @ w)
    probe = Fgsm(epsilons=(0.002, 0.008, 0.02), l2_epsilons=(0.02, 0.06, 0.2))
    conclusion = probe.conclude(records_of(batch, probe.measure(classifier, batch, RNG)))
    robust = metrics_of(conclusion, "robust_accuracy")
    for kind, dual, epsilons in (("linf", 1, probe.epsilons), ("l2", 2, probe.l2_epsilons)):
        for epsilon in epsilons:
            assert robust[kind, epsilon].value == np.mean(margin / np.linalg.norm(w, ord=dual) > epsilon)


@pytest.mark.parametrize(
    "how", [{"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}, {"range": (0.0, 255.0)}, {"order": "bgr"}], ids=str
)
def test_gradient_includes_the_preprocessing(how: dict[str, Any]) -> None:
    """Epsilon is in pixels: scaling and channel order change the gradient by the chain rule."""
    rng = np.random.default_rng(2)
    weights, bias = rng.normal(size=(3, 12)).astype(np.float32) / 50, np.zeros(3, dtype=np.float32)
    classifier = linear(weights, bias, (3, 2, 2), **how)
    scale = np.full(3, 255.0) if "range" in how else 1 / np.array(how.get("std", (1, 1, 1)))
    shift = -np.array(how.get("mean", (0, 0, 0))) * scale
    turned = weights.reshape(3, 3, 4)[:, ::-1] if "order" in how else weights.reshape(3, 3, 4)
    model = SimpleNamespace(
        weights=(turned * scale[None, :, None]).reshape(3, 12).astype(np.float64),
        bias=(turned * shift[None, :, None]).sum(axis=(1, 2)).astype(np.float64),
    )
    batch = batch_of(classifier, rng.uniform(0.3, 0.7, (20, 3, 2, 2)).astype(np.float32))
    for kind in ("linf", "l2"):
        found = Fgsm().perturbed(classifier, batch, RNG, {"norm": kind, "epsilon": 0.1})
        expected = batch.pixels + 0.1 * step(gradient(model, batch), kind).reshape(batch.pixels.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_shrinking_ends_on_the_ball_and_keeps_inner_images(kind: str) -> None:
    rng = np.random.default_rng(3)
    clean = rng.uniform(0, 1, (30, 3, 4, 4)).astype(np.float32)
    wild = rng.uniform(0, 1, clean.shape).astype(np.float32)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[kind]

    def sizes(images: np.ndarray) -> np.ndarray:
        return np.linalg.norm((images - clean).reshape(30, -1).astype(np.float64), ord=order, axis=1)

    budget = float(np.median(sizes(wild)))
    projected = shrink_to_budget(wild, clean, kind, budget)
    inside = sizes(wild) <= budget
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(projected[inside], wild[inside])
    np.testing.assert_allclose(sizes(projected)[~inside], budget, rtol=1e-5)
    assert projected.min() >= 0
    assert projected.max() <= 1


@pytest.mark.parametrize("name", ["uniform, by SNR", "Gaussian, by SNR"])
@pytest.mark.parametrize("snr", [50.0, 33.0, 10.0, -5.0])
def test_noise_has_the_requested_snr_before_clipping(name: str, snr: float) -> None:
    pixels = np.random.default_rng(4).uniform(0, 1, (20, 3, 8, 8)).astype(np.float32)
    classifier = linear(np.ones((2, 192), dtype=np.float32), np.zeros(2, dtype=np.float32), (3, 8, 8))
    batch = batch_of(classifier, pixels)
    noisy = Noise().perturb(classifier, batch, RNG, {"noise": name, "snr": snr})
    delta = (noisy.astype(np.float64) - pixels).reshape(20, -1)
    signal = pixels.reshape(20, -1).astype(np.float64)
    found = 20 * np.log10(np.linalg.norm(signal, axis=1) / np.linalg.norm(delta, axis=1))
    np.testing.assert_allclose(found, snr, atol=2e-3)


def test_recorded_snr_and_norms_are_those_of_the_clipped_image() -> None:
    pixels = np.random.default_rng(5).uniform(0, 1, (20, 1, 8, 8)).astype(np.float32)
    classifier = linear(np.ones((2, 64), dtype=np.float32), np.zeros(2, dtype=np.float32), (1, 8, 8))
    batch = batch_of(classifier, pixels)
    probe = Noise(epsilons=(), sigmas=(0.5,), snrs=())
    level: Level = {"noise": "Gaussian", "sigma": 0.5}
    delta = (probe.perturbed(classifier, batch, RNG, level) - pixels).reshape(20, -1).astype(np.float64)
    columns = probe.measure(classifier, batch, RNG)
    np.testing.assert_allclose(columns["l2"], np.linalg.norm(delta, axis=1))
    np.testing.assert_allclose(columns["linf"], np.abs(delta).max(axis=1))
    np.testing.assert_allclose(columns["l1"], np.abs(delta).sum(axis=1))
    signal = np.linalg.norm(pixels.reshape(20, -1).astype(np.float64), axis=1)
    np.testing.assert_allclose(columns["snr_db"], 20 * np.log10(signal / columns["l2"]))


def test_noise_has_the_requested_spread() -> None:
    pixels = np.full((40, 3, 16, 16), 0.5, dtype=np.float32)
    classifier = linear(np.ones((2, 768), dtype=np.float32), np.zeros(2, dtype=np.float32), (3, 16, 16))
    batch = batch_of(classifier, pixels)
    uniform = Noise().perturb(classifier, batch, RNG, {"noise": "uniform", "epsilon": 0.1}) - 0.5
    gaussian = Noise().perturb(classifier, batch, RNG, {"noise": "Gaussian", "sigma": 0.1}) - 0.5
    assert 0.0999 < np.abs(uniform).max() <= 0.1 + 1e-7
    assert uniform.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.01)
    assert gaussian.std() == pytest.approx(0.1, rel=0.01)
    assert not np.array_equal(gaussian[0], gaussian[1]), "each image has its own noise"


def one_pixel(row: int, column: int) -> Classifier:
    """Build a classifier that returns class 1 if the pixel at (row, column) of an 8x8 image is bright."""
    weights = np.zeros((2, 8, 8), dtype=np.float32)
    weights[1, row, column] = 20
    return linear(weights.reshape(2, 64), np.array([9, 0], dtype=np.float32), (1, 8, 8))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 6), (7, 7)])
def test_occlusion_finds_the_decisive_pixel(row: int, column: int) -> None:
    classifier = one_pixel(row, column)
    batch = batch_of(classifier, np.full((4, 1, 8, 8), 0.9, dtype=np.float32))
    probe = Occlusion(block=0.25, sizes=(), steps=4, fills=("black",))
    columns = probe.measure(classifier, batch, RNG)
    # 2x2 blocks at 0, 2, 4, 6: exactly one of the 16 positions covers the pixel
    assert columns["position"].tolist() == [4 * (row // 2) + column // 2] * 4
    sigma = 1 / (1 + math.exp(-9)) - 1 / (1 + math.exp(9))
    np.testing.assert_allclose(columns["drop"], sigma, rtol=1e-5)
    np.testing.assert_allclose(columns["control_drop"], 0, atol=1e-7)
    assert columns["misclassified"].all()
    assert not columns["control_misclassified"].any()
    robust = metrics_of(probe.conclude(records_of(batch, columns)), "robust_accuracy")
    assert [metric.value for metric in robust.values()] == [0, 0]


def test_effect_of_occlusion_depends_on_the_fill() -> None:
    classifier = one_pixel(2, 2)
    batch = batch_of(classifier, np.full((2, 1, 8, 8), 0.9, dtype=np.float32))
    columns = Occlusion(block=0.25, sizes=(), steps=4).measure(classifier, batch, RNG)
    misclassified = dict(zip(columns["fill"].tolist(), columns["misclassified"].tolist(), strict=True))
    assert misclassified == {"white": False, "black": True, "grey": False, "mean": False}


def test_occlusion_curve_has_accuracy_by_size_and_control() -> None:
    """Every block size can cover the decisive pixel; the control covers another place."""
    classifier = one_pixel(0, 0)
    batch = batch_of(classifier, np.full((5, 1, 8, 8), 0.9, dtype=np.float32))
    probe = Occlusion(block=0.25, sizes=(0.125, 0.5), steps=4, fills=("black", "white"))
    columns = probe.measure(classifier, batch, RNG)
    assert len(columns["row"]) == 5 * 3 * 2
    conclusion = probe.conclude(records_of(batch, columns))
    found = {tuple(m.at.values()): m.value for m in conclusion.metrics if m.name == "robust_accuracy"}
    assert found == {
        (0.25, "any"): 0,
        (0.25, "black"): 0,
        (0.25, "white"): 1,
        (0.125, "black"): 0,
        (0.125, "white"): 1,
        (0.5, "black"): 0,
        (0.5, "white"): 1,
    }
    curve = next(e for e in conclusion.findings[0].evidence if e.title == "Accuracy against block size")
    assert {line.name: [(p.x, p.y) for p in line.points] for line in curve.series} == {
        "worst fill of each image": [(0.125, 0), (0.25, 0), (0.5, 0)],
        "black": [(0.125, 0), (0.25, 0), (0.5, 0)],
        "white": [(0.125, 1), (0.25, 1), (0.5, 1)],
        "control, mean of the fills": [(0.125, 1), (0.25, 1), (0.5, 1)],
    }


@pytest.mark.parametrize(("row", "column"), [(0, 5), (4, 4)])
def test_map_of_a_one_pixel_model_is_one_cell_and_deletion_is_immediate(row: int, column: int) -> None:
    classifier = one_pixel(row, column)
    batch = batch_of(classifier, np.full((3, 1, 8, 8), 0.9, dtype=np.float32))
    probe = OcclusionMap(grid=4, fill="black", steps=16)
    columns = probe.measure(classifier, batch, RNG)
    expected = np.zeros(16)
    before, after = 1 / (1 + math.exp(-9)), 1 / (1 + math.exp(9))
    expected[4 * (row // 2) + column // 2] = before - after
    np.testing.assert_allclose(columns["map"], np.tile(expected, (3, 1)), atol=1e-6)
    np.testing.assert_allclose(columns["deletion"], np.tile([before] + [after] * 16, (3, 1)), atol=1e-6)
    np.testing.assert_allclose(columns["insertion"], np.tile([after] + [before] * 16, (3, 1)), atol=1e-6)


def test_deletion_and_insertion_of_a_linear_model_follow_its_weights() -> None:
    """Two classes, one weight per cell, white image, black fill: the logit falls by the weights in descending order."""
    rng = np.random.default_rng(6)
    w = rng.uniform(0.1, 1, 16).astype(np.float32)
    image = np.repeat(np.repeat(w.reshape(4, 4), 2, axis=0), 2, axis=1).reshape(1, 64) / 4
    classifier = linear(np.concatenate([0 * image, image]), np.zeros(2, dtype=np.float32), (1, 8, 8))
    batch = batch_of(classifier, np.ones((1, 1, 8, 8), dtype=np.float32))
    probe = OcclusionMap(grid=4, fill="black", steps=16)
    columns = probe.measure(classifier, batch, RNG)
    down = w.sum() - np.concatenate([[0], np.cumsum(np.sort(w)[::-1])])
    up = np.concatenate([[0], np.cumsum(np.sort(w)[::-1])])
    np.testing.assert_allclose(columns["deletion"][0], 1 / (1 + np.exp(-down)), atol=1e-6)
    np.testing.assert_allclose(columns["insertion"][0], 1 / (1 + np.exp(-up)), atol=1e-6)
    found = metrics_of(probe.conclude(records_of(batch, columns)), "deletion_auc")
    curve = 1 / (1 + np.exp(-down))
    assert found[("map",)].value == pytest.approx(np.trapezoid(curve, dx=1 / 16), abs=1e-6)


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (15, 148), (1, 29), (700, 899)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.995])
def test_wilson_equals_scipy(hits: int, n: int, confidence: float) -> None:
    value, low, high = statistics.wilson(hits, n, confidence=confidence)
    expected = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert value == hits / n
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_the_published_table(hits: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    found = statistics.wilson(hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        ((56, 48), (70, 80), 0.0524, 0.3339),
        ((9, 3), (10, 10), 0.1705, 0.8090),
        ((6, 2), (7, 7), 0.0582, 0.8062),
        ((5, 0), (56, 29), -0.0381, 0.1926),
        ((0, 0), (10, 20), -0.1611, 0.2775),
        ((0, 0), (10, 10), -0.2775, 0.2775),
        ((10, 0), (10, 20), 0.6791, 1.0000),
        ((10, 0), (10, 10), 0.6075, 1.0000),
    ],
)
def test_newcombe_equals_the_published_table(
    hits: tuple[int, int], n: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10."""
    found = statistics.newcombe(hits, n)
    assert found.value == pytest.approx(hits[0] / n[0] - hits[1] / n[1])
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_newcombe_is_antisymmetric_and_widens_with_confidence() -> None:
    there, back = statistics.newcombe((9, 3), (10, 12)), statistics.newcombe((3, 9), (12, 10))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    wide = statistics.newcombe((9, 3), (10, 12), confidence=0.999)
    assert wide.low < there.low < there.high < wide.high


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.01], [0.02, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.05], [0.05]),
        ([], []),
    ],
)
def test_holm_equals_the_definition(p_values: list[float], expected: list[float]) -> None:
    """The first row is the worked example of R's p.adjust(method = "holm")."""
    assert statistics.holm(p_values) == pytest.approx(expected)


def test_no_data_is_none() -> None:
    nothing = [
        statistics.wilson(0, 0),
        statistics.newcombe((0, 1), (0, 2)),
        statistics.bootstrap([]),
        statistics.bootstrap([np.nan]),
    ]
    nothing += [statistics.bootstrap_confusion(np.zeros((2, 2), dtype=np.int64), lambda m: m[:, 0, 0])]
    nothing += [statistics.bootstrap_weighted(0, lambda w: w.sum(axis=1))]
    assert nothing == [statistics.NOTHING] * 6
    for metric in (
        statistics.proportion("a", []),
        statistics.mean("a", [], unit="1"),
        statistics.median("a", [], unit="1"),
    ):
        assert (metric.value, metric.low, metric.high, metric.n) == (None, None, None, 0)


def test_bootstrap_of_a_mean_is_the_textbook_interval() -> None:
    values = np.random.default_rng(7).exponential(size=400)
    half = norm.ppf(0.975) * values.std() / math.sqrt(400)
    for found in (
        statistics.bootstrap(values),
        statistics.bootstrap_weighted(400, lambda w: w @ values / w.sum(axis=1)),
    ):
        assert found.value == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 6)


def test_resampling_the_confusion_matrix_equals_resampling_images() -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 4, 300)
    answers = np.where(rng.random(300) < 0.7, labels, rng.integers(0, 4, 300))
    matrix = sk.confusion_matrix(labels, answers)

    def balanced(matrices: np.ndarray) -> np.ndarray:
        return (np.diagonal(matrices, axis1=1, axis2=2) / matrices.sum(axis=2)).mean(axis=1)

    def plain(draws: np.ndarray) -> np.ndarray:
        rows = draws.astype(int)
        return balanced(np.stack([sk.confusion_matrix(r[:, 0], r[:, 1], labels=range(4)) for r in rows]))

    cells = statistics.bootstrap_confusion(matrix, balanced, resamples=4000)
    images = statistics.bootstrap(np.stack([labels, answers], axis=1), plain, resamples=1500)
    assert cells.value == images.value
    width = images.high - images.low
    assert (cells.low, cells.high) == pytest.approx((images.low, images.high), abs=width / 12)


def test_median_is_infinite_only_if_most_values_are() -> None:
    minority = statistics.median("distance_median", [1.0, 2.0, 3.0, np.inf], unit="l2")
    most = statistics.median("distance_median", [1.0, np.inf, np.inf, np.inf], unit="l2")
    assert minority.value == 2.5
    assert minority.low == 1.0
    assert minority.high == np.inf
    assert most.value == np.inf
    assert not math.isnan(most.low)


def by_sklearn(labels: np.ndarray, probabilities: np.ndarray, k: int) -> dict[str, float]:
    answers = probabilities.argmax(axis=1)
    macro = {"average": "macro", "zero_division": 0}
    sides = [labels == c for c in range(k)]
    areas = [sk.roc_auc_score(y, probabilities[:, c]) for c, y in enumerate(sides) if y.any() and not y.all()]
    recalls = [np.mean(answers[labels == c] == c) for c in np.unique(labels)]
    return {
        "accuracy": sk.accuracy_score(labels, answers),
        "balanced_accuracy": float(np.mean(recalls)),
        "precision": sk.precision_score(labels, answers, **macro),
        "recall": sk.recall_score(labels, answers, **macro),
        "f1": sk.f1_score(labels, answers, **macro),
        "roc_auc": float(np.mean(areas)),
        "roc_auc_micro": sk.roc_auc_score(np.ravel(sides), np.ravel(probabilities.T)),
        "log_loss": sk.log_loss(labels, probabilities, labels=range(k)),
    }


@pytest.mark.parametrize(
    ("k", "present"), [(2, [0, 1]), (3, [0, 1, 2]), (10, list(range(10))), (10, [1, 4, 7]), (5, [0, 2, 3, 4])], ids=str
)
def test_performance_equals_scikit_learn(k: int, present: list[int]) -> None:
    rng = np.random.default_rng(k + len(present))
    labels = np.array(present)[np.arange(150) % len(present)]
    logits = rng.normal(size=(150, k)).round(1).astype(np.float32)
    logits[np.arange(150), labels] += 1
    probabilities = softmax(logits)
    found = conclude_accuracy(labels, probabilities)
    expected = by_sklearn(labels, probabilities, k)
    assert {m.name: m.value for m in found.metrics if m.name in expected} == pytest.approx(expected, abs=1e-6)
    assert all(m.low <= m.value <= m.high for m in found.metrics if m.low is not None)
    if len(present) == k:
        assert expected["balanced_accuracy"] == pytest.approx(
            sk.balanced_accuracy_score(labels, probabilities.argmax(axis=1))
        )
        if k > 2:
            assert expected["roc_auc"] == pytest.approx(
                sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
            )


def conclude_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> Any:
    batch = Batch(
        ids=tuple(f"{i:03d}" for i in range(len(labels))),
        pixels=np.zeros((len(labels), 1, 1, 1), dtype=np.float32),
        labels=labels.astype(np.int64),
        probabilities=probabilities,
    )
    columns = Accuracy().measure(None, batch, RNG)  # type: ignore[arg-type]
    return Accuracy().conclude(records_of(batch, columns))


def test_single_class_has_no_roc_auc() -> None:
    probabilities = np.tile(np.array([0.7, 0.3], dtype=np.float32), (20, 1))
    found = {m.name: m for m in conclude_accuracy(np.zeros(20, dtype=int), probabilities).metrics}
    assert found["roc_auc"].value is None
    assert found["accuracy"].value == 1


@pytest.fixture
def grouped() -> Callable[[list[str]], Any]:
    """Conclude bias.groups for 400 images with these groups and fixed correct answers."""
    rng = np.random.default_rng(9)
    labels = rng.integers(0, 3, 400)
    right = rng.random(400) < np.where(np.arange(400) % 4 == 0, 0.6, 0.9)

    def conclude(groups: list[str]) -> Any:
        answers = np.where(right, labels, (labels + 1) % 3)
        batch = Batch(
            ids=tuple(f"{i:03d}" for i in range(400)),
            pixels=np.zeros((400, 1, 1, 1), dtype=np.float32),
            labels=labels,
            probabilities=np.eye(3, dtype=np.float32)[answers],
        )
        columns = Groups().measure(None, batch, RNG)  # type: ignore[arg-type]
        return Groups().conclude(records_of(batch, columns, extra={"group:kind": groups})), right, labels

    return conclude


def test_gap_and_accuracy_by_group_equal_fairlearn(grouped: Callable[[list[str]], Any]) -> None:
    groups = ["abcd"[i % 4] for i in range(400)]
    conclusion, right, _ = grouped(groups)
    table = MetricFrame(
        metrics=sk.accuracy_score, y_true=np.ones(400, dtype=bool), y_pred=right, sensitive_features=groups
    )
    gaps = [m for m in conclusion.metrics if m.name == "accuracy_gap" and set(m.at) == {"group", "value", "against"}]
    assert max(gap.value for gap in gaps) == pytest.approx(table.difference())
    for gap in gaps:
        difference = table.by_group[gap.at["against"]] - table.by_group[gap.at["value"]]
        assert gap.value == pytest.approx(difference)
        assert 0 <= gap.low <= gap.value <= gap.high <= 1
    found = {at[1]: m.value for at, m in metrics_of(conclusion, "accuracy").items()}
    assert found == pytest.approx(dict(table.by_group))


def test_renamed_groups_have_the_same_gap(grouped: Callable[[list[str]], Any]) -> None:
    names = {"a": "zebra", "b": "yak", "c": "ox", "d": "ant"}
    before, *_ = grouped(["abcd"[i % 4] for i in range(400)])
    after, *_ = grouped([names["abcd"[i % 4]] for i in range(400)])
    numbers = [
        sorted((m.value, m.low, m.high, m.n) for m in conclusion.metrics if m.name == "accuracy_gap")
        for conclusion in (before, after)
    ]
    assert numbers[0] == numbers[1]


def test_small_groups_are_listed_and_not_compared(grouped: Callable[[list[str]], Any]) -> None:
    conclusion, right, _ = grouped(["rare" if i < 19 else "ab"[i % 2] for i in range(400)])
    gap = next(m for at, m in metrics_of(conclusion, "accuracy_gap").items() if set(at) == {"kind", "a", "b"})
    rest = right[19:]
    odd = np.arange(19, 400) % 2 == 1
    assert gap.value == pytest.approx(abs(rest[odd].mean() - rest[~odd].mean()))
    assert gap.n == 381
    statement = next(f.statement for f in conclusion.findings if f.id == "bias.groups/kind")
    assert "Too small to compare: rare (19)" in statement


def test_breaking_epsilon_is_the_smallest_success() -> None:
    rows = [
        ("wrong", 0.0, False, 1, 0),
        ("late", 0.0, False, 0, 0),
        ("never", 0.0, False, 0, 0),
        ("odd", 0.0, False, 0, 0),
        ("late", 0.1, False, 0, 0),
        ("late", 0.2, True, 0, 0),
        ("odd", 0.1, True, 0, 0),
        ("odd", 0.2, False, 0, 0),
    ]
    frame = pd.DataFrame(rows, columns=["image_id", "epsilon", "success", "prediction", "label"])
    assert breaking_epsilon(frame).tolist() == [0.0, 0.2, np.inf, 0.1]


def test_example_pictures_magnify_the_perturbation() -> None:
    classifier = linear(np.eye(2, 4, dtype=np.float32), np.zeros(2, dtype=np.float32), (1, 2, 2))
    batch = batch_of(classifier, np.array([0.6, 0.4, 0.5, 0.5], dtype=np.float32).reshape(1, 1, 2, 2))
    wish = Example(image_id="000", at={"norm": "linf", "epsilon": 0.05})
    drawn = Fgsm().draw_example(classifier, batch, RNG, wish)
    pixels, factors = drawn["perturbation"]
    assert factors == [10]
    np.testing.assert_allclose(pixels.ravel(), [0, 1, 0.5, 0.5], atol=1e-5)


@pytest.mark.parametrize(("size", "factor"), [(8 / 255, 15), (1 / 255, 127), (0.3, 1), (0.5, 1), (0.8, 0.5), (0.0, 1)])
def test_perturbations_are_magnified_by_the_largest_whole_factor_without_clipping(size: float, factor: float) -> None:
    clean = np.zeros((1, 1, 2, 2), dtype=np.float32)
    shown = example_pictures(clean, clean + np.float32(size))["perturbation"]
    assert isinstance(shown, Magnified)
    assert shown.factors == [factor]
    np.testing.assert_allclose(shown.pixels, 0.5 + size * factor, atol=1e-6)
    assert shown.pixels.max() <= 1


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25])
def test_equal_shares_have_the_interval_of_a_proportion(value: float) -> None:
    """Four images without an error prove little; a bootstrap over equal values would say 0 to 0."""
    found = statistics.mean("mce", [value] * 4, unit="fraction", share=True)
    expected = statistics.wilson(4 * value, 4)
    assert (found.value, found.low, found.high) == pytest.approx(tuple(expected))
    assert found.high - found.low > 0.4
    # other means keep the bootstrap: a difference may lie on either side of 0
    assert statistics.mean("gain", [value] * 4, unit="fraction").low == value


def test_bootstrap_of_many_classes_draws_only_filled_cells_and_contains_the_value() -> None:
    """With two images per class, resamples lack classes, so macro F1 is biased below its value."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(1000), 2)
    predictions = np.where(rng.random(2000) < 0.7, labels, rng.integers(0, 1000, 2000))
    matrix = np.zeros((1000, 1000), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    shapes: list[tuple[int, ...]] = []

    def share(matrices: Any) -> Any:
        shapes.append(matrices.shape)
        return CONFUSION_METRICS["f1"](matrices)

    found = statistics.bootstrap_confusion(matrix, share, resamples=20)
    assert max(shapes)[0] <= 4, "a block holds a few resamples: a thousand need 8 GB"
    assert found.low is not None
    assert found.low < (found.value or 0) <= (found.high or 0)
