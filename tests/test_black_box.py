"""Audit image classifiers without a usable copy: every probe that needs only predictions runs without an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper

from auditor.plugin import registry

Cli = Callable[..., Result]
SIDE = 6
SLOW = ("explanations.lime", "explanations.shap", "metrics.smoothing", "corruptions.imagenet-c", "attacks.square")
"""Slow probes with their own tests."""


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any], domain: str = "") -> Path:
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), *nodes],
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), str(path))
    return path


def trees(path: Path) -> Path:
    """Write one decision tree: whether the central pixel is bright."""
    middle = SIDE * SIDE // 2 + SIDE // 2
    tree = helper.make_node(
        "TreeEnsembleClassifier",
        ["flat"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        post_transform="NONE",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[middle, 0, 0],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0, 0, 0],
        class_nodeids=[1, 1, 2, 2],
        class_ids=[0, 1, 0, 1],
        class_weights=[0.9, 0.1, 0.2, 0.8],
        classlabels_int64s=[0, 1],
    )
    return save(path, [tree], {}, "ai.onnx.ml")


def rounded(path: Path) -> Path:
    """Write a linear model that outputs only its decision, so the gradient of its copy is zero."""
    weights = np.random.default_rng(0).normal(size=(SIDE * SIDE, 2)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["flat", "weights"], ["raw"]),
        helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
        helper.make_node("OneHot", ["label", "two", "values"], ["scores"]),
    ]
    return save(path, nodes, {"weights": weights, "two": np.int64(2), "values": np.array([0, 1], dtype=np.float32)})


@pytest.mark.parametrize(
    ("make", "reason"), [(trees, "TreeEnsembleClassifier"), (rounded, "gradient is zero")], ids=["trees", "no gradient"]
)
def test_full_suite_without_gradients(
    make: Callable[[Path], Path], reason: str, auditor_cli: Cli, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    images = rng.random((12, SIDE, SIDE)).astype(np.float32)
    labels = (images[:, SIDE // 2, SIDE // 2] > 0.5).astype(np.int64)
    np.savez(tmp_path / "data.npz", images=images, labels=labels, groups_half=np.array(list("ab") * 6))
    model = make(tmp_path / "m.onnx")
    skipped = [text for probe in SLOW for text in ("--skip", probe)]
    options = ["--suite", "full", "--samples", 4, "--format", "json", "--out", tmp_path / "run"]
    result = auditor_cli("run", model, "--data", tmp_path / "data.npz", *options, *skipped)
    assert result.exit_code == 0, result.output
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["model"]["access"] == "black-box"
    assert reason in audit["model"]["access_reason"]
    needs = {name: probe.meta.needs for name, probe in registry.load().probes.items()}
    for probe in audit["probes"]:
        needs_gradients = "gradients" in needs[probe["id"]]
        assert probe["status"] != "error", probe
        assert (probe["status"] == "not-applicable") >= needs_gradients, probe
        assert not needs_gradients or reason in probe["reason"]
    measured = {probe["id"] for probe in audit["probes"] if probe["status"] != "not-applicable"}
    assert measured >= {
        "performance.accuracy",
        "attacks.hopskipjump",
        "explanations.occlusion",
        "bias.groups",
    }
