"""JSON Schemas of audit.json, comparison.json, suites, policies and sidecars."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any


def schema_path(name: str) -> Path:
    """The JSON Schema called ``name``: "audit", "compare", "suite", "policy" or "sidecar"."""
    return Path(__file__).parent / f"{name}.schema.json"


@cache
def validator(name: str, definition: str = "") -> Any:
    """Return a ``jsonschema`` validator for the schema called ``name``, or for one of its ``$defs``."""
    schema = json.loads(schema_path(name).read_text(encoding="utf-8"))
    if definition:
        schema = {"$ref": f"#/$defs/{definition}", "$defs": schema["$defs"]}
    return import_jsonschema().Draft202012Validator(schema)


def import_jsonschema() -> Any:
    """Import jsonschema without rfc3987_syntax, which compiles grammars for five seconds where it is installed.

    It checks only the formats "iri" and "iri-reference", which no schema here uses.
    """
    absent = "rfc3987_syntax" not in sys.modules
    if absent:
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    try:
        import jsonschema
    finally:
        if absent:
            del sys.modules["rfc3987_syntax"]
    return jsonschema
