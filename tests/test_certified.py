"""Certified bounds: exact on linear models, never above an attack, unknown operators refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import margins
from onnx import TensorProto, helper, numpy_helper

from auditor import NotApplicable
from auditor.algorithms.bounds.bounder import Bounder
from auditor.algorithms.bounds.ranges import Known
from auditor.data.dataset import Batch
from auditor.model.artefact import Artefact
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.onnx.graph import import_onnx
from auditor.plugins.metrics._certified_radii import _linear_radii, _Task
from auditor.plugins.metrics.certified import Certified
from auditor.probes.base import Randomness

RNG = Randomness(0, "metrics.certified")
SHAPE = (2, 6, 6)
CLASSES = 4


def classifier_of(model: onnx.ModelProto, shape: tuple[int, int, int] = SHAPE, **how: Any) -> Classifier:
    module = import_onnx(model)

    def scores(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x))[0].numpy())

    artefact = Artefact(
        format="onnx", runtime="torch", input_shape=(None, *shape), input_dtype="float32", copy=module, scores=scores
    )
    preprocessing = Preprocessing(shape=shape, mean=(0.4, 0.5), std=(0.3, 0.2), **how)
    return DeployedModel(
        artefact,
        preprocessing,
        path="m",
        sha256="0" * 64,
        n_classes=CLASSES,
        outputs="logits",
        fixed_batch=module.fixed_batch,
    )


def model_of(nodes: list[Any], tensors: dict[str, np.ndarray], batch: int | str = "n") -> onnx.ModelProto:
    """Build a model of (operator, inputs, attributes); the nodes write h1, h2, ..., the last one the scores."""
    built = [
        helper.make_node(kind, inputs.split(), ["out" if i == len(nodes) else f"h{i}"], **attributes)
        for i, (kind, inputs, attributes) in enumerate(nodes, start=1)
    ]
    graph = helper.make_graph(
        built,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *SHAPE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, CLASSES])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            if value.dtype != np.int64
            else numpy_helper.from_array(value, name)
            for name, value in tensors.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def network(kind: str, seed: int, batch: int | str = "n") -> onnx.ModelProto:
    """Build a random network of one of several architectures."""
    rng = np.random.default_rng(seed)
    t = {
        "w1": rng.normal(size=(5, 2, 3, 3)) / 3,
        "b1": rng.normal(size=5) / 5,
        "w2": rng.normal(size=(5, 5, 3, 3)) / 5,
        "s": rng.normal(1, 0.2, 5),
        "o": rng.normal(size=5) / 5,
        "m": rng.normal(size=5) / 5,
        "v": rng.uniform(0.5, 2, 5),
        "wf": rng.normal(size=(CLASSES, 45)) / 3,
        "bf": rng.normal(size=CLASSES) / 5,
        "wg": rng.normal(size=(5, CLASSES)),
        "zero": np.array(0.0),
        "one": np.array(0.6),
        "k": rng.normal(size=(1, 5, 1, 1)),
        "rows": np.array([0, 8, 9]),
        "wq": rng.normal(size=(9, 5)) / 2,
        "wk": rng.normal(size=(9, 5)) / 2,
        "wv": rng.normal(size=(9, 5)) / 2,
    }
    same, pool = {"pads": [1, 1, 1, 1]}, {"kernel_shape": [2, 2], "strides": [2, 2]}
    first = ("Conv", "x w1 b1", same)
    nets: dict[str, list[Any]] = {
        "relu": [
            first,
            ("Relu", "h1", {}),
            ("Conv", "h2 w2", same),
            ("Relu", "h3", {}),
            ("MaxPool", "h4", pool),
            ("Flatten", "h5", {}),
            ("Gemm", "h6 wf bf", {"transB": 1}),
        ],
        "residual": [
            first,
            ("BatchNormalization", "h1 s o m v", {}),
            ("LeakyRelu", "h2", {"alpha": 0.1}),
            ("Conv", "h3 w2", same),
            ("Add", "h4 h3", {}),
            ("Clip", "h5 zero one", {}),
            ("Mul", "h6 k", {}),
            ("GlobalAveragePool", "h7", {}),
            ("Flatten", "h8", {}),
            ("MatMul", "h9 wg", {}),
            ("Add", "h10 bf", {}),
        ],
        "smooth": [
            first,
            ("Tanh", "h1", {}),
            ("AveragePool", "h2", pool),
            ("Conv", "h3 w2", same),
            ("Sigmoid", "h4", {}),
            ("Sub", "h5 h3", {}),
            ("Flatten", "h6", {}),
            ("Gemm", "h7 wf bf", {"transB": 1}),
        ],
        "padded pool": [
            first,
            ("MaxPool", "h1", {"kernel_shape": [3, 3], "strides": [2, 2], **same}),
            ("Relu", "h2", {}),
            ("Neg", "h3", {}),
            ("Flatten", "h4", {}),
            ("Gemm", "h5 wf bf", {"transB": 1}),
        ],
        "attention": [
            ("Reshape", "x rows", {}),
            ("MatMul", "h1 wq", {}),
            ("MatMul", "h1 wk", {}),
            ("MatMul", "h1 wv", {}),
            ("Transpose", "h3", {"perm": [0, 2, 1]}),
            ("MatMul", "h2 h5", {}),
            ("Softmax", "h6", {"axis": 2}),
            ("MatMul", "h7 h4", {}),
            ("Relu", "h8", {}),
            ("ReduceMean", "h9", {"axes": [1], "keepdims": 0}),
            ("MatMul", "h10 wg", {}),
        ],
        "gate": [
            first,
            ("Sigmoid", "h1", {}),
            ("Mul", "h1 h2", {}),
            ("GlobalAveragePool", "h3", {}),
            ("Flatten", "h4", {}),
            ("MatMul", "h5 wg", {}),
        ],
    }
    used = {name for _, inputs, _ in nets[kind] for name in inputs.split()}
    return model_of(nets[kind], {name: value for name, value in t.items() if name in used}, batch)


NETS = ("relu", "residual", "smooth", "padded pool", "attention", "gate")


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (n, *SHAPE)).astype(np.float32)


def in_ball(rng: np.random.Generator, centre: np.ndarray, norm: str, epsilon: float, n: int) -> np.ndarray:
    """Draw points on the surface of the ball, clipped to [0, 1]."""
    if norm == "linf":
        offsets = rng.choice([-epsilon, epsilon], (n, *centre.shape))
    else:
        offsets = rng.normal(size=(n, *centre.shape))
        offsets *= epsilon / np.sqrt((offsets**2).sum(axis=(1, 2, 3), keepdims=True))
    return (centre + offsets).clip(0, 1)


def worst(bounder: Bounder, points: torch.Tensor, label: int, ball: tuple[torch.Tensor, str, float]) -> float:
    """Return the smallest margin found by gradient descent from points of the ball."""
    centre, norm, epsilon = ball
    least = np.inf
    x = points
    for _ in range(8):
        x = x.detach().requires_grad_()
        answer = bounder._module(bounder._preprocess(x))[0].flatten(1)
        margin = answer[:, label] - answer.scatter(1, torch.full((len(x), 1), label), -torch.inf).amax(1)
        least = min(least, float(margin.detach().min()))
        (slope,) = torch.autograd.grad(margin.sum(), x)
        if norm == "linf":
            moved = (x - epsilon / 3 * slope.sign() - centre).clamp(-epsilon, epsilon)
        else:
            step = x - centre - epsilon / 3 * slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            moved = step * (epsilon / step.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
        x = (centre + moved).clamp(0, 1)
    return least


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("refine", [0, 4096])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bound_is_below_the_margin_at_every_point_of_the_ball(kind: str, refine: int, norm: str) -> None:
    for seed in range(2):
        classifier = classifier_of(network(kind, seed))
        bounder = Bounder(classifier, refine=refine)
        pixels = torch.from_numpy(images(2, seed)).double()
        labels = bounder.logits(pixels).argmax(1)
        for epsilon in (0.0, 0.02, 0.2):
            bounds = margins(bounder, pixels, labels, torch.full((2,), epsilon), norm)
            for image, label, bound in zip(pixels, labels, bounds, strict=True):
                rng = np.random.default_rng(seed)
                points = torch.from_numpy(in_ball(rng, image.numpy(), norm, epsilon, 60))
                found = worst(bounder, torch.cat([points, image[None]]), int(label), (image, norm, epsilon))
                assert bound <= found + 1e-9
                if epsilon == 0:
                    assert bound == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("kind", NETS)
def test_tighter_intermediate_bounds_give_larger_margins(kind: str) -> None:
    classifier = classifier_of(network(kind, 5))
    pixels = torch.from_numpy(images(3, 5))
    loose, tight = Bounder(classifier, refine=0), Bounder(classifier, refine=4096)
    labels = loose.logits(pixels).argmax(1)
    epsilon = torch.full((3,), 0.01)
    one, other = (margins(b, pixels, labels, epsilon, "linf") for b in (loose, tight))
    assert (other >= one - 1e-9).all()
    single = torch.cat([margins(tight, pixels[i : i + 1], labels[i : i + 1], epsilon[:1], "linf") for i in range(3)])
    # single precision rounds differently in other batches
    torch.testing.assert_close(single, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["relu", "residual", "attention"])
def test_ranges_of_larger_balls_are_used_for_the_same_image_only(kind: str) -> None:
    bounder = Bounder(classifier_of(network(kind, 4)), refine=4096)
    pixels = torch.from_numpy(images(3, 4)).double()
    labels, rows, epsilon = bounder.logits(pixels).argmax(1), torch.tensor([2, 0]), torch.tensor([0.02, 0.01])
    known = Known(bounder.network, 3)
    bounder.bounds(pixels, labels, torch.full((3,), 0.03), "linf", known)
    assert known.take(rows).within(torch.full((2,), 0.031)) == {}
    first, second = (known.take(rows).within(epsilon), known.within(torch.full((3,), 0.03)))
    for name, interval in second.items():
        assert torch.equal(first[name].lower, interval.lower[rows])
    _, margins = bounder.bounds(pixels[rows], labels[rows], epsilon, "linf")
    _, found = bounder.bounds(pixels[rows], labels[rows], epsilon, "linf", known.take(rows))
    assert (found.amin(1) >= margins.amin(1) - 1e-4).all()
    for i, row in enumerate(rows.tolist()):
        size = float(epsilon[i])
        points = torch.from_numpy(in_ball(np.random.default_rng(0), pixels[row].numpy(), "linf", size, 20))
        assert found[i].min() <= worst(bounder, points, int(labels[row]), (pixels[row], "linf", size)) + 1e-9


@pytest.mark.parametrize("kind", ["relu", "residual"])
@pytest.mark.parametrize("first", [1e-4, 0.3])
def test_search_ends_at_a_proven_radius_close_to_where_the_bounds_fail(kind: str, first: float) -> None:
    bounder = Bounder(classifier_of(network(kind, 2)), refine=4096)
    pixels = torch.from_numpy(images(4, 2))
    labels = bounder.logits(pixels).argmax(1)
    slack = torch.full((4,), 1e-5)
    # nothing can be proven about a wrong answer
    labels[0] = (labels[0] + 1) % CLASSES
    radius = _linear_radii(bounder, _Task(pixels, labels, "linf", slack, Known(bounder.network, 4)), first, 7)
    assert radius[0] == 0
    assert (margins(bounder, pixels, labels, radius, "linf")[1:] > 0).all()
    assert (margins(bounder, pixels, labels, 1.02 * radius, "linf")[1:] < 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bound_of_a_linear_model_is_exact(norm: str) -> None:
    rng = np.random.default_rng(1)
    weights, bias = rng.normal(size=(CLASSES, 72)) / 8, rng.normal(size=CLASSES) / 10
    classifier = classifier_of(
        model_of([("Flatten", "x", {}), ("Gemm", "h1 w b", {"transB": 1})], {"w": weights, "b": bias})
    )
    pixels = np.random.default_rng(2).uniform(0.4, 0.6, (20, *SHAPE)).astype(np.float32)
    probabilities = classifier.predict(pixels)
    labels = probabilities.argmax(axis=1)
    labels[0] = (labels[0] + 1) % CLASSES
    batch = Batch(ids=tuple(map(str, range(20))), pixels=pixels, labels=labels, probabilities=probabilities)
    found = Certified(norms=(norm,), iterations=24).measure(classifier, batch, RNG)["radius"]
    per_pixel = np.repeat([1 / 0.3, 1 / 0.2], 36)
    scores = (((pixels - np.array([0.4, 0.5]).reshape(1, 2, 1, 1)).reshape(20, -1)) * per_pixel) @ weights.T + bias
    exact = []
    for score, label in zip(scores, labels, strict=True):
        rest = [k for k in range(CLASSES) if k != label]
        slopes = (weights[label] - weights[rest]) * per_pixel
        exact.append(
            ((score[label] - score[rest]) / np.linalg.norm(slopes, ord=1 if norm == "linf" else 2, axis=1)).min()
        )
    assert found[0] == 0
    small = np.array(exact[1:]) < (0.35 if norm == "linf" else 0.4)
    assert small.sum() > 5
    # within 0.4 of these pixels nothing is clipped to [0, 1]; beyond, the true radius exceeds the formula's
    np.testing.assert_allclose(found[1:][small], np.array(exact[1:])[small], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("batch", [1, 3])
def test_fixed_batch_size_gives_the_same_bounds(batch: int, norm: str) -> None:
    pixels = images(5)
    free = Bounder(classifier_of(network("relu", 0)), refine=512)
    labels = free.logits(torch.from_numpy(pixels)).argmax(1)
    fixed = Bounder(classifier_of(network("relu", 0, batch)), refine=512)
    bounds = [margins(b, torch.from_numpy(pixels), labels, torch.full((5,), 0.03), norm) for b in (free, fixed)]
    # the bound of the rounding errors of single precision grows with the number of copies
    torch.testing.assert_close(*bounds, rtol=0, atol=3e-3)


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        ([("Softplus", "x", {}), ("Flatten", "h1", {}), ("Gemm", "h2 w", {"transB": 1})], "Softplus"),
        ([("Mul", "x x", {}), ("Flatten", "h1", {}), ("Gemm", "h2 w", {"transB": 1})], "Mul of two values"),
        ([("Flatten", "x", {}), ("Gemm", "h1 w", {"transB": 1}), ("Erf", "h2", {})], "Erf"),
    ],
    ids=["Softplus", "Mul", "Erf"],
)
def test_operator_without_bounds_is_named(nodes: list[Any], name: str) -> None:
    classifier = classifier_of(model_of(nodes, {"w": np.ones((CLASSES, 72))}))
    pixels = images(1)
    batch = Batch(
        ids=("a",),
        pixels=pixels,
        labels=np.zeros(1, dtype=np.int64),
        probabilities=np.eye(CLASSES, dtype=np.float32)[:1],
    )
    with pytest.raises(NotApplicable, match=name):
        Certified().measure(classifier, batch, RNG)


def test_model_without_graph_or_in_other_precision_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = classifier_of(network("relu", 0), dtype="float16")
    with pytest.raises(NotApplicable, match="float16"):
        Bounder(classifier, refine=0)
    classifier = classifier_of(network("relu", 0))
    monkeypatch.setattr(classifier, "_copy", torch.nn.Flatten())
    with pytest.raises(NotApplicable, match="TorchScript"):
        Bounder(classifier, refine=0)


@pytest.mark.parametrize(
    "settings", [{"norms": ("l1",)}, {"iterations": 0}, {"epsilons": (0.0,)}, {"seconds": -1.0}], ids=str
)
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        Certified(**settings)
