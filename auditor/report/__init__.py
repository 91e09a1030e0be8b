"""The report: a pure view of audit.json and the evidence folder, in several formats.

``ReportFormat`` is what ``auditor_report_formats`` hooks return; the built-in ones are registered by
``auditor.plugins.formats.reports``. Nothing here needs the model, the data or a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

Drawing = Iterator[bytes | None]
"""What another process draws: gives None when that has begun, so that other reports are written meanwhile, and then the
bytes."""


def whole(drawing: Drawing) -> bytes:
    """The bytes, once they are drawn."""
    *_, content = drawing
    assert content is not None
    return content


@dataclass(frozen=True, kw_only=True)
class ReportFormat:
    """One way to write a report down."""

    name: str
    """What ``--format`` takes: "html", "pdf", ..."""
    file: str
    """File name in the run folder: "report.html"."""
    render: Callable[..., bytes | Drawing]
    """From the audit (a mapping, the content of audit.json) and the run folder to the file's bytes; raises AuditorError
    with one sentence where it cannot."""
    paged: bool = False
    """True for a format that is laid out on paper: its ``render`` also takes ``paper="a4"`` or ``paper="letter"``."""
    prepare: Callable[[], None] | None = None
    """Called where it is known early that the report will be wanted, so that what takes long to start can start."""

    def on(self, paper: str) -> ReportFormat:
        """This format on that paper; the same where there are no pages."""
        return replace(self, render=partial(self.render, paper=paper)) if self.paged else self
