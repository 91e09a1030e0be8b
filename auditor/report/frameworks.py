"""Which parts of standards and laws the evidence of a probe speaks to, for the appendix and for SARIF.

The table is ``auditor/report/frameworks.toml``. It says what evidence is about, never that something is complied with.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

Record = Mapping[str, Any]


@cache
def table() -> dict[str, Any]:
    """The content of frameworks.toml."""
    return tomllib.loads((files("auditor.report") / "frameworks.toml").read_text("utf-8"))


def informs(probe: Record) -> dict[str, Sequence[str]]:
    """By document, the clauses, techniques and functions that a probe's evidence informs; documents without any are
    left out."""
    known = table()
    threat = probe["threat_model"]
    knowledge = threat["knowledge"] if threat and probe["area"] == "attacks" else ""
    layers = (
        known["area"].get(probe["area"], {}),
        known["knowledge"].get(knowledge, {}),
        known["probe"].get(probe["id"], {}),
    )
    return {key: found for layer in layers for key, found in layer.items() if found}


def appendix(probes: Sequence[Record]) -> dict[str, Any]:
    """What the appendix shows: the documents with the codes of theirs that occur, a row of codes per probe, and the
    same rows once for all probes that share them."""
    known = table()
    evidence = [(probe, informs(probe)) for probe in probes]
    documents = []
    for key, document in known["documents"].items():
        used = {code for _, found in evidence for code in found.get(key, ())}
        codes = [(code, name) for code, name in known["names"].items() if code in used]
        documents.append({**document, "codes": codes})
    rows = [(probe, [", ".join(found.get(key, ())) for key in known["documents"]]) for probe, found in evidence]
    alike: dict[tuple[str, ...], list[Record]] = {}
    for probe, cells in rows:
        alike.setdefault(tuple(cells), []).append(probe)
    return {"documents": documents, "rows": rows, "alike": [(group, cells) for cells, group in alike.items()]}
