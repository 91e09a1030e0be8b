"""Probes as text, for ``auditor probes``. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from typing import Any

from auditor.plugin.registry import Registry
from auditor.probes.base import Probe

_NEEDS = {"labels": "labels", "gradients": "gradients (white-box)", "groups": "group columns"}


def all_probes(registry: Registry) -> str:
    """Every probe, one line each, by area."""
    width = max(map(len, registry.probes), default=0)
    lines = []
    for probe_id, kind in registry.probes.items():
        plugin = registry.origin[probe_id]
        foreign = f"  [{plugin.partition(':')[0]}]" if ":" in plugin else ""
        lines.append(f"{probe_id:<{width}}  {kind.meta.title}{foreign}")
    return "\n".join([*lines, "", f"{len(lines)} probes; `auditor probes ID` says more of one."])


def one_probe(registry: Registry, probe_id: str) -> str:
    """What a probe does, its threat model, settings and references."""
    kind = registry.probes[probe_id]
    meta = kind.meta
    lines = [f"{meta.id}: {meta.title}", "", *_wrap(meta.why)]
    module = inspect.getdoc(inspect.getmodule(kind))
    if module:
        lines += ["", *module.splitlines()]
    needs = ", ".join(_NEEDS[need] for need in sorted(meta.needs)) or "predictions only"
    lines += [
        "",
        f"Needs: {needs}",
        f"Takes: {' and '.join(sorted(meta.input_kinds))}",
        f"Plugin: {registry.origin[probe_id]}",
    ]
    threat = _default(kind).threat_model()
    if threat is not None:
        lines += ["", "Threat model", *(f"  {name}: {value}" for name, value in dataclasses.asdict(threat).items())]
    lines += ["", 'Settings (in a suite file, under [settings."' + probe_id + '"])']
    lines += [f"  {f.name} = {_value(getattr(_default(kind), f.name))}" for f in dataclasses.fields(kind)]
    lines += ["", "References", *(f"  {reference}" for reference in meta.references or ["none"])]
    return "\n".join(lines)


def _default(kind: type[Probe]) -> Probe:
    return kind()


def _value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else str(value)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 96)
