"""Load plugins from entry points. Built-in plugins use the same entry-point group as third-party ones.

The loop is our own because pluggy's loader stops at the first broken plugin; here a broken plugin is named in the
report and the audit continues.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import pluggy

from auditor.errors import AuditorError, BadInput, PluginBroken
from auditor.findings.encoding import plain
from auditor.findings.finding import AREAS
from auditor.findings.record import PluginRecord, plugin_title
from auditor.plugin import hookspecs
from auditor.plugin.family import ProbeFamily
from auditor.plugin.hookspecs import API_VERSION
from auditor.policy.rules import builtin
from auditor.probes.base import Meta, Probe
from auditor.toml import field_types, nearest, typed

GROUP = "auditor.plugins"
ONLY = "AUDITOR_ONLY_PLUGINS"
"""Environment variable with the third-party packages to load, separated by commas; all if it is not set. Processes
that an audit starts inherit it."""
_ID = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")


@dataclass(frozen=True)
class Plugin:
    """An entry point, with the reason if it is broken."""

    name: str
    package: str
    version: str | None
    error: str | None = None

    @property
    def record(self) -> PluginRecord:
        """Its entry in audit.json."""
        return {"name": self.name, "version": self.version, "error": self.error}

    @property
    def title(self) -> str:
        """Name and version."""
        return plugin_title(self.record)


@dataclass
class Registry:
    """Everything that the installed plugins provide."""

    manager: pluggy.PluginManager
    plugins: list[Plugin] = field(default_factory=list)
    probes: dict[str, type[Probe]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """The plugin that provides each probe, by probe id."""
    families: dict[str, ProbeFamily] = field(default_factory=dict)
    """Probes that are generated on demand, by the name of their family."""
    not_loaded: tuple[str, ...] = ()
    """Third-party packages with plugins that ``--no-plugins`` or ``--only-plugins`` leaves out."""
    _family_origin: dict[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that could not be used, or only in part."""
        return [plugin for plugin in self.plugins if plugin.error]

    def version_of(self, probe_id: str) -> str | None:
        """Return the version of the package that provides a probe; None for a built-in probe."""
        name = self.origin.get(probe_id)
        plugin = next((plugin for plugin in self.plugins if plugin.name == name), None)
        return None if plugin is None or plugin.package == "auditor" else plugin.version

    def select(self, patterns: Sequence[str], *, option: str) -> list[str]:
        """Return the ids that match any of the ids or globs; raise BadInput for a pattern without a match."""
        chosen: set[str] = set()
        for pattern in patterns:
            found = fnmatch.filter(self.probes, pattern)
            if not found and self.has(pattern):
                found = [pattern]
            if not found:
                raise BadInput(f"{option} {pattern}: no such probe{self._similar(pattern)} (see `auditor probes`)")
            chosen.update(found)
        return [probe_id for probe_id in self.probes if probe_id in chosen]

    def has(self, probe_id: str) -> bool:
        """Whether this probe exists; that of a family is generated first.

        Raises:
            BadInput: with the reason, for a member of a family that cannot audit a classifier.
        """
        if probe_id in self.probes:
            return True
        for family in self.families.values():
            member = family.member(probe_id)
            if member is not None:
                self._add(self._family_origin[family.name], family.probe(member))
                self._sort()
                return True
        return False

    def similar(self, probe_id: str) -> str:
        """Suggest the known id closest to a misspelt one; empty if none is close."""
        known = list(self.probes)
        for family in self.families.values():
            if probe_id.startswith(family.prefix):
                known += map(family.probe_id, family.members())
        return nearest(probe_id, known)

    def member_id(self, family_name: str, member: str, where: str) -> str:
        """Return the probe id of a member of a family. Raises BadInput for an unknown one."""
        family = self.families.get(family_name)
        if family is None:
            raise BadInput(f"{where}: no plugin provides the family {family_name!r} of probes")
        members = family.members()
        if member not in members:
            spelt = {name.lower(): name for name in members}
            hint = nearest(spelt.get(member.lower(), member), members) or f"; expected one of {', '.join(members)}"
            raise BadInput(f"{where}: no attack {member!r}{hint}")
        return family.probe_id(member)

    def _sort(self) -> None:
        """Order the probes by area and id."""
        order = {area: i for i, area in enumerate(AREAS)}
        self.probes = dict(sorted(self.probes.items(), key=lambda item: (order[item[1].meta.area], item[0])))

    def _similar(self, pattern: str) -> str:
        """Suggest probe ids for a pattern without a match."""
        if hint := self.similar(pattern):
            return hint
        area = sorted(probe_id for probe_id in self.probes if pattern.split(".", maxsplit=1)[0] in probe_id)
        return f"; similar: {', '.join(area[:8])}" if area else ""

    def suites(self) -> dict[str, Path]:
        """Return the suite files by name: first those of the package, then those of plugins."""
        own = Path(__file__).parents[1] / "suites"
        return self._offers("auditor_suites", "stem", {path.stem: path for path in sorted(own.glob("*.toml"))})

    def policies(self) -> dict[str, Path]:
        """Return the policy files by name: first those of the package, then those of plugins."""
        return self._offers("auditor_policies", "stem", builtin())

    def formats(self) -> dict[str, Any]:
        """Return the report formats by name."""
        return self._offers("auditor_report_formats", "name", {})

    def list_all(self) -> None:
        """Call every hook that lists something, so that a plugin whose hook raises is named as broken."""
        self.suites()
        self.policies()
        self.formats()

    def configure(self, probe_id: str, settings: Mapping[str, Any], *, where: str) -> Probe:
        """Return a probe with these settings; raise BadInput for an unknown setting or a value of another type."""
        self.has(probe_id)
        kind = self.probes[probe_id]
        hints = field_types(kind)
        fields = {f.name: hints[f.name] for f in dataclasses.fields(kind)}
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in fields:
                hint = nearest(name, fields)
                raise BadInput(f"{where}: {probe_id} has no setting {name!r}{hint}; it has {', '.join(sorted(fields))}")
            values[name] = typed(value, fields[name], f"{where}: {probe_id}.{name}")
        try:
            return kind(**values)
        except ValueError as error:
            raise BadInput(f"{where}: {probe_id}: {error}") from None

    def first(self, hook: str, **arguments: Any) -> Any:
        """Return the first result of a hook that is not None; the plugin registered last is called first.

        A plugin that raises anything but an AuditorError is marked as broken, and the next one is called.
        """
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            try:
                result = called(implementation, **arguments)
            except AuditorError:
                raise
            except Exception as error:
                self._break(implementation.plugin_name, f"{hook} raised {type(error).__name__}: {error}")
                continue
            if result is not None:
                return result
        return None

    def _offers(self, hook: str, key: str, found: dict[str, Any]) -> dict[str, Any]:
        """Add to ``found`` what every plugin returns, by the attribute ``key``; a name in use is refused."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            try:
                offers = {getattr(offer, key): offer for offer in implementation.function()}
            except Exception as error:
                self._break(plugin, f"{hook} raised {type(error).__name__}: {error}")
                continue
            for name, offer in offers.items():
                if found.setdefault(name, offer) is not offer:
                    self._break(plugin, f"{hook}: {name} is already registered; ignoring the one from {plugin}")
        return found

    def _load_families(self) -> None:
        """Collect the families of all plugins; a name in use is refused."""
        for implementation in self.manager.hook.auditor_probe_families.get_hookimpls():
            plugin = implementation.plugin_name
            try:
                families: list[ProbeFamily] = list(implementation.function())  # type: ignore[call-overload]
            except Exception as error:
                self._break(plugin, f"auditor_probe_families raised {type(error).__name__}: {error}")
                continue
            for family in families:
                if self.families.setdefault(family.name, family) is not family:
                    taken = f"the family {family.name} is already registered; ignoring the one from {plugin}"
                    self._break(plugin, f"auditor_probe_families: {taken}")
                else:
                    self._family_origin[family.name] = plugin

    def _break(self, name: str, error: str) -> None:
        for i, plugin in enumerate(self.plugins):
            if plugin.name == name and error not in (plugin.error or ""):
                errors = "; ".join(filter(None, [plugin.error, error]))
                self.plugins[i] = dataclasses.replace(plugin, error=errors)

    def _add(self, name: str, kind: Any) -> None:
        check_probe(kind)
        probe_id = kind.meta.id
        if probe_id in self.probes:
            raise PluginBroken(
                f"probe id {probe_id} is already registered by plugin {self.origin[probe_id]}; ignoring the one from"
                f" {name}; rename one of them"
            )
        self.probes[probe_id] = kind
        self.origin[probe_id] = name


def load(begin: Callable[[str], None] = lambda _: None, lost: Mapping[str, str] | None = None) -> Registry:
    """Load every installed plugin.

    Args:
        begin: is called with the name of a plugin before its code runs.
        lost: plugins that are not loaded, because they ended an earlier process, by name, and why.
    """
    manager = _Manager("auditor")
    manager.add_hookspecs(hookspecs)
    registry = Registry(manager)
    entries, registry.not_loaded = _wanted(_installed())
    # built-in plugins first, so that a duplicate id is an error of the third-party plugin
    for entry in sorted(entries, key=lambda e: (e.package != "auditor", e.package, e.point.name)):
        registry.plugins.append(_load_one(manager, entry, begin, lost or {}))
    for implementation in manager.hook.auditor_probes.get_hookimpls():
        begin(implementation.plugin_name)
        try:
            kinds: list[Any] = list(implementation.function())  # type: ignore[call-overload]
        except Exception as error:
            registry._break(implementation.plugin_name, f"auditor_probes raised {type(error).__name__}: {error}")
            continue
        for kind in kinds:
            try:
                registry._add(implementation.plugin_name, kind)
            except PluginBroken as error:
                registry._break(implementation.plugin_name, str(error))
    registry._sort()
    registry._load_families()
    return registry


def called(implementation: pluggy.HookImpl, **arguments: Any) -> Any:
    """Call one implementation of a hook with those arguments that it declares."""
    optional = {name: arguments[name] for name in implementation.kwargnames if name in arguments}
    return implementation.function(*(arguments[name] for name in implementation.argnames), **optional)


def check_probe(kind: Any) -> None:
    """Raise PluginBroken, with one sentence, for a probe that breaks a rule; one that breaks none is checked once."""
    if kind in _CHECKED:
        return
    name = getattr(kind, "__qualname__", repr(kind))
    if not (inspect.isclass(kind) and issubclass(kind, Probe)):
        raise PluginBroken(f"{name}: auditor_probes must return subclasses of auditor.Probe")
    if inspect.isabstract(kind):
        raise PluginBroken(f"{name}: does not define {', '.join(sorted(kind.__abstractmethods__))}")
    if not isinstance(getattr(kind, "meta", None), Meta):
        raise PluginBroken(f"{name}: has no `meta = Meta(...)`")
    meta = kind.meta
    if not _ID.fullmatch(meta.id):
        raise PluginBroken(f"{name}: id {meta.id!r} must be area.noun in lower case")
    if meta.area not in AREAS:
        raise PluginBroken(f"{meta.id}: area is {meta.area!r}; expected one of {', '.join(AREAS)}")
    if meta.id.partition(".")[0] != meta.area:
        raise PluginBroken(f"{meta.id}: its id must begin with its area, {meta.area}")
    if not (meta.title and meta.why):
        raise PluginBroken(f"{meta.id}: title and why must not be empty")
    if kind.extra_images is not Probe.extra_images and not kind.adds_images:
        raise PluginBroken(f"{meta.id}: {name} overrides extra_images, so it must set adds_images = True")
    parameters = vars(kind).get("__dataclass_params__")
    if not (parameters is not None and parameters.frozen):
        raise PluginBroken(f"{meta.id}: {name} must be a frozen dataclass: @dataclass(frozen=True, kw_only=True)")
    if meta.area == "attacks" and kind.threat_model is Probe.threat_model:
        raise PluginBroken(f"{meta.id}: an attack must declare its threat_model()")
    try:
        field_types(kind)
        probe = kind()
        plain(dataclasses.asdict(probe))
        probe.threat_model()
    except Exception as error:
        raise PluginBroken(
            f"{meta.id}: does not work with its default settings: {type(error).__name__}: {error}"
        ) from None
    _CHECKED.add(kind)


_CHECKED: WeakSet[type[Probe]] = WeakSet()


class _Manager(pluggy.PluginManager):
    """Finds the hooks of modules quickly: pluggy inspects every name of a module with care, in ten times the time."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the options of a hook implementation; None for anything else."""
        if name.startswith("__"):
            return None
        if inspect.ismodule(plugin) and f"{self.project_name}_impl" not in getattr(vars(plugin)[name], "__dict__", ()):
            return None
        return super().parse_hookimpl_opts(plugin, name)


class _Entry(NamedTuple):
    """An entry point, and the name and version of its package."""

    package: str
    version: str | None
    point: importlib.metadata.EntryPoint


def _load_one(
    manager: pluggy.PluginManager,
    entry: _Entry,
    begin: Callable[[str], None],
    lost: Mapping[str, str],
) -> Plugin:
    package, version, point = entry
    name = point.name if package == "auditor" else f"{package}:{point.name}"
    if name in lost:
        return Plugin(name, package, version, f"does not import: {lost[name]}")
    begin(name)
    try:
        module = point.load()
    except (Exception, SystemExit) as error:
        return Plugin(name, package, version, f"does not import: {type(error).__name__}: {error}")
    if package != "auditor" and (problem := _api_problem(interface_version(module))):
        return Plugin(name, package, version, problem)
    try:
        # an entry point may name a probe class instead of a module with hooks
        manager.register(_ProbePlugin(module) if inspect.isclass(module) else module, name=name)
        manager.check_pending()
    except (ValueError, pluggy.PluginValidationError) as error:
        # also remove the hooks that were registered before the invalid one
        if manager.has_plugin(name):
            manager.unregister(name=name)
        return Plugin(name, package, version, " ".join(str(error).split()))
    return Plugin(name, package, version)


class _ProbePlugin:
    """A plugin made of one probe class."""

    def __init__(self, kind: type[Any]) -> None:
        self._kind = kind

    @hookspecs.hookimpl
    def auditor_probes(self) -> list[type[Any]]:
        """Return the probe."""
        return [self._kind]


def interface_version(loaded: Any) -> Any:
    """Return the ``AUDITOR_API`` of the module that an entry point names, or of the module of the class it names."""
    module = sys.modules.get(loaded.__module__) if inspect.isclass(loaded) else loaded
    return getattr(module, "AUDITOR_API", API_VERSION)


def _installed() -> list[_Entry]:
    """Return all entry points."""
    points = list(importlib.metadata.entry_points(group=GROUP))
    # a distribution parses its metadata whenever it is asked, which takes milliseconds
    distributions = {id(point.dist): point.dist for point in points}
    packages: dict[int, tuple[str, str | None]] = {
        key: ("?", None) if dist is None else (dist.name, dist.version) for key, dist in distributions.items()
    }
    return [_Entry(*packages[id(point.dist)], point) for point in points]


def _wanted(entries: Sequence[_Entry]) -> tuple[list[_Entry], tuple[str, ...]]:
    """Return the entry points to load, and the packages that are left out. Raises BadInput for an unknown package."""
    chosen = os.environ.get(ONLY)
    if chosen is None:
        return list(entries), ()
    wanted = {name for name in chosen.split(",") if name}
    installed = {entry.package for entry in entries} - {"auditor"}
    for name in sorted(wanted - installed):
        known = f"expected one of {', '.join(sorted(installed))}" if installed else "no third-party plugin is installed"
        raise BadInput(f"--only-plugins {name}: no such plugin{nearest(name, installed)}; {known}")
    return [entry for entry in entries if entry.package in {"auditor", *wanted}], tuple(sorted(installed - wanted))


def _api_problem(stated: object) -> str:
    """Say why a plugin written for the interface version ``stated`` cannot be used; empty if it can.

    The major version must be equal, and the minor version at most ours: minor versions only add.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)", stated) if isinstance(stated, str) else None
    if match is None:
        return f'AUDITOR_API is {stated!r}; expected a version such as "{API_VERSION}"'
    major, minor = map(int, API_VERSION.split("."))
    if int(match[1]) == major and int(match[2]) <= minor:
        return ""
    older = (int(match[1]), int(match[2])) < (major, minor)
    advice = "update the plugin" if older else "update auditor"
    return f"was written for version {stated} of the plugin interface, and this auditor has {API_VERSION}; {advice}"
