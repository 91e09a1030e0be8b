"""The PDF as an archive and a screen reader meet it: tags, bookmarks, heads, alternatives, fonts, attachments.

No validator of PDF/UA or PDF/A comes from PyPI, npm or Debian, so what can be checked on the structure of the file is
checked here, clause by clause; layout and reading order as a whole are for veraPDF and for people.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdf
import pytest
from PIL import Image

from auditor.report.pdf import render_pdf, render_pdfa

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"
ROWS = 55


@pytest.fixture(scope="module")
def audit() -> dict[str, Any]:
    """The golden audit with a picture, and a table that is longer than a page."""
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    loaded["probes"] = [p for p in loaded["probes"] if p["id"] in ("attacks.pgd", "performance.accuracy")]
    long = {"kind": "table", "title": "Long", "caption": "", "columns": ["uniquehead", "b"], "formats": []}
    loaded["probes"][0]["findings"][0]["evidence"].append({**long, "rows": [[f"r{i}", i] for i in range(ROWS)]})
    return loaded


@pytest.fixture(scope="module")
def run(audit: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "evidence").mkdir()
    (folder / "audit.json").write_text(json.dumps(audit), "utf-8")
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            for evidence in finding["evidence"]:
                for row in evidence["rows"] if evidence["kind"] == "image-grid" else ():
                    for cell in row["cells"]:
                        if cell["file"]:
                            Image.effect_noise((32, 32), 60).save(folder / cell["file"])
    return folder


@pytest.fixture(scope="module")
def documents(audit: dict[str, Any], run: Path) -> dict[str, pypdf.PdfReader]:
    drawn = {"ua": render_pdf(audit, run), "a": render_pdfa(audit, run, paper="letter")}
    return {name: pypdf.PdfReader(io.BytesIO(content)) for name, content in drawn.items()}


@pytest.fixture(params=["ua", "a"])
def document(request: pytest.FixtureRequest, documents: dict[str, pypdf.PdfReader]) -> pypdf.PdfReader:
    return documents[request.param]


def root(document: pypdf.PdfReader) -> Any:
    return document.trailer["/Root"]


def elements(node: Any) -> Iterator[Any]:
    """Every structure element of a document, in reading order."""
    node = node.get_object()
    if isinstance(node, list):
        for child in node:
            yield from elements(child)
    elif isinstance(node, dict):
        if "/S" in node:
            yield node
        if "/K" in node:
            yield from elements(node["/K"])


def tagged(document: pypdf.PdfReader, kind: str) -> list[Any]:
    return [element for element in elements(root(document)["/StructTreeRoot"]) if element["/S"] == kind]


def test_it_is_tagged_titled_and_says_its_language(document: pypdf.PdfReader) -> None:
    # ISO 14289-1, 7.1 and 7.2
    catalog = root(document)
    assert catalog["/MarkInfo"]["/Marked"]
    assert catalog["/Lang"] == "en"
    assert catalog["/ViewerPreferences"]["/DisplayDocTitle"]
    assert document.metadata is not None
    assert "Audit of" in (document.metadata.title or "")


def test_it_says_what_it_conforms_to(documents: dict[str, pypdf.PdfReader]) -> None:
    metadata = {name: root(each)["/Metadata"].get_data().decode() for name, each in documents.items()}
    assert "pdfuaid" in metadata["ua"]
    assert "pdfaid" in metadata["a"]
    assert 'pdfaid:part="3" pdfaid:conformance="A"' in metadata["a"]


def test_every_figure_has_an_alternative(document: pypdf.PdfReader) -> None:
    # ISO 14289-1, 7.3
    figures = tagged(document, "/Figure")
    assert len(figures) > 3
    assert all(str(figure.get("/Alt", "")).strip() for figure in figures)


def test_headings_do_not_skip_a_level(document: pypdf.PdfReader) -> None:
    # ISO 14289-1, 7.4.2
    levels = [int(e["/S"][2:]) for e in elements(root(document)["/StructTreeRoot"]) if e["/S"][2:].isdigit()]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_cell_of_a_table_says_its_heads(document: pypdf.PdfReader) -> None:
    # ISO 14289-1, 7.5: by the cell's Headers, which name the IDs of heads
    known = {str(head["/ID"]) for head in tagged(document, "/TH")}
    cells = tagged(document, "/TD")
    assert cells
    for cell in cells:
        attributes = cell["/A"].get_object()
        assert attributes["/O"] == "/Table"
        assert {str(name) for name in attributes["/Headers"]} <= known


def test_the_head_of_a_long_table_stands_on_each_of_its_pages(document: pypdf.PdfReader) -> None:
    texts = [page.extract_text() for page in document.pages]
    first = next(number for number, text in enumerate(texts) if "\nr0\n" in text.replace(" ", "\n"))
    last = next(number for number, text in enumerate(texts) if f"\nr{ROWS - 1}\n" in text.replace(" ", "\n"))
    assert last > first
    assert all("uniquehead" in text for text in texts[first : last + 1])


def test_every_page_names_the_model_and_its_number(audit: dict[str, Any], document: pypdf.PdfReader) -> None:
    for number, page in enumerate(document.pages, 1):
        text = page.extract_text()
        assert audit["model"]["sha256"] in text
        assert f"Page {number} of {len(document.pages)}" in text


def test_bookmarks_and_contents_lead_to_the_same_pages(document: pypdf.PdfReader) -> None:
    pages = {str(mark["/Title"]): document.get_destination_page_number(mark) for mark in _marks(document.outline)}
    assert {"Contents", "Adversarial attacks", "Projected gradient descent", "Record"} <= set(pages)
    text = document.pages[pages["Contents"] or 0].extract_text().replace("\n", " ")
    assert f" {(pages['Record'] or 0) + 1}" in text[text.index("Record") :][:200]


def _marks(outline: Any) -> Iterator[Any]:
    for mark in outline:
        if isinstance(mark, list):
            yield from _marks(mark)
        else:
            yield mark


def test_fonts_are_embedded_and_pictures_not_smoothed(document: pypdf.PdfReader) -> None:
    # ISO 19005-3, 6.2.11.4 and 6.2.8
    fonts = pictures = 0
    for each in _objects(document):
        if not isinstance(each, dict):
            continue
        if each.get("/Type") == "/FontDescriptor":
            fonts += 1
            assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(each)
        if each.get("/Subtype") == "/Image":
            pictures += 1
            assert str(each.get("/Interpolate", "false")).lower() == "false"
    assert fonts
    assert pictures


def _objects(document: pypdf.PdfReader) -> Iterator[Any]:
    for number in range(1, int(str(document.trailer["/Size"]))):
        try:
            found = pypdf.generic.IndirectObject(number, 0, document).get_object()
        except pypdf.errors.PdfReadError:
            continue
        if found is not None:
            yield found


def test_the_archive_holds_the_record(documents: dict[str, pypdf.PdfReader], run: Path) -> None:
    # ISO 19005-3, 6.8: an associated file with a relationship and a media type
    archive = documents["a"]
    assert archive.attachments["audit.json"] == [(run / "audit.json").read_bytes()]
    (specification,) = {each.idnum: each.get_object() for each in root(archive)["/AF"]}.values()
    assert specification["/AFRelationship"] == "/Source"
    assert specification["/EF"]["/F"].get_object()["/Subtype"] == "/application/json"
    assert root(archive)["/OutputIntents"][0].get_object()["/S"] == "/GTS_PDFA1"
    assert "/AF" not in root(documents["ua"])


def test_paper(documents: dict[str, pypdf.PdfReader]) -> None:
    sizes = {name: each.pages[0].mediabox for name, each in documents.items()}
    assert (sizes["ua"].width, sizes["ua"].height) == pytest.approx((595.3, 841.9), abs=0.1)
    assert (sizes["a"].width, sizes["a"].height) == pytest.approx((612, 792), abs=0.1)
