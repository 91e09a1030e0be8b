"""Minimum-norm attacks against known distances and other libraries."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import batch_of, metrics_of, records_of
from scipy.optimize import minimize
from torch import nn

from auditor import Meta, MinimumNorm, ThreatModel
from auditor.algorithms import balls
from auditor.data.dataset import Batch
from auditor.model.artefact import Artefact
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.attacks._known_errors import SOURCES
from auditor.plugins.attacks._simba_walk import _cosines, _low_and_high
from auditor.plugins.attacks.autoattack import Autoattack
from auditor.plugins.attacks.carlini_wagner import CarliniWagner
from auditor.plugins.attacks.deepfool import DeepFool
from auditor.plugins.attacks.hopskipjump import HopSkipJump
from auditor.plugins.attacks.minimum_norm import FastMinimumNorm
from auditor.plugins.attacks.pgd import Pgd
from auditor.plugins.attacks.simba import Simba
from auditor.probes.attack import breaking_epsilon
from auditor.probes.base import Randomness, RunContext
from auditor.probes.distances import smallest
from auditor.probes.perturbation import ROUNDING
from auditor.run.opening import open_audit
from auditor.run.request import Request

RNG = Randomness(0, "test")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
SHAPE = (3, 4, 4)


def classifier_of(copy: nn.Module, scores: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
    artefact = Artefact(
        format="onnx",
        runtime="test",
        input_shape=(None, *shape),
        input_dtype="float32",
        copy=copy.eval(),
        scores=scores,
    )
    return DeployedModel(
        artefact, Preprocessing(shape=shape), path="test", sha256="0" * 64, n_classes=classes, outputs="logits"
    )


def linear(weights: np.ndarray, bias: np.ndarray) -> Classifier:
    """Build a classifier with logits = weights (k, 48) @ pixels + bias (k,); the deployed model in double precision."""
    copy = nn.Sequential(nn.Flatten(), nn.Linear(weights.shape[1], len(bias)))
    copy[1].load_state_dict({"weight": torch.tensor(weights), "bias": torch.tensor(bias)})
    wide = weights.astype(np.float64)
    return classifier_of(copy, lambda x: x.reshape(len(x), -1).astype(np.float64) @ wide.T + bias, SHAPE, len(bias))


def distances(probe: MinimumNorm, classifier: Classifier, batch: Batch) -> dict[str, np.ndarray]:
    """Return each image's distance by norm."""
    frame = records_of(batch, probe.measure(classifier, batch, RNG)).frame
    return {str(norm): breaking_epsilon(rows) for norm, rows in frame.groupby("norm", sort=False)}


@pytest.fixture(params=[2, 10], ids="{} classes".format)
def plane(request: pytest.FixtureRequest) -> tuple[Classifier, Batch, dict[str, np.ndarray]]:
    """Build a linear model, images that no perturbation moves to black or white, and the true distances.

    That is the least over the other classes of margin / dual norm of the difference of the weights.
    """
    rng = np.random.default_rng(request.param)
    weights = rng.normal(size=(request.param, 48)).astype(np.float32)
    pixels = rng.uniform(0.45, 0.55, (30, *SHAPE)).astype(np.float32)
    # centred on the boundary, so that the images are near it
    bias = (-weights.astype(np.float64) @ np.full(48, 0.5)).astype(np.float32)
    classifier = linear(weights, bias)
    batch = batch_of(classifier, pixels)
    scores = pixels.reshape(30, -1).astype(np.float64) @ weights.astype(np.float64).T + bias
    difference = weights[batch.labels][:, None].astype(np.float64) - weights[None]
    margins = scores[np.arange(30), batch.labels][:, None] - scores
    true = {}
    for norm, dual in DUAL.items():
        with np.errstate(invalid="ignore"):
            each = margins / np.linalg.norm(difference, ord=dual, axis=2)
        true[norm] = np.nanmin(each, axis=1)
    assert true["l1"].max() < 0.45
    return classifier, batch, true


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_projection_is_the_nearest_point_of_each_images_ball(norm: str) -> None:
    rng = np.random.default_rng(0)
    delta = torch.from_numpy(rng.normal(size=(5, 1, 2, 3)))
    radius = balls.length(delta, norm) * torch.tensor([0.0, 0.2, 0.7, 1.0, 2.0], dtype=torch.float64)
    found = balls.project(delta, norm, radius)
    assert bool((balls.length(found, norm) <= radius * (1 + 1e-12)).all())
    torch.testing.assert_close(found[3:], delta[3:])
    for one, wanted, size in zip(found[1:3], delta[1:3], radius[1:3], strict=True):
        flat = wanted.numpy().ravel()
        best = minimize(
            lambda x, flat=flat: ((x - flat) ** 2).sum(),
            np.zeros(6),
            method="SLSQP",
            tol=1e-12,
            constraints={"type": "ineq", "fun": lambda x, size=size: float(size) - np.linalg.norm(x, ORDER[norm])},
        )
        assert ((one.numpy().ravel() - flat) ** 2).sum() == pytest.approx(best.fun, rel=1e-3)


ALL = [
    FastMinimumNorm(),
    DeepFool(),
    CarliniWagner(iterations=300, search_steps=6, rate=0.002),
    HopSkipJump(iterations=30),
]
NEAR = {
    "attacks.minimum-norm": 1e-4,
    "attacks.deepfool": 1e-4,
    "attacks.carlini-wagner": 0.02,
    "attacks.hopskipjump": 0.05,
}
"""Factor of the distances found: gradient attacks are exact up to rounding, attacks by labels estimate."""


@pytest.mark.parametrize("plane", [2], indirect=True)
@pytest.mark.parametrize("probe", ALL, ids=lambda probe: probe.meta.id)
def test_distance_to_one_plane_is_margin_over_dual_norm(probe: MinimumNorm, plane: Any) -> None:
    classifier, batch, true = plane
    found = distances(probe, classifier, batch)
    assert set(found) == set(probe.norms)
    for norm, distance in found.items():
        # float32 pixels near 0.5 are 6e-8 apart
        assert (distance >= true[norm] * (1 - 1e-4) - 5e-7).all()
        assert np.median((distance - 5e-7) / true[norm]) <= 1 + NEAR[probe.meta.id], norm
        if probe.meta.id in {"attacks.minimum-norm", "attacks.deepfool"}:
            np.testing.assert_allclose(distance, true[norm], rtol=1e-4, atol=5e-7, err_msg=norm)


@pytest.mark.parametrize("plane", [10], indirect=True)
@pytest.mark.parametrize("probe", ALL[:2], ids=lambda probe: probe.meta.id)
def test_distance_to_many_planes_is_never_too_small_and_mostly_exact(probe: MinimumNorm, plane: Any) -> None:
    classifier, batch, true = plane
    for norm, distance in distances(probe, classifier, batch).items():
        assert (distance >= true[norm] * (1 - 1e-4) - 5e-7).all()
        assert np.median(distance / true[norm]) < 1.003
        if isinstance(probe, DeepFool):
            np.testing.assert_allclose(distance, true[norm], rtol=1e-4, atol=5e-7, err_msg=norm)


@pytest.fixture(scope="module")
def cnn(digits: Path) -> tuple[Classifier, Batch]:
    """Open the reference model with thirty digits that it classifies correctly."""
    plugins = registry.load()
    request = Request(model=digits / "digits-cnn.onnx", samples=32)
    classifier, images = open_audit(plugins, request, find_suite("full", plugins), "cpu")
    pixels = images.pixels(images.ids)
    batch = Batch(
        ids=images.ids, pixels=pixels, labels=images.labels, probabilities=classifier.predict(pixels), groups={}
    )
    right = np.flatnonzero(batch.predictions == batch.labels)[:30]
    return classifier, batch.take(right)


WEAK = [
    (FastMinimumNorm(iterations=10), FastMinimumNorm(iterations=80), 1e-2),
    (DeepFool(iterations=1), DeepFool(), 0.0),
    (CarliniWagner(iterations=40, search_steps=2), CarliniWagner(iterations=40, search_steps=5), 1e-4),
    (HopSkipJump(iterations=2, evaluations=30), HopSkipJump(iterations=8, evaluations=30), 1e-4),
]


@pytest.mark.parametrize(("weak", "strong", "slack"), WEAK, ids=lambda p: p.meta.id if hasattr(p, "meta") else "")
def test_longer_search_finds_no_larger_distance(
    weak: MinimumNorm, strong: MinimumNorm, slack: float, cnn: tuple[Classifier, Batch]
) -> None:
    for (norm, before), after in zip(distances(weak, *cnn).items(), distances(strong, *cnn).values(), strict=True):
        known = np.isfinite(before)
        assert np.isfinite(after[known]).all()
        if isinstance(weak, DeepFool):
            # the first linearisation gives the error that is found, if there is one
            assert np.isfinite(after).mean() > known.mean()
        else:
            assert (after[known] <= before[known] * (1 + slack) + 1e-6).mean() > 0.96, norm
            assert np.median(after) <= np.median(before) * (1 + slack)


def test_label_search_is_weaker_than_gradient_search(cnn: tuple[Classifier, Batch]) -> None:
    near, far = (
        distances(FastMinimumNorm(norms=("l2",)), *cnn),
        distances(HopSkipJump(norms=("l2",), iterations=8), *cnn),
    )
    assert np.median(near["l2"]) < np.median(far["l2"]) < 1.5 * np.median(near["l2"])


def test_simba_directions_are_an_orthonormal_basis_low_frequencies_first() -> None:
    low, high = _low_and_high(2, 6, 8)
    assert (len(low), len(low) + len(high)) == (2 * 2 * 2, 2 * 6 * 8)
    waves = _cosines(np.concatenate([low, high]), (2, 6, 8)).reshape(96, 96).astype(np.float64)
    np.testing.assert_allclose(waves @ waves.T, np.eye(96), atol=1e-6)


def test_simba_needs_two_queries_per_step_and_stops_at_success(cnn: tuple[Classifier, Batch]) -> None:
    classifier, batch = cnn[0], cnn[1].take(range(10))
    before = classifier.calls.backward
    images = Simba(iterations=200, step=0.5).search(classifier, batch, RNG, "l2")
    assert classifier.calls.backward == before
    found = (images != batch.pixels).any(axis=(1, 2, 3))
    assert found.sum() >= 8
    assert (classifier.predict(images).argmax(axis=1) != batch.labels)[found].all()
    start = classifier.calls.forward
    Simba(iterations=3).search(classifier, batch, RNG, "l2")
    assert classifier.calls.forward - start <= 2 * 3 * len(batch)


def test_fmn_distances_are_at_most_foolboxs(cnn: tuple[Classifier, Batch]) -> None:
    with warnings.catch_warnings():
        # foolbox imports from a deprecated namespace of SciPy
        warnings.simplefilter("ignore")
        import foolbox
    classifier, batch = cnn
    model = foolbox.PyTorchModel(Logits(classifier).eval(), bounds=(0, 1), device="cpu")
    pixels, labels = torch.from_numpy(batch.pixels), torch.from_numpy(batch.labels)
    theirs = {"linf": foolbox.attacks.LInfFMNAttack(steps=100), "l1": foolbox.attacks.L1FMNAttack(steps=100)}
    ours = distances(FastMinimumNorm(), classifier, batch)
    for norm, attack in theirs.items():
        _, found, success = attack(model, pixels, labels, epsilons=None)
        delta = (found.numpy() - batch.pixels).reshape(len(batch), -1).astype(np.float64)
        size = np.where(success.numpy(), np.linalg.norm(delta, ord=ORDER[norm], axis=1), np.inf)
        assert np.median(ours[norm]) <= 1.01 * np.median(size)
        assert np.median(ours[norm]) >= (0.95 if norm == "linf" else 0.7) * np.median(size)


def test_deepfool_and_carlini_wagner_distances_are_at_most_arts(cnn: tuple[Classifier, Batch]) -> None:
    from art.attacks.evasion import CarliniL2Method
    from art.attacks.evasion import DeepFool as ArtDeepFool
    from art.estimators.classification import PyTorchClassifier

    classifier, batch = cnn[0], cnn[1].take(np.arange(6))
    # ART's attacks use logits; the labels of the copy equal those of the deployed model
    estimator = PyTorchClassifier(
        Logits(classifier).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=classifier.shape,
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    deepfool = ArtDeepFool(estimator, max_iter=50, epsilon=0.02, batch_size=6, verbose=False)
    carlini = CarliniL2Method(
        estimator,
        learning_rate=0.1,
        binary_search_steps=3,
        max_iter=30,
        initial_const=1.0,
        batch_size=6,
        verbose=False,
    )
    for probe, attack in ((DeepFool(norms=("l2",)), deepfool), (CarliniWagner(), carlini)):
        found = attack.generate(batch.pixels, batch.labels)
        wrong = classifier.predict(found).argmax(axis=1) != batch.labels
        size = np.linalg.norm((found - batch.pixels).reshape(len(batch), -1), axis=1)[wrong]
        assert wrong.mean() > 0.5
        ours = distances(probe, classifier, batch)["l2"][wrong]
        # ours ends on the boundary, DeepFool 2 % beyond it; ART's tanh hardly moves black pixels for hundreds of steps
        assert (0.95 if probe.meta.id == "attacks.deepfool" else 0.6) < np.median(ours / size) < 1.005, probe.meta.id


class Logits(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier.logits(x.float())


@dataclass(frozen=True, kw_only=True)
class Brighter(MinimumNorm):
    """Add 0.1 to every pixel; find nothing if the first pixel is black."""

    meta = Meta(id="attacks.brighter", title="Brighter", area="attacks", why="For the tests.")
    norms: Sequence[str] = ("linf",)

    def threat_model(self) -> ThreatModel:
        return ThreatModel(goal="any error", knowledge="none", norm="linf", budget="any")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> np.ndarray:
        found = batch.pixels[:, :1, :1, :1] > 0
        return np.where(found, batch.pixels + np.float32(0.1), batch.pixels)


def brightness(limit: float) -> Classifier:
    """Build a classifier that returns class 1 if the mean of the image is above the limit."""
    return classifier_of(
        nn.Flatten(), lambda x: np.stack([np.zeros(len(x)), 1e3 * (x.mean(axis=(1, 2, 3)) - limit)], axis=1), SHAPE, 2
    )


@pytest.mark.parametrize("limit", [0.53, 0.5999, 0.605, 0.64])
def test_distance_is_the_smallest_that_the_deployed_model_confirms(limit: float) -> None:
    """Nearer than the search result if the deployed model allows it, slightly further if it does not confirm it."""
    classifier = brightness(limit)
    batch = batch_of(classifier, np.full((3, *SHAPE), 0.5, dtype=np.float32))
    frame = records_of(batch, Brighter().measure(classifier, batch, RNG)).frame
    attacked = frame[frame["epsilon"] != 0]
    assert attacked["success"].all()
    np.testing.assert_allclose(attacked["epsilon"], limit - 0.5, atol=2e-6)
    assert (attacked["perturbed_prediction"] == 1).all()


def test_unconfirmed_error_is_not_a_success_and_failed_search_is_inconclusive() -> None:
    classifier = brightness(0.9)
    pixels = np.full((4, *SHAPE), 0.5, dtype=np.float32)
    pixels[3, 0, 0, 0] = 0
    # the third image is misclassified without an attack
    batch = batch_of(classifier, pixels, np.array([0, 0, 1, 0]))
    records = records_of(batch, Brighter().measure(classifier, batch, RNG))
    attacked = records.frame[records.frame["epsilon"] != 0]
    assert attacked["image_id"].tolist() == ["000", "001", "003"]
    assert attacked["surrogate_misclassified"].tolist() == [True, True, False]
    assert not attacked["success"].any()
    assert attacked[["epsilon", "linf", "l2", "l1", "snr_db"]].isna().all(axis=None)
    conclusion = Brighter().conclude(records)
    unconfirmed = metrics_of(conclusion, "unconfirmed")[("linf",)]
    assert (unconfirmed.value, unconfirmed.n) == (1.0, 2)
    assert metrics_of(conclusion, "distance_median")[("linf",)].value == np.inf
    assert {m.value for m in metrics_of(conclusion, "robust_accuracy").values()} == {0.75}
    assert "1 of 3 images" in conclusion.inconclusive


def test_one_search_gives_accuracy_at_every_epsilon() -> None:
    limit = 0.5812
    classifier = brightness(limit)
    pixels = np.linspace(0.55, 0.6, 11, dtype=np.float32)[:, None, None, None] * np.ones((1, *SHAPE), dtype=np.float32)
    batch = batch_of(classifier, pixels, np.zeros(11))
    conclusion = Brighter().conclude(records_of(batch, Brighter().measure(classifier, batch, RNG)))
    robust = metrics_of(conclusion, "robust_accuracy")
    means = pixels[:, 0, 0, 0]
    for (_, epsilon), metric in robust.items():
        assert metric.value == pytest.approx(((means <= limit) & (limit - means > epsilon)).mean())
    curve = conclusion.findings[0].evidence[0]
    for point in curve.series[0].points[1:]:
        assert point.y == pytest.approx(((means <= limit) & (limit - means > point.x + 2e-6)).mean())


def test_no_correct_image_is_not_an_error() -> None:
    classifier = brightness(0.58)
    batch = batch_of(classifier, np.full((2, *SHAPE), 0.5, dtype=np.float32), np.ones(2))
    conclusion = Brighter().conclude(records_of(batch, Brighter().measure(classifier, batch, RNG)))
    assert metrics_of(conclusion, "robust_accuracy")[("linf", 0.0)].value == 0
    assert metrics_of(conclusion, "unconfirmed")[("linf",)].value is None
    assert not conclusion.inconclusive


def test_constant_model_gives_hopskipjump_no_start_and_is_inconclusive() -> None:
    classifier = brightness(2.0)
    batch = batch_of(classifier, np.full((3, *SHAPE), 0.5, dtype=np.float32))
    probe = HopSkipJump(starts=5, iterations=2, evaluations=10)
    conclusion = probe.conclude(records_of(batch, probe.measure(classifier, batch, RNG)))
    assert conclusion.inconclusive.startswith(
        "no random image was misclassified, so the search could not start on 3 of 3 images"
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (FastMinimumNorm, {"norms": ["l0"]}),
        (FastMinimumNorm, {"norms": []}),
        (FastMinimumNorm, {"iterations": 0}),
        (DeepFool, {"norms": ["l1"]}),
        (DeepFool, {"candidates": 1}),
        (CarliniWagner, {"norms": ["linf"]}),
        (CarliniWagner, {"rate": 0.0}),
        (HopSkipJump, {"norms": ["l1"]}),
        (HopSkipJump, {"starts": 0}),
    ],
)
def test_invalid_settings_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"norms|at least"):
        kind(**settings)


def test_invalid_search_result_names_the_probe() -> None:
    classifier = brightness(0.58)
    batch = batch_of(classifier, np.full((2, *SHAPE), 0.5, dtype=np.float32))

    class Fewer(Brighter):
        def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> np.ndarray:
            return batch.pixels[:1]

    with pytest.raises(ValueError, match=r"attacks.brighter: search returned shape \(1, 3, 4, 4\)"):
        Fewer().measure(classifier, batch, RNG)


@pytest.mark.parametrize("kind", [CarliniWagner, DeepFool, HopSkipJump, Simba])
@pytest.mark.parametrize("norms", [(), ("l1",), ("l2", "l2")])
def test_norms_that_a_search_does_not_know_and_repeated_ones_are_refused(
    kind: type[MinimumNorm], norms: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"norms is .*; expected some of (l2|l2, linf)$"):
        kind(norms=norms)


def test_threat_model_of_a_search_follows_from_its_needs() -> None:
    assert DeepFool().threat_model().knowledge == "white-box"
    assert HopSkipJump().threat_model().knowledge == "black-box"


def network(classes: int = 6, seed: int = 0) -> tuple[Classifier, Batch]:
    """Build a small ReLU network with random weights, and images that it classifies."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
    )
    classifier = classifier_of(net, lambda x: net(torch.from_numpy(x)).detach().numpy(), SHAPE, classes)
    return classifier, batch_of(classifier, np.random.default_rng(1).uniform(0, 1, (24, *SHAPE)).astype(np.float32))


def test_minimum_norm_never_exceeds_what_other_attacks_of_the_run_found() -> None:
    classifier, batch = network()
    others: list[Any] = [
        Pgd(epsilons=(0.01, 0.03, 0.1, 0.3)),
        DeepFool(),
        Autoattack(epsilon=0.05, iterations=20, targets=2, queries=20),
    ]
    frames = {
        probe.meta.id: records_of(batch, probe.measure(classifier, batch, RNG.of(probe.meta.id))).frame
        for probe in others
    }
    # so few steps that the others need less on some images
    probe = FastMinimumNorm(iterations=2)
    own = RNG.of(probe.meta.id)
    context = RunContext(
        classifier=classifier, probes=[*others, probe], ids=batch.ids, batch=lambda _: batch, rng=own, records=frames
    )
    alone = records_of(batch, probe.measure(classifier, batch, own)).frame
    continued = records_of(batch, probe.prepare(context).measure(classifier, batch, own)).frame
    attacks = {name: frame for name, frame in frames.items() if name in SOURCES}
    for norm in probe.norms:
        nearest = smallest(attacks, norm)["distance"]
        before, after = (smallest({probe.meta.id: frame}, norm)["distance"] for frame in (alone, continued))
        assert (before > nearest * 1.01).any()
        # a point that is made again differs by rounding: the batch is another one
        assert (after <= nearest + ROUNDING).all()
        assert (after <= before).all()


def test_minimum_norm_finds_an_error_where_the_gradient_almost_vanishes_at_the_clean_image() -> None:
    class Plateau(nn.Module):
        """Logits that change by 1e-9 of the distance, up to a distance of 0.2 from grey; then class 1."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            far = (x - 0.5).abs().flatten(1).mean(1)
            rise = 1e-9 * far + 50 * (far - 0.2).clamp_min(0)
            return torch.stack([torch.ones_like(rise), rise], dim=1)

    copy = Plateau()
    classifier = classifier_of(copy, lambda x: copy(torch.from_numpy(x)).numpy(), SHAPE, 2)
    pixels = np.random.default_rng(0).uniform(0.45, 0.55, (8, *SHAPE)).astype(np.float32)
    found = distances(FastMinimumNorm(norms=("linf",)), classifier, batch_of(classifier, pixels))
    # all pixels move by 0.22 in the mean
    assert (found["linf"] < 0.3).all()
