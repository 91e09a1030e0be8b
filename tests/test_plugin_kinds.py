"""`auditor plugin new` writes working plugins of every kind; `plugin check` names every rule that a plugin breaks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from helpers import install_package

from auditor import BadInput
from auditor.conformance import package
from auditor.plugin import registry, template
from auditor.run.request import Request
from auditor.run.session import run

ROOT = Path(__file__).parents[1]
THIRD_PARTY = ROOT / "tests" / "third_party"
KINDS = list(template.KINDS)
Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of each kind, auditor-own-KIND, and in site/ what an installer would write about them."""
    folder = tmp_path_factory.mktemp("kinds")
    site = folder / "site"
    site.mkdir()
    for kind in KINDS:
        (project, *_) = template.write(f"auditor-own-{kind}", kind, folder)
        package.write_metadata(tomllib.loads(project.read_text(encoding="utf-8"))["project"], site)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_new_package_of_every_kind_passes_the_check(written: Path, kind: str) -> None:
    report = package.check_package(str(written / f"auditor-own-{kind}"))
    assert list(report.failed) == []
    # more than the package itself was checked
    assert len({check.subject for check in report.checks if check.outcome == "ok"}) == 2


def test_known_answers_of_every_kind_hold(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [written / f"auditor-own-{kind}" for kind in KINDS]
    tests = [path for folder in folders for path in (folder / "tests").glob("test_auditor_*.py")]
    assert len(tests) == len(KINDS)
    # the pytest plugin makes a test of each check of one of them
    tests.append(written / "auditor-own-data" / "tests" / "test_conformity.py")
    for folder in [*folders, written / "site"]:
        monkeypatch.syspath_prepend(folder)
    passed: list[str] = []

    class Watch:
        @staticmethod
        def pytest_runtest_logreport(report: pytest.TestReport) -> None:
            if report.when == "call" and report.passed:
                passed.append(report.nodeid.rpartition("::")[2])

    # in this process, where torch is loaded already
    options = [
        "-q",
        "-W",
        "error",
        "--import-mode=importlib",
        f"--rootdir={written}",
        "-c",
        str(written / "pytest.ini"),
    ]
    (written / "pytest.ini").write_text("[pytest]\n")
    disabled = [word for name in ("cacheprovider", "xdist") for word in ("-p", f"no:{name}")]
    assert pytest.main([*options, *disabled, *map(str, tests)], plugins=[Watch()]) == pytest.ExitCode.OK
    assert "test_plugin_passes_the_check[data source: refuses a damaged file]" in passed
    assert len([name for name in passed if "passes_the_check" not in name]) >= len(KINDS)


def test_every_kind_passes_mypy_strict(written: Path) -> None:
    folders = [written / f"auditor-own-{kind}" for kind in KINDS]
    files = [path for folder in folders for path in [*folder.glob("*.py"), *folder.glob("tests/test_auditor_*.py")]]
    files.append(written / "auditor-own-data" / "tests" / "test_conformity.py")
    # the annotations of heavy libraries take mypy a minute and do not concern a plugin
    config = written / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\nfollow_imports = silent\n"
        "[mypy-torch.*,pandas.*,onnx.*,onnxruntime.*,sklearn.*,scipy.*,pyarrow.*,PIL.*]\nfollow_imports = skip\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", ROOT / ".mypy_cache" / "plugin", *files],
        check=False,
        capture_output=True,
        text=True,
        # mypy does not run the import hook of the editable install
        env=os.environ | {"MYPYPATH": os.pathsep.join(map(str, [ROOT, *folders]))},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_is_formatted_and_lint_free(tmp_path: Path) -> None:
    for kind in KINDS:
        template.write(f"gentle-{kind}", kind, tmp_path)
    modules = [f"gentle_{kind.replace('-', '_')}" for kind in KINDS]
    for arguments in (
        ["format", "--isolated", "--check"],
        ["check", "--isolated", "--config", f"lint.isort.known-first-party={modules}", "--select", "E,F,W,I,UP,B,PT"],
    ):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "--line-length", "120", "."]
        # not in this checkout, where auditor would be a first-party module
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "$" not in "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file() and "publisher" not in str(p))


def test_new_package_is_installed_and_listed(written: Path, tmp_path: Path) -> None:
    # a copy: building leaves traces in the source folder
    source = shutil.copytree(written / "auditor-own-sanity", tmp_path / "source")
    install_package(source, tmp_path / "target")
    listed = subprocess.run(
        [sys.executable, "-c", "from auditor.cli.main import main; main()", "probes", "sanity.own-sanity"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "target")},
    )
    assert listed.returncode == 0, listed.stderr
    assert "Plugin: auditor-own-sanity:own-sanity" in listed.stdout


def test_unknown_kind_is_refused_with_the_nearest_one(auditor_cli: Cli) -> None:
    refused = auditor_cli("plugin", "new", "auditor-bar", "--kind", "atack")
    assert refused.exit_code == 2
    assert "--kind atack: no such kind (did you mean 'attack'?)" in refused.output
    assert not Path("auditor-bar").exists()


@pytest.mark.parametrize(("name", "kind"), [("auditor-step", "attack"), ("auditor-grey", "minimum-norm")])
def test_the_documented_attacks_are_what_is_written(name: str, kind: str, tmp_path: Path) -> None:
    for file in template.write(name, kind, tmp_path):
        if file.parent.name == name and file.name != "README.md":
            assert file.read_text() == (THIRD_PARTY / name / file.name).read_text()


FAULTS = {
    ("", "loads"): "auditor_suites: quick is already registered",
    ("model format", "leaves other files alone"): "opens other.unknown-format; return None",
    ("model format", "same scores in any batch"): "in batches of 1, 2 and 2, scores differ by",
    ("model format", "copy computes the same"): "the copy predicts another label for",
    ("model format", "refuses a damaged file"): "raises ValueError for half a file",
    ("data source", "opens an example"): "2 ids, 1 of them different",
    ("data source", "reads pictures"): "reading a twice gives different bytes",
    ("family faulty", "generates probes"): "2 names with 1 ids",
    ("suite misspelt", "can be read"): "attack.fgsm: no such probe",
    ("suite quick", "can be read"): "another suite is called quick",
    ("policy typo", "can be read"): "performance.accurracy",
    ("report format restless", "is a report format"): "file is '../outside.txt'",
    ("report format restless", "is a pure view"): "expected the same bytes",
    ("report format rude", "is a report format"): "as of the format html",
    ("report format rude", "is a pure view"): "render changed the audit",
    ("publisher", "publishes a run"): "the tracking server does not answer",
}
"""For auditor-faulty: checks that must fail, with part of their message."""


@pytest.fixture(scope="module")
def faulty() -> package.Report:
    return package.check_package(str(THIRD_PARTY / "auditor-faulty"))


def test_every_fault_next_to_probes_is_named(faulty: package.Report) -> None:
    messages = {(check.subject, check.name): check.message for check in faulty.failed}
    assert list(messages) == list(FAULTS)
    wrong = {place: messages[place] for place, text in FAULTS.items() if text not in messages[place]}
    assert not wrong


def test_format_without_example_files_fails_the_check(tmp_path: Path) -> None:
    shutil.copytree(THIRD_PARTY / "auditor-npy", tmp_path / "auditor-npy")
    module = tmp_path / "auditor-npy" / "auditor_npy.py"
    module.write_text(module.read_text().partition("@hookimpl\ndef auditor_example_files")[0])
    sys.modules.pop("auditor_npy", None)
    report = package.check_package(str(tmp_path / "auditor-npy"))
    sys.modules.pop("auditor_npy", None)
    assert {check.name for check in report.failed} == {"opens an example", "reads pictures", "refuses a damaged file"}
    assert "write a small one in the hook auditor_example_files(folder)" in report.failed[0].message


PACKAGES = ("auditor-skops", "auditor-npy", "auditor-nightly", "auditor-csv", "auditor-runlog")


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """The packages of tests/third_party for formats, suites, policies, reports and publishers, as if installed."""
    pytest.importorskip("skops", reason="skops, of the group dev, is not installed")
    with ExitStack() as stack:
        for name in PACKAGES:
            stack.enter_context(package.findable(str(THIRD_PARTY / name)))
        yield


@pytest.mark.parametrize("name", PACKAGES)
def test_examples_of_the_documentation_pass_the_check(installed: None, name: str) -> None:
    assert list(package.check_package(str(THIRD_PARTY / name)).failed) == []


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scikit-learn model of digits, model.skops, and images.npy with their labels."""
    skops_io = pytest.importorskip("skops.io", reason="skops, of the group dev, is not installed")
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("forest")
    images, labels = load_digits(return_X_y=True)
    # pixels as the model gets them: uint8 / 255
    pixels = np.round(images * 255 / 16).astype(np.uint8)
    model = LogisticRegression(max_iter=300).fit(pixels[:1000] / 255, labels[:1000])
    skops_io.dump(model, folder / "model.skops")
    np.save(folder / "images.npy", pixels[1000:1200].reshape(-1, 8, 8))
    (folder / "images.labels.txt").write_text("\n".join(map(str, labels[1000:1200])))
    right = model.predict(np.float32(pixels[1000:1200]) / np.float32(255)) == labels[1000:1200]
    (folder / "accuracy.txt").write_text(str(right.mean()))
    return folder


def test_one_audit_uses_every_extension_point(
    installed: None, forest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITOR_RUNLOG", str(tmp_path / "runs.jsonl"))
    request = Request(
        model=forest / "model.skops",
        data=forest / "images.npy",
        suite="nightly",
        policy="release",
        formats=["csv"],
        out=tmp_path / "run",
        trust_model=True,
        device="cpu",
    )
    outcome = run(request)
    assert (outcome.incomplete, outcome.problems) == (False, [])
    audit = outcome.audit
    assert (audit["suite"], audit["policy"]["name"]) == ("nightly", "release")
    assert (audit["model"]["format"], audit["model"]["access"]) == ("skops", "black-box")
    assert audit["data"]["n"] == 200
    # the accuracy that scikit-learn computes, in the record and in the report
    with (tmp_path / "run" / "metrics.csv").open() as file:
        reported = {(row["probe"], row["metric"]): row for row in csv.DictReader(file)}
    accuracy = reported["performance.accuracy", "accuracy"]
    assert float(accuracy["value"]) == pytest.approx(float((forest / "accuracy.txt").read_text()))
    # the policy of the plugin judges: the audit cannot fail its rule, and needs no other probe
    rules = [rule for rule in audit["policy"]["rules"] if rule["source"] == "product requirements, section 2"]
    assert [rule["thresholds"] for rule in rules] == [{"critical": 0.5, "high": 0.8}]
    (line,) = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["model"] == audit["model"]["sha256"]


def test_file_with_foreign_code_needs_trust(installed: None, tmp_path: Path) -> None:
    skops_io = pytest.importorskip("skops.io", reason="skops, of the group dev, is not installed")
    from auditor_skops import auditor_open_model  # type: ignore[import-not-found]
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    x = np.random.default_rng(0).random((20, 4))
    model = make_pipeline(FunctionTransformer(shutil.copy), LogisticRegression())
    model.steps[1][1].fit(x, x[:, 0] > 0.5)
    skops_io.dump(model, tmp_path / "foreign.skops")
    with pytest.raises(BadInput, match="--trust-model allows code of its author"):
        auditor_open_model(tmp_path / "foreign.skops", "cpu")


def test_policies_of_plugins_are_suggested_and_extended(installed: None, auditor_cli: Cli, tmp_path: Path) -> None:
    policies = registry.load().policies()
    assert [*policies][-1] == "release"
    Path("own.toml").write_text('extends = "release"\n')
    from auditor.policy.rules import read_policy

    assert read_policy("own.toml", policies=policies).required == ("performance.accuracy",)
    with pytest.raises(BadInput, match=r"did you mean 'release'"):
        read_policy("relase", policies=policies)


def test_broken_offers_of_a_plugin_are_named_with_its_version(auditor_cli: Cli) -> None:
    with package.findable(str(THIRD_PARTY / "auditor-faulty")):
        named = "auditor-faulty:faulty 1.0"
        listed, examined = auditor_cli("probes"), auditor_cli("doctor")
        # its loader raises ValueError for a damaged file
        Path("model.faulty").write_bytes(b"abcd")
        ran = auditor_cli("run", "model.faulty", "--trust-model")
    assert listed.exit_code == 3
    assert f"Plugin {named} is left out: auditor_suites: quick is already registered" in listed.output
    assert f"MISSING  plugin {named}: auditor_suites: quick is already registered" in examined.output
    assert ran.exit_code == 2
    assert f"plugin {named} could not open it" in " ".join(ran.output.split())
