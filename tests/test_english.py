"""Texts avoid a short list of phrases that English-speaking engineers stumble over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".toml", ".j2", ".json", ".js", ".yml"}
FOLDERS = (
    "auditor",
    "plugins",
    "reference_models",
    "report_templates",
    "docs",
    "tests",
    "benchmarks",
    ".github",
    ".ci",
)

BANNED = {
    r"\bnobody\b|\bnobody's\b": "no one is addressed: say what is missing",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bbeside\b": "next to",
    r"\bbesides\b": "in addition to",
    r"\bof (its|their) own\b": "own, separate",
    r"\bis none of\b|\bare none of\b": "is not one of",
    r"\bso many of\b|\bas so many\b": "n of",
    r"\bhas not got\b|\bhave not got\b": "lacks",
    r"\bcannot do without\b": "requires",
    r"\bgoes on where\b|\bgo on where\b": "resumes",
    r"\bwish(es)? for\b": "requests",
    r"\b(is|are|was|were) told\b": "receives, is stated",
    r"\btakes? (the )?pass(es)? back\b": "invalidates passes",
    r"\bspeaks? (for|of|against) (it|them|itself|the)\b": "is about, indicates",
    r"\bwhom it fails\b": "subgroup performance",
    r"\bwhat it looks at\b": "explanations",
    r"\bhow far (to|can|may|each)\b": "reliability, confidence",
    r"\bmay be (read|believed|trusted)\b": "passed the checks",
    r"\bhangs? on\b": "depends on",
    r"\b(it|probe|plugin|engine|model) owes?\b|\bwhat every probe owes\b": "must",
    r"\bgive(s|n)? up the copy\b": "discard the differentiable copy",
    r"\bfound wanting\b": "not verified",
    r"\bcalled so\b": "of this name",
    r"\bhonest(y|ly)?\b": "calibration, or nothing",
    r"\bthe number that\b": "key metric",
    r"\bwhoever\b|\bwhatever\b(?! (runtime|dtype))": "any",
}


def texts() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    pages = [path for path in ROOT.glob("*.md") if path.name not in {"CODE_OF_CONDUCT.md", "LICENSE.md"}]
    skipped = {"node_modules", "__pycache__"}
    return [path for path in [*found, *pages] if not skipped & set(path.parts) and path != Path(__file__)]


@pytest.mark.parametrize("pattern", BANNED)
def test_banned_phrase_is_absent(pattern: str) -> None:
    search = re.compile(pattern, re.IGNORECASE)
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if search.search(line)
    ]
    assert not hits, f"write {BANNED[pattern]!r} instead:\n" + "\n".join(hits)
