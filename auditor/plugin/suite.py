"""A suite: which probes run, with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auditor.errors import BadInput
from auditor.plugin.registry import Registry
from auditor.policy import published
from auditor.toml import read_toml, refuse_unknown


@dataclass(frozen=True)
class Suite:
    """What to run, how strongly, on how many images."""

    name: str
    title: str
    probes: Sequence[str]
    """Ids or globs."""
    samples: int | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    documented: Sequence[Mapping[str, Any]] = ()
    """Numbers of others to show beside the measured ones (``documented.py``)."""


def read_suite(path: Path, registry: Registry) -> Suite:
    """Read a suite file; unknown keys, probes and settings are refused."""
    content = read_toml(path)
    where = str(path)
    refuse_unknown(content, {"title", "probes", "samples", "settings", "documented"}, where)
    probes = content.get("probes")
    if not (isinstance(probes, list) and probes and all(isinstance(item, str) for item in probes)):
        raise BadInput(f'{where}: probes must be a list of ids or globs, for example ["attacks.*"]')
    registry.select(probes, option=f"{where}: probes:")
    samples = content.get("samples")
    if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < 1):
        raise BadInput(f"{where}: samples is {samples!r}; expected a whole number of at least 1")
    title = content.get("title", path.stem)
    if not isinstance(title, str):
        raise BadInput(f"{where}: title is {title!r}; expected a text")
    settings = content.get("settings", {})
    if not isinstance(settings, dict):
        raise BadInput(f'{where}: settings is {settings!r}; expected tables such as [settings."attacks.fgsm"]')
    for probe_id, values in settings.items():
        if probe_id not in registry.probes:
            raise BadInput(f"{where}: settings for {probe_id!r}, but there is no such probe (see `auditor probes`)")
        if not isinstance(values, dict):
            raise BadInput(f'{where}: settings of {probe_id} are {values!r}; expected a table [settings."{probe_id}"]')
        registry.configure(probe_id, values, where=where)
    found = published.check(content.get("documented", []), registry.probes, where)
    return Suite(path.stem, title, probes, samples, settings, found)


def find_suite(name: str, registry: Registry) -> Suite:
    """The suite called ``name``, or the one in the file ``name``."""
    suites = registry.suites()
    path = suites.get(name) or Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise BadInput(f"--suite {name}: no such suite; expected one of {', '.join(suites)} or a TOML file")
    return read_suite(path, registry)
