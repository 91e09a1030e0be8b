"""Probes as text, for ``auditor probes``. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Mapping, Sequence

from auditor.plugin.registry import Registry
from auditor.probes.base import Need

_NEEDS: Mapping[Need, str] = {
    "labels": "labels",
    "gradients": "gradients (white-box)",
    "groups": "group columns",
    "scores": "scores",
    "epsilons": "an epsilon for each image",
    "unknown": "images that belong to no class (--unknown DIR)",
}
_INPUT_KINDS = {"images": "images", "rows": "tabular data"}


def all_probes(registry: Registry, listed: Sequence[str] | None = None) -> str:
    """Return a line per probe, ordered by area; only those ``listed``, if given."""
    chosen = {probe_id: kind for probe_id, kind in registry.probes.items() if listed is None or probe_id in listed}
    width = max(map(len, chosen), default=0)
    lines = []
    for probe_id, kind in chosen.items():
        package, separator, _ = registry.origin[probe_id].partition(":")
        origin = f"  [{package}]" if separator else ""
        lines.append(f"{probe_id:<{width}}  {kind.meta.title}{origin}")
    return "\n".join([*lines, "", f"{len(lines)} probes; `auditor probes ID` describes one of them."])


def one_probe(registry: Registry, probe_id: str) -> str:
    """Return description, requirements, threat model, settings and references of a probe."""
    kind = registry.probes[probe_id]
    meta, probe = kind.meta, kind()
    lines = [f"{meta.id}: {meta.title}", "", *textwrap.wrap(meta.why, 96)]
    module = inspect.getdoc(inspect.getmodule(kind))
    if module:
        lines += ["", *module.splitlines()]
    lines += [
        "",
        f"Requires: {', '.join(_NEEDS[need] for need in sorted(meta.needs)) or 'predictions only'}",
        f"Input: {' or '.join(_INPUT_KINDS[kind] for kind in sorted(meta.input_kinds))}",
        f"Plugin: {registry.origin[probe_id]}",
    ]
    threat = probe.threat_model()
    if threat is not None:
        lines += ["", "Threat model", *(f"  {name}: {value}" for name, value in dataclasses.asdict(threat).items())]
    lines += ["", f'Settings (in a suite file, under [settings."{probe_id}"])']
    lines += [f"  {field.name} = {_value(getattr(probe, field.name))}" for field in dataclasses.fields(kind)]
    lines += ["", "References", *(f"  {reference}" for reference in meta.references or ["none"])]
    return "\n".join(lines)


def _value(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f'"{value}"' if isinstance(value, str) else str(value)
