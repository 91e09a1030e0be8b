"""`auditor plugin new` writes plugins that pass `auditor plugin check`; the check names each violated rule."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from auditor.conformance import package
from auditor.errors import BadInput

ROOT = Path(__file__).parents[1]
THIRD_PARTY = ROOT / "tests" / "third_party"
Cli = Callable[..., Result]

FAULTS = {
    "": {
        "imports nothing heavy": "imports pandas, pyarrow at module level",
        "states the interface version": "AUDITOR_API",
    },
    "corruptions.restless": {"same seed, same rows": "measured twice with one seed, column"},
    "corruptions.sociable": {"same rows in any batch": "in batches of 1, 2 and 21 images, column"},
    "corruptions.rude": {"batch unchanged": "measure changed batch.pixels"},
    "corruptions.wordless": {
        "has a description": "end with a full stop",
        "concludes": "finding corruptions.wordless/x has neither a metric nor n: 'Fine.'",
    },
    "corruptions.unbound": {"within range and budget": "expected 0 to 1"},
    "corruptions.unset": {"is configurable": "is changed by a round trip through JSON"},
    "attacks.timid": {"beats random noise": "random noise of the same size on"},
    "attacks.idle": {"beats random noise": "succeeded on 0 of 12 images"},
    "metrics.clumsy": {"batch unchanged": "25 rows for 24 images", "concludes": "ended as an error"},
}
"""For the probes of auditor-careless: checks that must fail, with part of their text."""


@pytest.fixture(scope="module")
def careless() -> package.Report:
    return package.check_package(str(THIRD_PARTY / "auditor-careless"))


def test_package_and_its_probes_are_found(careless: package.Report) -> None:
    assert (careless.package, careless.version) == ("auditor-careless", "0.3")
    assert set(careless.probes) == set(FAULTS) - {""}
    # the check has no side effects
    assert not any("auditor-careless" in path for path in sys.path)


@pytest.mark.parametrize(("probe", "name"), [(probe, name) for probe, names in FAULTS.items() for name in names])
def test_every_violated_rule_is_named(careless: package.Report, probe: str, name: str) -> None:
    texts = {check.name: check.message for check in careless.failed if check.subject == probe}
    assert FAULTS[probe][name] in texts.get(name, f"{name} did not fail; failed checks: {texts}")


def test_probe_with_one_violation_passes_the_other_checks(careless: package.Report) -> None:
    for probe in ("corruptions.sociable", "corruptions.unset", "attacks.timid", "attacks.idle"):
        assert [check.name for check in careless.failed if check.subject == probe] == list(FAULTS[probe])


def test_new_plugin_conforms(auditor_cli: Cli) -> None:
    wrote = auditor_cli("plugin", "new", "auditor-bar")
    assert wrote.exit_code == 0, wrote.output
    folder = Path("auditor-bar")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "pyproject.toml",
        "auditor_bar.py",
        "tests/test_auditor_bar.py",
        "tests/test_conformity.py",
        "README.md",
    }
    assert "$" not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    checked = auditor_cli("plugin", "check", "./auditor-bar")
    assert checked.exit_code == 0, checked.output
    assert checked.output.splitlines()[0] == "auditor-bar 0.1.0"
    assert checked.output.splitlines()[-1] == "1 probe of auditor-bar, 11 checks: all passed"
    assert max(map(len, checked.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Auditor-Bar", "not a package name"),
        ("auditor_bar", "not a package name"),
        ("../bar", "not a package name"),
        ("auditor-", "not a package name"),
        ("auditor-3d", "must begin with a letter"),
        ("json", "Python has a module of this name"),
        ("auditor", "Python has a module of this name"),
        ("auditor-none", "must begin with a letter"),
        ("auditor-there", "already exists"),
    ],
)
def test_invalid_name_is_refused(auditor_cli: Cli, name: str, message: str) -> None:
    Path("auditor-there").mkdir()
    refused = auditor_cli("plugin", "new", name)
    assert refused.exit_code == 2
    assert message in refused.output
    assert list(Path().rglob("*.py")) == []


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("no-such-package", "no such folder and no installed package of this name"),
        ("numpy", "has no entry point in the group"),
        ("empty", "has no pyproject.toml"),
        ("plain", "has no name with [project.entry-points"),
        ("garbled", "not readable as TOML"),
    ],
)
def test_package_without_plugin_is_refused(auditor_cli: Cli, package: str, message: str) -> None:
    for name, text in {"empty": None, "plain": "[project]\nname = 'plain'\n", "garbled": "[project\n"}.items():
        Path(name).mkdir()
        if text:
            Path(name, "pyproject.toml").write_text(text)
    refused = auditor_cli("plugin", "check", package)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output
    assert "Traceback" not in refused.output


def test_plugin_that_does_not_import_fails_the_check(auditor_cli: Cli) -> None:
    checked = auditor_cli("plugin", "check", THIRD_PARTY / "auditor-broken")
    assert checked.exit_code == 1
    assert re.search(r"FAILED +loads +does not import: ImportError: needs a library", " ".join(checked.output.split()))
    assert checked.output.splitlines()[-1].endswith("2 FAILED")


def test_duplicate_id_fails_the_check(auditor_cli: Cli) -> None:
    auditor_cli("plugin", "new", "auditor-copy")
    module = Path("auditor-copy/auditor_copy.py")
    module.write_text(module.read_text().replace('id="corruptions.copy"', 'id="corruptions.imagenet-c"'))
    checked = auditor_cli("plugin", "check", "auditor-copy", "--quiet")
    assert checked.exit_code == 1
    assert "probe id corruptions.imagenet-c is already registered" in " ".join(checked.output.split())


def test_broken_project_gives_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no pyproject\.toml"):
        package.check_package(str(tmp_path))
