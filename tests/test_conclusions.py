"""Whole audits of tiny models whose right diagnosis is known: classifiers of colours, and an untrained network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

import auditor

SIZE = 16


def colours(k: int) -> Any:
    """Return k well separated colours in [0, 1], (k, 3)."""
    grid = np.array(list(itertools.product((0.15, 0.5, 0.85), repeat=3)))
    chosen = [13]
    while len(chosen) < k:
        distance = np.linalg.norm(grid[:, None] - grid[chosen][None], axis=2).min(axis=1)
        chosen.append(int(distance.argmax()))
    return grid[chosen]


def colour_model(path: Path, k: int, *, bias: Any = None, scale: float = 20.0) -> Path:
    """Write a model whose output i is highest for pictures with colour i."""
    prototypes = colours(k)
    offset = -scale * (prototypes**2).sum(axis=1) + (0 if bias is None else np.asarray(bias))
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1),
        ],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", k])],
        [
            numpy_helper.from_array((2 * scale * prototypes).astype(np.float32), "w"),
            numpy_helper.from_array(np.asarray(offset, dtype=np.float32), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    path.with_name(path.name + ".audit.toml").write_text('[input]\npreset = "unit"\n')
    return path


def pictures(folder: Path, names: Sequence[str], shown: Any, counts: Sequence[int]) -> Path:
    """Write a folder per name with pictures of its colour."""
    rng = np.random.default_rng(0)
    for name, colour, count in zip(names, shown, counts, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noisy = np.clip(colour * 255 + rng.normal(0, 12, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{i:03d}.png")
    return folder


def audited(tmp_path: Path, model: Path, data: Path, *probes: str, **settings: Any) -> auditor.Audit:
    suite = tmp_path / "suite.toml"
    suite.write_text(f"probes = {list(probes)}\n")
    return auditor.audit(model, data=data, suite=str(suite), out=tmp_path / "run", trust_model=True, **settings)


def by_id(audit: auditor.Audit) -> dict[str, Any]:
    return {probe["id"]: probe for probe in audit.record["probes"]}


def test_numbered_folders_of_a_model_in_alphabetical_order(tmp_path: Path) -> None:
    """Folders 0 to 11 were taken as class indices; the model was trained on them in alphabetical order."""
    names = sorted(str(i) for i in range(12))
    model = colour_model(tmp_path / "m.onnx", 12)
    data = pictures(tmp_path / "data", names, colours(12), [8] * 12)
    audit = audited(tmp_path, model, data, "performance.accuracy", "sanity.labels")
    option = "--classes 0,1,10,11,2,3,4,5,6,7,8,9"
    assert by_id(audit)["sanity.labels"]["status"] == "fail"
    assert by_id(audit)["performance.accuracy"]["status"] == "inconclusive"
    assert any("taken as class indices" in warning for warning in audit.record["warnings"])
    assert any("alphabetical order" in warning and option in warning for warning in audit.record["warnings"])
    # the order is noticed without its own check, too, and the option corrects it
    alone = audited(tmp_path, model, data, "performance.accuracy")
    assert any(option in warning for warning in alone.record["warnings"])
    classes = option.removeprefix("--classes ").split(",")
    right = audited(tmp_path, model, data, "performance.accuracy", "sanity.labels", overrides=stated(classes))
    assert by_id(right)["performance.accuracy"]["metrics"][0]["value"] == 1
    assert {probe["status"] for probe in right.record["probes"]} == {"pass"}


def stated(classes: Sequence[str]) -> Any:
    return {"output": {"classes": list(classes)}}


def test_background_class_in_front(tmp_path: Path) -> None:
    model = colour_model(tmp_path / "m.onnx", 11)
    data = pictures(tmp_path / "data", [str(i) for i in range(10)], colours(11)[1:], [8] * 10)
    audit = audited(tmp_path, model, data, "performance.accuracy", "sanity.labels")
    assert by_id(audit)["sanity.labels"]["status"] == "fail"
    assert any("--classes 10,0,1,2,3,4,5,6,7,8,9" in warning for warning in audit.record["warnings"])


def test_model_that_always_gives_the_commonest_answer(tmp_path: Path) -> None:
    names = ["healthy", "early", "late"]
    model = colour_model(tmp_path / "m.onnx", 3, bias=[1000, 0, 0])
    data = pictures(tmp_path / "data", names, colours(3), [190, 5, 5])
    audit = audited(
        tmp_path, model, data, "performance.accuracy", "attacks.noise", "bias.classes", "sanity.parity",
        overrides=stated(names),
    )  # fmt: skip
    assert audit.verdict == "fail"
    statuses = {i: probe["status"] for i, probe in by_id(audit).items()}
    assert statuses.pop("performance.accuracy") == "fail"
    assert not {"pass", "fail"} & set(statuses.values())
    assert "always gives" in by_id(audit)["performance.accuracy"]["reason"]
    page = audit.report(tmp_path / "report.html").read_text("utf-8")
    assert "answers healthy for every one of 200 images" in page


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_pictures_pass_nothing(tmp_path: Path, n: int) -> None:
    names = ["a", "b", "c"]
    model = colour_model(tmp_path / "m.onnx", 3, scale=60)
    data = pictures(tmp_path / "data", names[: min(n, 2)], colours(3)[: min(n, 2)], [max(1, n // 2)] * min(n, 2))
    audit = audited(
        tmp_path, model, data, "performance.*", "corruptions.imagenet-c", "attacks.noise", "explanations.occlusion",
        "sanity.preprocessing", "sanity.parity", overrides=stated(names),
    )  # fmt: skip
    assert not [probe["id"] for probe in audit.record["probes"] if probe["status"] == "pass"]
    assert audit.verdict == "incomplete"
    assert any(
        "can fail, but not pass" in warning and "needs at least" in warning for warning in audit.record["warnings"]
    )


def test_access_does_not_depend_on_the_number_of_samples(tmp_path: Path) -> None:
    model = colour_model(tmp_path / "m.onnx", 3)
    data = pictures(tmp_path / "data", ["a", "b", "c"], colours(3), [30] * 3)
    for samples in (8, 80):
        audit = audited(
            tmp_path, model, data, "performance.accuracy", samples=samples, overrides=stated(["a", "b", "c"])
        )
        assert audit.record["model"]["parity"]["n"] == 64
        assert audit.record["model"]["access"] == "white-box"


@pytest.mark.parametrize("seed", [0, 1])
def test_untrained_network_gives_one_failure_and_no_other_verdict(tmp_path: Path, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    digits = load_digits()
    np.savez(
        tmp_path / "digits.npz",
        images=(digits.images / 16 * 255).astype(np.uint8)[:500],
        labels=digits.target.astype(str)[:500],
    )
    conv = torch.nn.Conv2d(1, 8, 3)
    network = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10))
    weights = [p.detach().numpy() for p in network.parameters()]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0", "w1"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Flatten", ["b"], ["c"]),
            helper.make_node("Gemm", ["c", "w2", "w3"], ["y"], transB=1),
        ],
        "untrained",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    audit = auditor.audit(
        path, data=tmp_path / "digits.npz", suite="quick", out=tmp_path / "run", trust_model=True, samples=300
    )
    judged = [(probe["id"], probe["status"]) for probe in audit.record["probes"] if probe["status"] in ("pass", "fail")]
    assert judged == [("performance.accuracy", "fail")]
    assert audit.verdict == "fail"
    assert "no better than guessing" in audit.record["verdict_reason"]


def test_every_fraction_of_an_audit_has_an_interval(tmp_path: Path) -> None:
    """On a model that is right everywhere all values are equal, and no interval is one point for that reason."""
    names = ["a", "b", "c"]
    model = colour_model(tmp_path / "m.onnx", 3, scale=60)
    data = pictures(tmp_path / "data", names, colours(3), [15] * 3)
    audit = audited(
        tmp_path, model, data, "performance.*", "corruptions.*", "attacks.noise", "attacks.spatial", "attacks.fgsm",
        "bias.*", "sanity.*", overrides=stated(names),
    )  # fmt: skip
    exact = {
        (probe["id"], spec["name"])
        for probe in audit.record["probes"]
        for spec in probe["metric_specs"]
        if spec["bound"] == "exact"
    }
    without = [
        (probe["id"], metric["name"], metric["at"])
        for probe in audit.record["probes"]
        for metric in probe["metrics"]
        if metric["unit"] == "fraction"
        and metric["value"] is not None
        and (metric["low"] is None or metric["high"] is None)
        and (probe["id"], metric["name"]) not in exact
    ]
    assert without == []
    judged = [
        (probe["id"], metric["name"])
        for probe in audit.record["probes"]
        for metric in probe["metrics"]
        if any(j["metric"] == metric["name"] and j["at"] == metric["at"] for j in probe["judgements"])
        and metric["low"] == metric["high"]
        and (probe["id"], metric["name"]) not in exact
    ]
    assert judged == []


def test_sample_without_every_class_takes_the_classes_of_the_folder(tmp_path: Path) -> None:
    model = colour_model(tmp_path / "m.onnx", 10)
    names = [f"class {chr(97 + i)}" for i in range(10)]
    data = pictures(tmp_path / "data", names, colours(10), [5] * 10)
    audit = audited(tmp_path, model, data, "performance.accuracy", samples=4)
    assert audit.record["model"]["classes"] == names
    assert by_id(audit)["performance.accuracy"]["metrics"][0]["value"] == 1
