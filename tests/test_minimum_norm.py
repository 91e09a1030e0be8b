"""Attacks that look for the smallest perturbation: exact where the answer is known, never better by asking for less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from auditor import MinimumNorm, Records, attacks
from auditor.classifier import Artefact, Classifier, Preprocessing
from auditor.families import breaking_epsilon
from auditor.images import Batch
from auditor.plugins.attacks.minimum_norm import FastMinimumNorm
from auditor.probe import Randomness

RNG = Randomness(0, "test")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
SHAPE = (3, 4, 4)


def classifier_of(copy: nn.Module, scores: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
    artefact = Artefact(
        format="onnx", runtime="test", input_shape=(None, *shape), input_dtype="float32", copy=copy.eval(),
        scores=scores,
    )  # fmt: skip
    return Classifier(
        artefact, Preprocessing(shape=shape), path="test", sha256="0" * 64, n_classes=classes, outputs="logits"
    )


def linear(weights: np.ndarray, bias: np.ndarray) -> Classifier:
    """logits = weights (k, 48) @ pixels + bias (k,); the original in double precision."""
    copy = nn.Sequential(nn.Flatten(), nn.Linear(weights.shape[1], len(bias)))
    copy[1].load_state_dict({"weight": torch.tensor(weights), "bias": torch.tensor(bias)})
    wide = weights.astype(np.float64)
    return classifier_of(copy, lambda x: x.reshape(len(x), -1).astype(np.float64) @ wide.T + bias, SHAPE, len(bias))


def batch_of(classifier: Classifier, pixels: np.ndarray, labels: np.ndarray | None = None) -> Batch:
    probabilities = classifier.predict(pixels)
    labels = probabilities.argmax(axis=1) if labels is None else labels
    ids = tuple(f"{i:03d}" for i in range(len(pixels)))
    return Batch(ids=ids, pixels=pixels, labels=labels.astype(np.int64), probabilities=probabilities)


def records_of(batch: Batch, columns: Any, classes: int) -> Records:
    rows = np.asarray(columns["row"])
    frame = pd.DataFrame(
        {"image_id": np.array(batch.ids)[rows], "label": batch.labels[rows], "prediction": batch.predictions[rows]}
        | {name: list(values) for name, values in columns.items() if name != "row"}
    )
    exhibits = pd.DataFrame({"exhibit": []})
    return Records(frame=frame, exhibits=exhibits, classes=[str(k) for k in range(classes)], labelled=True)


def distances(probe: MinimumNorm, classifier: Classifier, batch: Batch) -> dict[str, np.ndarray]:
    """Each image's distance by norm."""
    frame = records_of(batch, probe.measure(classifier, batch, RNG), classifier.n_classes).frame
    return {str(norm): breaking_epsilon(some) for norm, some in frame.groupby("norm", sort=False)}


def metrics_of(conclusion: Any, name: str) -> dict[tuple[Any, ...], Any]:
    return {tuple(m.at.values()): m for m in conclusion.metrics if m.name == name}


@pytest.fixture(params=[2, 10], ids="{} classes".format)
def plane(request: pytest.FixtureRequest) -> tuple[Classifier, Batch, dict[str, np.ndarray]]:
    """A linear model, images that no perturbation brings to black or white, and the true distance to the next class.

    That is the least over the other classes of margin / dual norm of the difference of the weights.
    """
    rng = np.random.default_rng(request.param)
    weights = rng.normal(size=(request.param, 48)).astype(np.float32)
    pixels = rng.uniform(0.45, 0.55, (30, *SHAPE)).astype(np.float32)
    # the middle of the images near the border, so that they are near it, too
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
def test_projection_is_the_nearest_point_of_each_image_s_own_ball(norm: str) -> None:
    rng = np.random.default_rng(0)
    delta = torch.from_numpy(rng.normal(size=(5, 1, 2, 3)))
    radius = attacks.length(delta, norm) * torch.tensor([0.0, 0.2, 0.7, 1.0, 2.0], dtype=torch.float64)
    found = attacks.project(delta, norm, radius)
    assert bool((attacks.length(found, norm) <= radius * (1 + 1e-12)).all())
    torch.testing.assert_close(found[3:], delta[3:])
    for one, wanted, size in zip(found[1:3], delta[1:3], radius[1:3], strict=True):
        flat = wanted.numpy().ravel()
        best = minimize(
            lambda x, flat=flat: ((x - flat) ** 2).sum(), np.zeros(6), method="SLSQP", tol=1e-12,
            constraints={"type": "ineq", "fun": lambda x, size=size: float(size) - np.linalg.norm(x, ORDER[norm])},
        )  # fmt: skip
        assert ((one.numpy().ravel() - flat) ** 2).sum() == pytest.approx(best.fun, rel=1e-3)


@pytest.mark.parametrize("plane", [2], indirect=True)
def test_on_a_plane_the_distance_is_the_margin_over_the_dual_norm(plane: Any) -> None:
    classifier, batch, true = plane
    found = distances(FastMinimumNorm(), classifier, batch)
    assert set(found) == {"linf", "l2", "l1"}
    for norm, distance in found.items():
        # float32 pixels near 0.5 are 6e-8 apart
        np.testing.assert_allclose(distance, true[norm], rtol=1e-4, atol=5e-7, err_msg=norm)


@pytest.mark.parametrize("plane", [10], indirect=True)
def test_among_many_planes_the_distance_is_never_too_small_and_mostly_right(plane: Any) -> None:
    classifier, batch, true = plane
    for norm, distance in distances(FastMinimumNorm(), classifier, batch).items():
        assert (distance >= true[norm] * (1 - 1e-4) - 5e-7).all()
        assert np.median(distance / true[norm]) < 1.001
