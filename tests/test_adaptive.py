"""The adaptive attack: randomised models, masked gradients, activations that are flat almost everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import batch_of, classifier_of, records_of
from torch import nn

from auditor import NotApplicable
from auditor.algorithms.spsa import spsa
from auditor.data.dataset import Batch
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.expectation import Expectation
from auditor.plugins.attacks.adaptive import Adaptive
from auditor.plugins.attacks.pgd import Pgd
from auditor.plugins.sanity.determinism import Determinism
from auditor.probes.base import Randomness, RunContext

RNG = Randomness(0, "attacks.adaptive")
SHAPE = (1, 6, 6)
EPSILON = 0.1


class Noise(nn.Module):
    """Logits with noise of the pixels: what a defence by randomisation does."""

    def __init__(self, net: nn.Module, size: float) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x + self.size * torch.randn_like(x))
        return out


class Steps(nn.Module):
    """Pixels rounded to few values: the gradient is zero almost everywhere."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net((x * 16).round() / 16)
        return out


class Masked(nn.Module):
    """Logits of a network with a ripple that turns its gradient, but hardly its values."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        ripple = 1e-3 * torch.sin(3e4 * x.flatten(1)).sum(1)
        return logits + torch.stack([ripple, -ripple], dim=1)


def plane() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(36, 2)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer)


def opened(module: nn.Module) -> tuple[Classifier, Batch]:
    """Return the model, which is its own copy, and images near grey at a distance below epsilon from the plane."""
    classifier = classifier_of(module, SHAPE, 2)
    net = plane()[1]
    assert isinstance(net, nn.Linear)
    w = (net.weight[1] - net.weight[0]).detach().numpy()
    rng = np.random.default_rng(0)
    grey = np.full((60, 36), 0.5) + rng.uniform(-0.2, 0.2, (60, 36))
    # move to 40 % of epsilon from the plane, in L-inf
    distance = rng.choice([-1, 1], 60) * 0.4 * EPSILON
    grey += ((distance - (grey - 0.5) @ w / np.abs(w).sum())[:, None]) * np.sign(w)
    torch.manual_seed(1)
    return classifier, batch_of(classifier, grey.astype(np.float32).reshape(-1, *SHAPE))


def prepared(classifier: Classifier, batch: Batch, **settings: Any) -> Any:
    answers = records_of(batch, Determinism().measure(classifier, batch, RNG)).frame
    probe = Adaptive(epsilon=EPSILON, **settings)
    context = RunContext(
        classifier=classifier,
        probes=[probe],
        ids=batch.ids,
        batch=lambda ids: batch.take(range(len(ids))),
        rng=RNG,
        records={"sanity.determinism": answers},
    )
    return probe.prepare(context)


FEW = {"iterations": 20, "repeats": 8, "pairs": 16, "answers": 10}


@pytest.mark.parametrize(
    ("module", "random", "blind"),
    [(Noise(plane(), 0.02), True, False), (Steps(plane()), False, True), (Masked(plane()), False, True)],
    ids=["randomised", "quantised activations", "masked gradients"],
)
def test_defended_models_are_broken_by_the_method_they_require(module: nn.Module, random: bool, blind: bool) -> None:
    classifier, batch = opened(module)
    probe = prepared(classifier, batch, **FEW)
    assert (probe.random, probe.blind) == (random, blind)
    records = records_of(batch, probe.measure(classifier, batch, RNG))
    conclusion = probe.conclude(records)
    found = {metric.name: metric for metric in conclusion.metrics}
    success = found["adaptive_success_share"]
    assert success.value > 0.9
    assert success.low <= success.value <= success.high
    assert success.n == len(batch)
    assert found["clean_error_share"].value < 0.3
    if blind:
        standard = Pgd(iterations=20).perturbed(classifier, batch, RNG, {"norm": "linf", "epsilon": EPSILON})
        assert (classifier.predict(standard).argmax(axis=1) != batch.labels).mean() < success.value


def test_ordinary_model_needs_no_adaptive_attack() -> None:
    classifier, batch = opened(plane())
    with pytest.raises(NotApplicable, match="deterministic and its gradients are usable"):
        prepared(classifier, batch)


def test_gradient_of_the_expectation_is_that_of_the_mean() -> None:
    classifier, batch = opened(Noise(plane(), 0.05))
    exact, _ = opened(plane())

    def gradient(model: Classifier) -> torch.Tensor:
        x = classifier.tensor(batch.pixels[:4]).requires_grad_()
        (slope,) = torch.autograd.grad(model.scaled_logits(x)[:, 0].sum(), x)
        return slope

    one, many = gradient(Expectation(classifier, 4)), gradient(exact)
    # a linear model with noise of the pixels has the gradient of the model without, in another unit
    torch.testing.assert_close(one / one.norm(), many / many.norm())
    calls = classifier.calls.forward
    Expectation(classifier, 4).scaled_logits(classifier.tensor(batch.pixels[:3]))
    assert classifier.calls.forward - calls == 12


def test_spsa_reaches_the_corner_of_a_linear_model_within_budget() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=9)
    clean = rng.uniform(0.3, 0.7, (3, 1, 3, 3)).astype(np.float32)
    found = spsa(
        lambda images, rows: images.reshape(len(images), -1).astype(np.float64) @ w,
        clean,
        epsilon=0.1,
        iterations=60,
        pairs=16,
        draws=[np.random.default_rng(i) for i in range(3)],
    )
    np.testing.assert_allclose(found, clean + 0.1 * np.sign(w).reshape(1, 3, 3), atol=1e-6)


def test_randomised_model_keeps_its_copy_and_warns() -> None:
    classifier, batch = opened(Noise(plane(), 0.05))
    assert isinstance(classifier, DeployedModel)
    classifier.verify(batch.pixels)
    assert classifier.access == "white-box"
    assert any("randomised" in warning for warning in classifier.warnings)


def test_another_copy_of_a_randomised_model_is_still_refused() -> None:
    classifier, batch = opened(Noise(plane(), 0.001))
    assert isinstance(classifier, DeployedModel)
    deployed = classifier.artefact.scores
    object.__setattr__(classifier, "artefact", replace(classifier.artefact, scores=lambda x: deployed(x) * 3 + 5))
    classifier.verify(batch.pixels)
    assert classifier.access == "black-box"


def test_conclusion_without_images_is_inconclusive() -> None:
    records = records_of(opened(plane())[1].take([]), {"wrong_share": [], "row": []})
    assert isinstance(records.frame, pd.DataFrame)
    assert Adaptive().conclude(records).inconclusive
