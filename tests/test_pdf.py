"""The PDF as an archive and a screen reader meet it: tags, bookmarks, heads, alternatives, fonts, attachments.

No validator of PDF/UA or PDF/A comes from PyPI, npm or Debian, so this file is the stated checker: what a machine can
check on the structure of the file is checked here, clause by clause (list: docs/reference/report.md); whether a text
says what its figure shows, and whether the order is a good one to read, are for people.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pypdf
import pytest
from PIL import Image

from auditor.report import html, layout, whole
from auditor.report.pdf import fix_columns, lower_anchors, plain_style, print_page, render_pdf, render_pdfa

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"
ROWS = layout.PAPER.rows


@pytest.fixture(scope="module")
def audit() -> dict[str, Any]:
    """The golden audit with a picture, and a table that is longer than a page."""
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    loaded["probes"] = [p for p in loaded["probes"] if p["id"] in ("attacks.pgd", "performance.accuracy")]
    long = {"kind": "table", "title": "Long", "caption": "", "columns": ["uniquehead", "b"], "formats": []}
    rows = [[f"r{i}", "a line of words " * 30] for i in range(ROWS)]
    loaded["probes"][0]["findings"][0]["evidence"].insert(0, {**long, "rows": rows})
    loaded["probes"][0]["status"] = "fail"
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
    return {name: pypdf.PdfReader(io.BytesIO(whole(drawing))) for name, drawing in drawn.items()}


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


# The stated checker: docs/reference/report.md lists these clauses. Each gives what is wrong, in words.

Check = Callable[[pypdf.PdfReader], Iterator[str]]
SHOWING = {
    b"Tj",
    b"TJ",
    b"'",
    b'"',
    b"Do",
    b"sh",
    b"f",
    b"F",
    b"f*",
    b"S",
    b"s",
    b"B",
    b"B*",
    b"b",
    b"b*",
    b"INLINE IMAGE",
}
STANDARD = {
    "Document",
    "Part",
    "Art",
    "Sect",
    "Div",
    "BlockQuote",
    "Caption",
    "TOC",
    "TOCI",
    "Index",
    "NonStruct",
    "Private",
    "H",
    "H1",
    "H2",
    "H3",
    "H4",
    "H5",
    "H6",
    "P",
    "L",
    "LI",
    "Lbl",
    "LBody",
    "Table",
    "TR",
    "TH",
    "TD",
    "THead",
    "TBody",
    "TFoot",
    "Span",
    "Quote",
    "Note",
    "Reference",
    "BibEntry",
    "Code",
    "Link",
    "Annot",
    "Ruby",
    "RB",
    "RT",
    "RP",
    "Warichu",
    "WT",
    "WP",
    "Figure",
    "Formula",
    "Form",
}
"""Structure types of ISO 32000-1, 14.8.4."""
WITHIN = {
    "TR": {"Table", "THead", "TBody", "TFoot"},
    "TH": {"TR"},
    "TD": {"TR"},
    "THead": {"Table"},
    "TBody": {"Table"},
    "TFoot": {"Table"},
    "LI": {"L"},
    "Lbl": {"LI", "Note", "BibEntry", "TOCI"},
    "LBody": {"LI"},
    "TOCI": {"TOC"},
}


def streams(document: pypdf.PdfReader) -> Iterator[tuple[int, Any, list[Any]]]:
    """Number, page and operations of every page."""
    for number, page in enumerate(document.pages, 1):
        yield number, page, pypdf.generic.ContentStream(page["/Contents"], document).operations


def real_content_is_tagged(document: pypdf.PdfReader) -> Iterator[str]:
    """Everything painted is marked with an MCID or as an artifact; neither stands inside the other."""
    for number, page, operations in streams(document):
        inside: list[str] = []
        for operands, operator in operations:
            if operator in (b"BMC", b"BDC"):
                properties = operands[1] if operator == b"BDC" else {}
                if isinstance(properties, str):
                    properties = page["/Resources"]["/Properties"][properties]
                kind = "artifact" if operands[0] == "/Artifact" else "tagged" if "/MCID" in properties else "other"
                if {kind, *inside} >= {"artifact", "tagged"}:
                    yield f"page {number}: {kind} content inside {' inside '.join(inside)}"
                inside.append(kind)
            elif operator == b"EMC":
                inside.pop()
            elif operator in SHOWING and not {"artifact", "tagged"} & set(inside):
                yield f"page {number}: {operator.decode()} is neither tagged nor an artifact"
        if inside:
            yield f"page {number}: marked content is not closed"


def tags_lead_to_content_and_back(document: pypdf.PdfReader) -> Iterator[str]:
    """Every MCID of a page belongs to the structure element that the parent tree names, once."""
    numbers = root(document)["/StructTreeRoot"]["/ParentTree"]["/Nums"]
    parents = {int(numbers[i]): numbers[i + 1] for i in range(0, len(numbers), 2)}
    for number, page, operations in streams(document):
        marks = [o[1]["/MCID"] for o, operator in operations if operator == b"BDC" and "/MCID" in o[1]]
        if len(set(marks)) < len(marks):
            yield f"page {number}: an MCID stands twice"
        owners = parents.get(int(page["/StructParents"]), pypdf.generic.ArrayObject()).get_object()
        for mark in marks:
            if mark >= len(owners) or "/S" not in owners[mark].get_object():
                yield f"page {number}: MCID {mark} has no structure element"
        for annotation in page.get("/Annots", ()):
            if int(annotation.get_object().get("/StructParent", -1)) not in parents:
                yield f"page {number}: an annotation is not in the structure tree"


def structure_types_are_standard(document: pypdf.PdfReader) -> Iterator[str]:
    """Every type is one of ISO 32000-1 or mapped to one."""
    mapped = root(document)["/StructTreeRoot"].get("/RoleMap", {})
    for kind in {str(element["/S"])[1:] for element in elements(root(document)["/StructTreeRoot"])}:
        if kind not in STANDARD and str(mapped.get("/" + kind, "/"))[1:] not in STANDARD:
            yield f"{kind} is no standard structure type"


def structure_nests(document: pypdf.PdfReader) -> Iterator[str]:
    """Cells stand in rows, rows in tables, items in lists; the whole is one Document."""
    top = root(document)["/StructTreeRoot"]["/K"].get_object()
    if str((top[0].get_object() if isinstance(top, list) else top)["/S"]) != "/Document":
        yield "the structure tree does not begin with Document"
    for element in elements(root(document)["/StructTreeRoot"]):
        kind = str(element["/S"])[1:]
        parent = str(element["/P"].get_object().get("/S", "/"))[1:]
        if kind in WITHIN and parent not in WITHIN[kind]:
            yield f"{kind} stands in {parent or 'the root'}"


def metadata_says_ua(document: pypdf.PdfReader) -> Iterator[str]:
    """XMP with the identifier and a title; the window shows the title; a language; not suspect."""
    catalog = root(document)
    metadata = catalog["/Metadata"].get_data().decode()
    if 'pdfuaid:part="1"' not in metadata:
        yield "no pdfuaid:part"
    if "<dc:title>" not in metadata or "Audit of" not in metadata:
        yield "no dc:title"
    if not catalog["/ViewerPreferences"].get("/DisplayDocTitle"):
        yield "DisplayDocTitle is not set"
    if not catalog["/MarkInfo"].get("/Marked") or catalog["/MarkInfo"].get("/Suspects"):
        yield "MarkInfo"
    if catalog.get("/Lang") != "en":
        yield "no language"


def figures_have_alternatives(document: pypdf.PdfReader) -> Iterator[str]:
    """Every Figure has a text, and there are figures."""
    figures = tagged(document, "/Figure")
    if len(figures) < 4:
        yield f"only {len(figures)} figures"
    if not all(str(figure.get("/Alt", "")).strip() for figure in figures):
        yield "a figure without a text"


def headings_do_not_skip(document: pypdf.PdfReader) -> Iterator[str]:
    """The first is H1, none is more than one below the one before it."""
    levels = [int(e["/S"][2:]) for e in elements(root(document)["/StructTreeRoot"]) if e["/S"][2:].isdigit()]
    if levels[0] != 1:
        yield f"the first heading is H{levels[0]}"
    yield from (f"H{after} follows H{before}" for before, after in itertools.pairwise(levels) if after > before + 1)


def cells_name_their_heads(document: pypdf.PdfReader) -> Iterator[str]:
    """By Headers, which name the IDs of heads; IDs are unique."""
    heads = [str(head["/ID"]) for head in tagged(document, "/TH") if "/ID" in head]
    if len(set(heads)) < len(heads):
        yield "two heads have one ID"
    cells = tagged(document, "/TD")
    if not cells:
        yield "no cells"
    for cell in cells:
        attributes = cell["/A"].get_object()
        if attributes["/O"] != "/Table" or not {str(name) for name in attributes["/Headers"]} <= set(heads):
            yield "a cell names no head"


def links_are_tagged_and_described(document: pypdf.PdfReader) -> Iterator[str]:
    """Link annotations lie in Link elements and have a description; tab order is that of the structure."""
    numbers = root(document)["/StructTreeRoot"]["/ParentTree"]["/Nums"]
    parents = {int(numbers[i]): numbers[i + 1] for i in range(0, len(numbers), 2)}
    for number, page in enumerate(document.pages, 1):
        if page.get("/Tabs") != "/S" and "/Annots" in page:
            yield f"page {number}: tab order is not that of the structure"
        for each in page.get("/Annots", ()):
            annotation = each.get_object()
            owner = parents[int(annotation["/StructParent"])].get_object()
            if annotation["/Subtype"] != "/Link" or str(owner["/S"]) != "/Link":
                yield f"page {number}: {annotation['/Subtype']} in {owner['/S']}"
            if not str(annotation.get("/Contents", "")).strip():
                yield f"page {number}: a link without a description"


def text_can_be_read_as_unicode(document: pypdf.PdfReader) -> Iterator[str]:
    """Every font is embedded, maps its glyphs to Unicode, and no missing glyph is shown."""
    fonts = [each for each in _objects(document) if isinstance(each, dict) and each.get("/Type") == "/Font"]
    if not fonts:
        yield "no fonts"
    for font in fonts:
        if font["/Subtype"] in ("/CIDFontType0", "/CIDFontType2"):
            descriptor = font["/FontDescriptor"].get_object()
            if not {"/FontFile", "/FontFile2", "/FontFile3"} & set(descriptor):
                yield f"{font['/BaseFont']} is not embedded"
            if font["/Subtype"] == "/CIDFontType2" and "/CIDToGIDMap" not in font:
                yield f"{font['/BaseFont']} has no CIDToGIDMap"
        elif font["/Subtype"] == "/Type0":
            if "/ToUnicode" not in font:
                yield f"{font['/BaseFont']} has no ToUnicode"
        elif font["/Subtype"] != "/Type3" or "/ToUnicode" not in font:
            yield f"{font.get('/BaseFont', font['/Subtype'])} is no embedded font with ToUnicode"
    for number, _, operations in streams(document):
        for operands, operator in operations:
            if operator in (b"Tj", b"TJ"):
                texts = operands[0] if operator == b"TJ" else operands
                raw = [getattr(text, "original_bytes", b"") for text in texts if not isinstance(text, int | float)]
                if any(glyph == b"\0\0" for text in raw for glyph in (text[i : i + 2] for i in range(0, len(text), 2))):
                    yield f"page {number}: a missing glyph is shown"


def nothing_hides_from_assistive_technology(document: pypdf.PdfReader) -> Iterator[str]:
    """No encryption, no XFA forms, no optional content, no reference XObjects."""
    if document.is_encrypted:
        yield "encrypted"
    yield from (
        f"{key} in the catalog" for key in ("/OCProperties", "/AcroForm", "/NeedsRendering") if key in root(document)
    )
    if any(
        isinstance(each, dict) and "/Ref" in each and each.get("/Subtype") == "/Form" for each in _objects(document)
    ):
        yield "a reference XObject"


def header_and_trailer(document: pypdf.PdfReader) -> Iterator[str]:
    """The header of 1.7 and a comment of four bytes above 127; an ID; no encryption."""
    document.stream.seek(0)
    first, second = document.stream.read(2000).split(b"\n")[:2]
    if not first.startswith(b"%PDF-1.7"):
        yield f"begins with {first!r}"
    if not (second.startswith(b"%") and len(second) > 4 and all(byte > 127 for byte in second[1:5])):
        yield f"its second line is {second!r}"
    if "/ID" not in document.trailer:
        yield "no ID in the trailer"
    if "/Encrypt" in document.trailer:
        yield "encrypted"


def metadata_says_a(document: pypdf.PdfReader) -> Iterator[str]:
    """XMP without the attributes bytes and encoding in its packet, that says 3A and agrees with the document
    information."""
    metadata = root(document)["/Metadata"].get_data().decode()
    if 'pdfaid:part="3" pdfaid:conformance="A"' not in metadata:
        yield "no pdfaid"
    if re.search(r"<\?xpacket [^>]*(bytes|encoding)=", metadata):
        yield "the packet names bytes or encoding"
    for name, message in (document.metadata or {}).items():
        if name in ("/Title", "/Producer", "/Creator", "/Subject") and str(message) not in metadata:
            yield f"{name} is not in the metadata"


def colours_have_a_profile(document: pypdf.PdfReader) -> Iterator[str]:
    """An output intent for RGB; nothing is in CMYK; blending is normal."""
    (intent,) = root(document)["/OutputIntents"]
    profile = intent.get_object()["/DestOutputProfile"].get_object()
    if intent.get_object()["/S"] != "/GTS_PDFA1" or profile["/N"] != 3 or profile.get_data()[16:20] != b"RGB ":
        yield "the output intent is no RGB profile"
    for each in _objects(document):
        if isinstance(each, dict) and "DeviceCMYK" in str(each.get("/ColorSpace", "")):
            yield "an image in CMYK"
        if isinstance(each, dict) and each.get("/BM", "/Normal") not in ("/Normal", "/Compatible"):
            yield f"blend mode {each['/BM']}"
    for number, _, operations in streams(document):
        if any(operator in (b"k", b"K") for _, operator in operations):
            yield f"page {number}: CMYK"


def streams_and_pictures_are_plain(document: pypdf.PdfReader) -> Iterator[str]:
    """No LZW, no outside files; pictures are neither smoothed nor have alternates; no PostScript."""
    pictures = 0
    for each in _objects(document):
        if not isinstance(each, dict):
            continue
        if "LZW" in str(each.get("/Filter", "")) or ("/Length" in each and "/F" in each):
            yield "a stream with LZW or in another file"
        if each.get("/Subtype") == "/Image":
            pictures += 1
            if str(each.get("/Interpolate", "false")).lower() != "false" or {"/Alternates", "/OPI"} & set(each):
                yield "a picture is smoothed or has alternates"
        if each.get("/Subtype") == "/PS" or each.get("/Subtype2") == "/PS" or {"/TR", "/HTP"} & set(each):
            yield "PostScript or a transfer function"
    if not pictures:
        yield "no pictures"


def nothing_acts(document: pypdf.PdfReader) -> Iterator[str]:
    """No scripts, no actions but going to a place or an address; annotations are printed and not hidden."""
    for each in _objects(document):
        if not isinstance(each, dict):
            continue
        if each.get("/Type") == "/Action" and str(each["/S"]) not in ("/GoTo", "/URI"):
            yield f"action {each['/S']}"
        if {"/JS", "/JavaScript", "/AA"} & set(each):
            yield "a script or an additional action"
        if each.get("/Subtype") == "/Link" and int(each.get("/F", 0)) & 0b100111 != 0b100:
            yield f"a link with flags {each.get('/F', 0)}"
    if "/OpenAction" in root(document) or "/AA" in root(document):
        yield "an action on opening"


UA: Mapping[str, Check] = {
    "7.1 (checkpoint 01)": real_content_is_tagged,
    "7.1 (checkpoint 01), parent tree": tags_lead_to_content_and_back,
    "7.1 (checkpoint 02)": structure_types_are_standard,
    "7.1, 7.2, 5 (checkpoints 06, 07, 11)": metadata_says_ua,
    "7.2, 7.5, 7.6 (checkpoint 09)": structure_nests,
    "7.3 (checkpoint 13)": figures_have_alternatives,
    "7.4.2 (checkpoint 14)": headings_do_not_skip,
    "7.5 (checkpoint 15)": cells_name_their_heads,
    "7.16, 7.10, 7.15, 7.20 (checkpoints 20, 25, 26, 30)": nothing_hides_from_assistive_technology,
    "7.18 (checkpoint 28)": links_are_tagged_and_described,
    "7.21 (checkpoints 10, 31)": text_can_be_read_as_unicode,
}
"""ISO 14289-1, with the checkpoints of the Matterhorn Protocol 1.1."""

A: Mapping[str, Check] = {
    "6.1": header_and_trailer,
    "6.1.7, 6.2.8, 6.2.9": streams_and_pictures_are_plain,
    "6.2.2, 6.2.4, 6.2.10": colours_have_a_profile,
    "6.2.11": text_can_be_read_as_unicode,
    "6.3, 6.5": nothing_acts,
    "6.6": metadata_says_a,
    "6.7": tags_lead_to_content_and_back,
    "6.7, types": structure_types_are_standard,
    "6.9, 6.4": nothing_hides_from_assistive_technology,
}
"""ISO 19005-3, level A."""


@pytest.mark.parametrize("clause", UA)
def test_pdf_ua_1(documents: dict[str, pypdf.PdfReader], clause: str) -> None:
    assert list(itertools.islice(UA[clause](documents["ua"]), 5)) == []


@pytest.mark.parametrize("clause", A)
def test_pdf_a_3a(documents: dict[str, pypdf.PdfReader], clause: str) -> None:
    assert list(itertools.islice(A[clause](documents["a"]), 5)) == []


def test_documentation_lists_every_checked_clause() -> None:
    message = (Path(__file__).parents[1] / "docs" / "reference" / "report.md").read_text("utf-8")
    assert [clause for clause in [*UA, *A] if f"| {clause} |" not in message] == []


def test_head_of_a_long_table_is_repeated_on_each_page(document: pypdf.PdfReader) -> None:
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


def test_bookmarks_and_contents_point_to_the_same_pages(document: pypdf.PdfReader) -> None:
    pages = {str(mark["/Title"]): document.get_destination_page_number(mark) for mark in _marks(document.outline)}
    assert {"Appendix", "Adversarial attacks", "Projected gradient descent", "Record"} <= set(pages)
    text = document.pages[pages["Appendix"] or 0].extract_text().replace("\n", " ")
    assert f" {(pages['Record'] or 0) + 1}" in text[text.index("Record") :][:200]


def _marks(outline: Any) -> Iterator[Any]:
    for mark in outline:
        if isinstance(mark, list):
            yield from _marks(mark)
        else:
            yield mark


def _objects(document: pypdf.PdfReader) -> Iterator[Any]:
    for number in range(1, int(str(document.trailer["/Size"]))):
        try:
            found = pypdf.generic.IndirectObject(number, 0, document).get_object()
        except pypdf.errors.PdfReadError:
            continue
        if found is not None:
            yield found


def test_pdfa_has_the_record_attached(documents: dict[str, pypdf.PdfReader], run: Path) -> None:
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


def test_blocks_of_a_wide_table_repeat_the_key_columns() -> None:
    wide = "w" * 20
    groups = [["age", "10-19", wide, wide, wide], ["age", "20-29", wide, wide, wide], ["sex", "male", wide, wide, wide]]
    titles = ["by", "value", "a", "b", "c"]
    assert layout.column_blocks(titles, groups, [], 40) == [[0, 1, 2], [0, 1, 3], [0, 1, 4]]
    named = [["one", "10-19", wide, wide, wide], ["two", "10-19", wide, wide, wide]]
    assert layout.column_blocks(titles, named, [], 40) == [[0, 1, 2], [0, 3], [0, 4]]
    # however wide, every column stands somewhere
    assert layout.column_blocks(titles, groups, [], 5) == [[0, 1, 2], [0, 1, 3], [0, 1, 4]]
    assert layout.column_blocks(titles, named, [], 5) == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert layout.column_blocks(titles, named, [], 500) == [[0, 1, 2, 3, 4]]
    assert layout.column_blocks(["a"], [["x"], ["x"]], [], 5) == [[0]]


def test_columns_are_proportional_to_their_characters() -> None:
    table = ET.fromstring(
        "<table class='data'><thead><tr><th>Name</th><th>n</th></tr></thead>"
        "<tbody><tr><th>eight or</th><td class='num'>12</td></tr></tbody></table>"
    )
    fix_columns(table)
    # 8 and 2 letters, and 3 of padding each
    assert [column.get("style") for column in table.iter("col")] == ["width: 68.8%", "width: 31.2%"]
    assert table.get("class") == "data fixed"


def test_column_is_at_least_as_wide_as_its_longest_word() -> None:
    text = "many short words in a row " * 20
    table = ET.fromstring(
        f"<table class='data'><tr><td>{text}</td><td>{text}</td><td><b>17.5 % [12.0, 23.0]</b></td></tr></table>"
    )
    fix_columns(table)
    widths = [float(column.get("style", "")[7:-1]) for column in table.iter("col")]
    assert widths[0] == widths[1]
    assert widths[2] >= 100 * (len("17.5 % [12.0, 23.0]") + 3) / 105
    assert sum(widths) == pytest.approx(100, abs=0.2)


def test_headings_have_the_ids_of_their_sections() -> None:
    page = ET.fromstring(
        "<main><section id='a'><p id='p'>x</p><h2>A</h2><article id='b'><header><h3 id='t'>B</h3></header></article>"
        "</section><section id='c'><p>no heading</p></section></main>"
    )
    lower_anchors(page)
    assert {each.get("id"): each.tag for each in page.iter() if each.get("id")} == {
        "p": "p",
        "a": "h2",
        "b": "h3",
        "c": "section",
    }


def test_lists_keep_their_marks_and_links_their_targets() -> None:
    page = (
        "<html lang='en'><head><title>t</title><style>a::after { content: target-counter(attr(href), page); }"
        "section { break-before: page; }</style></head><body><ul><li>one</li></ul><ol><li>two</li></ol>"
        "<a href='#there'>on page </a><section id='there'><h2>There</h2></section></body></html>"
    )
    document = pypdf.PdfReader(io.BytesIO(print_page(page)))
    words = " ".join(document.pages[0].extract_text().split())
    assert [mark for mark in ("•", "1.", "on page 2") if mark not in words] == []
    link = document.pages[0]["/Annots"][0].get_object()
    assert document.named_destinations[str(link["/Dest"])].page.idnum == document.pages[1].indirect_reference.idnum


def test_style_variables_are_replaced_by_their_values() -> None:
    page = (
        html.environment(paper=True)
        .from_string("<style>{{ style }}</style>var(--ink)")
        .render(style=html.asset("report.css"))
    )
    plain = plain_style(page)
    assert "var(" not in plain.split("</style>")[0]
    assert "color: #16202c" in plain
    assert plain.endswith("</style>var(--ink)")


@pytest.mark.parametrize(("status", "visible"), [("pass", "1"), ("inconclusive", "13"), ("fail", "1234")])
def test_failed_probes_are_printed_with_all_evidence(tmp_path: Path, status: str, visible: str) -> None:
    """Of what is undecided one table a finding, of what passed one in all; the screen shows everything."""
    record: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    (probe,) = record["probes"] = [probe for probe in record["probes"] if probe["id"] == "attacks.pgd"]
    probe["status"] = status
    tables = [
        {"kind": "table", "title": f"Table {i}.", "caption": "", "columns": ["a"], "formats": [], "rows": [["1"]]}
        for i in "1234"
    ]
    first = probe["findings"][0]
    probe["findings"] = [{**first, "evidence": tables[:2]}, {**first, "id": "another", "evidence": tables[2:]}]
    for paper, wanted in ((True, visible), (False, "1234")):
        page = html.page(record, tmp_path, paper=paper).partition('id="area-attacks"')[2]
        assert "".join(i for i in "1234" if f"Table {i}." in page) == wanted


def test_failed_probes_are_printed_with_more_images(tmp_path: Path) -> None:
    record: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    (probe,) = record["probes"] = [probe for probe in record["probes"] if probe["id"] == "attacks.pgd"]
    cells = [{"file": None, "caption": "", "alt": "", "heat": None}]
    rows = [{"label": f"picture {i}.", "cells": cells} for i in "1234"]
    grid = {"kind": "image-grid", "title": "", "caption": "", "columns": [], "rows": rows}
    probe["findings"][0]["evidence"] = [grid]
    for status, visible in (("pass", "1"), ("fail", "123")):
        probe["status"] = status
        page = html.page(record, tmp_path, paper=True).partition('id="area-attacks"')[2]
        assert "".join(i for i in "1234" if f"picture {i}." in page) == visible


def test_column_names_of_a_single_image_row_are_below_it_on_paper(tmp_path: Path) -> None:
    record: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    (probe,) = record["probes"] = [probe for probe in record["probes"] if probe["id"] == "attacks.pgd"]
    probe["status"] = "pass"
    cells = [{"file": None, "caption": message, "alt": "", "heat": None} for message in ("cat", "dog", "")]
    grid = {"kind": "image-grid", "title": "", "caption": "", "columns": ["clean", "perturbed", "map"]}
    probe["findings"][0]["evidence"] = [{**grid, "rows": [{"label": "1", "cells": cells}] * 2}]
    under = [f'dir="auto">{message}</span>' for message in ("clean: cat", "perturbed: dog", "map")]
    page = html.page(record, tmp_path, paper=True)
    assert [message for message in under if message not in page] == []
    assert ">clean</th>" not in page
    # two rows, and the screen, have a head
    probe["status"] = "fail"
    for paper in (True, False):
        page = html.page(record, tmp_path, paper=paper).partition('id="area-attacks"')[2]
        assert ">clean</th>" in page
        assert under[0] not in page


def test_constant_columns_become_a_note_on_paper(tmp_path: Path) -> None:
    columns, formats = ["check", "found", "n", "verdict"], ["text", "percent", "count", "text"]
    rows: list[list[Any]] = [["a", 0.5, 16, "holds"], ["b", 0.25, 16, "holds"], ["c", 0.125, 16, "holds"]]
    assert layout.constant_columns(columns, rows, formats) == {2: "16", 3: "holds"}
    assert layout.column_blocks(columns, rows, formats, 500, {2, 3}) == [[0, 1]]
    # two rows are few; names name; a table of nothing but names would say nothing
    assert layout.constant_columns(columns, rows[:2], formats) == {}
    assert layout.constant_columns(columns, [["a", *row[1:]] for row in rows], formats) == {}
    assert layout.constant_columns(columns, [[row[0], 0.5, 16, "holds"] for row in rows], formats) == {}
    # a cell that is missing is not the same as one that is there
    assert layout.constant_columns(columns, [*rows[:2], rows[2][:3]], formats) == {2: "16"}
    record: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    (probe,) = record["probes"] = [probe for probe in record["probes"] if probe["id"] == "attacks.pgd"]
    table = {"kind": "table", "title": "Checks", "caption": "", "columns": columns, "formats": formats, "rows": rows}
    probe["findings"][0]["evidence"] = [table]
    assert "In every row: n 16, verdict holds." in html.page(record, tmp_path, paper=True)
    assert "In every row" not in html.page(record, tmp_path, paper=False)


def test_constant_columns_consider_rows_that_are_not_printed(tmp_path: Path) -> None:
    record: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    (probe,) = record["probes"] = [probe for probe in record["probes"] if probe["id"] == "attacks.pgd"]
    probe["status"] = "pass"
    rows = [
        [f"r{i}", i, "last" if i == layout.PAPER_SHORT.rows else "no sign"] for i in range(layout.PAPER_SHORT.rows + 1)
    ]
    table = {"kind": "table", "title": "T", "caption": "", "columns": ["a", "b", "c"], "formats": [], "rows": rows}
    probe["findings"][0]["evidence"] = [table]
    page = html.page(record, tmp_path, paper=True)
    assert "In every row" not in page
    assert "1 more row not printed." in page
    assert page.count(">no sign</td>") == layout.PAPER_SHORT.rows


def test_probes_with_the_same_codes_share_a_row_on_paper(tmp_path: Path) -> None:
    record: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    paper = html.page(record, tmp_path, paper=True).split('<section id="frameworks"')[1].split("</section>")[0]
    assert "attacks.pgd" in paper
    for probe in record["probes"]:
        assert paper.count(f">{probe['id']}") + paper.count(f", {probe['id']}") == 1, probe["id"]


def test_text_does_not_replace_a_figure_on_paper(tmp_path: Path) -> None:
    record: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    record["probes"] = [probe for probe in record["probes"] if probe["id"] == "attacks.pgd"]
    record["probes"][0]["status"] = "pass"
    table = {"kind": "table", "title": "The table", "caption": "", "columns": ["a"], "formats": [], "rows": [["1"]]}
    words = {"kind": "text", "title": "The words", "caption": "", "text": "What was done."}
    record["probes"][0]["findings"][0]["evidence"] = [words, table]
    page = html.page(record, tmp_path, paper=True)
    assert "The words" in page
    assert "The table" in page


def test_pages_are_xml_and_others_are_rendered_as_html(audit: dict[str, Any], run: Path) -> None:
    page = html.page(audit, run, paper=True)
    assert ET.fromstring(page).tag == "html"
    plain = print_page("<!DOCTYPE html><html><head><style>p {}</style></head><body><p>one<br>two</body></html>")
    text = pypdf.PdfReader(io.BytesIO(plain)).pages[0].extract_text()
    assert text.split() == ["one", "two"]


def test_short_pdf_has_the_decision_and_no_appendix(audit: dict[str, Any], run: Path) -> None:
    """At most 12 pages, also if many probes fail; no link leads to a part that is missing."""
    audit = copy.deepcopy(audit)
    failed = next(probe for probe in audit["probes"] if probe["id"] == "attacks.pgd")
    audit["probes"] += [copy.deepcopy(failed) | {"id": f"attacks.extra-{number}"} for number in range(12)]
    text = html.page(audit, run, paper=True, extent="short")
    targets = set(re.findall(r'href="#([^"]+)"', text))
    assert targets <= set(re.findall(r'\sid="([^"]+)"', text))
    assert "Projected gradient descent" in text
    assert "Method and limits" not in text
    assert "audit.json" not in text
    document = pypdf.PdfReader(io.BytesIO(print_page(text)))
    assert len(document.pages) <= 12
    assert audit["policy"]["sha256"] in "".join(sheet.extract_text() for sheet in document.pages).replace("\n", "")
