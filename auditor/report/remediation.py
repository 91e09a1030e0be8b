"""What to do about a failed probe, what does not help, and how to verify the improvement.

The texts are in ``auditor/report/remediation.toml``, one entry for each kind of finding.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from auditor.findings import formatting
from auditor.findings.record import AuditRecord


class Remedy(NamedTuple):
    """One kind of finding."""

    probes: tuple[str, ...]
    """Ids or globs of the probes whose failures are of this kind."""
    kind: str
    action: str
    """The next action, in one sentence."""
    steps: tuple[str, ...]
    """What to do, most effective first."""
    useless: str
    """What does not help."""
    sources: tuple[str, ...]


@cache
def remedies() -> tuple[Remedy, ...]:
    """Return every entry of remediation.toml."""
    content = tomllib.loads((files("auditor.report") / "remediation.toml").read_text("utf-8"))
    return tuple(
        Remedy(
            tuple(entry["probes"]),
            entry["kind"],
            entry["action"],
            tuple(entry["steps"]),
            entry["useless"],
            tuple(entry["sources"]),
        )
        for entry in content["remedy"]
    )


def remedy(probe_id: str) -> Remedy | None:
    """Return the first entry about a probe; None for a probe of a plugin without one."""
    about = (entry for entry in remedies() if any(fnmatch.fnmatch(probe_id, pattern) for pattern in entry.probes))
    return next(about, None)


def verification(audit: AuditRecord, probe_id: str) -> str:
    """Return the commands that measure a failed probe on the changed model and compare both runs."""
    options = f"--suite {audit['suite']} --probe {probe_id} --seed {audit['seed']}"
    return f"auditor run NEW_MODEL {options} --out NEW_RUN && auditor compare THIS_RUN NEW_RUN"


def abstention(audit: AuditRecord) -> str:
    """Describe a threshold on the confidence by the numbers of this audit: what it rejects; empty without them.

    It is the lowest measured threshold that rejects at least half of the wrong predictions.
    """
    tables = [
        table
        for probe in audit["probes"]
        for finding in probe["findings"]
        if finding["id"] == "performance.calibration/threshold" and not probe.get("invalidated_by")
        for table in finding["evidence"]
        if table["kind"] == "table" and {"threshold", "correct", "wrong"} <= set(table["columns"])
    ]
    for table in tables:
        for row in table["rows"]:
            cells = dict(zip(table["columns"], row, strict=False))
            wrong = cells["wrong"]
            if isinstance(wrong, Mapping) and (wrong["value"] or 0.0) >= 0.5:
                texts = {name: formatting.cell(cells[name], "percent") for name in ("wrong", "correct")}
                return (
                    f"Abstention in this audit: a confidence below {formatting.cell(cells['threshold'], 'number')}"
                    f" occurs for {texts['wrong']} of the wrong and {texts['correct']} of the correct predictions."
                )
    return ""
