"""What the documentation shows is what works: its plugin is installed and run, its names are the real ones."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from helpers import install_package

import auditor as auditor_package
from auditor.plugin import hookspecs, registry

ROOT = Path(__file__).parents[1]
THIRD_PARTY = ROOT / "tests" / "third_party"


def page(name: str) -> str:
    """The text of a how-to guide, with the files that it includes."""
    text = (ROOT / "docs" / "how-to" / name).read_text(encoding="utf-8")
    return re.sub(r"--8<--\n(.+)\n--8<--\n", lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), text)


PLUGINS_MD, EXTENSIONS_MD = page("plugins.md"), page("extensions.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", PLUGINS_MD + EXTENSIONS_MD, re.DOTALL)

QUICKLY = ("--format", "json", "--batch-size", 32)


@pytest.mark.parametrize("package", ["shift", "step", "grey", "skops", "npy", "nightly", "csv", "runlog"])
def test_the_docs_include_the_plugins_that_are_tested(package: str) -> None:
    module = next(p for p in (THIRD_PARTY / f"auditor-{package}").rglob("*.py") if p.parent.name != "tests")
    assert module.read_text(encoding="utf-8") in PYTHON_BLOCKS


def test_a_probe_takes_at_most_25_lines() -> None:
    assert len(PYTHON_BLOCKS[0].splitlines()) <= 25


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Install packages of tests/third_party for real, without a network; the folder for PYTHONPATH."""

    def call(*packages: str) -> Path:
        folder = tmp_path_factory.mktemp("installed")
        for package in packages:
            # a copy: building leaves traces in the source folder
            source = shutil.copytree(THIRD_PARTY / package, folder / "source" / package)
            install_package(source, folder / "target")
        return folder / "target"

    return call


def auditor(target: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a separate process that finds the packages in ``target``."""
    code = "from auditor.cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(target)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=target.parent)


def test_the_documented_plugin_is_installed_listed_and_run(install: Callable[..., Path], digits: Path) -> None:
    target = install("auditor-shift")
    listed = auditor(target, "probes")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert re.search(r"^corruptions\.shift .*Sideways shift.*\[auditor-shift\]$", listed.stdout, re.MULTILINE)
    about = auditor(target, "probes", "corruptions.shift")
    assert "pixels = [1, 2, 4]" in about.stdout
    model = digits / "digits-cnn.onnx"
    ran = auditor(
        target, "run", model, "--probe", "corruptions.shift", "--samples", 60, "--format", "json,md", "--out", "run"
    )
    assert ran.returncode == 0, ran.stderr
    audit = json.loads((target.parent / "run" / "audit.json").read_text())
    (probe,) = audit["probes"]
    assert (probe["id"], probe["status"], probe["n"]) == ("corruptions.shift", "informative", 60)
    accuracy = {(m["at"]["towards"], m["at"]["pixels"]): m["value"] for m in probe["metrics"] if "pixels" in m["at"]}
    assert accuracy["left", 1] > accuracy["left", 4]
    assert audit["plugins"] == [{"name": "auditor-shift:shift", "version": "1.0", "error": None}]


def test_a_broken_plugin_is_named_and_the_audit_ends_with_3(
    install: Callable[..., Path], digits: Path, auditor_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install("auditor-broken"))
    said = "does not import: ImportError: needs a library that is not there"
    listed = auditor_cli("probes")
    assert listed.exit_code == 3
    assert f"Plugin auditor-broken:broken 1.0 is left out: {said}" in listed.stderr
    assert "corruptions.camera" in listed.stdout
    model = digits / "digits-cnn.onnx"
    ran = auditor_cli("run", model, "--probe", "attacks.noise", "--samples", 20, "--format", "json", "--out", "run")
    assert ran.exit_code == 3
    assert "auditor-broken:broken" in ran.output
    audit = json.loads(Path("run/audit.json").read_text())
    assert [p["status"] for p in audit["probes"]] == ["inconclusive"]
    assert {"name": "auditor-broken:broken", "version": "1.0", "error": said} in audit["plugins"]
    assert audit["verdict"] != "pass"


@pytest.mark.parametrize(
    "block", PYTHON_BLOCKS, ids=lambda block: re.findall(r"^(?:def|class) (\w+)", block, re.MULTILINE)[-1]
)
def test_every_example_is_a_plugin_that_loads(block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("example")
    module.__file__ = str(tmp_path / "example.py")
    monkeypatch.setitem(sys.modules, "example", module)
    exec(compile(block, "docs/how-to/plugins.md", "exec"), module.__dict__)
    own = importlib.metadata.entry_points(group=registry.GROUP)
    dist = types.SimpleNamespace(name="example", version="1")
    entry = types.SimpleNamespace(name="example", dist=dist, load=lambda: module)
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [*own, entry] if group == registry.GROUP else []
    )
    loaded = registry.load()
    loaded.suites()
    loaded.formats()
    assert loaded.first("auditor_open_images", path=tmp_path / "unknown.xyz") is None
    assert not loaded.broken


HOOKS = {name: f for name, f in vars(hookspecs).items() if name.startswith("auditor_")}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_arguments(name: str) -> None:
    assert f"`{name}({', '.join(inspect.signature(HOOKS[name]).parameters)})`" in PLUGINS_MD


def test_there_are_ten_hooks() -> None:
    assert len(HOOKS) == 10
    assert "## The ten hooks" in PLUGINS_MD


def test_the_readme_names_every_probe_and_no_other() -> None:
    part = re.search(r"<!-- probes -->(.*)<!-- /probes -->", README, re.DOTALL)
    assert part
    own = {i for i, plugin in registry.load().origin.items() if ":" not in plugin}
    named = set(re.findall(r"`([a-z]+\.[a-z0-9-]+)`", part[1]))
    assert named == own


def test_the_readme_shows_every_command_and_exit_status() -> None:
    from auditor.cli.audit import FAILED, INCOMPLETE, INTERRUPTED, UNUSABLE
    from auditor.cli.main import main

    for name in main.commands:
        assert f"auditor {name}" in README
    shown = set(re.findall(r"`auditor ([a-z]+)", README))
    assert shown <= set(main.commands)
    for status in (0, FAILED, UNUSABLE, INCOMPLETE, INTERRUPTED):
        assert re.search(rf"\b{status}\b", README)


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert not [link for link in links if not page.parent.joinpath(link).exists()]


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r"[-:] (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


def test_the_reference_documents_every_public_name_once() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md")]
    documented = [name for text in pages for name in re.findall(r"^::: auditor\.(\w+)$", text, re.MULTILINE)]
    # errors are documented one by one
    assert sorted(documented) == [name for name in auditor_package.__all__ if name != "errors"]


def test_the_architecture_links_every_decision() -> None:
    records = {f"docs/decisions/{page.name}" for page in (ROOT / "docs" / "decisions").glob("0*.md")}
    assert records == set(re.findall(r"\((docs/decisions/0[^)]+)\)", (ROOT / "ARCHITECTURE.md").read_text("utf-8")))
