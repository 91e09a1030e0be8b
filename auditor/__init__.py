"""Audits deployed image classifiers: what breaks them, whom they fail, what they look at.

This module imports nothing heavy; a plugin needs no more than what stands here.
"""

from __future__ import annotations

from auditor.errors import AuditorError, BadInput, NoCopy, PluginBroken
from auditor.families import Attack, Corruption, Level
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
from auditor.probe import Exhibit, Meta, Probe, Records

__version__ = "0.1.0"

__all__ = [
    "Attack",
    "AuditorError",
    "Axis",
    "BadInput",
    "Conclusion",
    "Corruption",
    "Curve",
    "Exhibit",
    "Finding",
    "GridRow",
    "HeatMap",
    "ImageGrid",
    "Level",
    "Meta",
    "Metric",
    "NoCopy",
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
    "hookimpl",
]
