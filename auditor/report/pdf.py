"""The report as a tagged PDF, from the same templates as the HTML.

``pdf`` is PDF/UA-1 (accessible); ``pdfa`` is PDF/A-3a (for archives), with audit.json attached.

WeasyPrint runs in a child process, because it does not release its memory, and because its import fails without Pango.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element, SubElement

from auditor.errors import AuditorError
from auditor.findings.record import AuditRecord
from auditor.report import Drawing, whole

if TYPE_CHECKING:
    from weasyprint import CSS, HTML

MISSING = "no-pango"
TIMEOUT = 600
"""Seconds after which rendering is stopped."""
LINE_WIDTH = 105
"""Characters of a table that fit on a line of paper."""


def render_pdf(audit: AuditRecord, run: Path, *, paper: str = "a4", extent: str = "full") -> Drawing:
    """Render report.pdf, with its appendix if ``extent`` is "full".

    Raises AuditorError if WeasyPrint or its system libraries are missing.
    """
    return _render(audit, run, paper, "pdf/ua-1", extent=extent)


def render_pdfa(audit: AuditRecord, run: Path, *, paper: str = "a4") -> Drawing:
    """Render report.pdfa.pdf, the report for archives. Raises as ``render_pdf`` does."""
    record = run / "audit.json"
    # attach the file itself, so that both have the same digest
    content = record.read_bytes() if record.is_file() else json.dumps(audit, indent=1).encode()
    return _render(audit, run, paper, "pdf/a-3a", record=content)


def _render(
    audit: AuditRecord, run: Path, paper: str, variant: str, *, record: bytes | None = None, extent: str = "full"
) -> Drawing:
    from auditor.report.html import page

    return _print(lambda: page(audit, run, paper=True, size=paper, extent=extent), variant, record)


def print_page(text: str, variant: str = "pdf/ua-1") -> bytes:
    """Render a page as PDF. Raises AuditorError if WeasyPrint or its system libraries are missing."""
    return whole(_print(lambda: text, variant))


def _print(make: Callable[[], str], variant: str, record: bytes | None = None) -> Drawing:
    """Render the page that ``make`` returns, with ``record`` attached as audit.json.

    ``make`` runs while the child imports WeasyPrint.
    """
    with tempfile.TemporaryDirectory(prefix="auditor-pdf-") as folder:
        page, target, attached = (Path(folder, name) for name in ("page.html", "report.pdf", "audit.json"))
        job = [variant, str(page), str(target)]
        if record is not None:
            attached.write_bytes(record)
            job.append(str(attached))
        with _child() as child:
            try:
                page.write_text(make(), "utf-8")
                assert child.stdin is not None
                # send the path only: sending the page would block if the child hangs
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps(job).encode())
                    child.stdin.close()
                child.stdin = None
                yield None
                _, stderr = child.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                raise AuditorError(
                    f"the PDF report took more than {TIMEOUT} s and was stopped; use report.html"
                ) from None
            finally:
                # also after an exception or Ctrl-C, no child may keep waiting
                child.kill()
        if child.returncode != 0 or not target.is_file():
            raise AuditorError(_explain(stderr.decode("utf-8", "replace"), child.returncode))
        yield target.read_bytes()


_waiting: list[subprocess.Popen[bytes]] = []
"""A child that was started before its page was ready."""


def prepare() -> None:
    """Start the child for the next page; its imports take most of a second."""
    if not _waiting:
        _waiting.append(_start())


def _child() -> subprocess.Popen[bytes]:
    """Return the waiting child, or a new one if none is waiting or it has ended."""
    if _waiting:
        child = _waiting.pop()
        if child.poll() is None:
            return child
        child.communicate()
    return _start()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "auditor.report.pdf"], stdin=PIPE, stdout=PIPE, stderr=PIPE)


@atexit.register
def _dismiss() -> None:
    """End a child without a page."""
    for child in _waiting:
        child.kill()
        child.communicate()


def _explain(stderr: str, status: int) -> str:
    """Return why a child failed, in one sentence."""
    if MISSING in stderr:
        return (
            "the PDF report requires the system library Pango, which was not found: install libpango-1.0-0, "
            "libpangoft2-1.0-0 and libharfbuzz-subset0 (Debian, Ubuntu), pango (Fedora, Homebrew) or the MSYS2 package "
            "mingw-w64-x86_64-pango (Windows), then run `auditor report RUN`"
        )
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), f"exit status {status}")
    return f"the PDF report could not be rendered ({last.strip()}); use report.html"


def _draw() -> int:
    """Run the child: wait for a job on stdin, render the page, write the PDF. Nothing outside the page is fetched.

    The job lists the PDF variant, the page, the PDF and the attachments; it is empty if no page is needed.
    """
    # hundreds of thousands of boxes live to the end: garbage collection would take a fifth of the time
    gc.disable()
    try:
        from weasyprint import HTML, Attachment
    except (OSError, ImportError) as problem:
        sys.stderr.write(f"{MISSING}: {problem}\n")
        return 1
    sheets = [_browser_style()]
    # the first layout searches the fonts
    HTML(string="a").render()
    job = sys.stdin.read()
    if not job:
        return 0
    variant, *paths = json.loads(job)
    page, target, *attached = map(Path, paths)
    # keep a number and its percent sign on one line
    document = _document(plain_style(page.read_text("utf-8")).replace(" %", "\u00a0%"))
    document._ua_stylesheets = lambda *_: sheets
    lower_anchors(document.etree_element)
    for table in document.etree_element.iter("table"):
        # the table of page one has gauges, whose width is not in characters
        if "data" in (classes := table.get("class", "").split()) and "glance" not in classes:
            fix_columns(table)
    files = [
        Attachment(string=path.read_bytes(), name=path.name, description="The audit's record", relationship="Source")
        for path in attached
    ]
    document.write_pdf(target, pdf_variant=variant, pdf_tags=True, attachments=files)
    return 0


def _document(page: str) -> HTML:
    """Parse a page for WeasyPrint. The pages are valid XML, whose parser is faster than that for HTML."""
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    fetcher = URLFetcher(allowed_protocols=["data"])
    try:
        root = ET.fromstring(page)
    except ET.ParseError:
        # not XML: a control character in a name, or text of a plugin
        return HTML(string=page, url_fetcher=fetcher, media_type="print")
    document = HTML(string="<html></html>", url_fetcher=fetcher, media_type="print")
    document.etree_element = root
    document.wrapper_element = type(document.wrapper_element).from_html_root(root, content_language=None)
    return document


def _browser_style() -> CSS:
    """Return WeasyPrint's own style sheet without its rules for notes and list marks of other elements.

    These rules match every element, which then gets seven styles instead of one. If a later version of WeasyPrint
    ignores this sheet, rendering only gets slower.
    """
    from weasyprint import CSS

    rules = resources.files("weasyprint.css").joinpath("html5_ua.css").read_text("utf-8")
    return CSS(string=re.sub(r"^::marker", "li::marker", re.sub(r"^::.*note.*$", "", rules, flags=re.M), flags=re.M))


def plain_style(page: str) -> str:
    """Replace the variables of the style by their values; WeasyPrint looks them up for every element."""
    style, rest = page.split("</style>", 1)
    values = dict(re.findall(r"(--[\w-]+): ([^;]+);", style.split("@media", 1)[0]))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], style) + "</style>" + rest


def lower_anchors(page: Element) -> None:
    """Move the ids of sections to their headings.

    WeasyPrint computes one style for all elements that match the same rules inside the same parent. An id gives its
    element and everything inside it separate styles.
    """
    for section in (each for each in page.iter() if each.tag in ("section", "article") and "id" in each.attrib):
        heading = next((each for each in section.iter() if each.tag in ("h1", "h2", "h3", "h4")), None)
        if heading is not None:
            heading.set("id", section.attrib.pop("id"))


def fix_columns(table: Element) -> None:
    """Set the column widths of a table from the number of characters in its cells.

    The rule is that of CSS 2.2, section 17.5.2.2 (automatic table layout). WeasyPrint lays every cell out several times
    for it, which took half of the rendering time.
    """
    least: list[int] = []
    most: list[int] = []
    for row in table.iter("tr"):
        for column, cell in enumerate(row):
            if cell.get("colspan"):
                continue
            whole = bool({"num", "keep"} & set(cell.get("class", "").split()))
            lines = "".join(_words(cell, whole=whole)).split("\n")
            word = max((len(word) for line in lines for word in line.split(" ")), default=0)
            if cell.get("scope") == "col":
                word += 2  # heads are bold
            if column == len(least):
                least.append(0)
                most.append(0)
            least[column] = max(least[column], word if whole else min(word, 26))
            most[column] = max(most[column], word, *(min(len(line), 90) for line in lines))
    padding = 3
    room = max(LINE_WIDTH - padding * len(least) - sum(least), 0)
    wish = sum(most) - sum(least)
    share = min(1.0, room / wish) if wish else 0.0
    widths = [low + share * (high - low) + padding for low, high in zip(least, most, strict=True)]
    columns = Element("colgroup")
    for width in widths:
        SubElement(columns, "col", style=f"width: {100 * width / sum(widths):.1f}%")
    table.insert(0, columns)
    table.set("class", f"{table.get('class')} fixed")


def _words(element: Element, *, whole: bool) -> Iterator[str]:
    """Yield the text of a cell, with no-break spaces where it must not be broken and new lines where it is."""
    badge = "badge" in element.get("class", "").split()
    whole = whole or element.tag == "b" or badge
    # spaces for the padding of a badge
    text = (element.text or "") + ("  " if badge else "")
    yield text.replace(" ", "\u00a0") if whole else text.replace("\n", " ")
    for child in element:
        if child.tag == "br":
            yield "\n"
        elif "hidden" not in child.get("class", "").split():
            yield from _words(child, whole=whole)
        yield (child.tail or "").replace("\n", " ") if not whole else (child.tail or "").replace(" ", "\u00a0")


if __name__ == "__main__":
    status = _draw()
    sys.stderr.flush()
    # skip the slow destruction of half a gigabyte of boxes
    os._exit(status)
