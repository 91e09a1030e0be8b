"""Check an installed plugin package."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from auditor.conformance.bench import Bench, Planned
from auditor.conformance.checks import CHECKS, check_record, heavy_imports
from auditor.conformance.hooks import of_hooks
from auditor.conformance.subject import Breach
from auditor.conformance.units import check_units
from auditor.errors import BadInput, NotApplicable, one_line
from auditor.plugin import registry
from auditor.plugin.hookspecs import API_VERSION

Outcome = Literal["ok", "FAILED", "n/a"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of one check."""

    subject: str
    """Id of the probe, or name of what else the package provides; empty for the package."""
    name: str
    outcome: Outcome
    message: str = ""
    """What is wrong, or why the check does not apply."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A package and the outcomes of its checks."""

    package: str
    version: str
    probes: Sequence[str]
    checks: Sequence[Check]

    @property
    def subjects(self) -> Sequence[str]:
        """What was checked, in order; empty for the package itself."""
        return list(dict.fromkeys(check.subject for check in self.checks))

    @property
    def failed(self) -> Sequence[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == "FAILED"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A package that can be imported, and all checks of it."""

    package: str
    version: str
    probes: Sequence[str]
    checks: Sequence[Planned]


def check_package(package: str, say: Callable[[str], None] = lambda _: None) -> Report:
    """Check an installed package, given by its name, or a folder with a pyproject.toml.

    Args:
        package: name or folder.
        say: is called with the subject of each check before it runs.

    Raises:
        BadInput: if it is neither, or not a plugin of auditor.
    """
    with planned(package) as plan:
        checks = []
        for check in plan.checks:
            say(check.subject)
            checks.append(outcome(check))
        return Report(package=plan.package, version=plan.version, probes=plan.probes, checks=checks)


@contextmanager
def planned(package: str) -> Iterator[Plan]:
    """Make a package importable while the context lasts, and plan its checks; none has run yet.

    Raises:
        BadInput: if it is neither an installed package nor the folder of one, or not a plugin of auditor.
    """
    with findable(package) as (name, paths), tempfile.TemporaryDirectory() as folder:
        distribution = _distribution(name)
        entries = [entry for entry in distribution.entry_points if entry.group == registry.GROUP]
        if not entries:
            raise BadInput(
                f'{package}: has no entry point in the group "{registry.GROUP}" (see docs/how-to/plugins.md)'
            )
        plugins = registry.load()
        plugins.list_all()
        own = {plugin.name: plugin for plugin in plugins.plugins if _normal(plugin.package) == _normal(name)}
        probes = [probe_id for probe_id, origin in plugins.origin.items() if origin in own]
        bench = Bench(
            plugins=plugins, package=distribution.name, names=frozenset(own), probes=probes, folder=Path(folder)
        )
        checks = [
            *_of_the_package(own.values(), entries, paths),
            *(check for probe_id in probes for check in _of_a_probe(bench, probe_id)),
            *of_hooks(bench),
        ]
        yield Plan(package=name, version=distribution.version, probes=probes, checks=checks)


def _of_the_package(
    own: Collection[registry.Plugin], entries: Sequence[importlib.metadata.EntryPoint], paths: Sequence[Path]
) -> Iterator[Planned]:
    for plugin in own:
        yield Planned("", "loads", partial(_loads, plugin))
    for entry in () if any(plugin.error for plugin in own) else entries:
        yield Planned("", "states the interface version", partial(_states_version, entry))
    yield Planned("", "imports nothing heavy", partial(_light, "\n".join(f"import {e.module}" for e in entries), paths))


def _loads(plugin: registry.Plugin) -> None:
    if plugin.error:
        raise Breach(plugin.error)


def _states_version(entry: importlib.metadata.EntryPoint) -> None:
    if not hasattr(sys.modules.get(entry.module), "AUDITOR_API"):
        raise Breach(
            f'{entry.module} does not state the plugin interface it was written for: AUDITOR_API = "{API_VERSION}"'
        )


def _light(code: str, paths: Sequence[Path]) -> None:
    found = heavy_imports(code, paths=paths)
    if found:
        raise Breach(f"imports {', '.join(found)} at module level; import it inside the method that needs it")


def _of_a_probe(bench: Bench, probe_id: str) -> Iterator[Planned]:
    kind = bench.plugins.probes[probe_id]
    for name, check in CHECKS.items():
        if "images" in kind.meta.input_kinds or name in {"has a description", "is configurable"}:
            yield Planned(probe_id, name, lambda check=check: check(bench.subject, kind))  # type: ignore[misc]
    yield Planned(probe_id, "concludes", lambda: check_record(bench.records[probe_id]))
    yield Planned(probe_id, "intervals over units", lambda: check_units(*bench.measured(probe_id)))


def outcome(check: Planned) -> Check:
    """Run a check."""
    found: Outcome = "ok"
    message = ""
    try:
        check.run()
    except NotApplicable as reason:
        found, message = "n/a", str(reason)
    except Breach as breach:
        found, message = "FAILED", str(breach)
    except (Exception, SystemExit) as error:
        found, message = "FAILED", one_line(error)
    return Check(subject=check.subject, name=check.name, outcome=found, message=message)


@contextmanager
def findable(package: str) -> Iterator[tuple[str, Sequence[Path]]]:
    """Make a package importable while the context lasts; yield its name and the entries added to ``sys.path``.

    A folder is found as if it were installed, by writing the metadata that an installer would write.
    """
    folder = Path(package)
    if not folder.is_dir() or (not (folder / "pyproject.toml").is_file() and _is_installed(package)):
        yield package, ()
        return
    project = _project(folder)
    with tempfile.TemporaryDirectory() as place:
        name = write_metadata(project, Path(place))
        root = folder.resolve()
        paths = [Path(place), *([root / "src"] if (root / "src").is_dir() else []), root]
        before = list(sys.path)
        sys.path[:0] = [str(path) for path in paths]
        importlib.invalidate_caches()
        try:
            yield name, paths
        finally:
            sys.path[:] = before


def write_metadata(project: Mapping[str, Any], place: Path) -> str:
    """Write what an installer would write about the table [project] into ``place``; return the name of the package."""
    name, version = str(project["name"]), project.get("version", 0)
    about = place / f"{_normal(name).replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    entries = project["entry-points"][registry.GROUP]
    lines = [f"[{registry.GROUP}]", *(f"{key} = {value}" for key, value in entries.items())]
    about.joinpath("entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return name


def _project(folder: Path) -> dict[str, Any]:
    """Read the table [project] of a folder's pyproject.toml and check its entry points."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        raise BadInput(
            f"{folder}: has no pyproject.toml; expected the folder of a package or the name of an installed one"
        )
    try:
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: not readable as TOML: {error}") from None
    entries = project.get("entry-points", {}).get(registry.GROUP) if isinstance(project, dict) else None
    if not (isinstance(entries, dict) and entries and isinstance(project.get("name"), str)):
        raise BadInput(
            f'{path}: has no name with [project.entry-points."{registry.GROUP}"]; expected a plugin of auditor'
            " (see docs/how-to/plugins.md); if its entry points are defined elsewhere, install it and give its name"
        )
    return project


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise BadInput(
            f"{name}: no such folder and no installed package of this name (`auditor probes` lists what is installed)"
        ) from None


def _normal(name: str) -> str:
    """Normalise a package name as installers do."""
    return re.sub(r"[-_.]+", "-", name).lower()
