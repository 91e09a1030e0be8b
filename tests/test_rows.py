"""Tabular data: trees and linear models like those of scikit-learn, and an MLP, audited on a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper

from auditor.data.dataset import Batch, Source
from auditor.errors import BadInput
from auditor.model.tabular import of_table, unknown
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.explanations._lime_coefficients import feature_coefficients
from auditor.plugins.explanations._shap_values import _library, feature_values
from auditor.plugins.explanations.occlusion import OcclusionMap
from auditor.plugins.explanations.shap import Shap
from auditor.probes.base import Randomness
from auditor.probes.cells import background
from auditor.run.measuring import Measurer
from auditor.run.opening import open_audit
from auditor.run.request import Request

Cli = Callable[..., Result]
FLOAT = TensorProto.FLOAT
N = 120


def patients() -> pd.DataFrame:
    """Ill when older than 50, or with a fever; two clinics."""
    rng = np.random.default_rng(0)
    age = rng.integers(20, 80, N)
    fever = rng.normal(37.5, 1.0, N)
    table = pd.DataFrame({"age": age, "fever": fever, "clinic": np.where(rng.uniform(size=N) < 0.5, "north", "south")})
    return table.assign(label=np.where((age > 50) | (fever > 38.5), "ill", "well"))


def save(path: Path, nodes: list[Any], outputs: list[Any], constants: Any = (), features: int = 2) -> Path:
    graph = helper.make_graph(
        nodes, "rows", [helper.make_tensor_value_info("x", FLOAT, ["n", features])], outputs, list(constants)
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def tree(path: Path, *, zipmap: bool = True) -> Path:
    """Write the tree age > 50, else fever > 38.5, with two classes as skl2onnx does, with ZipMap."""
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "p"],
        domain="ai.onnx.ml",
        post_transform="NONE",
        classlabels_strings=["ill", "well"],
        nodes_treeids=[0] * 5,
        nodes_nodeids=[0, 1, 2, 3, 4],
        nodes_featureids=[0, 1, 0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        nodes_values=[50.0, 38.5, 0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 3, 0, 0, 0],
        nodes_falsenodeids=[2, 4, 0, 0, 0],
        nodes_hitrates=[1.0] * 5,
        nodes_missing_value_tracks_true=[0] * 5,
        class_treeids=[0] * 3,
        class_nodeids=[2, 3, 4],
        class_ids=[0, 0, 0],
        class_weights=[0.0, 1.0, 0.0],
    )
    label = helper.make_tensor_value_info("label", TensorProto.STRING, ["n"])
    if not zipmap:
        return save(path, [node], [label, helper.make_tensor_value_info("p", FLOAT, ["n", 2])])
    maps = helper.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["ill", "well"])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, []))
    )
    return save(path, [node, maps], [label, helper.make_value_info("maps", kind)])


def linear(path: Path) -> Path:
    """Write logits 0 and (age - 50.5) / 10: the margin is a distance in years."""
    weights = np.array([[0, 0], [0.1, 0]], dtype=np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"], transB=1)]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.float32([0, -5.05]), "b")]
    return save(path, nodes, [helper.make_tensor_value_info("z", FLOAT, ["n", 2])], constants)


def audited(model: Path, table: Path, **overrides: Any) -> tuple[Any, Any]:
    plugins = registry.load()
    return open_audit(
        plugins, Request(model=model, data=table, overrides=overrides), find_suite("full", plugins), "cpu"
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    patients().to_csv(tmp_path / "patients.csv", index=False)
    return tmp_path / "patients.csv"


@pytest.mark.parametrize("zipmap", [True, False])
def test_tree_receives_the_exact_values_of_the_table(zipmap: bool, table: Path) -> None:
    """The tree splits at values in the table, so a rounding error would change answers; all 120 must be correct."""
    classifier, images = audited(tree(table.with_name("t.onnx"), zipmap=zipmap), table)
    pixels = images.pixels(images.ids)
    assert pixels.shape == (N, 2)
    assert (pixels.min(), pixels.max()) == (0, 1)
    received = classifier.preprocessing.apply(pixels)
    np.testing.assert_array_equal(received, patients()[["age", "fever"]].to_numpy().astype(np.float32))
    assert classifier.classes == ("ill", "well")
    assert (classifier.predict(pixels).argmax(1) == images.labels).all()
    assert images.groups == {"clinic": patients()["clinic"].tolist()}
    assert classifier.access == "black-box"
    assert classifier.input_kind == "rows"


def test_integers_stay_integers(table: Path) -> None:
    classifier, images = audited(linear(table.with_name("m.onnx")), table)
    received = classifier.preprocessing.apply((images.pixels(images.ids) + 0.003).clip(0, 1))
    ages = received[:, 0]
    np.testing.assert_array_equal(ages, np.rint(ages))
    assert not np.array_equal(received[:, 1], np.rint(received[:, 1]))


def test_copy_of_linear_model_has_gradient_in_units_of_the_range(table: Path) -> None:
    classifier, images = audited(linear(table.with_name("m.onnx")), table)
    pixels = images.pixels(images.ids)
    classifier.verify(pixels)
    assert classifier.access == "white-box", classifier.access_reason
    gradient = np.abs(classifier.gradient(pixels).numpy().reshape(N, 2))
    years = patients()["age"].max() - patients()["age"].min()
    np.testing.assert_allclose(gradient, np.broadcast_to([0.1 * years, 0], (N, 2)), rtol=1e-5)


def test_noise_is_in_units_of_the_standard_deviation(table: Path) -> None:
    classifier, images = audited(linear(table.with_name("m.onnx")), table)
    probe: Any = registry.load().configure("corruptions.feature-noise", {}, where="test")
    batch = Measurer(classifier, images, 0).batch(images.ids)
    level = {"noise": "Gaussian", "standard_deviations": 0.5}
    moved = probe.perturb(classifier, batch, Randomness(0, "x"), level) - batch.pixels
    ranges = patients()[["age", "fever"]].max() - patients()[["age", "fever"]].min()
    size = moved.reshape(N, 2).std(axis=0) * ranges.to_numpy() / patients()[["age", "fever"]].std(ddof=0).to_numpy()
    np.testing.assert_allclose(size, [0.5, 0.5], rtol=0.2)


def source(**columns: list[Any]) -> Source:
    n = len(next(iter(columns.values())))
    return Source(path="t.csv", ids=[str(i) for i in range(n)], read=lambda i: (b"", np.zeros(1)), columns=columns)


NOTHING: dict[str, Any] = {"label": None, "groups": None, "features": None}


def test_columns_are_distinguished() -> None:
    columns: dict[str, list[Any]] = {"sex": ["f", "m"], "a": ["1", "2"], "label": ["0", "1"], "b": [0.5, 1.5]}
    rows, how = of_table(source(**columns), 2, "float32", **NOTHING)
    assert [feature.name for feature in how.features] == ["a", "b"]
    assert (rows.groups, rows.labels) == ({"sex": ["f", "m"]}, ["0", "1"])
    overrides = NOTHING | {"label": "b", "groups": ["a", "sex"], "features": ["label", "a"]}
    rows, how = of_table(source(**columns), 2, "float32", **overrides)
    assert [feature.name for feature in how.features] == ["label", "a"]
    assert (rows.groups, rows.labels) == ({"a": ["1", "2"], "sex": ["f", "m"]}, ["0.5", "1.5"])


@pytest.mark.parametrize(
    ("columns", "overrides", "message"),
    [
        (
            {"a": [1], "b": [2]},
            {},
            r"has 2 columns of features \(a, b\), but the model takes 1; name label, unit",
        ),
        ({"a": [1]}, {"label": "y"}, "has no column 'y'; it has a"),
        ({"a": ["x"]}, {"features": ["a"]}, "column a holds 'x'; expected numbers"),
        ({"a": [float("nan")]}, {}, "every row has a missing or non-numeric feature"),
        ({"a": [1, 2], "label": ["x", None]}, {}, "1 of 2 rows have no label"),
    ],
)
def test_incompatible_table_is_refused(columns: dict[str, Any], overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        of_table(source(**columns), 1, "float32", **(NOTHING | overrides))


def test_constant_feature() -> None:
    rows, how = of_table(source(a=[3, 3], b=[0.1, 0.2]), 2, "float32", **NOTHING)
    pixels = np.stack([rows.read(i)[1] for i in range(2)])
    np.testing.assert_array_equal(how.apply(pixels), np.float32([[3, 0.1], [3, 0.2]]))
    assert how.deviations[0] == 0
    assert unknown(3, "int64").apply(np.full((1, 3), 0.9, np.float32)).tolist() == [[1, 1, 1]]


def test_full_suite_on_a_tree(table: Path, auditor_cli: Cli, tmp_path: Path) -> None:
    """No probe breaks; image probes are not applicable; a row without a number is named."""
    frame = patients()
    frame.loc[3, "fever"] = np.nan
    frame.to_parquet(tmp_path / "p.parquet")
    result = auditor_cli(
        "run",
        tree(tmp_path / "t.onnx"),
        "--data",
        "p.parquet",
        "--suite",
        "full",
        "--format",
        "json,md",
        "--out",
        "out",
    )
    assert result.exit_code == 0, result.output
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    by_id = {probe["id"]: probe for probe in audit["probes"]}
    assert audit["data"]["kind"] == "rows"
    assert audit["data"]["unreadable"] == ["row 004: no number for fever"]
    assert audit["model"]["input"]["shape"] == [None, 2]
    assert [f["name"] for f in audit["model"]["input"]["features"]] == ["age", "fever"]
    assert {p["status"] for p in audit["probes"]} <= {"pass", "fail", "inconclusive", "informative", "not-applicable"}
    assert by_id["performance.accuracy"]["metrics"][0]["value"] == 1
    for probe_id in ("performance.calibration", "bias.groups", "sanity.determinism", "corruptions.feature-noise"):
        assert by_id[probe_id]["n"] == N - 1, by_id[probe_id]["reason"]
    assert by_id["corruptions.imagenet-c"]["reason"] == "requires image input; this model takes 2 tabular features"
    assert by_id["attacks.pgd"]["reason"].startswith("requires gradients")


def test_gradient_attack_on_rows(table: Path, auditor_cli: Cli, tmp_path: Path) -> None:
    """The decision boundary is at 50.5 years: PGD finds exactly the rows within two whole years of it."""
    ages = patients()["age"]
    labels = np.where(ages > 50, "old", "young")
    patients().assign(label=labels).to_csv(table, index=False)
    epsilon = 2.2 / (ages.max() - ages.min())
    suite = tmp_path / "s.toml"
    suite.write_text(f'probes = ["attacks.pgd"]\n[settings."attacks.pgd"]\nepsilons = [{epsilon}]\nl2_epsilons = []\n')
    (tmp_path / "m.onnx.audit.toml").write_text('[output]\nclasses = ["young", "old"]')
    result = auditor_cli(
        "run", linear(tmp_path / "m.onnx"), "--data", table, "--suite", suite, "--format", "json", "--out", "out"
    )
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "audit.json").read_text())["probes"][0]["metrics"]
    robust = next(m for m in metrics if m["name"] == "robust_accuracy" and m["at"]["epsilon"])
    broken = int(ages.between(49, 52).sum())
    assert robust["value"] == pytest.approx(1 - broken / N, abs=1e-6)


def test_incompatible_options_are_refused(table: Path, auditor_cli: Cli, tmp_path: Path, digits: Path) -> None:
    model = tree(tmp_path / "t.onnx")
    none = auditor_cli("run", model)
    assert none.exit_code == 2
    assert "takes 2 tabular features" in none.output
    assert "table with a column for each feature" in none.output
    images = auditor_cli("run", digits / "digits-cnn.onnx", "--data", table)
    assert images.exit_code == 2
    assert "has the columns age, fever, clinic, label, but the model takes images" in images.output
    text = auditor_cli("inspect", model).output
    assert "2 tabular features" in text
    assert "not read: label" in text


def wide(n: int, features: int) -> pd.DataFrame:
    """Return a table of ``features`` columns whose label depends on the first three."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(n, features)), columns=[f"f{i}" for i in range(features)])
    score = 2 * table["f0"] - table["f1"] + 0.5 * table["f2"]
    return table.assign(label=(score > 0).astype(int), site=rng.choice(["a", "b"], n))


@pytest.fixture(scope="module", params=[4, 13])
def regression(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Batch]:
    """A logistic regression of few or many features, and five rows."""
    features, folder = request.param, tmp_path_factory.mktemp("wide")
    weights = np.zeros((2, features), dtype=np.float32)
    weights[1, :3] = [2, -1, 0.5]
    nodes = [helper.make_node("Gemm", ["x", "w"], ["z"], transB=1)]
    model = save(
        folder / "m.onnx",
        nodes,
        [helper.make_tensor_value_info("z", FLOAT, ["n", 2])],
        [numpy_helper.from_array(weights, "w")],
        features,
    )
    wide(150, features).to_csv(folder / "t.csv", index=False)
    classifier, images = audited(model, folder / "t.csv")
    return classifier, Measurer(classifier, images, 0).batch(images.ids[:5])


def test_tabular_shap_equals_the_library_and_adds_up(regression: tuple[Any, Batch]) -> None:
    shap = _library()
    classifier, batch = regression
    width, predicted = batch.pixels.shape[1], int(batch.predictions[1])
    usual = background(classifier)
    assert usual.shape == (100, width)
    probe = Shap(evaluations=200)
    values, base = feature_values(classifier, batch, 1, 3, evaluations=200)
    assert base + values.sum() == pytest.approx(float(batch.probabilities[1, predicted]), abs=1e-5)
    assert probe.draws(classifier) is (width > 10)

    def plain(rows: np.ndarray) -> np.ndarray:
        return classifier.predict(rows.astype(np.float32))[:, predicted]

    # shap's default for this number of features, with its own batches
    explainer = shap.Explainer(plain, shap.maskers.Independent(usual), seed=3)
    theirs = explainer(batch.pixels[1].reshape(1, -1), max_evals=200 if width > 10 else 2**width, silent=True)
    np.testing.assert_allclose(values, theirs.values[0], atol=1e-6)
    maps = probe.attribute(classifier, batch, Randomness(0, "x"))
    assert maps.shape == (5, width)


def test_tabular_lime_equals_the_package_for_the_same_seed(regression: tuple[Any, Batch]) -> None:
    from lime.lime_tabular import LimeTabularExplainer

    classifier, batch = regression
    width, predicted = batch.pixels.shape[1], int(batch.predictions[0])
    ours = feature_coefficients(classifier, batch, 0, 11, evaluations=300)
    explainer = LimeTabularExplainer(background(classifier), feature_selection="none", random_state=11)
    explanation = explainer.explain_instance(
        batch.pixels[0].ravel(),
        lambda x: classifier.predict(x.astype(np.float32)),
        labels=(predicted,),
        num_features=width,
        num_samples=300,
    )
    for feature, coefficient in explanation.local_exp[predicted]:
        assert ours[feature] == pytest.approx(coefficient, abs=1e-9)
    assert set(np.argsort(-np.abs(ours))[:2]) <= {0, 1, 2}


def test_covered_feature_has_its_mean(regression: tuple[Any, Batch]) -> None:
    classifier, batch = regression
    maps = OcclusionMap().attribute(classifier, batch, Randomness(0, "x"))
    covered = batch.pixels.copy()
    covered[:, 0] = background(classifier)[:, 0].mean(dtype=np.float64)
    rows = np.arange(5)
    fall = (batch.probabilities - classifier.predict(covered))[rows, batch.predictions]
    np.testing.assert_allclose(maps[:, 0], fall, atol=1e-6)
    np.testing.assert_allclose(maps[:, 3:], 0, atol=1e-6)


def test_findings_on_features_are_worded_for_tabular_data(auditor_cli: Cli, tmp_path: Path, table: Path) -> None:
    """Only age decides: every explanation names it, covering it changes answers, and no finding mentions images."""
    ages = patients()["age"]
    patients().assign(label=np.where(ages > 50, "old", "young")).to_csv(table, index=False)
    (tmp_path / "m.onnx.audit.toml").write_text('[output]\nclasses = ["young", "old"]')
    patterns = ["performance.*", "explanations.*", "bias.*", "attacks.hopskipjump"]
    options = [item for probe_id in patterns for item in ("--probe", probe_id)]
    result = auditor_cli(
        "run",
        linear(tmp_path / "m.onnx"),
        "--data",
        table,
        *options,
        "--format",
        "html,json",
        "--samples",
        60,
        "--out",
        "out",
    )
    assert result.exit_code == 0, result.output
    probes = {p["id"]: p for p in json.loads((tmp_path / "out" / "audit.json").read_text())["probes"]}
    for method in ("shap", "lime", "occlusion", "integrated-gradients"):
        findings = [f for f in probes[f"explanations.{method}"]["findings"] if f["id"].endswith("/where")]
        assert findings[0]["statement"].startswith("age has the largest share"), method
    assert probes["explanations.grad-cam"]["status"] == "not-applicable"
    assert probes["bias.slices"]["reason"] == "requires image input; this model takes 2 tabular features"
    drop = probes["bias.counterfactual-occlusion"]["findings"][0]
    assert "depends on the attributed region more than on others" in drop["statement"]
    assert "The most frequently attributed feature is age" in drop["statement"]
    distance = next(
        m
        for m in probes["attacks.hopskipjump"]["metrics"]
        if m["name"] == "distance_median" and m["at"]["norm"] == "linf"
    )
    age_range = ages.max() - ages.min()
    assert (
        0.5 * np.median(np.abs(ages - 50.5)) / age_range
        < distance["value"]
        < 2 * np.median(np.abs(ages - 50.5)) / age_range
    )
    findings_text = json.dumps([p["findings"] for p in probes.values() if p["findings"]])
    assert "image" not in findings_text.replace("image_id", "")
