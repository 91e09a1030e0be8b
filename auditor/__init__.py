"""Audit trained image classifiers for robustness, fairness and explanation quality.

Everything that a plugin needs is exported here (docs/stability.md). Names are imported when they are first used, so
that ``auditor --help`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor import errors as errors
    from auditor import statistics as statistics
    from auditor.api import Audit, audit, load
    from auditor.data.dataset import Batch, Pixels, Source
    from auditor.errors import AuditorError, BadInput, NoCopy, NotApplicable, PluginBroken
    from auditor.findings.evidence import (
        Axis,
        Curve,
        Evidence,
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
    from auditor.model.artefact import Artefact
    from auditor.model.classifier import Classifier
    from auditor.plugin.family import ProbeFamily
    from auditor.plugin.finished import FinishedRun
    from auditor.plugin.hookspecs import API_VERSION, hookimpl
    from auditor.probes.attack import Attack
    from auditor.probes.base import Columns, Example, Magnified, Meta, PerImage, Probe, Randomness, Records, RunContext
    from auditor.probes.breakdown import Breakdown
    from auditor.probes.corruption import Corruption
    from auditor.probes.derived import DerivedProbe
    from auditor.probes.distances import AttackSummary
    from auditor.probes.explanation import Explanation
    from auditor.probes.grid_search import GridSearch
    from auditor.probes.levels import Level
    from auditor.probes.minimum_norm import MinimumNorm
    from auditor.probes.perturbation import PerturbationResult
    from auditor.report import ReportFormat

__version__ = "0.1.0"

_NAMES = {
    "api": "Audit audit load",
    "data.dataset": "Batch Pixels Source",
    "errors": "AuditorError BadInput NoCopy NotApplicable PluginBroken",
    "findings.evidence": "Axis Curve Evidence GridRow HeatMap ImageGrid Picture Point Scatter Series Table Text",
    "findings.finding": "Conclusion Finding ThreatModel",
    "findings.metric": "Metric MetricSpec",
    "model.artefact": "Artefact",
    "model.classifier": "Classifier",
    "plugin.family": "ProbeFamily",
    "plugin.finished": "FinishedRun",
    "plugin.hookspecs": "API_VERSION hookimpl",
    "probes.attack": "Attack",
    "probes.base": "Columns Example Magnified Meta PerImage Probe Randomness Records RunContext",
    "probes.breakdown": "Breakdown",
    "probes.corruption": "Corruption",
    "probes.derived": "DerivedProbe",
    "probes.distances": "AttackSummary",
    "probes.explanation": "Explanation",
    "probes.grid_search": "GridSearch",
    "probes.levels": "Level",
    "probes.minimum_norm": "MinimumNorm",
    "probes.perturbation": "PerturbationResult",
    "report": "ReportFormat",
}
_HOME = {name: f"auditor.{module}" for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("errors", "statistics")

__all__ = [
    "API_VERSION",
    "Artefact",
    "Attack",
    "AttackSummary",
    "Audit",
    "AuditorError",
    "Axis",
    "BadInput",
    "Batch",
    "Breakdown",
    "Classifier",
    "Columns",
    "Conclusion",
    "Corruption",
    "Curve",
    "DerivedProbe",
    "Evidence",
    "Example",
    "Explanation",
    "Finding",
    "FinishedRun",
    "GridRow",
    "GridSearch",
    "HeatMap",
    "ImageGrid",
    "Level",
    "Magnified",
    "Meta",
    "Metric",
    "MetricSpec",
    "MinimumNorm",
    "NoCopy",
    "NotApplicable",
    "PerImage",
    "PerturbationResult",
    "Picture",
    "Pixels",
    "PluginBroken",
    "Point",
    "Probe",
    "ProbeFamily",
    "Randomness",
    "Records",
    "ReportFormat",
    "RunContext",
    "Scatter",
    "Series",
    "Source",
    "Table",
    "Text",
    "ThreatModel",
    "audit",
    "errors",
    "hookimpl",
    "load",
    "statistics",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"auditor.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
