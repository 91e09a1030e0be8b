"""The report as one HTML file without external resources: no network, no fonts, no second file.

The same templates make the PDF (``paper=True``), without navigation and script, with all details open and long tables
cut.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from auditor.findings import formatting
from auditor.findings.finding import AREAS
from auditor.findings.losses import unjudged_losses
from auditor.findings.record import AuditRecord, HeatMapRecord, PlotRecord, metric_spec, spec_of
from auditor.report import documented, frameworks, layout, summary
from auditor.report.fonts import missing_glyphs
from auditor.report.gaps import gaps
from auditor.report.gauge import gauge
from auditor.report.group_gaps import group_gaps
from auditor.report.heat_map import heat_map, overlay
from auditor.report.pictures import Pictures
from auditor.report.plain_summary import plain_summary
from auditor.report.plot import plot
from auditor.report.ranking import worst_unjudged
from auditor.report.remediation import abstention, remedy, verification
from auditor.report.review import stated
from auditor.report.risks import examples, risks
from auditor.report.svg import svg_as_images

TEMPLATES = "auditor.report_templates"

MAX_RISKS = 3
"""Risks on page one."""

MAX_DETAILED = 5
"""Failed probes with figures in the short part of the PDF; the appendix has those of all."""

_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    examples,
    formatting.bound,
    formatting.cell,
    formatting.formatted,
    formatting.interval,
    formatting.measured,
    formatting.measured_at,
    formatting.norm_name,
    formatting.number,
    formatting.of_units,
    formatting.place,
    formatting.sample_size,
    formatting.seconds,
    formatting.setting,
    formatting.sort_key,
    gauge,
    layout.chunks,
    layout.column_blocks,
    layout.constant_columns,
    layout.has_long_word,
    metric_spec,
    overlay,
    remedy,
    spec_of,
    summary.file_name,
    summary.headline,
    summary.key_sample_size,
    summary.metric_text,
    verification,
)


def environment(*, paper: bool) -> jinja2.Environment:
    """Return the Jinja environment of all pages: autoescape, formatters, figures."""
    result = jinja2.Environment(
        loader=jinja2.PackageLoader(TEMPLATES, ""),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    result.globals |= {function.__name__: function for function in _FUNCTIONS}
    result.globals |= {
        "paper": paper,
        "limits": layout.PAPER if paper else layout.SCREEN,
        "short_limits": layout.PAPER_SHORT if paper else layout.SCREEN,
        "failure_limits": layout.PAPER_SHORT,
        "figure": partial(_figure, paper=paper),
        "metric_value": formatting.value,
    }
    return result


def _finalize(content: Any) -> Any:
    """Remove control characters and direction overrides from every foreign text."""
    return formatting.clean(content) if isinstance(content, str) and not isinstance(content, Markup) else content


def _figure(evidence: PlotRecord | HeatMapRecord, *, paper: bool) -> Markup:
    """Draw a curve, scatter plot or heat map."""
    drawing = heat_map(evidence) if evidence["kind"] == "heat-map" else plot(evidence)
    if paper:
        return svg_as_images(drawing)
    return Markup('<div class="plot" data-title="{}">{}</div>').format(formatting.clean(evidence["title"]), drawing)


def asset(name: str) -> Markup:
    """Return a style sheet or script of the package; it is trusted and needs no escaping."""
    return Markup((files(TEMPLATES) / name).read_text("utf-8"))


def digest(script: str) -> str:
    """Return the SHA-256 of a script, as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _report_template(*, paper: bool) -> jinja2.Template:
    # compiling it takes as long as filling it in
    return environment(paper=paper).get_template("report.html.j2")


def page(audit: AuditRecord, run: Path, *, paper: bool, size: str = "a4", extent: str = "full") -> str:
    """Render the report as HTML text.

    Args:
        audit: the record.
        run: the run folder, for the pictures.
        paper: whether the page is for the PDF.
        size: the paper size, "a4" or "letter".
        extent: "full", or "short" for the part without the appendix.
    """
    script = asset("report.js")
    areas = [
        (area, summary.AREA_TITLES[area], [probe for probe in audit["probes"] if probe["area"] == area])
        for area in AREAS
    ]
    template = _report_template(paper=paper)
    text = template.render(
        audit=audit,
        max_risks=MAX_RISKS,
        max_detailed=MAX_DETAILED,
        appendix=extent == "full",
        size=size,
        style=asset("report.css"),
        script=script,
        script_digest=digest(script),
        areas=areas,
        counts=summary.counts(audit),
        plain_summary=plain_summary(audit),
        risks=risks(audit["probes"]),
        stated=stated(audit),
        abstention=abstention(audit),
        unjudged=worst_unjudged(audit, MAX_RISKS),
        losses=unjudged_losses(audit["probes"]),
        area_summaries=summary.area_summaries(audit),
        gaps=gaps(audit),
        group_gaps=group_gaps(audit),
        accepted=summary.accepted(audit),
        specs={probe["id"]: probe.get("metric_specs", []) for probe in audit["probes"]},
        frameworks=frameworks.appendix(audit["probes"]),
        documented=documented.claims(audit),
        picture=Pictures(run, paper),
        # a browser has its own fonts
        unshown=missing_glyphs(audit) if paper else "",
    )
    return text if extent == "full" else without_dangling_links(text)


def without_dangling_links(text: str) -> str:
    """Replace links to parts that a page lacks by their text."""
    present = set(re.findall(r'\sid="([^"]+)"', text))

    def kept(link: re.Match[str]) -> str:
        return link[0] if link[1] in present else link[2]

    return re.sub(r'<a [^>]*href="#([^"]*)"[^>]*>(.*?)</a>', kept, text, flags=re.S)


def render_html(audit: AuditRecord, run: Path) -> bytes:
    """Render report.html: one file that works from disk and as an attachment."""
    return page(audit, run, paper=False).encode("utf-8")
