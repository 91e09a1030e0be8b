"""Entry points to probes. Built-in plugins come in through the same door as everybody else's.

Entry points are loaded in a loop of our own: pluggy's loader dies on the first broken plugin, and one broken plugin
must be named in the report, not end the audit.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.metadata
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from auditor.errors import AuditorError, BadInput, PluginBroken
from auditor.findings.encoding import plain
from auditor.findings.finding import AREAS
from auditor.plugin import hookspecs
from auditor.probes.base import Meta, Probe
from auditor.toml import typed

GROUP = "auditor.plugins"
_ID = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")


@dataclass(frozen=True)
class Plugin:
    """An entry point, and why it is broken if it is."""

    name: str
    package: str
    version: str | None
    error: str | None = None


@dataclass
class Registry:
    """Everything that the installed plugins offer."""

    manager: pluggy.PluginManager
    plugins: list[Plugin] = field(default_factory=list)
    probes: dict[str, type[Probe]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """Which plugin a probe comes from."""

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that could not be used, or not wholly."""
        return [plugin for plugin in self.plugins if plugin.error]

    def select(self, patterns: Sequence[str], *, option: str) -> list[str]:
        """Ids of the probes that match any of the ids or globs; BadInput for one that matches nothing."""
        chosen: set[str] = set()
        for pattern in patterns:
            found = fnmatch.filter(self.probes, pattern)
            if not found:
                near = sorted(probe_id for probe_id in self.probes if pattern.split(".")[0] in probe_id)
                some = f"near it are {', '.join(near[:8])}" if near else f"there are {len(self.probes)}"
                raise BadInput(f"{option} {pattern}: no such probe; {some} (see `auditor probes`)")
            chosen.update(found)
        return [probe_id for probe_id in self.probes if probe_id in chosen]

    def suites(self) -> dict[str, Path]:
        """The suite files by name: the package's own, then the plugins'."""
        own = Path(__file__).parents[1] / "suites"
        return self._offers("auditor_suites", "stem", {path.stem: path for path in sorted(own.glob("*.toml"))})

    def formats(self) -> dict[str, Any]:
        """The report formats by name."""
        return self._offers("auditor_report_formats", "name", {})

    def configure(self, probe_id: str, settings: Mapping[str, Any], *, where: str) -> Probe:
        """A probe with these settings; BadInput for an unknown name or a value of the wrong type."""
        kind = self.probes[probe_id]
        hints = typing.get_type_hints(kind)
        fields = {f.name: hints[f.name] for f in dataclasses.fields(kind)}
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in fields:
                raise BadInput(f"{where}: {probe_id} has no setting {name!r}; it has {', '.join(sorted(fields))}")
            values[name] = typed(value, fields[name], f"{where}: {probe_id}.{name}")
        try:
            return kind(**values)
        except ValueError as error:
            raise BadInput(f"{where}: {probe_id}: {error}") from None

    def first(self, hook: str, **arguments: Any) -> Any:
        """The first result of a hook that is not None, newest plugin first; a plugin that raises anything but an
        AuditorError is broken, and the next one is asked."""
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            try:
                optional = {name: arguments[name] for name in implementation.kwargnames if name in arguments}
                result = implementation.function(*(arguments[name] for name in implementation.argnames), **optional)
            except AuditorError:
                raise
            except Exception as error:
                self._break(implementation.plugin_name, f"{hook} raised {type(error).__name__}: {error}")
                continue
            if result is not None:
                return result
        return None

    def _offers(self, hook: str, key: str, found: dict[str, Any]) -> dict[str, Any]:
        """``found`` and what every plugin's hook offers, by the attribute ``key``; a name that is taken is refused."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            try:
                offers = {getattr(offer, key): offer for offer in implementation.function()}
            except Exception as error:
                self._break(plugin, f"{hook} raised {type(error).__name__}: {error}")
                continue
            for name, offer in offers.items():
                if found.setdefault(name, offer) is not offer:
                    self._break(plugin, f"{hook}: {name} is taken already, so that of {plugin} is left out; rename it")
        return found

    def _break(self, name: str, error: str) -> None:
        for i, plugin in enumerate(self.plugins):
            if plugin.name == name and not plugin.error:
                self.plugins[i] = dataclasses.replace(plugin, error=error)

    def _add(self, name: str, kind: Any) -> None:
        check_probe(kind)
        probe_id = kind.meta.id
        if probe_id in self.probes:
            raise PluginBroken(
                f"probe id {probe_id} is taken: plugin {self.origin[probe_id]} has it already, so that of {name}"
                " is left out; rename one"
            )
        self.probes[probe_id] = kind
        self.origin[probe_id] = name


def load() -> Registry:
    """Load every installed plugin."""
    manager = pluggy.PluginManager("auditor")
    manager.add_hookspecs(hookspecs)
    registry = Registry(manager)
    entries = importlib.metadata.entry_points(group=GROUP)
    # the auditor's own first, so that a duplicate id is charged to the newcomer
    for entry in sorted(entries, key=lambda e: (_package(e) != "auditor", _package(e), e.name)):
        registry.plugins.append(_load_one(manager, entry))
    for implementation in manager.hook.auditor_probes.get_hookimpls():
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
    order = {area: i for i, area in enumerate(AREAS)}
    registry.probes = dict(sorted(registry.probes.items(), key=lambda item: (order[item[1].meta.area], item[0])))
    return registry


def check_probe(kind: Any) -> None:
    """Refuse a probe that breaks a rule, in one sentence. Raises PluginBroken."""
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
        raise PluginBroken(f"{meta.id}: area {meta.area!r} is none of {', '.join(AREAS)}")
    if meta.id.partition(".")[0] != meta.area:
        raise PluginBroken(f"{meta.id}: its id must begin with its area, {meta.area}")
    if not (meta.title and meta.why):
        raise PluginBroken(f"{meta.id}: title and why must say something")
    parameters = vars(kind).get("__dataclass_params__")
    if not (parameters is not None and parameters.frozen):
        raise PluginBroken(f"{meta.id}: {name} must be a frozen dataclass: @dataclass(frozen=True, kw_only=True)")
    if meta.area == "attacks" and kind.threat_model is Probe.threat_model:
        raise PluginBroken(f"{meta.id}: an attack must declare its threat_model()")
    try:
        typing.get_type_hints(kind)
        probe = kind()
        plain(dataclasses.asdict(probe))
        probe.threat_model()
    except Exception as error:
        raise PluginBroken(
            f"{meta.id}: does not work with its default settings: {type(error).__name__}: {error}"
        ) from None


def _load_one(manager: pluggy.PluginManager, entry: importlib.metadata.EntryPoint) -> Plugin:
    package = _package(entry)
    version = entry.dist.version if entry.dist is not None else None
    name = entry.name if package == "auditor" else f"{package}:{entry.name}"
    try:
        module = entry.load()
    except (Exception, SystemExit) as error:
        return Plugin(name, package, version, f"does not import: {type(error).__name__}: {error}")
    try:
        manager.register(module, name=name)
        manager.check_pending()
    except (ValueError, pluggy.PluginValidationError) as error:
        # its hooks that were taken before the bad one go, too
        if manager.has_plugin(name):
            manager.unregister(name=name)
        return Plugin(name, package, version, " ".join(str(error).split()))
    return Plugin(name, package, version)


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "?"
