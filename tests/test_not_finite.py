"""Images for which the model returns NaN are left out by name; a score of minus infinity is a probability of zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from auditor.errors import BadInput
from auditor.model.scores import OutputDecoder, look_at_outputs
from auditor.run.folder import read_rows
from auditor.run.request import Request
from auditor.run.session import run

N = 40


def model_with_nan(path: Path, threshold: float) -> Path:
    """Write a linear model of two classes that returns NaN where the first pixel exceeds the threshold."""
    weights = np.array([[0.0] + [1.0] * 15, [0.0] + [-1.0] * 15], dtype=np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"], transB=1),
        helper.make_node("Slice", ["flat", "zero", "one", "one"], ["first"]),
        helper.make_node("Sub", ["threshold", "first"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("Mul", ["root", "tiny"], ["small"]),
        helper.make_node("Add", ["logits", "small"], ["scores"]),
    ]
    constants = {
        "weights": weights,
        "bias": np.array([-7.5, 7.5], dtype=np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "threshold": np.float32(threshold),
        "tiny": np.array([1e-6, 0], dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "nan",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def images(first: np.ndarray) -> dict[str, np.ndarray]:
    """Return images with the given first pixels, half of them of each class."""
    grey = np.where(np.arange(len(first)) % 2, 0.35, 0.65)[:, None, None]
    pixels = (grey + np.random.default_rng(3).uniform(-0.1, 0.1, (len(first), 4, 4))).astype(np.float32)
    pixels[:, 0, 0] = first
    return {
        "images": pixels,
        "labels": np.arange(len(first)) % 2,
        "ids": np.array([f"i{k:03d}" for k in range(len(first))]),
    }


@pytest.fixture
def audit(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(threshold: float, first: np.ndarray, suite: str, **options: Any) -> dict[str, Any]:
        np.savez(tmp_path / "data.npz", **images(first))
        (tmp_path / "suite.toml").write_text(suite)
        request = Request(
            model=model_with_nan(tmp_path / "model.onnx", threshold),
            data=tmp_path / "data.npz",
            suite=str(tmp_path / "suite.toml"),
            out=tmp_path / "run",
            trust_model=True,
            **{"formats": (), **options},
        )
        outcome = run(request)
        assert not outcome.incomplete, [p["reason"] for p in outcome.audit["probes"] if p["status"] == "error"]
        return dict(outcome.audit)

    return call


CLEAN = """
probes = ["performance.*", "attacks.pgd", "attacks.universal", "sanity.parity"]
[settings."attacks.pgd"]
iterations = 3
"""


@pytest.mark.parametrize("batch_size", [7, None])
def test_an_image_with_nan_scores_is_left_out_by_name(audit: Any, tmp_path: Path, batch_size: int | None) -> None:
    first = np.full(N, 0.2)
    first[[3, 30]] = 0.9
    record = audit(0.8, first, CLEAN, batch_size=batch_size, formats=("html", "md"))
    data = record["data"]
    assert (data["n"], data["n_unreadable"]) == (N - 2, 2)
    assert data["unreadable"] == [f"i{k:03d}: the model returned NaN or infinity" for k in (3, 30)]
    (warning,) = [text for text in record["warnings"] if "NaN" in text]
    assert "2 images (i003, i030)" in warning
    assert "i003" in (tmp_path / "run" / "report.html").read_text()
    by_id = {probe["id"]: probe for probe in record["probes"]}
    assert by_id["performance.accuracy"]["n"] == N - 2
    assert by_id["performance.accuracy"]["metrics"][0]["value"] == 1
    assert by_id["attacks.pgd"]["n"] == N - 2
    assert all(not probe["left_out"] for probe in record["probes"])
    assert data["n_unanswered"] == 2
    assert record["verdict"] != "pass"
    again = audit(0.8, first, CLEAN, batch_size=batch_size)
    assert again["data"] == data
    assert [probe["metrics"] for probe in again["probes"]] == [probe["metrics"] for probe in record["probes"]]


ATTACKS = """
probes = ["attacks.autoattack", "attacks.carlini-wagner", "attacks.deepfool", "attacks.fgsm", "attacks.minimum-norm",
"attacks.noise", "attacks.pgd", "attacks.simba", "attacks.square", "attacks.universal", "attacks.patch"]
[settings."attacks.autoattack"]
iterations = 3
queries = 5
[settings."attacks.fgsm"]
epsilons = ["16/255"]
l2_epsilons = []
[settings."attacks.carlini-wagner"]
iterations = 5
search_steps = 1
[settings."attacks.minimum-norm"]
iterations = 5
[settings."attacks.pgd"]
epsilons = ["16/255"]
iterations = 3
[settings."attacks.simba"]
iterations = 5
[settings."attacks.square"]
queries = 5
[settings."attacks.universal"]
iterations = 3
[settings."attacks.patch"]
iterations = 3
"""


def test_nan_caused_by_an_attack_is_neither_a_success_nor_an_error(audit: Any, tmp_path: Path) -> None:
    first = np.full(N, 0.2)
    # within 16/255 of NaN
    first[[3, 30]] = 0.79
    record = audit(0.8, first, ATTACKS)
    assert record["data"]["n"] == N
    noise = next(probe for probe in record["probes"] if probe["id"] == "attacks.noise")
    assert set(noise["left_out"]) <= {"i003", "i030"}
    assert noise["left_out"]
    assert noise["n"] == N - len(noise["left_out"])
    assert any("attacks.noise: the model returned NaN" in text for text in record["warnings"])
    for probe in record["probes"]:
        frame = read_rows(tmp_path / "run", probe["id"], None)
        if isinstance(frame, pd.DataFrame) and "success" in frame:
            assert not set(frame["image_id"]) & set(probe["left_out"])


def test_a_model_that_returns_nan_for_every_image_is_refused(audit: Any) -> None:
    with pytest.raises(BadInput, match=r"returned NaN or infinity on images of .*expected one finite score"):
        audit(0.1, np.full(N, 0.2), CLEAN)


@pytest.mark.parametrize("single", [False, True])
def test_minus_infinity_is_probability_zero(*, single: bool) -> None:
    decoder = OutputDecoder(outputs="logits", single=single)
    raw = np.array([[-np.inf]] if single else [[1.0, 2.0, -np.inf]], dtype=np.float32)
    scores = decoder.scores(raw)
    assert np.isfinite(scores).all()
    expected = [1, 0] if single else [1 / (1 + np.e), np.e / (1 + np.e), 0]
    np.testing.assert_allclose(decoder.probabilities(scores)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(decoder.logits(torch.from_numpy(raw)).numpy(), scores)
    assert look_at_outputs(raw) == "logits"


def test_scores_that_are_all_minus_infinity_or_plus_infinity_are_not_finite() -> None:
    decoder = OutputDecoder(outputs="logits")
    for row in ([-np.inf, -np.inf], [np.inf, 0.0], [np.nan, -np.inf]):
        assert not np.isfinite(decoder.scores(np.array([row], dtype=np.float32))).all()


def test_probabilities_are_recognised_next_to_nan() -> None:
    assert look_at_outputs(np.array([[np.nan, np.nan], [0.25, 0.75]])) == "probabilities"
    assert look_at_outputs(np.array([[np.nan, np.nan]])) == "logits"


def test_the_gradient_of_an_excluded_class_is_finite() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    found = OutputDecoder(outputs="logits").logits(logits * torch.tensor([2.0, 3.0, 1.0]))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.tolist() == [[2.0, 3.0, 0.0]]
