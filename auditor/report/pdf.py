"""The report as a tagged PDF, from the same templates as the HTML.

``pdf`` is PDF/UA-1, for readers of every kind; ``pdfa`` is PDF/A-3a, for archives, with audit.json attached inside.

WeasyPrint runs in a child process of its own: it keeps its memory, and where the system lacks Pango it fails on import.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.errors import AuditorError

MISSING = "no-pango"
PATIENCE = 600
"""Seconds after which a rendering is given up."""


def render_pdf(audit: Mapping[str, Any], run: Path, *, paper: str = "a4") -> bytes:
    """report.pdf; raises AuditorError in one sentence where WeasyPrint or its system libraries are missing."""
    return _render(audit, run, paper, "pdf/ua-1")


def render_pdfa(audit: Mapping[str, Any], run: Path, *, paper: str = "a4") -> bytes:
    """report.pdfa.pdf: the same for archives. Raises as ``render_pdf`` does."""
    record = run / "audit.json"
    # the file itself, so that its digest is that of the run folder's
    content = record.read_bytes() if record.is_file() else json.dumps(audit, indent=1).encode()
    return _render(audit, run, paper, "pdf/a-3a", content)


def _render(audit: Mapping[str, Any], run: Path, paper: str, variant: str, record: bytes | None = None) -> bytes:
    from auditor.report.html import page

    return print_page(page(audit, run, paper=True, size=paper), variant, record)


def print_page(text: str, variant: str = "pdf/ua-1", record: bytes | None = None) -> bytes:
    """A page of ours as PDF, with ``record`` attached as audit.json.

    Raises AuditorError in one sentence where WeasyPrint or its system libraries are missing.
    """
    with tempfile.TemporaryDirectory(prefix="auditor-pdf-") as folder:
        source, target = Path(folder, "report.html"), Path(folder, "report.pdf")
        source.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "auditor.report.pdf", variant, str(source), str(target)]
        if record is not None:
            attached = Path(folder, "audit.json")
            attached.write_bytes(record)
            command.append(str(attached))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise AuditorError(
                f"the PDF report took more than {PATIENCE} s and was given up: use report.html"
            ) from None
        if done.returncode == 0 and target.is_file():
            return target.read_bytes()
    raise AuditorError(_explain(done.stderr, done.returncode))


def _explain(stderr: str, status: int) -> str:
    """One sentence for a child that failed."""
    if MISSING in stderr:
        return (
            "the PDF report needs the system library Pango, which was not found: install libpango-1.0-0, "
            "libpangoft2-1.0-0 and libharfbuzz-subset0 (Debian, Ubuntu), pango (Fedora, Homebrew) or the MSYS2 package "
            "mingw-w64-x86_64-pango (Windows), then draw the report again"
        )
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), f"exit status {status}")
    return f"the PDF report could not be drawn ({last.strip()}): use report.html"


def _draw(variant: str, source: Path, target: Path, *attached: Path) -> int:
    """What the child does: lay the page out and write it, fetching nothing but what the page itself carries."""
    # hundreds of thousands of boxes that all live to the end: looking for garbage among them takes a fifth of the time
    gc.disable()
    try:
        from weasyprint import HTML, Attachment
    except (OSError, ImportError) as problem:
        sys.stderr.write(f"{MISSING}: {problem}\n")
        return 1
    from weasyprint.urls import URLFetcher

    document = HTML(
        string=source.read_text(encoding="utf-8"),
        url_fetcher=URLFetcher(allowed_protocols=["data"]),
        media_type="print",
    )
    files = [
        Attachment(string=path.read_bytes(), name=path.name, description="The audit's record", relationship="Source")
        for path in attached
    ]
    document.write_pdf(target, pdf_variant=variant, pdf_tags=True, attachments=files)
    return 0


if __name__ == "__main__":
    raise SystemExit(_draw(sys.argv[1], *map(Path, sys.argv[2:])))
