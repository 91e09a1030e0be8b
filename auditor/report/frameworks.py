"""Mapping of probes to parts of standards and laws, for the appendix and for SARIF.

The table is ``auditor/report/frameworks.toml``. It states what evidence is about, never that a requirement is met.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from auditor.findings.record import ProbeRecord


class Appendix(NamedTuple):
    """Content of the appendix."""

    documents: list[dict[str, Any]]
    """Short name, editions (with title, date and status) and the codes that occur, with their names."""
    rows: list[tuple[ProbeRecord, list[str]]]
    """Each probe with its codes, one cell per document."""
    groups: list[tuple[list[ProbeRecord], tuple[str, ...]]]
    """The same rows; probes with equal codes share one."""


@cache
def table() -> dict[str, Any]:
    """Return the content of frameworks.toml."""
    return tomllib.loads((files("auditor.report") / "frameworks.toml").read_text("utf-8"))


def informs(probe: ProbeRecord) -> dict[str, Sequence[str]]:
    """Return, by document, the clauses, techniques and functions that a probe's evidence informs."""
    known = table()
    threat = probe["threat_model"]
    knowledge = threat["knowledge"] if threat and probe["area"] == "attacks" else ""
    layers = (
        known["area"].get(probe["area"], {}),
        known["knowledge"].get(knowledge, {}),
        known["probe"].get(probe["id"], {}),
    )
    return {document: codes for layer in layers for document, codes in layer.items() if codes}


def appendix(probes: Sequence[ProbeRecord]) -> Appendix:
    """Return the documents and codes that the evidence of these probes informs."""
    known = table()
    evidence = [(probe, informs(probe)) for probe in probes]
    documents = []
    for key, document in known["documents"].items():
        used = {code for _, informed in evidence for code in informed.get(key, ())}
        codes = [(code, name) for code, name in known["names"].items() if code in used]
        documents.append({**document, "codes": codes})
    rows = [(probe, [", ".join(informed.get(key, ())) for key in known["documents"]]) for probe, informed in evidence]
    groups: dict[tuple[str, ...], list[ProbeRecord]] = {}
    for probe, cells in rows:
        groups.setdefault(tuple(cells), []).append(probe)
    return Appendix(documents, rows, [(group, cells) for cells, group in groups.items()])
