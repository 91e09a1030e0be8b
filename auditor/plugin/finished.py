"""A finished run, as plugins that publish it see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.findings.record import AuditRecord


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run; changing it has no effect on the run."""

    folder: Path
    """The run folder: reports, records and evidence."""
    audit: AuditRecord
    """A copy of the content of audit.json."""
    files: Sequence[Path]
    """audit.json and the reports."""
