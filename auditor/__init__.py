"""Audits deployed image classifiers: what breaks them, whom they fail, what they look at.

What stands here is all that a plugin needs. Names are imported when they are first used, so that ``auditor --help``
does not pay for any of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor import errors as errors
    from auditor.api import Audit, audit, load
    from auditor.attribution import Explanation
    from auditor.errors import AuditorError, BadInput, NoCopy, NotApplicable, PluginBroken
    from auditor.families import Attack, Corruption, Found, Level, MinimumNorm
    from auditor.finding import (
        Axis,
        Conclusion,
        Curve,
        Finding,
        GridRow,
        HeatMap,
        ImageGrid,
        Metric,
        Picture,
        Point,
        Scatter,
        Series,
        Table,
        Text,
        ThreatModel,
    )
    from auditor.hookspecs import hookimpl
    from auditor.probe import Exhibit, Meta, PerImage, Probe, Records

__version__ = "0.1.0"

_HOMES = {
    "api": ("Audit", "audit", "load"),
    "attribution": ("Explanation",),
    "errors": ("AuditorError", "BadInput", "NoCopy", "NotApplicable", "PluginBroken"),
    "families": ("Attack", "Corruption", "Found", "Level", "MinimumNorm"),
    "finding": ("Axis", "Conclusion", "Curve", "Finding", "GridRow", "HeatMap", "ImageGrid", "Metric", "Picture",
                "Point", "Scatter", "Series", "Table", "Text", "ThreatModel"),
    "hookspecs": ("hookimpl",),
    "probe": ("Exhibit", "Meta", "PerImage", "Probe", "Records"),
}  # fmt: skip
_HOME = {name: f"auditor.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "Attack",
    "Audit",
    "AuditorError",
    "Axis",
    "BadInput",
    "Conclusion",
    "Corruption",
    "Curve",
    "Exhibit",
    "Explanation",
    "Finding",
    "Found",
    "GridRow",
    "HeatMap",
    "ImageGrid",
    "Level",
    "Meta",
    "Metric",
    "MinimumNorm",
    "NoCopy",
    "NotApplicable",
    "PerImage",
    "Picture",
    "PluginBroken",
    "Point",
    "Probe",
    "Records",
    "Scatter",
    "Series",
    "Table",
    "Text",
    "ThreatModel",
    "audit",
    "hookimpl",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("auditor.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
