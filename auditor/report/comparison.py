"""A comparison as one HTML file, and as a PDF from the same template: a pure view of comparison.json."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from auditor.findings import formatting
from auditor.findings.finding import AREAS
from auditor.report import html, pdf, summary

Record = Mapping[str, Any]


def page(comparison: Record, *, paper: bool) -> str:
    """The whole comparison as HTML text."""
    environment = html.environment(paper=paper)
    environment.globals.update(difference=formatting.difference, probability=formatting.probability)
    environment.filters["file"] = summary.file_name
    environment.filters["with_value"] = lambda metric, value: {**metric, **value}
    script = html.asset("report.js")
    areas = [(area, summary.AREA_TITLES[area], [p for p in comparison["probes"] if p["area"] == area])
             for area in AREAS]  # fmt: skip
    return environment.get_template("compare.html.j2").render(
        comparison=comparison,
        style=html.asset("report.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        areas=[(area, title, probes) for area, title, probes in areas if probes],
    )


def render_html(comparison: Record) -> bytes:
    """comparison.html: one file that works from disk and as an attachment."""
    return page(comparison, paper=False).encode("utf-8")


def render_pdf(comparison: Record) -> bytes:
    """comparison.pdf; raises AuditorError in one sentence where WeasyPrint or its system libraries are missing."""
    return pdf.print_page(page(comparison, paper=True))
