"""Characters that no installed font has are named instead of drawn as boxes without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from auditor.cli import doctor
from auditor.cli.main import main
from auditor.report import fonts
from auditor.report.html import page

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"
UNKNOWN = "\U000f0000"
"""A private-use character, which no font of a distribution has."""

pytestmark = pytest.mark.skipif(fonts._fontconfig() is None, reason="fontconfig is not installed, as on some systems")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("plain ASCII ~", []),
        ("é Ω Ж – × ≤", []),
        (f"a{UNKNOWN}b{UNKNOWN}", [UNKNOWN]),
        ("a\N{ZERO WIDTH JOINER}b\N{NO-BREAK SPACE}c\N{VARIATION SELECTOR-16}", []),
    ],
)
def test_missing_characters(text: str, missing: list[str]) -> None:
    assert fonts.missing_characters(text) == missing


def test_message_names_characters_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_has_font", lambda library, character: character not in "猫हिन्दी")
    audit = json.loads(GOLDEN.read_text("utf-8"))
    audit["model"]["classes"] = ["猫", "हिन्दी", "ascii"]
    message = fonts.missing_glyphs(audit)
    assert "猫 (U+732B)" in message
    assert "apt install fonts-noto-cjk fonts-noto-core" in message
    assert message.startswith("7 characters have no font")


def test_report_and_terminal_name_them(tmp_path: Path) -> None:
    audit = json.loads(GOLDEN.read_text("utf-8"))
    audit["probes"] = [probe for probe in audit["probes"] if probe["id"] == "performance.accuracy"]
    assert fonts.missing_glyphs(audit) == ""
    audit["model"]["classes"][0] = f"class {UNKNOWN}"
    assert "no font" in page(audit, tmp_path, paper=True)
    # a browser has its own fonts
    assert "no font" not in page(audit, tmp_path, paper=False)
    (tmp_path / "audit.json").write_text(json.dumps(audit), "utf-8")
    for options, named in ((["html"], False), (["pdf", "--pdf", "short"], True)):
        result = CliRunner().invoke(main, ["report", str(tmp_path), "--format", *options])
        assert result.exit_code == 0, result.output
        assert ("U+F0000" in result.stderr) is named


def test_doctor_lists_the_scripts_with_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_has_font", lambda library, character: character == "é")
    check = doctor._fonts()
    assert (check.ok, check.found) == (False, "Latin")
    assert "Arabic" in check.advice
    monkeypatch.setattr(fonts, "_has_font", lambda library, character: True)
    assert doctor._fonts().ok
