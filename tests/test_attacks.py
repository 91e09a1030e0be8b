"""PGD, AutoAttack, Square and their algorithms against closed forms and other libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import batch_of, classifier_of, records_of
from scipy.optimize import linprog, minimize

from auditor import Attack, Level, Meta, PerturbationResult, Table, Text, ThreatModel
from auditor.algorithms import balls, best_points, fab, losses
from auditor.algorithms.balls import Ball
from auditor.data.dataset import Batch
from auditor.model.classifier import Classifier
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.attacks.autoattack import Autoattack
from auditor.plugins.attacks.pgd import Pgd
from auditor.plugins.attacks.square import Square
from auditor.probes.base import Randomness
from auditor.probes.perturbation import ATTACK_COLUMNS
from auditor.run.opening import open_audit
from auditor.run.request import Request

RNG = Randomness(0, "test")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


def linear(weights: np.ndarray, shape: tuple[int, int, int]) -> Classifier:
    """Build a classifier with logits = weights (k, c*h*w) @ (pixels - 0.5)."""
    layer = torch.nn.Linear(weights.shape[1], len(weights))
    bias = -0.5 * weights.sum(axis=1)
    layer.load_state_dict({"weight": torch.tensor(weights), "bias": torch.tensor(bias)})
    return classifier_of(torch.nn.Sequential(torch.nn.Flatten(), layer).eval(), shape, len(weights))


def two_classes(n: int, shape: tuple[int, int, int], seed: int = 1) -> tuple[Classifier, Batch, np.ndarray, np.ndarray]:
    """Build a linear model of two classes; return it with grey images, weight difference and margins."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=int(np.prod(shape))).astype(np.float32)
    classifier = linear(np.stack([w, -w]) / 2, shape)
    batch = batch_of(classifier, rng.uniform(0.35, 0.65, (n, *shape)).astype(np.float32))
    return classifier, batch, w, np.abs((batch.pixels.reshape(n, -1).astype(np.float64) - 0.5) @ w)


def misclassified(probe: Any, classifier: Classifier, batch: Batch, level: dict[str, Any]) -> np.ndarray:
    """Return which images the deployed model misclassifies after the attack."""
    images = probe.perturbed(classifier, batch, RNG, level)
    return np.asarray(classifier.predict(images).argmax(axis=1) != batch.labels)


def clear(margin: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Select images whose result does not depend on the margin tolerance and rounding."""
    return np.asarray(np.abs(margin - reach) > 0.01 * reach + 2 * best_points.MARGIN_TOLERANCE)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_pgd_succeeds_exactly_on_images_closer_than_epsilon(norm: str, momentum: float) -> None:
    """The distance to a plane is |margin| / dual norm of the weights, unless [0, 1] limits the step."""
    classifier, batch, w, margin = two_classes(150, (3, 4, 4))
    far = float(np.median(margin / np.linalg.norm(w, ord=DUAL[norm])))
    # in L1 one pixel takes the whole budget, so the budget must keep it within [0, 1]
    epsilon = min(far, 0.3)
    reach = np.full_like(margin, epsilon * np.linalg.norm(w, ord=DUAL[norm]))
    sure = clear(margin, reach)
    probe = Pgd(iterations=40, momentum=momentum)
    found = misclassified(probe, classifier, batch, {"norm": norm, "epsilon": epsilon})
    np.testing.assert_array_equal(found[sure], (margin < reach)[sure])
    assert found.any()
    assert not found.all()


def test_more_pgd_restarts_never_reduce_successes() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    classifier = classifier_of(net.eval(), (3, 4, 4), 4)
    batch = batch_of(classifier, np.random.default_rng(0).uniform(0, 1, (60, 3, 4, 4)).astype(np.float32))
    level = {"norm": "linf", "epsilon": 0.03}
    one, five = (misclassified(Pgd(iterations=2, restarts=n), classifier, batch, level) for n in (1, 5))
    assert not (one & ~five).any()


def test_pgd_records_surrogate_errors_that_the_deployed_model_does_not_confirm() -> None:
    classifier, batch, *_ = two_classes(40, (1, 4, 4))
    found = Pgd(epsilons=(0.1,), l2_epsilons=(), l1_epsilons=())
    columns = found.measure(classifier, batch, RNG)
    assert columns["surrogate_misclassified"].sum() == columns["success"].sum() > 10
    original_scores = classifier.artefact.scores
    offset = np.float32([[100, 0]])
    classes = batch.probabilities.argmax(axis=1)
    # the deployed model differs from its copy: it always returns class 0
    object.__setattr__(classifier.artefact, "scores", lambda x: original_scores(x) + offset)
    columns = found.measure(classifier, batch, RNG)
    attacked = columns["epsilon"] > 0
    np.testing.assert_array_equal(columns["success"][attacked], classes == 1)
    assert (columns["surrogate_misclassified"][attacked] & ~columns["success"][attacked]).sum() > 5


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_step_to_plane_is_the_shortest_within_the_box(norm: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 1, (12, 1, 2, 4)).astype(np.float32)
    x[:, :, 0, 0] = 0
    w = rng.normal(size=x.shape).astype(np.float32)
    rise = np.linspace(-0.8, 0.9, 12, dtype=np.float32)
    step = balls.step_to_plane(*map(torch.from_numpy, (x, w, rise)), norm).numpy().reshape(12, 8).astype(float)
    for one, d, v, r in zip(x.reshape(12, 8).astype(float), step, w.reshape(12, 8).astype(float), rise, strict=True):
        assert ((one + d > -1e-6) & (one + d < 1 + 1e-6)).all()
        assert v @ d == pytest.approx(r, abs=1e-5)
        bounds = list(zip(-one, 1 - one, strict=True))
        assert np.linalg.norm(d, ord=ORDER[norm]) == pytest.approx(shortest(v, float(r), bounds, norm), abs=1e-4)


def shortest(v: np.ndarray, rise: float, bounds: list[tuple[float, float]], norm: str) -> float:
    """Return the length of the shortest d within bounds with v @ d = rise, by SciPy."""
    n = len(v)
    if norm == "l2":
        found = minimize(
            lambda d: d @ d,
            np.zeros(n),
            bounds=bounds,
            constraints=[{"type": "eq", "fun": lambda d: v @ d - rise}],
            tol=1e-12,
        )
        return float(np.sqrt(found.fun))
    # |d_i| <= t_i: minimise the sum of t, or one t for all
    extra = n if norm == "l1" else 1
    size = -np.eye(n) if norm == "l1" else -np.ones((n, 1))
    above = np.block([[np.eye(n), size], [-np.eye(n), size]])
    found = linprog(
        np.r_[np.zeros(n), np.ones(extra)],
        A_ub=above,
        b_ub=np.zeros(2 * n),
        A_eq=[np.r_[v, np.zeros(extra)]],
        b_eq=[rise],
        bounds=[*bounds, *[(0, None)] * extra],
    )
    return float(found.fun)


def test_step_to_unreachable_plane_ends_at_the_box() -> None:
    x = torch.tensor([0.2, 0.9, 1.0, 0.5]).view(1, 1, 2, 2)
    w = torch.tensor([1.0, -2.0, 3.0, 0.0]).view(1, 1, 2, 2)
    for norm in ("linf", "l2", "l1"):
        step = balls.step_to_plane(x, w, torch.tensor([9.0]), norm)
        torch.testing.assert_close(step.flatten(), torch.tensor([0.8, -0.9, 0.0, 0.0]))


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_targeted_dlr_equals_its_formula_and_is_scale_invariant(classes: int) -> None:
    z = torch.randn(20, classes, generator=torch.Generator().manual_seed(0))
    y, t = z.argmax(1), z.argmin(1)
    found = losses.targeted_dlr(z, y, t)
    top = z.sort(dim=1, descending=True).values
    below = {2: None, 3: top[:, -1]}.get(classes, (top[:, 2:4]).mean(1))
    expected = z.amin(1) - z.amax(1)
    if below is not None:
        expected = expected / (top[:, 0] - below)
        torch.testing.assert_close(losses.targeted_dlr(1000 * z, y, t), found)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steepest_step_has_length_one_and_ascends_within_the_box(norm: str) -> None:
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


@pytest.fixture(params=[2, 3, 10], ids="{} classes".format)
def planes(request: pytest.FixtureRequest) -> tuple[Classifier, Batch, dict[str, np.ndarray]]:
    """Build a linear model and images far from 0 and 1, with their exact distances to the nearest class."""
    rng = np.random.default_rng(request.param)
    weights = rng.normal(size=(request.param, 48)).astype(np.float32)
    classifier = linear(weights, (3, 4, 4))
    batch = batch_of(classifier, rng.uniform(0.4, 0.6, (60, 3, 4, 4)).astype(np.float32))
    z = (batch.pixels.reshape(60, -1).astype(np.float64) - 0.5) @ weights.T.astype(np.float64)
    distance = {}
    for norm, dual in DUAL.items():
        ahead = z[np.arange(60), batch.labels][:, None] - z
        slope = np.linalg.norm(weights[batch.labels][:, None] - weights[None], ord=dual, axis=2)
        distance[norm] = np.divide(ahead, slope, out=np.full_like(ahead, np.inf), where=slope > 0).min(axis=1)
    return classifier, batch, distance


def test_l1_projection_is_the_nearest_point_of_ball_and_box() -> None:
    """The optimality conditions: one threshold reduces all coordinates that are not at a bound."""
    rng = np.random.default_rng(8)
    clean = torch.from_numpy(rng.uniform(0, 1, (40, 1, 5, 5)).round(1))
    point = clean + torch.from_numpy(rng.normal(scale=0.6, size=clean.shape) * rng.choice([0.1, 1], (40, 1, 1, 1)))
    epsilon = 1.5
    found = Ball("l1", epsilon).project(point, clean)
    assert bool((found >= -1e-9).all() & (found <= 1 + 1e-9).all())
    wanted, delta = (point - clean).flatten(1), (found - clean).flatten(1)
    length = delta.abs().sum(1)
    far = (point.clamp(0, 1) - clean).flatten(1).abs().sum(1) > epsilon
    assert 5 < int(far.sum()) < 35
    torch.testing.assert_close(found[~far], point[~far].clamp(0, 1))
    torch.testing.assert_close(length[far], torch.full_like(length[far], epsilon), rtol=2e-6, atol=0)
    room = torch.where(wanted > 0, 1 - clean.flatten(1), clean.flatten(1))
    shortened = wanted.abs() - delta.abs()
    for image in far.nonzero()[:, 0].tolist():
        free = (delta[image].abs() > 1e-9) & (delta[image].abs() < room[image] - 1e-9)
        level = shortened[image][free].mean()
        torch.testing.assert_close(shortened[image][free], level.expand(int(free.sum())), rtol=1e-5, atol=1e-6)
        gone, full = delta[image].abs() <= 1e-9, delta[image].abs() >= room[image] - 1e-9
        assert bool((wanted[image].abs()[gone & ~full] <= level + 1e-6).all())
        assert bool((shortened[image][full & ~gone] >= level - 1e-6).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_parallel_attempts_equal_sequential_attempts(trained: tuple[Classifier, Batch], norm: str) -> None:
    """Several targets in a pass and several squares ahead give the same components and points, up to rounding."""
    classifier, batch = trained[0], trained[1].take(range(16))
    epsilon = {"linf": 32 / 255, "l2": 0.9, "l1": 2.5}[norm]
    probe = Autoattack(norm=norm, epsilon=epsilon, iterations=6, targets=5, queries=120)
    level = probe.levels()[0]
    before, answers = classifier.batch_size, []
    for size in (1, 40, 512):
        classifier.batch_size = size
        answers.append(probe.perturb(classifier, batch, RNG, level))
    classifier.batch_size = before
    single, several, many = answers
    assert {"", "APGD-CE"} <= set(single.component)
    for other in (several, many):
        np.testing.assert_array_equal(other.component, single.component)
        assert np.abs(other.images - single.images).mean() < 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_autoattack_is_exact_on_a_linear_model(
    planes: tuple[Classifier, Batch, dict[str, np.ndarray]], norm: str
) -> None:
    classifier, batch, distances = planes
    # one pixel takes an L1 perturbation; above 0.4 it would leave [0, 1]
    reachable = distances[norm] < 0.4 if norm == "l1" else np.ones(len(batch), dtype=bool)
    batch, distance = batch.take(np.flatnonzero(reachable)), distances[norm][reachable]
    epsilon = float(np.median(distance))
    probe = Autoattack(epsilon=epsilon, norm=norm, iterations=25, queries=20)
    found = misclassified(probe, classifier, batch, dict(probe.levels()[0]))
    sure = np.abs(distance - epsilon) > 0.01 * epsilon + 1e-3
    assert sure.sum() > 0.6 * len(batch) > 15
    np.testing.assert_array_equal(found[sure], (distance < epsilon)[sure])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_finds_the_distance_to_its_target_plane(
    planes: tuple[Classifier, Batch, dict[str, np.ndarray]], norm: str
) -> None:
    """FAB alone succeeds in a ball 2 % larger than the distance and in no smaller one."""
    classifier, batch, _ = planes
    clean, labels = classifier.tensor(batch.pixels), torch.from_numpy(batch.labels)
    logits = classifier.logits(clean)
    targets = logits.argsort(dim=1, descending=True)[:, 1]
    weights = next(iter(classifier._copy.parameters())).detach()  # type: ignore[union-attr]
    slope = (weights[targets] - weights[labels]).numpy().astype(np.float64)
    ahead = (logits.gather(1, labels[:, None]) - logits.gather(1, targets[:, None]))[:, 0].detach().numpy()
    distance = (ahead + 2 * best_points.MARGIN_TOLERANCE) / np.linalg.norm(slope, ord=DUAL[norm], axis=1)
    # one pixel takes an L1 perturbation; above 0.4 it could leave [0, 1]
    for image in np.flatnonzero(distance < 0.4)[:12].tolist():
        one = slice(image, image + 1)
        for factor, expected in ((1.06, True), (0.9, False)):
            ball = Ball(norm, factor * float(distance[image]))
            hits = fab.fab(classifier.logits, clean[one], labels[one], targets[one], ball=ball, iterations=20)
            near = losses.margin(logits[one].detach(), labels[one]) > -0.02
            assert bool(near) or hits.broken.tolist() == [expected]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_is_nearly_optimal_and_queries_only_the_deployed_model(norm: str) -> None:
    classifier, batch, w, margin = two_classes(60, (3, 8, 8), seed=2)
    classifier.drop_copy("to be black-box")
    epsilon = float(np.median(margin) / np.linalg.norm(w, ord=DUAL[norm]))
    probe = Square(epsilons=(epsilon,), l2_epsilons=(epsilon,), queries=1500)
    reach = epsilon * np.linalg.norm(w, ord=DUAL[norm])
    found = misclassified(probe, classifier, batch, {"norm": norm, "epsilon": epsilon})
    assert not found[margin > reach].any()
    # random search finds signs one by one, but not the proportions of the weights that L2 needs
    assert found[margin < (0.95 if norm == "linf" else 0.5) * reach].mean() > 0.95
    assert classifier.calls.backward == 0


def test_square_respects_its_budget_and_stops_at_success() -> None:
    classifier, batch, _, margin = two_classes(30, (1, 6, 6))
    for epsilon, expected in ((0.3, range(30, 15 * 40)), (1e-6, [30 * 40])):
        before = classifier.calls.forward
        images = Square(queries=40).perturb(classifier, batch, RNG, {"norm": "linf", "epsilon": epsilon})
        assert classifier.calls.forward - before in expected
        assert np.isfinite(images).all()
    assert margin.min() > 1e-4


class Steps(torch.nn.Module):
    """Return class 1 if the mean of the rounded pixels is above one half; the gradient is zero everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = (x * 20).round().flatten(1).mean(1) / 20 + 0 * x.flatten(1).sum(1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1) * 10


def test_autoattack_reports_square_successes_on_a_model_without_gradients() -> None:
    classifier = classifier_of(Steps(), (1, 8, 8), 2)
    batch = batch_of(classifier, np.random.default_rng(3).uniform(0.3, 0.65, (20, 1, 8, 8)).astype(np.float32))
    probe = Autoattack(epsilon=0.2, iterations=5, queries=300)
    columns = probe.measure(classifier, batch, RNG)
    attacked = columns["epsilon"] > 0
    assert set(columns["component"][~attacked]) == {""}
    # a random start changes the mean only slightly
    assert (columns["component"][attacked] == "Square").sum() > 10
    finding = probe.conclude(records_of(batch, columns)).findings[0]
    table = next(e for e in finding.evidence if isinstance(e, Table) and "component" in e.title)
    rows = {str(row[0]): row[1:] for row in table.rows}
    successes = int(columns["success"].sum())
    assert list(rows) == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert rows["APGD-CE"][0] == 20
    assert sum(int(row[1]) for row in rows.values()) == successes == sum(int(row[2]) for row in rows.values())  # type: ignore[arg-type]
    assert any(isinstance(e, Text) and "2: the difference" in e.text for e in finding.evidence)
    assert f"The deployed model confirmed {successes} of {successes} images" in finding.statement


@dataclass(frozen=True, kw_only=True)
class Brighter(Attack):
    """Add epsilon to every pixel; report surrogate errors only if asked to."""

    meta = Meta(id="attacks.brighter", title="Brighter", area="attacks", why="For the tests.")
    report: bool = False

    def threat_model(self) -> ThreatModel:
        return ThreatModel(goal="any error", knowledge="none", norm="linf", budget="0.1")

    def levels(self) -> list[Level]:
        return [{"norm": "linf", "epsilon": 0.1}]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        wrong = np.zeros(len(batch), dtype=bool) if self.report else None
        return PerturbationResult(images=batch.pixels + np.float32(0.1), surrogate_misclassified=wrong)


class ReportingBrighter(Brighter):
    reports_surrogate: ClassVar[bool] = True


@pytest.mark.parametrize("probe", [Brighter(), ReportingBrighter(report=True)], ids=["plain", "reporting"])
def test_every_attack_records_the_documented_columns(probe: Brighter) -> None:
    classifier, batch, *_ = two_classes(4, (1, 4, 4))
    columns = probe.measure(classifier, batch, RNG)
    assert set(columns) >= ATTACK_COLUMNS
    assert not columns["searched"].any()
    assert set(columns["component"]) == {""}
    unconfirmed = [m for m in probe.conclude(records_of(batch, columns)).metrics if m.name == "unconfirmed"]
    assert len(unconfirmed) == probe.reports_surrogate


@pytest.mark.parametrize("probe", [Brighter(report=True), ReportingBrighter()], ids=["undeclared", "missing"])
def test_surrogate_report_that_contradicts_the_declaration_is_an_error(probe: Brighter) -> None:
    classifier, batch, *_ = two_classes(4, (1, 4, 4))
    with pytest.raises(ValueError, match=r"attacks\.brighter: perturb must set surrogate_misclassified"):
        probe.measure(classifier, batch, RNG)


@pytest.mark.parametrize("kind", [Autoattack, Square, Pgd])
def test_no_correct_image_is_not_an_error(kind: Any) -> None:
    classifier, batch, *_ = two_classes(3, (1, 4, 4))
    wrong = batch_of(classifier, batch.pixels, 1 - batch.labels)
    probe = kind()
    conclusion = probe.conclude(records_of(wrong, probe.measure(classifier, wrong, RNG)))
    assert {m.value for m in conclusion.metrics if m.name == "robust_accuracy"} == {0.0}
    success = [m for m in conclusion.metrics if m.name in {"attack_success_rate", "unconfirmed"}]
    assert all(m.value is None and m.n == 0 for m in success)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Autoattack, {"norm": "l0"}, "norm must be"),
        (Autoattack, {"queries": 0}, "at least 1"),
        (Square, {"queries": 0}, "queries must be at least 1; got 0"),
        (Pgd, {"momentum": -1.0}, "momentum must not be negative"),
    ],
)
def test_invalid_settings_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_threat_model_names_the_standard_version() -> None:
    assert "the standard version)" in Autoattack().threat_model().budget
    assert "less than the standard version: 100, 9, 5000" in Autoattack(targets=3).threat_model().budget


@pytest.fixture(scope="module")
def trained(digits: Path) -> tuple[Classifier, Batch]:
    """Open the reference model with two hundred digits that it classifies correctly."""
    loaded = registry.load()
    request = Request(model=digits / "digits-cnn.onnx", samples=220, seed=1)
    classifier, images = open_audit(loaded, request, find_suite("full", loaded), "cpu")
    pixels = images.pixels(images.ids)
    assert images.labels is not None
    right = np.flatnonzero(classifier.predict(pixels).argmax(axis=1) == images.labels)[:200]
    return classifier, batch_of(classifier, pixels[right], images.labels[right])


STRONG: dict[str, Any] = {"norm": "linf", "epsilon": 32 / 255}
"""Epsilon at which about half of the reference model's images are misclassified."""


class Copy(torch.nn.Module):
    """Present the differentiable copy as the module that other libraries require."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.logits = classifier.logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(x)


def robust(classifier: Classifier, batch: Batch, images: np.ndarray, epsilon: float) -> int:
    """Count the correctly classified images, after checking that they are within epsilon."""
    assert np.abs(images - batch.pixels).max() <= epsilon + 1e-6
    return int((classifier.predict(images).argmax(axis=1) == batch.labels).sum())


@pytest.mark.filterwarnings("ignore:Please import .* namespace:DeprecationWarning")  # of foolbox, about scipy
@pytest.mark.parametrize("epsilon", [16 / 255, 32 / 255], ids=["16/255", "32/255"])
def test_pgd_agrees_with_art_foolbox_and_torchattacks(trained: tuple[Classifier, Batch], epsilon: float) -> None:
    """Within one point if few images are near the boundary; otherwise random starts decide, and ours is not weaker."""
    import eagerpy
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescentNumpy
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD

    from auditor.algorithms.art import ArtClassifier

    classifier, batch = trained
    found = Pgd(iterations=20).perturbed(classifier, batch, RNG, {"norm": "linf", "epsilon": epsilon})
    ours = robust(classifier, batch, found, epsilon)
    step = 2.5 * epsilon / 20
    art = ProjectedGradientDescentNumpy(
        ArtClassifier(classifier),
        eps=epsilon,
        eps_step=step,
        max_iter=20,
        num_random_init=1,
        batch_size=200,
        verbose=False,
    )
    model = PyTorchModel(Copy(classifier).eval(), bounds=(0, 1))
    images, labels = eagerpy.astensors(torch.from_numpy(batch.pixels), torch.from_numpy(batch.labels))
    np.random.seed(0)
    torch.manual_seed(0)
    foolbox = LinfPGD(steps=20, abs_stepsize=step).run(model, images, labels, epsilon=epsilon)
    other = torchattacks.PGD(Copy(classifier).eval(), eps=epsilon, alpha=step, steps=20)
    other_images = other(torch.from_numpy(batch.pixels), torch.from_numpy(batch.labels)).numpy()
    for theirs in (art.generate(batch.pixels, batch.labels), foolbox.raw.numpy(), other_images):
        difference = ours - robust(classifier, batch, theirs, epsilon)
        # ours finds more with as many steps where half of the images are at the edge
        assert -(3 if epsilon < 0.1 else 20) <= difference <= 2, (ours, difference)
    assert 10 < ours < len(batch) - 10


def test_autoattack_is_at_least_as_strong_as_arts_ensemble_and_pgd(trained: tuple[Classifier, Batch]) -> None:
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    classifier, batch = trained[0], trained[1].take(range(80))
    probe = Autoattack(epsilon=STRONG["epsilon"], iterations=15, targets=9, queries=50)
    ours = robust(classifier, batch, probe.perturbed(classifier, batch, RNG, STRONG), STRONG["epsilon"])
    found = Pgd(iterations=15).perturbed(classifier, batch, RNG, STRONG)
    pgd = robust(classifier, batch, found, STRONG["epsilon"])
    estimator = PyTorchClassifier(
        Copy(classifier).eval(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=batch.pixels.shape[1:],
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    epsilon: dict[str, Any] = {"eps": STRONG["epsilon"], "norm": np.inf}
    gradients: dict[str, Any] = {"eps_step": 2 * STRONG["epsilon"], "max_iter": 15, "nb_random_init": 1}
    parts = [
        AutoProjectedGradientDescent(estimator, **epsilon, **gradients, loss_type=loss, batch_size=80, verbose=False)
        for loss in ("cross_entropy", "difference_logits_ratio")
    ]
    parts.append(SquareAttack(estimator, **epsilon, max_iter=50, nb_restarts=1, batch_size=80, verbose=False))
    # the steps of ART's AutoAttack; the class itself requires a package that ART does not install
    images = batch.pixels.copy()
    for part in parts:
        left = classifier.predict(images).argmax(axis=1) == batch.labels
        images[left] = part.generate(batch.pixels[left], batch.labels[left])
    art = robust(classifier, batch, images, STRONG["epsilon"])
    assert ours <= min(art, pgd), (ours, art, pgd)
    assert ours > 5


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 32 / 255), ("L2", 0.5)])
def test_autoattack_agrees_with_torchattacks(trained: tuple[Classifier, Batch], norm: str, epsilon: float) -> None:
    """APGD-CE, APGD-T, FAB-T and Square of torchattacks, with reduced budgets: one image of thirty at most."""
    import torchattacks

    classifier, batch = trained[0], trained[1].take(range(30))
    level = {"norm": norm.lower(), "epsilon": epsilon}
    probe = Autoattack(norm=norm.lower(), epsilon=epsilon, iterations=20, targets=9, queries=100)
    ours = classifier.predict(probe.perturbed(classifier, batch, RNG, level)).argmax(axis=1) == batch.labels
    module = Copy(classifier).eval()
    how: dict[str, Any] = {"norm": norm, "eps": epsilon, "seed": 0}
    parts = [
        torchattacks.APGD(module, **how, steps=20),
        torchattacks.APGDT(module, **how, steps=20, n_classes=10),
        torchattacks.FAB(module, **how, steps=20, n_classes=10, multi_targeted=True),
        torchattacks.Square(module, **how, n_queries=100),
    ]
    theirs = np.ones(len(batch), dtype=bool)
    for part in parts:
        left = np.flatnonzero(theirs)
        tried = part(torch.from_numpy(batch.pixels[left]), torch.from_numpy(batch.labels[left])).detach().numpy()
        size = np.linalg.norm(
            (tried - batch.pixels[left]).reshape(len(left), -1), ord=np.inf if norm == "Linf" else 2, axis=1
        )
        theirs[left] = (classifier.predict(tried).argmax(axis=1) == batch.labels[left]) | (size > epsilon * 1.0001)
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 1, (ours.sum(), theirs.sum())
    assert 3 < ours.sum() < 27
