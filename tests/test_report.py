"""The report: what it must hold, what it must never do, in every format."""

from __future__ import annotations

import base64
import copy
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pypdf
import pytest
from PIL import Image

from auditor.errors import AuditorError
from auditor.findings import formatting
from auditor.findings.encoding import plain
from auditor.findings.finding import AREAS
from auditor.findings.metric import Metric, MetricSpec
from auditor.findings.record import unknown_spec
from auditor.plugin.registry import load
from auditor.plugins.formats import reports
from auditor.report import frameworks, heat_map, pdf, plot, scales, summary, svg, whole
from auditor.report.card import render_card
from auditor.report.gaps import gaps
from auditor.report.gauge import gauge
from auditor.report.html import render_html
from auditor.report.junit import render_junit
from auditor.report.markdown import render_markdown
from auditor.report.plain_summary import plain_summary
from auditor.report.ranking import RankedMetric, worst_findings, worst_unjudged
from auditor.report.remediation import remedies, remedy
from auditor.report.review import stated
from auditor.report.risks import number_text, risks
from auditor.report.sarif import render_sarif
from auditor.schemas import validator

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"
HOSTILE = (
    "<script>alert(1)</script>",
    "\u202eevil\u202c \u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629",
    "x" * 300,
    "a\x00b\x1b[31m",
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }}",
    "lone \ud800 surrogate",
)


@pytest.fixture
def audit() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    return loaded


def pictures(audit: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for evidence in examples(audit):
        if evidence["kind"] == "image-grid":
            for row in evidence["rows"]:
                yield from row["cells"]


def examples(audit: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            yield from finding["evidence"]


@pytest.fixture
def run(audit: dict[str, Any], tmp_path: Path) -> Path:
    """A run folder with a picture for every cell but the one that is meant to be lost."""
    (tmp_path / "evidence").mkdir()
    for number, cell in enumerate(pictures(audit)):
        if cell["file"] and "lost" not in cell["file"]:
            side = 300 if "photo" in cell["file"] else 32
            Image.effect_noise((side, side), 60 + number).convert("RGB").save(tmp_path / cell["file"])
    return tmp_path


class Page(HTMLParser):
    """What a page loads, holds and says."""

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._quiet = 0
        self.feed(source.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._quiet += tag in ("style", "script", "svg")

    def handle_endtag(self, tag: str) -> None:
        self._quiet -= tag in ("style", "script", "svg")

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def unmeasured(audit: dict[str, Any]) -> dict[str, Any]:
    """The same audit without labels, probes or a copy."""
    bare = copy.deepcopy(audit)
    bare.update(probes=[], plugins=[], warnings=[], verdict="incomplete")
    bare["data"].update(labelled=False, n_unreadable=0, groups={})
    bare["model"].update(
        access="black-box", access_reason="the file holds no operators that can be copied", parity=None
    )
    del bare["verdict_reason"]
    return bare


# The golden audit


def test_golden_audit_is_valid_and_complete(audit: dict[str, Any]) -> None:
    assert not list(validator("audit").iter_errors(audit))
    assert {probe["status"] for probe in audit["probes"]} == set(summary.STATUSES)
    assert {probe["area"] for probe in audit["probes"]} == set(summary.AREA_TITLES)
    assert {e["kind"] for e in examples(audit)} == {"curve", "table", "image-grid", "heat-map", "scatter", "text"}


# HTML


def test_html_has_no_external_resources(audit: dict[str, Any], run: Path) -> None:
    source = render_html(audit, run)
    page = Page(source)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "video", "audio")
        for name in ("src", "srcset", "data", "poster", "action", "background"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert (attributes.get("href") or "#")[0] == "#" or (attributes["href"] or "").startswith("data:")
    assert not re.search(rb"@import|url\((?!data:)", source)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_html_contains_the_whole_record(audit: dict[str, Any], run: Path) -> None:
    page = Page(render_html(audit, run))
    words = page.words()
    for probe in audit["probes"]:
        assert probe["id"] in words
        assert probe["reason"] in words
        for finding in probe["findings"]:
            assert finding["statement"] in words
    for sentence in plain_summary(audit):
        assert sentence in words
    for message in (
        audit["model"]["sha256"],
        audit["command"],
        "acme_radar",
        *audit["warnings"],
        *audit["data"]["unreadable"],
    ):
        assert message in words


def test_every_number_is_in_the_record(audit: dict[str, Any], run: Path) -> None:
    words = Page(render_html(audit, run)).words()
    words = words[: words.index("Method and limits Meaning")][words.index("Top risks") :]
    # advice is published text, not a result
    for entry in remedies():
        for advice in (entry.action, *entry.steps, entry.useless, "Sources: " + "; ".join(entry.sources)):
            words = words.replace(advice, "")
    known = set(re.findall(r"\d+(?:\.\d+)?", " ".join(_texts(audit))))
    known |= {str(count) for group in summary.counts(audit) for count in group.values()}
    known |= {str(len(audit["probes"])), str(len(audit["model"]["classes"])), "95", "255", "1", "0"}
    strange = set(re.findall(r"\d+(?:\.\d+)?", words.replace("\N{NARROW NO-BREAK SPACE}", ""))) - known
    assert not strange


def _texts(value: Any) -> Iterator[str]:
    """Everything that an audit's values can be written as."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, int | float):
        for style in ("number", "percent", "n/255"):
            yield formatting.formatted(value, style)
        yield from (formatting.seconds(value), str(value))
    else:
        yield str(value)[:12]
        yield str(value)


def test_html_marks_missing_images(audit: dict[str, Any], run: Path) -> None:
    (run / "evidence" / "pgd0.png").write_bytes(b"\x89PNG not really")
    (run / "evidence" / "photo2.png").unlink()
    words = Page(render_html(audit, run)).words()
    for name in ("lost", "pgd0", "photo2"):
        assert f"missing evidence/{name}.png" in words


def test_html_of_an_empty_audit(audit: dict[str, Any], tmp_path: Path) -> None:
    bare = unmeasured(audit)
    assert not list(validator("audit").iter_errors(bare))
    words = Page(render_html(bare, tmp_path)).words()
    assert words.count("Not measured.") == len(summary.AREA_TITLES)
    assert "INCOMPLETE" in words


@pytest.fixture
def hostile(audit: dict[str, Any]) -> dict[str, Any]:
    """The golden audit with names that try to break out, everywhere that a model or a plugin can put them."""
    audit["model"]["classes"] = [*HOSTILE, *audit["model"]["classes"]]
    audit["model"]["path"] = "models/<b>&'\"\u202e.onnx"
    audit["data"]["groups"] = {HOSTILE[0]: {HOSTILE[1]: 5, HOSTILE[2]: 6}}
    audit["warnings"] = list(HOSTILE)
    for probe in audit["probes"]:
        probe["reason"] = " ".join(HOSTILE)
        probe["settings"] = dict(zip(HOSTILE, HOSTILE, strict=True))
        for finding in probe["findings"]:
            finding["statement"] = HOSTILE[0] + HOSTILE[4]
    for evidence in examples(audit):
        evidence["title"] = HOSTILE[0]
        if evidence["kind"] == "heat-map":
            count = len(evidence["values"])
            evidence["row_labels"] = evidence["column_labels"] = [HOSTILE[i % len(HOSTILE)] for i in range(count)]
        if evidence["kind"] in ("curve", "scatter"):
            evidence["series"][0]["name"] = HOSTILE[2]
            evidence["x"]["label"] = HOSTILE[0]
        if evidence["kind"] == "table":
            evidence["rows"][0] = [HOSTILE[i % len(HOSTILE)] for i in range(len(evidence["columns"]))]
            evidence["columns"] = [HOSTILE[2], *evidence["columns"][1:]]
    for cell, name in zip(pictures(audit), HOSTILE * 9, strict=False):
        cell.update(caption=name, alt=name)
    return audit


def test_hostile_names_stay_text(hostile: dict[str, Any], run: Path) -> None:
    source = render_html(hostile, run)
    page = Page(source)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [a for tag, a in page.tags if tag == "img" and not (a.get("src") or "").startswith("data:image/")]
    assert "<script>alert(1)</script>" in page.words()
    assert "{{ 7 * 7 }}" in page.words()
    assert "x" * 300 in page.words()
    assert not set("\u202e\x00\x1b") & set(source.decode("utf-8"))


def test_hostile_names_in_the_other_formats(hostile: dict[str, Any], run: Path) -> None:
    ET.fromstring(render_junit(hostile, run))
    json.loads(render_sarif(hostile, run))
    assert b"<script>" not in render_markdown(hostile, run)


def test_large_images_become_thumbnails(audit: dict[str, Any], run: Path) -> None:
    source = render_html(audit, run)
    sizes = []
    for uri in re.findall(rb'src="data:image/(\w+);base64,([^"]+)"', source):
        with Image.open(io.BytesIO(base64.b64decode(uri[1]))) as picture:
            sizes.append((uri[0], max(picture.size)))
    assert (b"png", 32) in sizes
    assert (b"jpeg", 224) in sizes
    assert max(side for _, side in sizes) <= 224


# PDF


def test_pdf(hostile: dict[str, Any], run: Path) -> None:
    # one probe per area is enough, and pages are what costs time
    hostile["probes"] = list({probe["area"]: probe for probe in reversed(hostile["probes"])}.values())
    document = pypdf.PdfReader(io.BytesIO(whole(pdf.render_pdf(hostile, run))))
    catalog: Any = document.trailer["/Root"]
    assert catalog["/Lang"] == "en"
    assert catalog["/MarkInfo"]["/Marked"]
    assert b"pdfuaid" in catalog["/Metadata"].get_data()
    assert document.metadata is not None
    assert "Audit of" in (document.metadata.title or "")
    titles = [str(item["/Title"]) for item in document.outline if not isinstance(item, list)]
    assert [*summary.AREA_TITLES.values(), "Method and limits", "Mapping to standards", "Record"] == titles[-10:]
    assert document.pages[0].mediabox.width == pytest.approx(595, abs=1)
    for number, page in enumerate(document.pages, 1):
        text = page.extract_text()
        assert hostile["model"]["sha256"] in text
        assert f"Page {number} of {len(document.pages)}" in text
    figures = list(_figures(catalog["/StructTreeRoot"]))
    assert figures
    assert all(figure.get("/Alt") for figure in figures)


def _figures(node: Any) -> Iterator[Any]:
    node = node.get_object()
    if isinstance(node, list):
        for child in node:
            yield from _figures(child)
    elif isinstance(node, dict):
        if node.get("/S") == "/Figure":
            yield node
        if "/K" in node:
            yield from _figures(node["/K"])


def python_that(monkeypatch: pytest.MonkeyPatch, folder: Path, does: str) -> None:
    """Let the PDF be drawn by a child that does something else."""
    instead = folder / "python"
    instead.write_text(f"#!/bin/sh\n{does}\n")
    instead.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(instead))


def test_pdf_without_pango(audit: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # it ends before it reads the page
    python_that(monkeypatch, tmp_path, f"echo \"{pdf.MISSING}: cannot load library 'libpango-1.0-0'\" >&2; exit 1")
    with pytest.raises(AuditorError, match=r"libpango-1\.0-0.*libpangoft2"):
        whole(pdf.render_pdf(audit, run))


def test_pdf_rendering_has_a_timeout(
    audit: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python_that(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr(pdf, "TIMEOUT", 1)
    with pytest.raises(AuditorError, match="more than 1 s and was stopped"):
        whole(pdf.render_pdf(audit, run))


def test_prepared_child_renders_the_pdf(
    audit: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pdf.prepare()
    pdf.prepare()
    assert len(pdf._waiting) == 1
    python_that(monkeypatch, tmp_path, "exit 1")
    assert whole(pdf.render_pdf(audit, run, extent="short")).startswith(b"%PDF")
    assert pdf._waiting == []


def test_killed_child_is_replaced(audit: dict[str, Any], run: Path) -> None:
    pdf.prepare()
    pdf._waiting[0].kill()
    pdf._waiting[0].wait()
    assert whole(pdf.render_pdf(audit, run, extent="short")).startswith(b"%PDF")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's table of processes")
@pytest.mark.parametrize("end", ["", "os._exit(3)"])
def test_unused_child_ends_with_the_process(end: str) -> None:
    """Both when the program ends in good order and when it is killed."""
    code = f"import os; from auditor.report import pdf; pdf.prepare(); print(pdf._waiting[0].pid, flush=True); {end}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=not end, capture_output=True, text=True)
    assert done.stderr == ""
    state = Path(f"/proc/{done.stdout.strip()}/stat")
    for _ in range(600):
        # one that has ended may stay in the table of processes until somebody asks
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"{state.parent} still waits")


def test_failed_page_leaves_no_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python_that(monkeypatch, tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")

    def make() -> str:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        whole(pdf._print(make, "pdf/ua-1"))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# SARIF, JUnit, Markdown


def test_sarif(audit: dict[str, Any], run: Path) -> None:
    document = json.loads(render_sarif(audit, run))
    assert document["version"] == "2.1.0"
    scan = document["runs"][0]
    rules = scan["tool"]["driver"]["rules"]
    assert len(rules) == len({rule["id"] for rule in rules}) == len(audit["probes"])
    severe = [f for p in audit["probes"] for f in p["findings"] if f["severity"] != "none"]
    assert len(scan["results"]) == len(severe)
    for result in scan["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("note", "warning", "error")
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place["uri"] == "models/road-signs-v3.onnx"
    prints = [result["partialFingerprints"]["auditorFinding/v1"] for result in scan["results"]]
    assert len(set(prints)) == len(prints)
    assert not scan["invocations"][0]["executionSuccessful"]


def test_sarif_fingerprints_do_not_depend_on_the_numbers(audit: dict[str, Any], run: Path) -> None:
    def prints() -> list[Any]:
        return [r["partialFingerprints"] for r in json.loads(render_sarif(audit, run))["runs"][0]["results"]]

    before = prints()
    audit["model"]["sha256"] = "0" * 64
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            finding["statement"] += " Changed."
    assert prints() == before


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a b/ü.onnx", "a%20b/%C3%BC.onnx"),
        ("/srv/m.onnx", "file:///srv/m.onnx"),
        ("C:\\m\\x.onnx", "file:///C:/m/x.onnx"),
        ("m\\x.onnx", "m/x.onnx"),
    ],
)
def test_sarif_paths(audit: dict[str, Any], run: Path, path: str, uri: str) -> None:
    audit["model"]["path"] = path
    scan = json.loads(render_sarif(audit, run))["runs"][0]
    assert scan["artifacts"][0]["location"]["uri"] == uri


def test_junit(audit: dict[str, Any], run: Path) -> None:
    suite = ET.fromstring(render_junit(audit, run))[0]
    status = summary.counts(audit).status
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase")) == len(audit["probes"])
    assert int(suite.attrib["failures"]) == len(suite.findall(".//failure")) == status["fail"]
    assert int(suite.attrib["errors"]) == len(suite.findall(".//error")) == status["error"]
    passed = [case for case in suite.findall("testcase") if len(case) == 0]
    assert len(passed) == status["pass"]
    assert int(suite.attrib["skipped"]) == len(audit["probes"]) - status["pass"] - status["fail"] - status["error"]
    assert all(":" in skipped.attrib["message"] for skipped in suite.findall(".//skipped"))


def test_markdown(audit: dict[str, Any], run: Path) -> None:
    text = render_markdown(audit, run).decode()
    assert "❌ fail" in text
    assert audit["model"]["sha256"] in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(audit["probes"])
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_card(audit: dict[str, Any], run: Path) -> None:
    text = render_card(audit, run).decode()
    _, metadata, body = text.split("---\n", 2)
    assert 'name: "road-signs-v3"' in metadata
    assert metadata.count("- type: ") == sum(bool(p["metrics"]) for p in audit["probes"])
    assert "value: null" not in metadata
    assert "## Bias, Risks, and Limitations" in body
    assert audit["model"]["sha256"] in body
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in body.splitlines() if row.startswith("|")} == {7}


def test_card_of_hostile_names(hostile: dict[str, Any], run: Path) -> None:
    text = render_card(hostile, run).decode()
    assert "<script>" not in text
    _, metadata, _ = text.split("---\n", 2)
    for line in metadata.splitlines():
        if line.strip().startswith(("name: ", "type: ")) and '"' in line:
            json.loads(line.split(": ", 1)[1])


# Frameworks


def test_appendix_maps_probes_to_standards(audit: dict[str, Any], run: Path) -> None:
    by_id = {probe["id"]: frameworks.informs(probe) for probe in audit["probes"]}
    assert by_id["attacks.pgd"]["atlas"] == ["AML.T0015", "AML.T0043.000"]
    assert by_id["attacks.hopskipjump"]["nist_aml"] == ["NISTAML.025"]
    assert "atlas" not in by_id["attacks.noise"]
    assert by_id["attacks.noise"]["ai_act"] == ["15(4)"]
    assert by_id["bias.groups"] == {"iso": ["prEN 18283"], "ai_rmf": ["MEASURE 2.11"]}
    words = Page(render_html(audit, run)).words()
    assert "The mapping does not state compliance." in words
    assert "Black-Box Optimization" in words
    rules = json.loads(render_sarif(audit, run))["runs"][0]["tool"]["driver"]["rules"]
    assert all(rule["properties"]["informs"] == by_id[rule["id"]] for rule in rules)


def test_every_edition_has_a_date_and_drafts_are_marked(audit: dict[str, Any], run: Path) -> None:
    editions = [edition for document in frameworks.table()["documents"].values() for edition in document["editions"]]
    assert all({"title", "edition", "date", "status"} <= set(edition) for edition in editions)
    drafts = {edition["title"] for edition in editions if edition["status"] == "draft"}
    assert {edition["status"] for edition in editions} == {"published", "draft"}
    assert all(title in drafts for title in (e["title"] for e in editions) if re.search(r"prEN|DIS", title))
    words = Page(render_html(audit, run)).words()
    assert all(f"Draft: {title}" in words for title in drafts)
    assert "2 December 2027" in words


def test_probe_of_a_plugin_is_mapped_by_its_area(audit: dict[str, Any]) -> None:
    (pgd,) = (probe for probe in audit["probes"] if probe["id"] == "attacks.pgd")
    assert frameworks.informs({**pgd, "id": "attacks.of-a-plugin"}) == frameworks.informs(pgd)
    known = frameworks.table()
    assert set(known["area"]) == set(summary.AREA_TITLES)
    layers = [layer for kind in ("area", "knowledge", "probe") for layer in known[kind].values()]
    assert {code for layer in layers for codes in layer.values() for code in codes} == set(known["names"])
    assert {key for layer in layers for key in layer} == set(known["documents"])


# Sentences and numbers


def test_plain_summary_names_verdict_worst_failure_groups_and_what_is_open(audit: dict[str, Any]) -> None:
    text = " ".join(plain_summary(audit))
    assert "does not meet the policy" in text
    assert "5 probes failed. The worst is" in text
    assert "robust accuracy at L∞ 4/255 is 5.3 % [3.6, 7.6] (n = 512)" in text
    assert "1 gap is significant between groups. The worst: Accuracy is 18.2 points [8.1, 28.3] lower" in text
    assert "8 of 14 probes have a verdict" in text
    assert "acme-weather" in text


def test_plain_summary_when_nothing_was_measured(audit: dict[str, Any]) -> None:
    message = plain_summary(unmeasured(audit))
    assert all(sentence.endswith(".") and "None" not in sentence for sentence in message)
    assert "Not measured: performance, adversarial attacks" in " ".join(message)


def test_plain_summary_when_every_probe_broke(audit: dict[str, Any]) -> None:
    for probe in audit["probes"]:
        probe.update(status="error", severity="none", reason="it broke", metrics=[], findings=[], n=0)
    text = " ".join(plain_summary(audit))
    assert "Gaps between groups were not measured: it broke" in text
    assert "0 of 14 probes have a verdict; 14 broke" in text
    assert all(summary.headline(probe) == "-" for probe in audit["probes"])


def test_plain_summary_of_a_passing_audit(audit: dict[str, Any]) -> None:
    audit["verdict"] = "pass"
    for probe in audit["probes"]:
        probe.update(status="pass", severity="none")
        for finding in probe["findings"]:
            finding["severity"] = "none"
    text = plain_summary(audit)
    assert "meets the policy" in text[0]
    assert text[1] == "No judged number crossed a threshold."
    assert risks(audit["probes"]) == []


def test_accuracy_that_did_not_fall_is_called_unchanged(audit: dict[str, Any]) -> None:
    probe = next(probe for probe in audit["probes"] if probe["id"] == "attacks.pgd")
    metric = probe["metrics"][0] | {"value": 0.979, "low": 0.95, "high": 0.99, "clean": 0.979}
    assert number_text(RankedMetric(probe, metric)).startswith("robust accuracy is unchanged at 97.9 % [95.0, 99.0]")


def test_risks_are_ordered_by_severity_and_loss_and_name_threshold_rationale_and_action(audit: dict[str, Any]) -> None:
    found = risks(audit["probes"])
    assert [risk.severity for risk in found] == ["critical", "high", "high", "high", "medium"]
    probe = found[0].probe
    judgement = {"metric": "robust_accuracy", "at": probe["metrics"][0]["at"], "status": "fail", "severity": "critical"}
    judgement |= {"reason": "", "side": "at_least", "limit": 0.7, "rationale": "a small change", "source": "x"}
    probe["judgements"] = [judgement]
    (worst, *_) = risks(audit["probes"])
    assert (worst.threshold, worst.rationale) == ("expected at least 70.0 %", "a small change")
    assert worst.remedy is not None
    assert "Train adversarially" in worst.remedy.action


def test_gauge_shows_direction_and_strictest_threshold(audit: dict[str, Any]) -> None:
    probe = next(probe for probe in audit["probes"] if probe["id"] == "attacks.pgd")
    metric = probe["metrics"][0] | {"clean": 0.9}
    place = {"metric": metric["name"], "at": metric["at"], "status": "fail", "severity": "low", "reason": ""}
    probe["judgements"] = [
        {**place, "side": "at_least", "limit": 0.5},
        {**place, "side": "at_most_lost", "limit": 0.2},
    ]
    bar = gauge(probe, metric)
    assert bar is not None
    assert bar.threshold == pytest.approx(0.7)
    assert bar.text == "higher is better, threshold 70.0 %"
    assert gauge(probe, metric | {"unit": "l2"}) is None


def test_page_one_prints_what_people_state_and_who_signs(audit: dict[str, Any], run: Path) -> None:
    audit["model"]["review"] = {"owner": "Team A", "intended_use": "sorting parcels", "sign_off": ["Owner"]}
    audit["policy"]["review"] = {"owner": "Team B", "sign_off": []}
    lines = stated(audit)
    assert lines.lines == [("Intended use", "sorting parcels"), ("Owner", "Team B")]
    assert lines.missing == ["limits of use", "reviewer", "data version"]
    assert lines.sign_off == ["Owner"]
    words = Page(render_html(audit, run)).words()
    assert "sorting parcels" in words
    assert "Signature" in words


def test_every_built_in_probe_has_a_remedy() -> None:
    without = [probe_id for probe_id, kind in load().probes.items() if kind.metrics and remedy(probe_id) is None]
    # estimates and certificates do not fail
    assert all(probe_id.startswith("metrics.") for probe_id in without), without
    assert all(entry.steps and entry.useless and entry.sources for entry in remedies())


def test_failed_probe_says_what_to_do_and_how_to_verify(audit: dict[str, Any], run: Path) -> None:
    words = Page(render_html(audit, run)).words()
    assert "What to do" in words
    assert "What does not help." in words
    assert f"auditor run NEW_MODEL --suite {audit['suite']} --probe attacks.pgd" in words


def test_metric_without_a_better_direction_is_never_the_worst_number(audit: dict[str, Any]) -> None:
    """A control of an attack may be near 0 or 1 without being bad news."""
    control = {"name": "confidence_drop_control", "value": 0.002, "low": 0.0, "high": 0.01, "n": 99, "at": {}}
    for probe in audit["probes"]:
        probe.update(status="pass", severity="none", findings=[])
        if probe["area"] == "attacks":
            kept = [metric for metric in probe["metrics"] if metric["name"] == "robust_accuracy"][:1]
            probe["metrics"] = [*kept, control | {"unit": "fraction"}]
            probe["metric_specs"].append(unknown_spec("confidence_drop_control"))
    assert all("ontrol" not in sentence for sentence in plain_summary(audit))
    for probe in audit["probes"]:
        probe["metric_specs"] = []
    assert worst_unjudged(audit) == []


def test_worst_findings_are_ordered(audit: dict[str, Any]) -> None:
    worst = worst_findings(audit["probes"], 3)
    assert [item.probe["id"] for item in worst] == ["attacks.pgd", "attacks.fgsm", "corruptions.imagenet-c"]
    assert [item.finding["severity"] for item in worst] == ["critical", "high", "high"]


def test_worst_unjudged_numbers_complete_page_one(audit: dict[str, Any]) -> None:
    for probe in audit["probes"]:
        probe.update(status="informative", severity="none")
        for finding in probe["findings"]:
            finding["severity"] = "none"
    assert worst_findings(audit["probes"]) == []
    visible = worst_unjudged(audit)
    assert visible[0].probe["id"] == "attacks.pgd"
    assert all(item.probe["area"] not in ("sanity", "explanations") for item in visible)
    for probe in audit["probes"]:
        probe.update(status="pass")
    assert worst_unjudged(audit) == []


def test_every_area_has_a_line_on_page_one(audit: dict[str, Any], run: Path) -> None:
    lines = summary.area_summaries(audit)
    assert [line.area for line in lines] == list(AREAS)
    assert sum(count for line in lines for _, count in line.outcomes) == len(audit["probes"])
    speaks = {line.area: line.probe["id"] for line in lines if line.probe}
    # what failed speaks for its area, however good another number is
    for area, probe_id in speaks.items():
        failed = {p["id"] for p in audit["probes"] if p["area"] == area and p["status"] == "fail"}
        assert not failed or probe_id in failed
    assert [line.metric for line in summary.area_summaries(unmeasured(audit))] == [None] * len(AREAS)
    page = render_html(unmeasured(audit), run).decode()
    assert page.count("not measured</span></td>") == len(AREAS)


def test_gaps_list_broken_parts_first(audit: dict[str, Any]) -> None:
    found = gaps(audit)
    assert [gap.broken for gap in found] == [True, True, True, False, False]
    assert "acme-weather" in found[0].part


def test_many_gaps_of_one_kind_share_a_line(audit: dict[str, Any]) -> None:
    (broken,) = (probe for probe in audit["probes"] if probe["status"] == "error")
    audit["probes"] += [{**broken, "id": f"attacks.other-{number}"} for number in range(3)]
    unsure = next(probe for probe in audit["probes"] if probe["status"] == "inconclusive")
    audit["probes"] += [{**unsure, "id": f"bias.other-{number}", "reason": str(number)} for number in range(4)]
    message = [gap.part for gap in gaps(audit)]
    assert [what for what in message if what.endswith("broke")] == [
        f"4 probes ({broken['id']}, attacks.other-0, attacks.other-1, attacks.other-2): broke"
    ]
    assert len([what for what in message if what.endswith("inconclusive")]) == 1


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric(name="accuracy", value=0.61, low=0.541, high=0.675, n=9), "61.0 % [54.1, 67.5]"),
        (Metric(name="accuracy", value=None, n=0), "–"),
        (Metric(name="distance_median", value=8 / 255, low=4 / 255, high=None, n=9, unit="linf"), "8/255 [4, –]"),
        (Metric(name="clever_median", value=0.4123, n=9, unit="l2"), "0.412 L2"),
        (Metric(name="snr_median", value=14.25, n=9, unit="dB"), "14.2 dB"),
        (Metric(name="log_loss", value=-0.0000123, n=9, unit="nats"), "−1.23·10⁻⁵ nats"),
        (Metric(name="queries", value=20480, n=9, unit="count"), "20\u202f480"),
    ],
)
def test_metrics_and_their_records_are_formatted_alike(metric: Metric, text: str) -> None:
    assert formatting.measured(metric) == formatting.measured(plain(metric)) == text


def test_differences_are_in_percentage_points_by_their_spec() -> None:
    gap = Metric(name="accuracy_gap", value=-0.05, low=-0.1, high=0.0, n=9)
    spec = MetricSpec(name="accuracy_gap", label="Accuracy gap", better="lower", difference=True)
    assert formatting.measured(gap) == "−5.0 % [−10.0, 0.0]"
    assert formatting.measured(gap, spec) == formatting.points(gap) == "−5.0 points [−10.0, 0.0]"
    assert formatting.measured(plain(gap), plain(spec)) == "−5.0 points [−10.0, 0.0]"


# Charts


def axis(scale: str = "linear", style: str = "number") -> dict[str, Any]:
    return {"label": "x", "unit": "1", "scale": scale, "format": style, "low": None, "high": None}


def chart(
    points: list[tuple[float, float | None]], scale: str = "linear", style: str = "number", kind: str = "curve"
) -> Any:
    line = [{"x": x, "y": y, "low": y, "high": y, "n": 1} for x, y in points]
    series = [{"name": "s", "points": line}]
    return {"kind": kind, "title": "t", "x": axis(scale, style), "y": axis(), "series": series, "caption": ""}


@pytest.mark.parametrize("kind", ["curve", "scatter"])
@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
@pytest.mark.parametrize("style", ["number", "percent", "n/255"])
@pytest.mark.parametrize(
    "points",
    [
        [(0.5, 0.5)],
        [(0.0, 0.0)],
        [(0.0, 1.0), (0.01, 0.5), (1.0, None), (2.0, 0.1)],
        [(-1.0, 3.0), (0.0, 2.0), (100.0, 1e6)],
        [(x / 7, x % 5) for x in range(40)],
    ],
)
def test_plots_of_every_scale_are_valid(
    points: list[tuple[float, float | None]], kind: str, scale: str, style: str
) -> None:
    svg = str(plot.plot(chart(points, scale, style, kind)))
    ET.fromstring(f"<p>{svg}</p>")
    assert "nan" not in svg
    assert "inf" not in svg
    known = sum(y is not None for _, y in points)
    assert svg.count('class="mark') == known + 1  # and one in the legend


def test_marks_of_a_line_are_merged_on_paper() -> None:
    two = chart([(0.0, 1.0), (1.0, 0.5), (2.0, 0.1)])
    two["series"] = [two["series"][0] | {"name": name} for name in "ab"]
    drawn = str(svg.svg_as_images(plot.plot(two)))
    (source,) = re.findall(r'class="chart"[^>]* src="data:image/svg\+xml;base64,([^"]+)"', drawn)
    shapes = [
        path for path in ET.fromstring(base64.b64decode(source)).iter() if path.get("class", "").startswith("mark")
    ]
    # circles begin and end with a move and a close; squares do, too
    assert [(path.get("class"), path.get("d", "").count("M"), path.get("d", "").count("z")) for path in shapes] == [
        ("mark s0", 3, 3),
        ("mark s1", 3, 3),
    ]


def test_single_line_named_by_the_title_has_no_legend() -> None:
    only = chart([(0.0, 1.0), (1.0, 0.5)])
    assert 'class="legend"' in plot.plot(only)
    assert 'class="legend"' not in plot.plot(only | {"title": "Accuracy of S"})
    only["series"] *= 2
    assert 'class="legend"' in plot.plot(only | {"title": "Accuracy of S"})


def test_log_axis_has_zero_before_a_break() -> None:
    scale = scales.scale(axis("log"), [0.0, 0.01, 1.0], 0.0, 100.0)
    assert [scale(0.0), scale(0.01), scale(1.0)] == pytest.approx([0.0, 10.0, 100.0])


@pytest.mark.parametrize("form", ["n/255", "number"])
def test_labels_of_many_decades_do_not_overlap(form: str) -> None:
    decades = [10.0**-power / 255 for power in range(14)]
    many = chart([(0.0, 1.0), *((x, 0.5) for x in reversed(decades))])
    many["x"] |= {"scale": "symlog", "format": form}
    drawn = str(plot.plot(many))
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)</text>', drawn)
    places = sorted((float(x), label) for x, y, label in labels if float(y) == plot.HEIGHT - plot.BOTTOM + 19)
    assert len(places) >= 3
    for (left, one), (right, two) in itertools.pairwise(places):
        # half of each, at six pixels for a character
        assert right - left >= 3 * (len(one) + len(two)), (one, two)


def test_plot_without_data_is_a_note() -> None:
    assert "Nothing was measured" in plot.plot(chart([(1.0, None)]))


@pytest.mark.parametrize("size", [1, 10, 100])
def test_heat_maps_of_any_size(size: int) -> None:
    values = [[float(i * j) for j in range(size)] for i in range(size)]
    values[0][0] = 0.0
    names = [f"a rather long class name {i}" for i in range(size)]
    svg = heat_map.heat_map(
        {
            "kind": "heat-map",
            "title": "t",
            "values": values,
            "row_labels": names,
            "column_labels": names,
            "format": "count",
            "diverging": False,
            "caption": "",
        }
    )
    ET.fromstring(f"<p>{svg}</p>")
    assert ("<image" in svg) == (size == 100)
    assert "a rather long class name 0" in svg


def test_overlay_is_transparent_for_zero() -> None:
    assert heat_map.overlay([[0.0, 0.0]]) is None
    uri = heat_map.overlay([[1.0, 0.0], [-0.5]])
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
        side = picture.width // 2
        corners = [picture.getpixel((x * side, y * side)) for y in (0, 1) for x in (0, 1)]
    alphas = [corner[3] for corner in corners if isinstance(corner, tuple)]
    assert alphas == [190, 0, 95, 0]


# The plugin


def test_formats() -> None:
    formats = {each.name: each.file for each in reports.auditor_report_formats()}
    assert formats == {
        "html": "report.html",
        "pdf": "report.pdf",
        "pdfa": "report.pdfa.pdf",
        "sarif": "audit.sarif",
        "junit": "audit.junit.xml",
        "md": "summary.md",
        "card": "model-card.md",
        "eval-results": ".eval_results/auditor.yaml",
        "cyclonedx": "bom.cdx.json",
        "intoto": "audit.intoto.json",
    }


def test_formats_load_nothing_heavy() -> None:
    code = "import sys, auditor.report, auditor.report.summary; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("jinja2", "weasyprint", "PIL", "matplotlib") if f"'{name}'" in loaded]


def test_formats_render(audit: dict[str, Any], run: Path) -> None:
    audit["data"]["benchmark"] = {"id": "organisation/signs", "task_id": "default"}
    (run / "audit.json").write_bytes(GOLDEN.read_bytes())
    for each in reports.auditor_report_formats():
        if not each.paged:
            assert each.render(audit, run)


def test_failures_follow_page_one_and_every_probe_has_a_permalink(audit: dict[str, Any], run: Path) -> None:
    page = render_html(audit, run).decode()
    assert page.index('id="overview"') < page.index('id="failures"') < page.index('id="probes"')
    failures = page[page.index('id="failures"') : page.index('id="probes"')]
    assert failures.count('class="evidence') >= 5
    assert page.count('class="permalink"') == len(audit["probes"])
    assert page.count('class="probe failed"') == 5
