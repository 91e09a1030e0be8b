"""Comparing runs whose classes, data or preprocessing differ, and which metrics decided the verdict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from auditor import BadInput
from auditor.compare import comparison
from auditor.compare.pairing import _key_metric
from auditor.compare.runs import ProbeResult
from auditor.compare.verdict import decide
from auditor.report.comparison import page
from auditor.run.request import Request
from auditor.run.session import run
from auditor.schemas import validator

N = 40
SUITE = 'probes = ["performance.accuracy", "bias.groups", "bias.classes"]\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_linear: Callable[..., Path]) -> Path:
    """One model with its two classes in either order, one with a third class, and images named by class."""
    home = tmp_path_factory.mktemp("classes")
    rows = ["image,label,sex"]
    for i in range(N):
        bright = i % 2
        value = 255 if bright else 0
        # the last images of group f are misread
        value = 255 - value if i >= N - 8 else value
        Image.fromarray(np.full((2, 2), value, dtype=np.uint8)).save(home / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{'bright' if bright else 'dark'},{'f' if i >= N // 2 else 'm'}")
    (home / "data.csv").write_text("\n".join(rows))
    (home / "suite.toml").write_text(SUITE)
    weights = np.array([[-5.0] * 4, [5.0] * 4], dtype=np.float32)
    bias = np.array([10.0, -10.0])
    models = {
        "dark-bright": (weights, bias, ["dark", "bright"]),
        "bright-dark": (weights[::-1], bias[::-1], ["bright", "dark"]),
        "three": (np.vstack([weights, np.zeros((1, 4))]), np.array([10.0, -10.0, -50.0]), ["dark", "bright", "grey"]),
    }
    for name, (w, b, classes) in models.items():
        write_linear(home / f"{name}.onnx", w, b, (1, 2, 2))
        (home / f"{name}.onnx.audit.toml").write_text(f"[output]\nclasses = {json.dumps(classes)}\n")
        request = Request(
            model=home / f"{name}.onnx",
            data=home / "data.csv",
            suite=str(home / "suite.toml"),
            out=home / name,
            formats=(),
            device="cpu",
        )
        run(request)
    return home


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the first run with a changed audit.json."""
    import shutil

    copied = Path(shutil.copytree(folder / "dark-bright", folder / name, dirs_exist_ok=True))
    audit = json.loads((copied / "audit.json").read_text("utf-8"))
    change(audit)
    (copied / "audit.json").write_text(json.dumps(audit), "utf-8")
    return copied


def test_other_class_order_is_aligned_by_name(folder: Path) -> None:
    """The same model with its outputs swapped differs in no metric, also in those of single classes."""
    compared = comparison.compare([folder / "dark-bright", folder / "bright-dark"])
    assert compared["images"]["common"] == N
    order = next(item for item in compared["differences"] if item["what"] == "class order")
    assert order["values"] == ["0 = dark", "0 = bright"]
    pairs = [(m["name"], m["at"], m["pairs"][0]) for p in compared["probes"] for m in p["metrics"]]
    assert {"recall", "accuracy"} <= {name for name, _, _ in pairs}
    assert {at["class"] for name, at, _ in pairs if name == "recall" and at} == {"dark", "bright"}
    assert {pair["difference"]["value"] for _, _, pair in pairs} <= {0.0, None}
    assert compared["verdict"] == "no-difference"
    assert compared["decided_by"] == []


def test_other_classes_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"other classes than .* \(2 and 3; A only: none; B only: grey\)"):
        comparison.compare([folder / "dark-bright", folder / "three"])
    many = edited(folder, "many", lambda audit: audit["model"].update(classes=[f"c{i}" for i in range(9)]))
    with pytest.raises(BadInput, match="B only: c0, c1, c2, c3, c4 and 4 more"):
        comparison.compare([folder / "dark-bright", many])


def test_numeric_labels_read_by_another_class_order_are_explained(folder: Path) -> None:
    import pandas as pd

    other = edited(folder, "turned", lambda audit: audit["model"].update(classes=["bright", "dark"]))
    images = pd.read_parquet(other / "records" / "images.parquet")
    images["label"] = images["label"].map({"dark": "bright", "bright": "dark"})
    images.to_parquet(other / "records" / "images.parquet")
    manifest = json.loads((other / "manifest.json").read_text("utf-8"))
    content = (other / "records" / "images.parquet").read_bytes()
    manifest["files"]["records"]["records/images.parquet"] = hashlib.sha256(content).hexdigest()
    (other / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BadInput, match="the class orders differ, so labels that are numbers mean other classes"):
        comparison.compare([folder / "dark-bright", other])


def test_key_metric_is_replaced_by_none_but_one_of_its_name() -> None:
    def result(*keys: tuple[str, str]) -> ProbeResult:
        return ProbeResult({key: metric(key[0], 0.5, 0.0, "no-difference") for key in keys}, [])  # type: ignore[misc]

    first = result(("gap", "a"), ("gap", "b"), ("recall", "x"))
    assert _key_metric([first, first]) == ("gap", "a")
    assert _key_metric([first, result(("gap", "b"), ("recall", "x"))]) == ("gap", "b")
    assert _key_metric([first, result(("recall", "x"))]) is None


def test_same_source_next_to_another_model_is_no_difference(folder: Path) -> None:
    compared = comparison.compare([folder / "dark-bright", folder / "bright-dark"])
    assert not [item for item in compared["differences"] if item["what"].startswith("source")]


def test_sources_and_preprocessing_are_stated(folder: Path) -> None:
    def change(audit: dict[str, Any]) -> None:
        audit["model"]["classes_source"] = "a guess"
        audit["model"]["input"] |= {"order": "bgr", "source": "a preset"}

    compared = comparison.compare([folder / "dark-bright", edited(folder, "guessed", change)])
    stated = {item["what"]: item["values"] for item in compared["differences"]}
    assert stated["source of the class order"][1] == "a guess"
    assert stated["source of the preprocessing"][1] == "a preset"
    assert '"bgr"' in stated["preprocessing"][1]
    html = page(compared, paper=False)
    assert "source of the class order" in html


def metric(name: str, p: float | None, value: float, outcome: str, *, headline: bool = False) -> dict[str, Any]:
    number = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    pair = {
        "runs": [0, 1],
        "difference": {"value": value, "low": value - 0.05, "high": value + 0.05},
        "n": 100,
        "test": "mcnemar",
        "only": None,
        "p": p,
        "p_adjusted": p,
        "outcome": outcome,
    }
    values = [number, number]
    return {"name": name, "at": {}, "unit": "fraction", "headline": headline, "values": values, "pairs": [pair]}


def compared_metrics(*metrics: dict[str, Any]) -> Any:
    specs = [
        {"name": m["name"], "label": m["name"].title(), "better": "higher", "unit": "fraction", "bound": "measured",
         "difference": False}
        for m in metrics
    ]  # fmt: skip
    probe = {"id": "performance.accuracy", "metric_specs": specs, "metrics": list(metrics)}
    runs = [{"name": "A"}, {"name": "B"}]
    return {"runs": runs, "images": {"common": 100}, "probes": [probe]}


def test_reason_names_the_metric_that_decided_and_not_its_probe() -> None:
    """Accuracy does not differ, recall is worse: the reason must not say that accuracy is."""
    verdict, reason, decided = decide(
        compared_metrics(
            metric("accuracy", 0.6, -0.01, "no-difference", headline=True), metric("recall", 0.0001, -0.2, "worse")
        )
    )
    assert verdict == "worse"
    assert decided == [{"probe": "performance.accuracy", "name": "recall", "at": {}, "outcome": "worse"}]
    assert reason == (
        "B is worse than A, in no key metric but in other metrics; worse: recall (performance.accuracy) −20.0 points"
        " [−25.0, −15.0], p < 0.001; of 1 key metrics 0 significantly worse, 0 better; of 1 other metrics 1"
        " significantly worse, 0 better (n = 100 images in common)"
    )


def test_key_metrics_decide_and_other_metrics_are_named_after_them() -> None:
    verdict, reason, decided = decide(
        compared_metrics(
            metric("accuracy", 0.01, 0.1, "better", headline=True), metric("recall", 0.0001, -0.2, "worse")
        )
    )
    assert (verdict, [each["name"] for each in decided]) == ("better", ["accuracy"])
    assert "better: accuracy (performance.accuracy) +10.0 points [+5.0, +15.0], p = 0.01" in reason
    assert "other metrics that differ: recall (performance.accuracy)" in reason


def test_many_deciding_metrics_are_counted() -> None:
    metrics = [metric(f"number_{i}", 0.001 * (i + 1), -0.1, "worse", headline=True) for i in range(5)]
    _, reason, decided = decide(compared_metrics(*metrics))
    assert len(decided) == 5
    assert "number_0" in reason.lower()
    assert " and 2 more; of 5 key metrics 5 significantly worse" in reason


def test_worst_gaps_of_each_run_are_listed(folder: Path) -> None:
    statement = "Accuracy is 40.0 points [20.0, 60.0] lower for sex f than for sex m."

    def change(audit: dict[str, Any]) -> None:
        probe = next(probe for probe in audit["probes"] if probe["id"] == "bias.groups")
        gap = {"name": "accuracy_gap", "value": 0.4, "low": 0.2, "high": 0.6, "n": 40, "unit": "fraction"}
        at = {"group": "sex", "value": "f", "against": "m"}
        finding = {"id": "bias.groups/x", "title": "x", "statement": statement, "severity": "high", "evidence": []}
        probe["findings"] = [{**finding, "metric": {**gap, "at": at}}]

    compared = comparison.compare([folder / "dark-bright", edited(folder, "gap", change)])
    first, second = compared["gaps"]
    # the eight errors of the 20 images of group f
    assert (first["run"], first["severity"]) == (0, "medium")
    assert first["statement"].startswith("Accuracy is 40.0 points [11.6, 64.0] lower for sex f than for sex m: 60.0 %")
    assert (second["run"], second["severity"], second["statement"]) == (1, "high", statement)
    assert not list(validator("compare").iter_errors(compared))
    assert statement in page(compared, paper=False)
