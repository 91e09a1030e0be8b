"""The record of a probe in audit.json, and the JSON Schema."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.probes.base import Records

if TYPE_CHECKING:
    import pandas as pd


def evidence_files(record: Mapping[str, Any]) -> list[str]:
    """The picture files that a probe's findings show."""
    return [
        cell["file"]
        for finding in record["findings"]
        for item in finding["evidence"]
        if item["kind"] == "image-grid"
        for row in item["rows"]
        for cell in row["cells"]
        if cell["file"]
    ]


def validator(definition: str = "") -> Any:
    """A JSON Schema validator for audit.json, or for one of its ``$defs``."""
    import jsonschema

    schema = json.loads((Path(__file__).parents[1] / "schemas" / "audit.schema.json").read_text(encoding="utf-8"))
    if definition:
        schema = {"$ref": f"#/$defs/{definition}", "$defs": schema["$defs"]}
    return jsonschema.Draft202012Validator(schema)


def check_record(record: Mapping[str, Any]) -> None:
    """A probe's result must fit the schema, or it is the probe that broke."""
    problem = next(iter(validator("probe").iter_errors(record)), None)
    if problem is not None:
        place = "/".join(str(part) for part in problem.absolute_path)
        raise ValueError(f"its result does not fit the schema of audit.json at {place}: {problem.message[:200]}")


def n_examined(records: Records, measured: int) -> int:
    """How many images a probe looked at: those measured or, where it only reads other probes' rows, theirs."""
    read = [frame for frame in records.others.values() if _holds_more(frame)]
    if not read or _holds_more(records.frame):
        return measured
    return len(set().union(*(frame["image_id"] for frame in read)))


def _holds_more(frame: pd.DataFrame) -> bool:
    """Whether records say more than which images there are: those of a probe that only reads others' do not."""
    every = {"image_id", "label", "prediction", "sampled"}
    return any(name not in every and not str(name).startswith("group:") for name in frame.columns)


def value_counts(values: Sequence[str]) -> dict[str, int]:
    """Count each value."""
    return dict(sorted(Counter(values).items()))


def manifest_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two manifests and makes records unusable, key by key with both values."""
    lines = []
    for key in ("model", "data"):
        old, new = before.get(key, {}).get("sha256", "?"), now[key]["sha256"]
        if old != new:
            lines.append(f"{key} {old[:12]} -> {new[:12]}")
    if before.get("seed") != now["seed"]:
        lines.append(f"seed {before.get('seed')} -> {now['seed']}")
    for probe_id, settings in now["settings"].items():
        old = before.get("settings", {}).get(probe_id)
        for name, value in settings.items():
            if old is not None and old.get(name) != value:
                lines.append(f"{probe_id}.{name} {old.get(name)} -> {value}")
    return lines
