"""The built-in report formats. Renderers are imported when they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from auditor import hookimpl
from auditor.report import Drawing, ReportFormat

if TYPE_CHECKING:
    from auditor.findings.record import AuditRecord


def _html(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.html import render_html

    return render_html(audit, run)


def _pdf(audit: AuditRecord, run: Path, *, paper: str = "a4", extent: str = "full") -> Drawing:
    from auditor.report.pdf import render_pdf

    return render_pdf(audit, run, paper=paper, extent=extent)


def _pdfa(audit: AuditRecord, run: Path, *, paper: str = "a4") -> Drawing:
    from auditor.report.pdf import render_pdfa

    return render_pdfa(audit, run, paper=paper)


def _prepare_pdf() -> None:
    from auditor.report.pdf import prepare

    prepare()


def _sarif(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.sarif import render_sarif

    return render_sarif(audit, run)


def _junit(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.junit import render_junit

    return render_junit(audit, run)


def _markdown(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.markdown import render_markdown

    return render_markdown(audit, run)


def _card(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.card import render_card

    return render_card(audit, run)


def _intoto(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.intoto import render_statement

    return render_statement(audit, run)


def _cyclonedx(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.cyclonedx import render_bom

    return render_bom(audit, run)


def _eval_results(audit: AuditRecord, run: Path) -> bytes:
    from auditor.report.eval_results import render_eval_results

    return render_eval_results(audit, run)


@hookimpl
def auditor_report_formats() -> list[ReportFormat]:
    """Register the built-in formats; the session writes audit.json."""
    return [
        ReportFormat(name="html", file="report.html", render=_html),
        ReportFormat(name="pdf", file="report.pdf", render=_pdf, paged=True, appendix=True, prepare=_prepare_pdf),
        ReportFormat(name="pdfa", file="report.pdfa.pdf", render=_pdfa, paged=True, prepare=_prepare_pdf),
        ReportFormat(name="sarif", file="audit.sarif", render=_sarif),
        ReportFormat(name="junit", file="audit.junit.xml", render=_junit),
        ReportFormat(name="md", file="summary.md", render=_markdown),
        ReportFormat(name="card", file="model-card.md", render=_card),
        ReportFormat(name="eval-results", file=".eval_results/auditor.yaml", render=_eval_results),
        ReportFormat(name="cyclonedx", file="bom.cdx.json", render=_cyclonedx),
        ReportFormat(name="intoto", file="audit.intoto.json", render=_intoto),
    ]
