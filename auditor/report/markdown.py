"""The report in short, as Markdown: what a reviewer reads under a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.findings import formatting
from auditor.report import documented, summary

Record = Mapping[str, Any]

MARKS = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "❔ inconclusive",
    "informative": "ℹ️ informative",
    "not-applicable": "➖ not applicable",
    "error": "⚠️ error",
    "incomplete": "⚠️ incomplete",
}


def plain(text: object) -> str:
    """Foreign text with everything escaped that Markdown, or HTML inside it, would read as an instruction."""
    line = " ".join(formatting.clean(str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # a zero-width space keeps code-hosting services from mentioning people
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", line).replace("@", "@\N{ZERO WIDTH SPACE}")


def render_markdown(audit: Record, run: Path) -> bytes:
    """summary.md: verdict, five sentences, worst findings, every probe, what is missing."""
    model = audit["model"]
    lines = [
        f"## Audit of {plain(summary.file_name(model['path']))}: {MARKS[audit['verdict']]}",
        "",
        *([plain(audit["verdict_reason"]), ""] if audit.get("verdict_reason") else []),
        *(f"{number}. {plain(sentence)}" for number, sentence in enumerate(summary.sentences(audit), 1)),
        "",
        *_worst(audit),
        *_accepted(audit),
        *_table(audit),
        *_documented(audit),
        *_gaps(audit),
        f"SHA-256 of the model `{model['sha256']}`, seed {audit['seed']}, auditor {plain(audit['auditor'])}.",
        "",
    ]
    return "\n".join(lines).encode("utf-8")


def _worst(audit: Record) -> list[str]:
    worst = summary.worst_findings(audit, 3)
    if not worst:
        return []
    items = [
        f"- **{f['severity']}{', accepted' * f.get('accepted', False)}** {plain(f['title'])}: {plain(f['statement'])}"
        for _, f in worst
    ]
    return ["### Worst findings", "", *items, ""]


def _accepted(audit: Record) -> list[str]:
    entries = summary.accepted(audit)
    if not entries:
        return []
    items = [
        f"- {entry['state']}: `{entry['probe']}` up to {entry['severity']}, by {plain(entry['author'])} until "
        f"{entry['expires']}: {plain(entry['justification'])}"
        for entry in entries
    ]
    return ["### Accepted by the policy", "", *items, ""]


def _table(audit: Record) -> list[str]:
    rows = ["| Probe | Status | Severity | Headline | Reads as | n |", "| :--- | :--- | :--- | :--- | :--- | ---: |"]
    for probe in audit["probes"]:
        first = probe["metrics"][0] if probe["metrics"] else None
        number = f"{summary.headline(probe)} {formatting.name(first)}{formatting.place(first)}" if first else "-"
        reads = formatting.reading(first) if first else "-"
        rows.append(
            f"| {plain(probe['title'])} `{probe['id']}` | {MARKS[probe['status']]} | {probe['severity']} "
            f"| {plain(number)} | {reads} | {probe['n']} |"
        )
    return ["### Probes", "", *rows, ""]


def _documented(audit: Record) -> list[str]:
    rows = [f"| {' | '.join(map(plain, line))} |" for line in documented.lines(audit)]
    head = ["| What | Documented | Measured here | |", "| :--- | ---: | ---: | :--- |"]
    return ["### Documented beside measured", "", *head, *rows, ""] if rows else []


def _gaps(audit: Record) -> list[str]:
    gaps = summary.gaps(audit)
    if not gaps:
        return []
    items = [f"- {'⚠️ ' if gap.loud else ''}**{plain(gap.what)}** – {plain(gap.why)}" for gap in gaps]
    return ["### Not measured or broken", "", *items, ""]
