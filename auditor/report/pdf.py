"""The report as a tagged PDF, from the same templates as the HTML.

``pdf`` is PDF/UA-1, for readers of every kind; ``pdfa`` is PDF/A-3a, for archives, with audit.json attached inside.

WeasyPrint runs in a child process of its own: it keeps its memory, and where the system lacks Pango it fails on import.
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
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element, SubElement

from auditor.errors import AuditorError
from auditor.report import Drawing, whole

if TYPE_CHECKING:
    from weasyprint import CSS, HTML

MISSING = "no-pango"
PATIENCE = 600
"""Seconds after which a rendering is given up."""
ACROSS = 105
"""Letters of a table's type that fit on a line of paper."""


def render_pdf(audit: Mapping[str, Any], run: Path, *, paper: str = "a4") -> Drawing:
    """report.pdf; raises AuditorError in one sentence where WeasyPrint or its system libraries are missing."""
    return _render(audit, run, paper, "pdf/ua-1")


def render_pdfa(audit: Mapping[str, Any], run: Path, *, paper: str = "a4") -> Drawing:
    """report.pdfa.pdf: the same for archives. Raises as ``render_pdf`` does."""
    record = run / "audit.json"
    # the file itself, so that its digest is that of the run folder's
    content = record.read_bytes() if record.is_file() else json.dumps(audit, indent=1).encode()
    return _render(audit, run, paper, "pdf/a-3a", content)


def _render(audit: Mapping[str, Any], run: Path, paper: str, variant: str, record: bytes | None = None) -> Drawing:
    from auditor.report.html import page

    return _print(lambda: page(audit, run, paper=True, size=paper), variant, record)


def print_page(text: str, variant: str = "pdf/ua-1") -> bytes:
    """A page of ours as PDF. Raises AuditorError in one sentence where WeasyPrint or what it needs is missing."""
    return whole(_print(lambda: text, variant))


def _print(make: Callable[[], str], variant: str, record: bytes | None = None) -> Drawing:
    """The page that ``make`` gives as PDF, with ``record`` attached as audit.json.

    It is made while the child imports WeasyPrint.
    """
    with tempfile.TemporaryDirectory(prefix="auditor-pdf-") as folder:
        page, target, attached = (Path(folder, name) for name in ("page.html", "report.pdf", "audit.json"))
        order = [variant, str(page), str(target)]
        if record is not None:
            attached.write_bytes(record)
            order.append(str(attached))
        with _child() as child:
            try:
                page.write_text(make(), "utf-8")
                assert child.stdin is not None
                # only where the page is: the page itself would have to wait for a child that hangs
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps(order).encode())
                    child.stdin.close()
                child.stdin = None
                yield None
                _, stderr = child.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                raise AuditorError(
                    f"the PDF report took more than {PATIENCE} s and was given up: use report.html"
                ) from None
            finally:
                # a page that cannot be made, and Ctrl-C, leave nobody waiting for it
                child.kill()
        if child.returncode != 0 or not target.is_file():
            raise AuditorError(_explain(stderr.decode("utf-8", "replace"), child.returncode))
        yield target.read_bytes()


_waiting: list[subprocess.Popen[bytes]] = []
"""A child that was started before there was a page."""


def prepare() -> None:
    """Start the child that the next page is for, which takes it most of a second."""
    if not _waiting:
        _waiting.append(_start())


def _child() -> subprocess.Popen[bytes]:
    """The child that waits, or a new one where none does or somebody has ended it meanwhile."""
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
    """Send a child home that no page came for."""
    for child in _waiting:
        child.kill()
        child.communicate()


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


def _draw() -> int:
    """What the child does: wait for its order, lay the page out and write it, fetching nothing but what the page itself
    carries.

    The order names the PDF's variant, the page, the PDF and files to attach; it is empty where nobody wants one.
    """
    # hundreds of thousands of boxes that all live to the end: looking for garbage among them takes a fifth of the time
    gc.disable()
    try:
        from weasyprint import HTML, Attachment
    except (OSError, ImportError) as problem:
        sys.stderr.write(f"{MISSING}: {problem}\n")
        return 1
    sheets = [_browser_style()]
    # the first layout of all looks for the fonts
    HTML(string="a").render()
    order = sys.stdin.read()
    if not order:
        return 0
    variant, *paths = json.loads(order)
    page, target, *attached = map(Path, paths)
    # a number and its per cent stay on one line
    document = _document(plain_style(page.read_text("utf-8")).replace(" %", "\u00a0%"))
    document._ua_stylesheets = lambda *_: sheets
    lower_anchors(document.etree_element)
    for table in document.etree_element.iter("table"):
        # the table of page one has pictures in it, which no letters tell of
        if "data" in (classes := table.get("class", "").split()) and "glance" not in classes:
            fix_columns(table)
    files = [
        Attachment(string=path.read_bytes(), name=path.name, description="The audit's record", relationship="Source")
        for path in attached
    ]
    document.write_pdf(target, pdf_variant=variant, pdf_tags=True, attachments=files)
    return 0


def _document(page: str) -> HTML:
    """The page for WeasyPrint. Ours are XML, too, for which there is a fast parser; its own for HTML is in Python."""
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    fetcher = URLFetcher(allowed_protocols=["data"])
    try:
        root = ET.fromstring(page)
    except ET.ParseError:
        # a control character in a name, or what a plugin wrote
        return HTML(string=page, url_fetcher=fetcher, media_type="print")
    document = HTML(string="<html></html>", url_fetcher=fetcher, media_type="print")
    document.etree_element = root
    document.wrapper_element = type(document.wrapper_element).from_html_root(root, content_language=None)
    return document


def _browser_style() -> CSS:
    """WeasyPrint's own style sheet, without its rules for the notes and list marks of elements that have none.

    They match every element, which then gets seven styles instead of one. Should WeasyPrint ask for its sheet in
    another way some day, only time is lost.
    """
    from weasyprint import CSS

    rules = resources.files("weasyprint.css").joinpath("html5_ua.css").read_text("utf-8")
    return CSS(string=re.sub(r"^::marker", "li::marker", re.sub(r"^::.*note.*$", "", rules, flags=re.M), flags=re.M))


def plain_style(page: str) -> str:
    """The page with the variables of its style written out: WeasyPrint looks each up again for every element."""
    style, rest = page.split("</style>", 1)
    values = dict(re.findall(r"(--[\w-]+): ([^;]+);", style.split("@media", 1)[0]))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], style) + "</style>" + rest


def lower_anchors(page: Element) -> None:
    """Let the headings carry the ids of what they head.

    WeasyPrint computes a style once for all elements that match the same rules inside the same parent; an id makes
    its element's style one of its own, and so those of all that is in it.
    """
    for section in (each for each in page.iter() if each.tag in ("section", "article") and "id" in each.attrib):
        heading = next((each for each in section.iter() if each.tag in ("h1", "h2", "h3", "h4")), None)
        if heading is not None:
            heading.set("id", section.attrib.pop("id"))


def fix_columns(table: Element) -> None:
    """Give the columns of a table their widths, by the letters in their cells.

    The rule is that of CSS 2.2, section 17.5.2.2 (automatic table layout), which WeasyPrint follows by laying every
    cell out several times: half of the time that a report took. Letters are counted for nothing.
    """
    least: list[int] = []
    most: list[int] = []
    for row in table.iter("tr"):
        for column, cell in enumerate(row):
            whole = bool({"num", "keep"} & set(cell.get("class", "").split()))
            lines = "".join(_words(cell, whole=whole)).split("\n")
            word = max((len(word) for line in lines for word in line.split(" ")), default=0)
            if column == len(least):
                least.append(0)
                most.append(0)
            least[column] = max(least[column], word if whole else min(word, 26))
            most[column] = max(most[column], word, *(min(len(line), 60) for line in lines))
    padding = 3
    room = max(ACROSS - padding * len(least) - sum(least), 0)
    wish = sum(most) - sum(least)
    share = min(1.0, room / wish) if wish else 0.0
    widths = [low + share * (high - low) + padding for low, high in zip(least, most, strict=True)]
    columns = Element("colgroup")
    for width in widths:
        SubElement(columns, "col", style=f"width: {100 * width / sum(widths):.1f}%")
    table.insert(0, columns)
    table.set("class", f"{table.get('class')} fixed")


def _words(element: Element, *, whole: bool) -> Iterator[str]:
    """The text of a cell; a no-break space stands where it must not be broken, a new line where it is."""
    badge = "badge" in element.get("class", "").split()
    whole = whole or element.tag == "b" or badge
    # the room around its words
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
    # the file is written: taking half a gigabyte of boxes apart one by one would only take time
    os._exit(status)
