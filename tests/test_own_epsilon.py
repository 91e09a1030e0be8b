"""Robustness at the epsilon that the data states for each image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import as_attack, batch_of, classifier_of, records_of
from onnx import TensorProto, helper, numpy_helper

from auditor import NotApplicable
from auditor.data.dataset import Batch
from auditor.model.classifier import Classifier
from auditor.onnx.graph import import_onnx
from auditor.plugins.attacks.own_epsilon import OwnEpsilon
from auditor.plugins.metrics.certified import Certified
from auditor.probes.base import Randomness

RNG = Randomness(0, "attacks.own-epsilon")
SHAPE = (1, 3, 3)


@pytest.fixture
def plane() -> tuple[Classifier, Batch, np.ndarray]:
    """Build a linear model of two classes and images; return them with the exact L-infinity distances."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 9)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)]
    graph = helper.make_graph(
        nodes,
        "plane",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(-0.5 * w.sum(1), "b")],
    )
    copy = import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    wide = w.astype(np.float64)
    classifier = classifier_of(copy, SHAPE, 2, lambda x: (x.reshape(len(x), -1).astype(np.float64) - 0.5) @ wide.T)
    batch = batch_of(classifier, rng.uniform(0.4, 0.6, (20, *SHAPE)).astype(np.float32))
    difference = wide[0] - wide[1]
    distance = np.abs((batch.pixels.reshape(20, -1).astype(np.float64) - 0.5) @ difference) / np.abs(difference).sum()
    return classifier, batch, distance


def test_images_are_refuted_and_proven_exactly_at_their_own_distance(
    plane: tuple[Classifier, Batch, np.ndarray],
) -> None:
    classifier, batch, distance = plane
    inside = np.arange(20) % 2 == 0
    batch = replace(batch, epsilons=distance * np.where(inside, 1.1, 0.9))
    certified = Certified(norms=("linf",), epsilons=())
    proofs = records_of(batch, certified.measure(classifier, batch, RNG)).frame
    # the image's own epsilon is tested, not only approached by bisection
    assert (proofs["radius"].to_numpy() >= batch.epsilons)[~inside].all()
    probe = OwnEpsilon()
    records = records_of(batch, probe.measure(classifier, batch, RNG), others={"metrics.certified": proofs})
    conclusion = probe.conclude(records)
    metrics = {metric.name: metric.value for metric in conclusion.metrics}
    assert metrics == {"own_robust_accuracy": 0.5, "own_certified_accuracy": 0.5}
    assert "10 are proven robust within their own epsilon, 10 are misclassified within it, and 0 are open" in (
        conclusion.findings[0].statement
    )
    assert [row[4] for row in conclusion.findings[0].evidence[0].rows].count("proven") == 10  # type: ignore[union-attr]


def test_error_found_by_another_attack_counts(plane: tuple[Classifier, Batch, np.ndarray]) -> None:
    classifier, batch, distance = plane
    batch = replace(batch, epsilons=0.5 * distance)
    probe = OwnEpsilon()
    records = records_of(batch, probe.measure(classifier, batch, RNG))
    frame = records.frame
    base = frame[["image_id", "label", "prediction"]]
    clean = as_attack(base.assign(epsilon=0.0, success=False))
    hits = as_attack(base.assign(epsilon=0.4 * distance, linf=0.4 * distance, success=True))
    attack = pd.concat([clean, hits], ignore_index=True)
    # an error within the epsilon and a proof contradict each other, which the finding says
    proofs = base.assign(norm="linf", radius=0.6 * distance)
    found = probe.conclude(replace(records, others={"attacks.other": attack, "metrics.certified": proofs}))
    assert {metric.name: metric.value for metric in found.metrics}["own_robust_accuracy"] == 0
    assert found.findings[0].statement.startswith("AUDIT ERROR: 20 are both proven and misclassified")


def test_data_without_epsilons_is_not_applicable(plane: tuple[Classifier, Batch, np.ndarray]) -> None:
    classifier, batch, _ = plane
    with pytest.raises(NotApplicable, match="requires an epsilon for each image"):
        OwnEpsilon().measure(classifier, batch, RNG)
    assert OwnEpsilon().conclude(records_of(batch.take([]), {"row": []})).inconclusive
