"""Optimised slopes and branch and bound: exact on small networks, never below plain bounds, sound in float32."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import margins
from scipy.optimize import linprog
from test_certified import CLASSES, SHAPE, classifier_of, images, model_of, network
from torch.nn import functional

from auditor import Records
from auditor.algorithms.bounds.activations import ACTIVATIONS
from auditor.algorithms.bounds.backward import minimum
from auditor.algorithms.bounds.ball import Ball
from auditor.algorithms.bounds.bounder import Bounder
from auditor.algorithms.bounds.branching import Search
from auditor.algorithms.bounds.prover import Method, Prover
from auditor.algorithms.bounds.ranges import find_ranges
from auditor.algorithms.bounds.slopes import Choice, first_choice, optimise
from auditor.data.dataset import Batch
from auditor.errors import NotApplicable, OutOfTime
from auditor.plugins.metrics.certified import Certified
from auditor.probes.base import Randomness

PIXELS = SHAPE[0] * SHAPE[1] * SHAPE[2]
WIDTHS = (4, 3)


def dense(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Build a network with two small ReLU layers, and return its weights."""
    rng = np.random.default_rng(seed)
    one, two = WIDTHS
    # float32 numbers, so that the linear programs see the model's own weights
    weights = {
        "w1": rng.normal(size=(PIXELS, one)) / 4,
        "b1": rng.normal(size=one) / 4,
        "w2": rng.normal(size=(one, two)),
        "b2": rng.normal(size=two) / 4,
        "w3": rng.normal(size=(two, CLASSES)),
        "b3": rng.normal(size=CLASSES) / 4,
    }
    weights = {name: value.astype(np.float32).astype(np.float64) for name, value in weights.items()}
    nodes: list[Any] = [
        ("Flatten", "x", {}),
        ("Gemm", "h1 w1 b1", {}),
        ("Relu", "h2", {}),
        ("Gemm", "h3 w2 b2", {}),
        ("Relu", "h4", {}),
        ("Gemm", "h5 w3 b3", {}),
    ]
    return model_of(nodes, weights), weights


def enumerated(w: dict[str, np.ndarray], image: np.ndarray, epsilon: float, label: int, other: int) -> float:
    """Return the exact minimum of a margin over the ball: one linear program for each pattern of active neurons."""
    scale = np.repeat([1 / 0.3, 1 / 0.2], 36)
    shift = -np.repeat([0.4, 0.5], 36) * scale
    low, high = (image.reshape(-1) - epsilon).clip(0, 1), (image.reshape(-1) + epsilon).clip(0, 1)
    least = np.inf
    for pattern in itertools.product([0.0, 1.0], repeat=sum(WIDTHS)):
        first, second = np.array(pattern[: WIDTHS[0]]), np.array(pattern[WIDTHS[0] :])
        a1, c1 = w["w1"].T * scale, w["w1"].T @ shift + w["b1"]
        a2, c2 = (w["w2"].T * first) @ a1, (w["w2"].T * first) @ c1 + w["b2"]
        row = (w["w3"][:, label] - w["w3"][:, other]) * second
        # active operands are >= 0, inactive ones <= 0
        signs = np.concatenate([2 * first - 1, 2 * second - 1])
        matrix, constants = -signs[:, None] * np.vstack([a1, a2]), signs * np.concatenate([c1, c2])
        result = linprog(row @ a2, A_ub=matrix, b_ub=constants, bounds=list(zip(low, high, strict=True)))
        if result.status == 0:
            least = min(least, float(result.fun + row @ c2 + w["b3"][label] - w["b3"][other]))
    return least


@pytest.mark.parametrize("seed", [1])
def test_branch_and_bound_equals_enumeration_of_activation_patterns(seed: int) -> None:
    model, weights = dense(seed)
    bounder = Bounder(classifier_of(model), refine=4096)
    image, epsilon, label, other = images(1, seed)[0], 0.15, 0, 1
    exact = enumerated(weights, image, epsilon, label, other)
    ball = Ball(torch.from_numpy(image[None]).double(), torch.tensor([epsilon], dtype=torch.float64), "linf")
    with torch.no_grad():
        ranges = find_ranges(bounder.network, bounder.fast, ball, 4096)
    row = bounder.rows(label, torch.tensor([other]))
    search = Search(bounder.network, bounder.fast, ranges, row)
    choice = Choice(
        slopes={name: value[:, 0].float() for name, value in first_choice(ranges.relaxations, 1).slopes.items()}
    )
    [plain] = minimum(bounder.network, bounder.network.scores, row, ranges.ball, ranges.relaxations)[0].tolist()
    assert plain < exact - 0.01, "the relaxation is exact; the test needs a larger epsilon"
    assert search.prove(exact - 5e-3, choice, time.thread_time() + 60)
    assert not search.prove(exact + 5e-3, choice, time.thread_time() + 0.3)


@pytest.mark.parametrize("kind", ["relu", "residual", "attention"])
def test_optimised_slopes_are_never_below_plain_bounds(kind: str) -> None:
    bounder = Bounder(classifier_of(network(kind, 3)), refine=4096)
    pixels = torch.from_numpy(images(2, 3))
    labels = bounder.logits(pixels).argmax(1)
    epsilon = torch.full((2,), 0.02 if kind == "attention" else 0.1)
    ranges, margins = bounder.bounds(pixels, labels, epsilon, "linf")
    rows = torch.cat([bounder.rows(label, torch.arange(CLASSES)) for label in labels.tolist()])
    start = first_choice(ranges.relaxations, CLASSES)

    def bound(choice: Any) -> torch.Tensor:
        return minimum(bounder.network, bounder.network.scores, rows, ranges.ball, choice.applied(ranges.relaxations))

    choice, bounds = optimise(bound, start, iterations=10)
    plain = torch.where(margins.isinf(), bound(start), margins)
    assert (bounds >= plain - 1e-9).all()
    assert (bounds > plain + 1e-4).any()
    with torch.no_grad():
        torch.testing.assert_close(bound(choice), bounds)


def test_slopes_out_of_range_are_clamped() -> None:
    bounder = Bounder(classifier_of(network("relu", 3)), refine=4096)
    pixels = torch.from_numpy(images(1, 3))
    label = bounder.logits(pixels).argmax(1)
    ranges, _ = bounder.bounds(pixels, label, torch.full((1,), 0.1), "linf")
    for relaxation in ranges.relaxations.values():
        if hasattr(relaxation, "with_slope"):
            moved = relaxation.with_slope(torch.full_like(relaxation.low_slope, 3.0))
            assert moved.low_slope.max() <= 1


def test_single_precision_ranges_contain_those_of_double_precision() -> None:
    bounder = Bounder(classifier_of(network("residual", 1)), refine=4096)
    pixels, epsilon = torch.from_numpy(images(2, 1)).double(), torch.full((2,), 0.02, dtype=torch.float64)
    ball = Ball(pixels, epsilon, "linf")
    with torch.no_grad():
        single = find_ranges(bounder.network, bounder.fast, ball, 4096).intervals
        double = find_ranges(bounder.network, bounder.network, ball, 4096).intervals
    assert bounder.fast.dtype == torch.float32
    for name, (low, high) in double.items():
        assert (single[name].lower <= low + 1e-12).all()
        assert (single[name].upper >= high - 1e-12).all()
        assert (single[name].lower >= low - 1e-2).all()


def test_each_method_proves_what_the_cheaper_ones_do_and_no_adversarial_image() -> None:
    pixels, epsilon = torch.from_numpy(images(7, 2)), torch.full((7,), 0.04, dtype=torch.float64)
    slack, off, on = torch.full((7,), 1e-5), torch.zeros(7), torch.full((7,), 60.0)
    methods: set[int] = set()
    for seed in (0, 1):
        classifier = classifier_of(dense(seed)[0])
        bounder = Bounder(classifier, refine=4096)
        prover = Prover(bounder, classifier.scaled_logits)
        labels = bounder.logits(pixels).argmax(1)
        quick, full = (
            prover.prove(pixels, labels, epsilon, "linf", slack=slack, seconds=seconds).method for seconds in (off, on)
        )
        assert ((quick == Method.LINEAR) == (margins(bounder, pixels, labels, epsilon, "linf") > slack)).all()
        assert (full[quick != Method.NONE] == quick[quick != Method.NONE]).all()
        assert not ((full != Method.NONE) & prover.attacked(pixels, labels, epsilon, "linf")).any()
        methods |= set(full.tolist())
    assert methods == set(Method)


def test_images_proven_together_are_those_proven_alone() -> None:
    pixels, epsilon = torch.from_numpy(images(12, 2)), torch.full((12,), 0.03, dtype=torch.float64)
    classifier = classifier_of(dense(1)[0])
    bounder = Bounder(classifier, refine=4096)
    prover, slack, off = Prover(bounder, classifier.scaled_logits), torch.full((12,), 1e-5), torch.zeros(12)
    labels = bounder.logits(pixels).argmax(1)
    together = prover.prove(pixels, labels, epsilon, "linf", slack=slack, seconds=off).method
    alone = [
        prover.prove(pixels[[i]], labels[[i]], epsilon[[i]], "linf", slack=slack[[i]], seconds=off[[i]]).method
        for i in range(12)
    ]
    assert together.tolist() == torch.cat(alone).tolist()
    assert set(together.tolist()) == {Method.NONE, Method.LINEAR, Method.SLOPES}


def test_lines_are_valid_for_slopes_of_either_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    low = -torch.rand(2, 50, generator=generator, dtype=torch.float64)
    high = low + 2 * torch.rand(2, 50, generator=generator, dtype=torch.float64)
    lines = ACTIVATIONS["LeakyRelu"](functional.leaky_relu, low, high, 0.1)
    slope = torch.randn(2, 3, 50, generator=generator, dtype=torch.float64)
    constant, [back] = lines.back(slope)
    above, below = (slope > 0, slope < 0)
    assert torch.allclose(back[above], (slope * lines.low_slope[:, None])[above])
    assert torch.allclose(back[below], (slope * lines.high_slope[:, None])[below])
    point = low + torch.rand(2, 50, generator=generator, dtype=torch.float64) * (high - low)
    value = (slope * functional.leaky_relu(point, 0.1)[:, None]).sum(2)
    assert ((back * point[:, None]).sum(2) + constant <= value + 1e-9).all()


def test_time_limit_is_reported() -> None:
    classifier = classifier_of(dense(1)[0])
    pixels = images(12, 2)
    probabilities = classifier.predict(pixels)
    ids = tuple(map(str, range(12)))
    batch = Batch(ids=ids, pixels=pixels, labels=probabilities.argmax(axis=1), probabilities=probabilities)
    probe = Certified(norms=("linf",), epsilons=(0.1, 0.12, 0.14), iterations=1, seconds=1e-6)
    columns = probe.measure(classifier, batch, Randomness(0, "metrics.certified"))
    assert columns["late"].any()
    import pandas as pd

    records = Records(frame=pd.DataFrame(dict(columns)), examples=pd.DataFrame(), classes=tuple("abcd"), labelled=True)
    [finding] = probe.conclude(records).findings
    assert "The time limit ended branch and bound on" in finding.statement


def test_bounds_end_at_the_deadline_of_the_probe() -> None:
    classifier = classifier_of(network("relu", 0))
    bounder = Bounder(classifier, refine=4096)
    pixels = torch.from_numpy(images(2))
    with classifier.calls.until(time.monotonic() - 1), pytest.raises(OutOfTime):
        margins(bounder, pixels, torch.zeros(2, dtype=torch.long), torch.full((2,), 0.1), "linf")


def test_branch_and_bound_ends_at_the_deadline_of_the_probe() -> None:
    classifier = classifier_of(dense(2)[0])
    bounder = Bounder(classifier, refine=4096)
    pixels = torch.from_numpy(images(8, 2))
    labels = bounder.logits(pixels).argmax(1)
    # of these, branch and bound does not finish in seconds
    open_at, size = torch.tensor([3, 5]), torch.full((2,), 0.08, dtype=torch.float64)
    prover = Prover(bounder, classifier.scaled_logits)
    limits = {"slack": torch.zeros(2), "seconds": torch.full((2,), 600.0)}
    with classifier.calls.until(time.monotonic() + 0.5), pytest.raises(OutOfTime):
        prover.prove(pixels[open_at], labels[open_at], size, "linf", **limits)


def test_network_with_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from auditor.algorithms.bounds import network as networks

    monkeypatch.setattr(networks, "_VALUES", 500)
    with pytest.raises(NotApplicable, match=r"too large for linear bounds: .* more than 500 values"):
        Bounder(classifier_of(network("relu", 0)), refine=0)
