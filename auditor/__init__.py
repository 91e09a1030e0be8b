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
    from auditor.errors import AuditorError, BadInput, NoCopy, NotApplicable, PluginBroken
    from auditor.findings.evidence import (
        Axis,
        Curve,
        GridRow,
        HeatMap,
        ImageGrid,
        Picture,
        Point,
        Scatter,
        Series,
        Table,
        Text,
    )
    from auditor.findings.finding import Conclusion, Finding, ThreatModel
    from auditor.findings.metric import Metric, MetricSpec
    from auditor.plugin.hookspecs import hookimpl
    from auditor.probes.attack import Attack
    from auditor.probes.base import Example, Meta, PerImage, Probe, Records
    from auditor.probes.corruption import Corruption
    from auditor.probes.explanation import Explanation
    from auditor.probes.levels import Level
    from auditor.probes.minimum_norm import MinimumNorm
    from auditor.probes.perturbation import PerturbationResult

__version__ = "0.1.0"

_NAMES = {
    "api": "Audit audit load",
    "errors": "AuditorError BadInput NoCopy NotApplicable PluginBroken",
    "findings.evidence": "Axis Curve GridRow HeatMap ImageGrid Picture Point Scatter Series Table Text",
    "findings.finding": "Conclusion Finding ThreatModel",
    "findings.metric": "Metric MetricSpec",
    "plugin.hookspecs": "hookimpl",
    "probes.attack": "Attack",
    "probes.base": "Example Meta PerImage Probe Records",
    "probes.corruption": "Corruption",
    "probes.explanation": "Explanation",
    "probes.levels": "Level",
    "probes.minimum_norm": "MinimumNorm",
    "probes.perturbation": "PerturbationResult",
}
_HOME = {name: f"auditor.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Attack",
    "Audit",
    "AuditorError",
    "Axis",
    "BadInput",
    "Conclusion",
    "Corruption",
    "Curve",
    "Example",
    "Explanation",
    "Finding",
    "GridRow",
    "HeatMap",
    "ImageGrid",
    "Level",
    "Meta",
    "Metric",
    "MetricSpec",
    "MinimumNorm",
    "NoCopy",
    "NotApplicable",
    "PerImage",
    "PerturbationResult",
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
