"""The report as a tagged PDF, from the same templates as the HTML.

``pdf`` is PDF/UA-1, for readers of every kind; ``pdfa`` is PDF/A-3a, for archives, with audit.json attached inside.

WeasyPrint runs in a child process of its own: it keeps its memory, and where the system lacks Pango it fails on import.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element, SubElement

from auditor.errors import AuditorError
from auditor.report import Drawing, whole

if TYPE_CHECKING:
    from weasyprint import HTML

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
        page, target = Path(folder, "page.html"), Path(folder, "report.pdf")
        command = [sys.executable, "-m", "auditor.report.pdf", variant, str(page), str(target)]
        if record is not None:
            attached = Path(folder, "audit.json")
            attached.write_bytes(record)
            command.append(str(attached))
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as child:
            try:
                page.write_text(make(), "utf-8")
                # the sign that it may read the page; written into the pipe, a page would wait for a child that hangs
                assert child.stdin is not None
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


def _draw(variant: str, page: Path, target: Path, *attached: Path) -> int:
    """What the child does: wait for the end of its standard input, lay the page out and write it, fetching nothing but
    what the page itself carries."""
    # hundreds of thousands of boxes that all live to the end: looking for garbage among them takes a fifth of the time
    gc.disable()
    try:
        from weasyprint import Attachment
    except (OSError, ImportError) as problem:
        sys.stderr.write(f"{MISSING}: {problem}\n")
        return 1
    sys.stdin.read()
    document = _document(plain_style(page.read_text("utf-8")))
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


def plain_style(page: str) -> str:
    """The page with the variables of its style written out: WeasyPrint looks each up again for every element."""
    style, rest = page.split("</style>", 1)
    values = dict(re.findall(r"(--[\w-]+): ([^;]+);", style.split("@media", 1)[0]))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], style) + "</style>" + rest


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
    status = _draw(sys.argv[1], *map(Path, sys.argv[2:]))
    sys.stderr.flush()
    # the file is written: taking half a gigabyte of boxes apart one by one would only take time
    os._exit(status)
