"""Reports: pure views of audit.json and the evidence folder, in several formats.

``ReportFormat`` is what ``auditor_report_formats`` hooks return; ``auditor.plugins.formats.reports`` registers the
built-in ones. No report needs the model, the data or a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

Drawing = Iterator[bytes | None]
"""A report that another process renders: yields None once it has started, then the bytes.

Other reports are written in between."""


def whole(drawing: Drawing) -> bytes:
    """Wait for a report and return its bytes."""
    *_, content = drawing
    assert content is not None
    return content


@dataclass(frozen=True, kw_only=True)
class ReportFormat:
    """A report format."""

    name: str
    """Value of ``--format``: "html", "pdf", ..."""
    file: str
    """File name in the run folder: "report.html"."""
    render: Callable[..., bytes | Drawing]
    """Render the audit (the content of audit.json) and the run folder as the file's bytes.

    Raises AuditorError with one sentence if it cannot."""
    paged: bool = False
    """True for a format with pages: ``render`` also takes ``paper="a4"`` or ``paper="letter"``."""
    appendix: bool = False
    """True for a format with a short version: ``render`` also takes ``extent="full"`` or ``extent="short"``."""
    prepare: Callable[[], None] | None = None
    """Called as soon as the report is known to be needed, to start slow work early."""

    def on(self, paper: str, extent: str = "full") -> ReportFormat:
        """Return this format for a paper size and extent; a format without pages or appendix ignores them."""
        options = ({"paper": paper} if self.paged else {}) | ({"extent": extent} if self.appendix else {})
        return replace(self, render=partial(self.render, **options)) if options else self
