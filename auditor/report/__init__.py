"""The report: a pure view of audit.json and the evidence folder, in several formats.

``ReportFormat`` is what ``auditor_report_formats`` hooks return; the built-in ones are registered by
``auditor.plugins.formats.reports``. Nothing here needs the model, the data or a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ReportFormat:
    """One way to write a report down."""

    name: str
    """What ``--format`` takes: "html", "pdf", ..."""
    file: str
    """File name in the run folder: "report.html"."""
    render: Callable[[Mapping[str, Any], Path], bytes]
    """From the audit (the content of audit.json) and the run folder to the file's bytes; raises AuditorError
    with one sentence where it cannot."""
