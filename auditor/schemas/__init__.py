"""JSON Schemas of audit.json, comparison.json, suites, policies and sidecars."""

from __future__ import annotations

from pathlib import Path


def schema_path(name: str) -> Path:
    """The JSON Schema called ``name``: "audit", "compare", "suite", "policy" or "sidecar"."""
    return Path(__file__).parent / f"{name}.schema.json"
