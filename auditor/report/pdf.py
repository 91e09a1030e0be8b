"""The report as a tagged PDF (PDF/UA-1), from the same templates as the HTML.

WeasyPrint runs in a child process of its own: it keeps its memory, and where the system lacks Pango it fails on import.
"""

from __future__ import annotations

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


def render_pdf(audit: Mapping[str, Any], run: Path) -> bytes:
    """report.pdf; raises AuditorError in one sentence where WeasyPrint or its system libraries are missing."""
    from auditor.report.html import page

    with tempfile.TemporaryDirectory(prefix="auditor-pdf-") as folder:
        source, target = Path(folder, "report.html"), Path(folder, "report.pdf")
        source.write_text(page(audit, run, paper=True), encoding="utf-8")
        command = [sys.executable, "-m", "auditor.report.pdf", str(source), str(target)]
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


def _draw(source: Path, target: Path) -> int:
    """What the child does: lay the page out and write it, fetching nothing but what the page itself carries."""
    try:
        from weasyprint import HTML
    except (OSError, ImportError) as problem:
        sys.stderr.write(f"{MISSING}: {problem}\n")
        return 1
    from weasyprint.urls import URLFetcher

    document = HTML(
        string=source.read_text(encoding="utf-8"),
        url_fetcher=URLFetcher(allowed_protocols=["data"]),
        media_type="print",
    )
    document.write_pdf(target, pdf_variant="pdf/ua-1", pdf_tags=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(_draw(Path(sys.argv[1]), Path(sys.argv[2])))
