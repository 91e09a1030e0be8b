"""Irrelevant changes leave findings unchanged, and relevant changes affect them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from helpers import arrays
from onnx import helper, numpy_helper
from PIL import Image

from auditor.run.request import Request
from auditor.run.session import run

SUITE = """
probes = ["*"]
[settings."attacks.autoattack"]
iterations = 3
targets = 2
queries = 5
[settings."attacks.fgsm"]
epsilons = ["2/255", "8/255", "32/255"]
l2_epsilons = [0.2, 0.5]
[settings."attacks.carlini-wagner"]
iterations = 4
search_steps = 2
[settings."attacks.deepfool"]
iterations = 3
[settings."attacks.hopskipjump"]
iterations = 2
evaluations = 20
[settings."attacks.minimum-norm"]
iterations = 3
[settings."attacks.noise"]
epsilons = ["8/255", "32/255"]
sigmas = ["32/255"]
snrs = [10]
[settings."attacks.occlusion"]
sizes = [0.5]
steps = 3
[settings."attacks.pgd"]
epsilons = ["8/255", "16/255"]
l2_epsilons = [0.5]
l1_epsilons = [4]
iterations = 3
[settings."attacks.simba"]
iterations = 5
[settings."attacks.square"]
queries = 10
[settings."bias.groups"]
minimum = 3
[settings."corruptions.imagenet-c"]
severities = [1, 5]
samples = 4
[settings."explanations.occlusion"]
grid = 4
steps = 4
orders = 1
[settings."bias.counterfactual-occlusion"]
grid = 4
[settings."explanations.grad-cam"]
samples = 3
grid = 4
[settings."explanations.gradient-shap"]
samples = 3
grid = 4
evaluations = 20
[settings."explanations.integrated-gradients"]
samples = 3
grid = 4
iterations = 3
[settings."explanations.lime"]
samples = 3
grid = 4
evaluations = 30
[settings."explanations.shap"]
samples = 3
grid = 4
evaluations = 30
[settings."metrics.certified"]
samples = 2
refine = 8
iterations = 2
seconds = 0
[settings."metrics.clever"]
samples = 2
batches = 5
batch_samples = 4
targets = 2
[settings."metrics.smoothing"]
samples = 2
selection = 10
draws = 20
[settings."sanity.positive-control"]
samples = 3
[settings."sanity.gradient-masking"]
iterations = 3
[settings."attacks.universal"]
iterations = 3
[settings."attacks.patch"]
iterations = 3
[settings."attacks.spatial"]
angles = 3
"""
CHEAP = 'probes = ["performance.accuracy", "attacks.noise"]\n[settings."attacks.noise"]\nepsilons = ["32/255"]\n'
FEW = (
    "performance.accuracy",
    "attacks.fgsm",
    "attacks.square",
    "bias.groups",
    "corruptions.imagenet-c",
    "metrics.loss-sensitivity",
    "sanity.parity",
)
"""Probes whose results do not depend on the rest of the suite, for audits that are killed."""
N = 8


@pytest.fixture(scope="module")
def small(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with a few digits as PNG, their table in two orders, and suites with all probes and with two."""
    folder = tmp_path_factory.mktemp("small")
    data = arrays(digits / "digits-test.npz")
    rows = []
    for i in range(N):
        Image.fromarray(data["images"][i]).save(folder / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{data['labels'][i]},{data['groups_ink'][i]}")
    (folder / "table.csv").write_text("\n".join(["image,label,ink", *rows]))
    shuffled = np.random.default_rng(0).permutation(rows).tolist()
    (folder / "shuffled.csv").write_text("\n".join(["image,label,ink", *shuffled]))
    (folder / "all.toml").write_text(SUITE)
    (folder / "few.toml").write_text(SUITE.replace('["*"]', json.dumps(FEW)))
    (folder / "cheap.toml").write_text(CHEAP)
    return folder


Audit = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def audit(digits: Path, small: Path) -> Audit:
    """Run an audit without reports; unspecified options have their defaults."""

    def call(out: Path, *, suite: str = "all.toml", model: str = "digits-cnn.onnx", **options: Any) -> dict[str, Any]:
        settings = {"data": small / "table.csv", "batch_size": 16} | options
        outcome = run(Request(model=digits / model, suite=str(small / suite), out=out, formats=(), **settings))
        assert not outcome.incomplete, [p["reason"] for p in outcome.audit["probes"] if p["status"] == "error"]
        return outcome.audit

    return call


@pytest.fixture(scope="module")
def baseline(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return audit(tmp_path_factory.mktemp("baseline") / "run")


def findings(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the probes of an audit without time, passes, and the rounding difference of copy and deployed model.

    The rounding difference, measured by sanity.parity, depends on the batch.
    """
    probes = [{k: v for k, v in probe.items() if k not in {"seconds", "model_calls"}} for probe in audit["probes"]]
    for probe in probes:
        if probe["id"] == "sanity.parity":
            assert all(m["value"] < 1e-4 for m in probe["metrics"] if m["name"] == "max_abs_difference")
            probe["findings"] = []
            probe["metrics"] = [m for m in probe["metrics"] if m["name"] == "label_agreement"]
    return probes


def metrics(audit: dict[str, Any], probe_id: str, name: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    probe = next(p for p in audit["probes"] if p["id"] == probe_id)
    return {tuple(m["at"].values()): m for m in probe["metrics"] if m["name"] == name}


def shards(out: Path) -> dict[str, dict[str, set[str]]]:
    """Return the shards of each probe by file name, with the images in each."""
    result: dict[str, dict[str, set[str]]] = {}
    for path in out.glob("records/*/shard-*.parquet"):
        ids = pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
        result.setdefault(path.parent.name, {})[path.name] = set(ids)
    return result


def equal_up_to_rounding(one: Any, other: Any, path: str = "") -> None:
    """Assert equality, with numbers equal up to the last of the six digits that audit.json holds."""
    if isinstance(one, float) or isinstance(other, float):
        assert other == pytest.approx(one, rel=2e-5, abs=1e-6), path
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            equal_up_to_rounding(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            equal_up_to_rounding(a, b, f"{path}/{a.get('id', i) if isinstance(a, dict) else i}")
    else:
        assert one == other, path


@pytest.mark.parametrize(("batch_size", "table"), [(1, "table.csv"), (7, "shuffled.csv")])
def test_batch_size_and_order_of_the_data_do_not_affect_findings(
    audit: Audit, baseline: dict[str, Any], small: Path, tmp_path: Path, batch_size: int, table: str
) -> None:
    other = audit(tmp_path / "run", data=small / table, batch_size=batch_size)
    equal_up_to_rounding(findings(baseline), findings(other))


def test_repeated_audit_measures_nothing(audit: Audit, baseline: dict[str, Any], tmp_path: Path) -> None:
    first = audit(tmp_path / "run", suite="cheap.toml")
    before = shards(tmp_path / "run")
    again = audit(tmp_path / "run", suite="cheap.toml", batch_size=5, budget=1.0)
    assert shards(tmp_path / "run") == before
    assert again["probes"] == first["probes"], "time and passes are those of the first measurement"
    for probe in findings(first):
        if probe["id"] == "performance.accuracy":
            assert probe in findings(baseline), "probes do not depend on the rest of the suite"


@pytest.fixture(scope="module")
def inputs(digits: Path, small: Path) -> Sequence[Path]:
    """Return model, suite and data of an audit that is killed."""
    return digits / "digits-cnn.onnx", small / "few.toml", small / "table.csv"


@pytest.fixture
def own(digits: Path, small: Path, tmp_path: Path) -> Path:
    """Return a folder with a copy of all inputs, for changes."""
    for path in (*small.iterdir(), *digits.glob("digits-cnn.onnx*")):
        shutil.copy(path, tmp_path)
    return tmp_path


KILLED = """
import os, signal, sys
from pathlib import Path
from auditor.run import measuring, session
from auditor.run.request import Request
measuring._FLUSH_SECONDS = 0.0
written, whole = 0, Path.replace
def replace(self, target):
    global written
    written += target.suffix == ".parquet"
    if written == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, target)
Path.replace = replace
model, suite, data, out = map(Path, sys.argv[2:])
session.run(Request(model=model, suite=str(suite), data=data, out=out, formats=(), batch_size=4))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_killed_audit_resumes(audit: Audit, baseline: dict[str, Any], inputs: Sequence[Path], tmp_path: Path) -> None:
    """The audit is killed in the middle of a probe, when a shard is written but not yet renamed."""
    out = tmp_path / "run"
    arguments = [10, *inputs, out]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (out / "audit.json").exists()
    assert [path.suffix for path in out.glob("records/*/.*")] == [".part"]
    before = shards(out)
    assert sum(map(len, before.values())) >= 2
    after_kill = {path: path.stat().st_mtime_ns for path in out.glob("records/*/*.parquet")}
    resumed = findings(audit(out, suite="few.toml"))
    assert {probe["id"] for probe in resumed} >= set(FEW)
    uninterrupted = [probe for probe in findings(baseline) if probe["id"] in {each["id"] for each in resumed}]
    equal_up_to_rounding(uninterrupted, resumed)
    assert not list(out.rglob("*.part"))
    for path, stamp in after_kill.items():
        assert path.stat().st_mtime_ns == stamp, "finished shards are not written again"
    for probe_id, files in shards(out).items():
        images = [image_id for ids in files.values() for image_id in ids]
        assert len(images) == len(set(images)) <= N, f"{probe_id} measured an image twice"
    json.loads((out / "audit.json").read_text())


def changed_model(folder: Path) -> None:
    model = onnx.load(folder / "digits-cnn.onnx")
    model.doc_string = "another file"
    onnx.save(model, folder / "digits-cnn.onnx")


def changed_image(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "03.png")).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "03.png")


def changed_label(folder: Path) -> None:
    table = (folder / "table.csv").read_text().splitlines()
    name, label, ink = table[1].split(",")
    table[1] = f"{name},{(int(label) + 1) % 10},{ink}"
    (folder / "table.csv").write_text("\n".join(table))


def changed_setting(folder: Path) -> None:
    (folder / "cheap.toml").write_text(CHEAP.replace("32/255", "16/255"))


def changed_preprocessing(folder: Path) -> None:
    sidecar = folder / "digits-cnn.onnx.audit.toml"
    sidecar.write_text(sidecar.read_text().replace("0.376", "0.4"))


BOTH = {"performance.accuracy", "attacks.noise"}


@pytest.mark.parametrize(
    ("change", "seed", "measured_again"),
    [
        (changed_model, 0, BOTH),
        (changed_image, 0, BOTH),
        (changed_label, 0, BOTH),
        (changed_preprocessing, 0, BOTH),
        (lambda _: None, 1, BOTH),
        (changed_setting, 0, {"attacks.noise"}),
        (lambda _: None, 0, set()),
    ],
    ids=["model", "image", "label", "preprocessing", "seed", "setting", "nothing"],
)
def test_changed_inputs_are_measured_again(
    own: Path, change: Callable[[Path], None], seed: int, measured_again: set[str]
) -> None:
    request: dict[str, Any] = {
        "model": own / "digits-cnn.onnx",
        "suite": str(own / "cheap.toml"),
        "data": own / "table.csv",
        "out": own / "run",
        "formats": (),
        "batch_size": 16,
    }
    run(Request(**request))
    before = shards(own / "run")
    change(own)
    run(Request(**request, seed=seed))
    after = shards(own / "run")
    assert {probe_id for probe_id in BOTH if not before[probe_id].keys() & after[probe_id].keys()} == measured_again
    assert {probe_id for probe_id in BOTH if before[probe_id] == after[probe_id]} == BOTH - measured_again


def test_robust_accuracy_and_success_are_monotonic_in_epsilon(baseline: dict[str, Any]) -> None:
    curves = 0
    for probe in baseline["probes"]:
        for name, sign in (("robust_accuracy", 1), ("attack_success_rate", -1)):
            at = [m for m in probe["metrics"] if m["name"] == name and "epsilon" in m["at"]]
            for norm in {m["at"]["norm"] for m in at}:
                line = sorted((m["at"]["epsilon"], sign * m["value"]) for m in at if m["at"]["norm"] == norm)
                values = [value for _, value in line]
                assert values == sorted(values, reverse=True), f"{probe['id']} {name} {norm}"
                curves += len(values) > 1
    assert curves >= 6


def test_worst_case_is_at_most_every_attack(baseline: dict[str, Any]) -> None:
    worst = metrics(baseline, "metrics.adversarial-distance", "robust_accuracy")
    limits = {norm: (epsilon, m["value"]) for (norm, epsilon), m in worst.items()}
    for attack in ("attacks.fgsm", "attacks.pgd"):
        for (norm, epsilon), metric in metrics(baseline, attack, "robust_accuracy").items():
            if epsilon <= limits[norm][0]:
                assert limits[norm][1] <= metric["value"]


def test_onnx_and_torchscript_give_equal_findings(audit: Audit, digits: Path, tmp_path: Path) -> None:
    one, other = (
        audit(
            tmp_path / model,
            model=model,
            data=digits / "digits-test.npz",
            samples=200,
            batch_size=100,
            probes=("performance.accuracy", "attacks.fgsm"),
        )
        for model in ("digits-cnn.onnx", "digits-cnn.pt")
    )
    assert [one["model"]["format"], other["model"]["format"]] == ["onnx", "torchscript"]
    for probe_id, name in (
        ("performance.accuracy", "accuracy"),
        ("performance.accuracy", "roc_auc"),
        ("attacks.fgsm", "robust_accuracy"),
        ("attacks.fgsm", "attack_success_rate"),
    ):
        expected, actual = metrics(one, probe_id, name), metrics(other, probe_id, name)
        assert expected.keys() == actual.keys()
        for at, metric in expected.items():
            # an image at the edge may be classified either way
            allowed = 1e-6 if name in {"accuracy", "roc_auc"} else 1 / metric["n"]
            assert abs(metric["value"] - actual[at]["value"]) <= allowed + 1e-9, (probe_id, name, at)


def test_permuted_classes_permute_the_confusion_matrix(
    audit: Audit, baseline: dict[str, Any], digits: Path, small: Path, tmp_path: Path
) -> None:
    order = np.random.default_rng(3).permutation(10)
    model = onnx.load(digits / "digits-cnn.onnx")
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    model.graph.node.append(helper.make_node("Gather", ["logits", "order"], ["permuted"], axis=1))
    model.graph.output[0].name = "permuted"
    onnx.save(model, tmp_path / "permuted.onnx")
    names = json.dumps([str(k) for k in range(10)])
    sidecar = (digits / "digits-cnn.onnx.audit.toml").read_text()
    assert names in sidecar
    permuted = sidecar.replace(names, json.dumps([str(k) for k in order]))
    (tmp_path / "permuted.onnx.audit.toml").write_text(permuted)
    probes = ("performance.accuracy", "attacks.fgsm")
    after = audit(tmp_path / "run", model=str(tmp_path / "permuted.onnx"), probes=probes)

    def matrix(record: dict[str, Any]) -> np.ndarray:
        evidence = record["probes"][0]["findings"][0]["evidence"]
        return np.array(next(item["values"] for item in evidence if item["kind"] == "heat-map"))

    np.testing.assert_array_equal(matrix(after), matrix(baseline)[np.ix_(order, order)])
    for probe in probes:
        for name in ("accuracy", "balanced_accuracy", "f1", "robust_accuracy"):
            values = [{at: m["value"] for at, m in metrics(a, probe, name).items()} for a in (baseline, after)]
            assert values[0] == pytest.approx(values[1])
