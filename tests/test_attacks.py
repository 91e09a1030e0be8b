"""The building blocks of attacks: exact where there is a closed form, and in agreement with other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from auditor import attacks
from auditor.attacks import Ball
from auditor.classifier import Artefact, Classifier, Preprocessing
from auditor.images import Batch
from auditor.plugins.attacks.pgd import Pgd
from auditor.probe import Randomness

RNG = Randomness(0, "test")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


def classifier_of(model: torch.nn.Module, shape: tuple[int, int, int], classes: int) -> Classifier:
    """A torch model as original and copy."""

    def scores(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(x)))

    artefact = Artefact(
        format="torchscript", runtime="torch", input_shape=(None, *shape), input_dtype="float32", copy=model,
        scores=scores,
    )  # fmt: skip
    return Classifier(
        artefact, Preprocessing(shape=shape), path="model", sha256="0" * 64, n_classes=classes, outputs="logits"
    )


def linear(weights: np.ndarray, shape: tuple[int, int, int]) -> Classifier:
    """logits = weights (k, c*h*w) @ (pixels - 0.5)."""
    layer = torch.nn.Linear(weights.shape[1], len(weights))
    bias = -0.5 * weights.sum(axis=1)
    layer.load_state_dict({"weight": torch.tensor(weights), "bias": torch.tensor(bias)})
    return classifier_of(torch.nn.Sequential(torch.nn.Flatten(), layer).eval(), shape, len(weights))


def batch_of(classifier: Classifier, pixels: np.ndarray, labels: np.ndarray | None = None) -> Batch:
    probabilities = classifier.predict(pixels)
    labels = probabilities.argmax(axis=1) if labels is None else labels
    return Batch(
        ids=tuple(f"{i:03d}" for i in range(len(pixels))), pixels=pixels, labels=labels.astype(np.int64),
        probabilities=probabilities,
    )  # fmt: skip


def two_classes(n: int, shape: tuple[int, int, int], seed: int = 1) -> tuple[Classifier, Batch, np.ndarray, np.ndarray]:
    """A linear model of two classes, grey images, the weights' difference and each image's margin."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=int(np.prod(shape))).astype(np.float32)
    classifier = linear(np.stack([w, -w]) / 2, shape)
    batch = batch_of(classifier, rng.uniform(0.35, 0.65, (n, *shape)).astype(np.float32))
    return classifier, batch, w, np.abs((batch.pixels.reshape(n, -1).astype(np.float64) - 0.5) @ w)


def lost(probe: Any, classifier: Classifier, batch: Batch, level: dict[str, Any]) -> np.ndarray:
    """Which images the probe broke at a level, by the original."""
    images = probe.perturbed(classifier, batch, RNG, level)
    return np.asarray(classifier.predict(images).argmax(axis=1) != batch.labels)


def clear(margin: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Images that are not so near the edge that SURE and rounding decide."""
    return np.asarray(np.abs(margin - reach) > 0.01 * reach + 2 * attacks.SURE)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_pgd_breaks_exactly_the_images_closer_than_epsilon(norm: str, momentum: float) -> None:
    """The distance to a plane is |margin| / dual norm of the weights, unless [0, 1] is in the way."""
    classifier, batch, w, margin = two_classes(150, (3, 4, 4))
    far = float(np.median(margin / np.linalg.norm(w, ord=DUAL[norm])))
    # in L1 a single pixel carries the whole budget, so it must be small enough not to leave [0, 1]
    epsilon = min(far, 0.3)
    reach = np.full_like(margin, epsilon * np.linalg.norm(w, ord=DUAL[norm]))
    sure = clear(margin, reach)
    probe = Pgd(iterations=40, momentum=momentum)
    found = lost(probe, classifier, batch, {"norm": norm, "epsilon": epsilon})
    np.testing.assert_array_equal(found[sure], (margin < reach)[sure])
    assert found.any()
    assert not found.all()


def test_more_restarts_of_pgd_break_no_fewer() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    classifier = classifier_of(net.eval(), (3, 4, 4), 4)
    batch = batch_of(classifier, np.random.default_rng(0).uniform(0, 1, (60, 3, 4, 4)).astype(np.float32))
    level = {"norm": "linf", "epsilon": 0.03}
    one, five = (lost(Pgd(iterations=2, restarts=n), classifier, batch, level) for n in (1, 5))
    assert not (one & ~five).any()


def test_pgd_says_what_the_copy_had_broken_and_the_original_did_not_confirm() -> None:
    classifier, batch, *_ = two_classes(40, (1, 4, 4))
    found = Pgd(epsilons=(0.1,), l2_epsilons=(), l1_epsilons=())
    columns = found.measure(classifier, batch, RNG)
    assert columns["copy_broken"].sum() == columns["success"].sum() > 10
    honest = classifier.artefact.scores
    stubborn = np.float32([[100, 0]])
    classes = batch.probabilities.argmax(axis=1)
    # an original that the copy is not: it never leaves class 0
    object.__setattr__(classifier.artefact, "scores", lambda x: honest(x) + stubborn)
    columns = found.measure(classifier, batch, RNG)
    attacked = columns["epsilon"] > 0
    np.testing.assert_array_equal(columns["success"][attacked], classes == 1)
    assert (columns["copy_broken"][attacked] & ~columns["success"][attacked]).sum() > 5


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_step_to_a_plane_is_the_shortest_that_the_box_allows(norm: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 1, (12, 1, 2, 4)).astype(np.float32)
    x[:, :, 0, 0] = 0
    w = rng.normal(size=x.shape).astype(np.float32)
    rise = np.linspace(-0.8, 0.9, 12, dtype=np.float32)
    step = attacks.step_to_plane(*map(torch.from_numpy, (x, w, rise)), norm).numpy().reshape(12, 8).astype(float)
    for one, d, v, r in zip(x.reshape(12, 8).astype(float), step, w.reshape(12, 8).astype(float), rise, strict=True):
        assert ((one + d > -1e-6) & (one + d < 1 + 1e-6)).all()
        assert v @ d == pytest.approx(r, abs=1e-5)
        bounds = list(zip(-one, 1 - one, strict=True))
        assert np.linalg.norm(d, ord=ORDER[norm]) == pytest.approx(shortest(v, float(r), bounds, norm), abs=1e-4)


def shortest(v: np.ndarray, rise: float, bounds: list[tuple[float, float]], norm: str) -> float:
    """Length of the shortest d within bounds with v @ d = rise, by scipy."""
    n = len(v)
    if norm == "l2":
        found = minimize(lambda d: d @ d, np.zeros(n), bounds=bounds, constraints=[
            {"type": "eq", "fun": lambda d: v @ d - rise}
        ], tol=1e-12)  # fmt: skip
        return float(np.sqrt(found.fun))
    # |d_i| <= t_i: minimise the sum of t, or one t for all
    extra = n if norm == "l1" else 1
    size = -np.eye(n) if norm == "l1" else -np.ones((n, 1))
    above = np.block([[np.eye(n), size], [-np.eye(n), size]])
    found = linprog(
        np.r_[np.zeros(n), np.ones(extra)], A_ub=above, b_ub=np.zeros(2 * n), A_eq=[np.r_[v, np.zeros(extra)]],
        b_eq=[rise], bounds=[*bounds, *[(0, None)] * extra],
    )  # fmt: skip
    return float(found.fun)


def test_a_plane_out_of_reach_is_gone_for_as_far_as_the_box_allows() -> None:
    x = torch.tensor([0.2, 0.9, 1.0, 0.5]).view(1, 1, 2, 2)
    w = torch.tensor([1.0, -2.0, 3.0, 0.0]).view(1, 1, 2, 2)
    for norm in ("linf", "l2", "l1"):
        step = attacks.step_to_plane(x, w, torch.tensor([9.0]), norm)
        torch.testing.assert_close(step.flatten(), torch.tensor([0.8, -0.9, 0.0, 0.0]))


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_the_targeted_ratio_is_its_formula_and_knows_no_scale(classes: int) -> None:
    z = torch.randn(20, classes, generator=torch.Generator().manual_seed(0))
    y, t = z.argmax(1), z.argmin(1)
    found = attacks.targeted_dlr(z, y, t)
    top = z.sort(dim=1, descending=True).values
    below = {2: None, 3: top[:, -1]}.get(classes, (top[:, 2:4]).mean(1))
    expected = z.amin(1) - z.amax(1)
    if below is not None:
        expected = expected / (top[:, 0] - below)
        torch.testing.assert_close(attacks.targeted_dlr(1000 * z, y, t), found)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_steepest_step_has_length_one_and_goes_uphill_within_the_box(norm: str) -> None:
    rng = np.random.default_rng(6)
    slope = torch.from_numpy(rng.normal(size=(9, 3, 10, 10)).astype(np.float32))
    x = torch.from_numpy(rng.uniform(0, 1, slope.shape).astype(np.float32)).round(decimals=1)
    ball = Ball(norm, 1.0)
    step = ball.direction(slope, x)
    torch.testing.assert_close(ball.length(step), torch.ones(9))
    assert bool(((slope * step).flatten(1).sum(1) > 0).all())
    if norm == "l1":
        assert (step != 0).flatten(1).sum(1).tolist() == [3] * 9
        assert not bool(((step > 0) & (x == 1)).any() | ((step < 0) & (x == 0)).any())
