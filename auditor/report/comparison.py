"""A comparison as one HTML file, and as a PDF from the same template: pure views of comparison.json."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from auditor.findings import formatting
from auditor.findings.comparison_record import ComparisonRecord, metric_of
from auditor.findings.finding import AREAS
from auditor.report import html, pdf, summary
from auditor.report.pictures import Pictures


@cache
def _template(*, paper: bool) -> jinja2.Template:
    environment = html.environment(paper=paper)
    environment.globals |= {
        "difference": formatting.difference,
        "probability": formatting.probability,
        "metric_of": metric_of,
    }
    environment.filters["file"] = summary.file_name
    return environment.get_template("compare.html.j2")


def page(comparison: ComparisonRecord, *, paper: bool) -> str:
    """Render the whole comparison as HTML text."""
    script = html.asset("report.js")
    areas = [
        (area, summary.AREA_TITLES[area], [probe for probe in comparison["probes"] if probe["area"] == area])
        for area in AREAS
    ]
    return _template(paper=paper).render(
        comparison=comparison,
        style=html.asset("report.css"),
        script=script,
        script_digest=html.digest(script),
        pictures=[Pictures(Path(run["path"]), paper) for run in comparison["runs"]],
        areas=[(area, title, probes) for area, title, probes in areas if probes],
    )


def render_html(comparison: ComparisonRecord) -> bytes:
    """Render comparison.html: one file that works from disk and as an attachment."""
    return page(comparison, paper=False).encode("utf-8")


def render_pdf(comparison: ComparisonRecord) -> bytes:
    """Render comparison.pdf. Raises AuditorError if WeasyPrint or its system libraries are missing."""
    return pdf.print_page(page(comparison, paper=True))
