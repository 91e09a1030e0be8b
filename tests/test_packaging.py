"""What is on disk is in the wheel, every plugin has its entry point, and imports go one way."""

from __future__ import annotations

import ast
import fnmatch
import functools
import graphlib
import shutil
import statistics
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import auditor

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
ENTRY_POINTS = PYPROJECT["project"]["entry-points"]["auditor.plugins"]
FOLDERS = SETUPTOOLS["package-dir"]


def package_files(*, python: bool) -> dict[str, list[str]]:
    """Files of every package on disk by the package's installed name."""
    found: dict[str, list[str]] = {}
    for installed, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and (path.suffix == ".py") is python:
                inner = path.parent.relative_to(ROOT / folder).parts
                found.setdefault(".".join([installed, *inner]), []).append(path.name)
    return found


def test_the_list_of_packages_is_the_disk() -> None:
    on_disk = package_files(python=True)
    assert sorted(SETUPTOOLS["packages"]) == sorted(on_disk)
    assert [name for name, files in on_disk.items() if "__init__.py" not in files] == []


def test_every_other_file_is_package_data() -> None:
    patterns = SETUPTOOLS["package-data"]
    forgotten = [
        f"{package}: {name}"
        for package, names in package_files(python=False).items()
        for name in names
        if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns.get(package, []))
    ]
    assert not forgotten


def test_every_plugin_file_has_an_entry_point_and_every_entry_point_a_file() -> None:
    # a file whose name begins with an underscore helps the probe next to it
    files = [path for path in (ROOT / "plugins").rglob("*.py") if not path.name.startswith("_")]
    on_disk = {
        f"{path.parent.name}.{path.stem.replace('_', '-')}": f"auditor.plugins.{path.parent.name}.{path.stem}"
        for path in files
    }
    assert on_disk == {name: target.partition(":")[0] for name, target in ENTRY_POINTS.items()}


def test_the_wheel_holds_all_of_it(tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    # a copy: building leaves traces in the source folder, and old traces would end up in the wheel
    source = tmp_path / "source"
    source.mkdir()
    for name in {*FOLDERS.values(), "pyproject.toml", "README.md"}:
        path = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(path, source / name, ignore=ignore) if path.is_dir() else shutil.copy(path, source)
    command = [uv, "build", "--wheel", "--offline", "--no-build-isolation", "--out-dir", tmp_path / "dist", source]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    for kind in (True, False):
        for package, files in package_files(python=kind).items():
            missing = {f"{package.replace('.', '/')}/{file}" for file in files} - names
            assert not missing
    assert {name.split("/")[0].split("-")[0] for name in names} == {"auditor"}


LAYERS = [
    {"printable"},
    {"errors"},
    {"files", "toml", "schemas", "findings"},
    {"statistics", "data", "onnx", "report"},
    {"model", "policy"},
    {"algorithms"},
    {"probes"},
    {"plugin", "suites"},
    {"run"},
    {"compare", "conformance"},
    {"api", "testing"},
    {"cli"},
]
"""Packages and modules of the core, lowest first; each imports only from layers below its own."""
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}


CORE = sorted((ROOT / "auditor").rglob("*.py"))


def module_name(path: Path) -> str:
    """The dotted name of a core file."""
    return ".".join(("auditor", *path.relative_to(ROOT / "auditor").with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path) for path in CORE}


@functools.cache
def imports(path: Path, *, for_types: bool = False) -> Sequence[str]:
    """Modules that a file imports at run time, wherever in the file; names taken from ``auditor`` by their module.

    ``for_types`` adds those that only type checkers import.
    """
    return tuple(_imports(path, for_types))


def _imports(path: Path, for_types: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = node.body if for_types else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "auditor":
            for alias in node.names:
                yield auditor._HOME.get(alias.name, f"auditor.{alias.name}")
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            # importing a module from its package is an import of the module, not of the package's other content
            yield from inner
            if len(inner) < len(node.names):
                yield node.module


PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
names = pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))


def test_every_package_of_the_core_has_its_layer() -> None:
    on_disk = {path.relative_to(ROOT / "auditor").parts[0].removesuffix(".py") for path in CORE}
    assert on_disk - {"__init__"} == set(LAYER)


@names
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(ROOT / "auditor").parts[0].removesuffix(".py")
    found = {module.split(".")[1] for module in imports(path) if module.startswith("auditor.")}
    assert "plugins" not in found, "built-in plugins come in through their entry points"
    if own in LAYER:
        upwards = {name for name in found - {own} if LAYER.get(name, -1) >= LAYER[own]}
        assert not upwards


def test_no_import_cycle() -> None:
    """Files within a package may import each other, but never in a cycle, not even for types."""
    known = {module_name(path): path for path in CORE if module_name(path) != "auditor"}
    graph = {
        name: {module for module in imports(path, for_types=True) if module in known} for name, path in known.items()
    }
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_a_report_needs_nothing_of_the_engine() -> None:
    for path in (ROOT / "auditor" / "report").glob("*.py"):
        found = {module.split(".")[1] for module in imports(path) if module.startswith("auditor.")}
        assert found <= {
            "printable",
            "errors",
            "files",
            "findings",
            "report",
            "report_templates",
            "schemas",
            "__version__",
        }, path.name


def test_art_is_imported_in_one_module_and_inside_functions_of_plugins() -> None:
    def art(path: Path) -> bool:
        return any(module.split(".")[0] == "art" for module in imports(path))

    assert [path.name for path in CORE if art(path)] == ["art.py"]
    for path in filter(art, PLUGINS):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("art" in ast.unparse(node).replace(",", " ").replace(".", " ").split() for node in top)


def test_nobody_imports_the_folder_plugins() -> None:
    for path in [*CORE, *PLUGINS, *(ROOT / "tests").glob("*.py")]:
        assert not any(module.split(".")[0] in {"plugins", "report_templates"} for module in imports(path)), path.name


def test_what_the_package_exports_is_sorted_complete_and_there() -> None:
    assert auditor.__all__ == sorted(auditor.__all__)
    assert set(auditor.__all__) == {*auditor._HOME, *auditor._MODULES}
    assert all(hasattr(auditor, name) for name in auditor.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = auditor.nothing


def test_probe_files_are_short() -> None:
    """Half of the files have at most 90 lines, nine of ten at most 200; longer parts go into a helper next to them."""
    files = [path for path in PLUGINS if path.parent.name != "formats" and not path.name.startswith("_")]
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert statistics.median(lengths) <= 90
    assert statistics.quantiles(lengths, n=10, method="inclusive")[-1] <= 200
    assert lengths[-1] <= 220


def test_every_folder_of_plugins_says_what_it_holds() -> None:
    for path in (ROOT / "plugins").rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(text) > 10, f"{path.parent.name}: {text!r}"
