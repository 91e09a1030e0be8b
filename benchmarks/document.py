"""Update the generated parts of docs/reference/models.md: text between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "models.md"

Row = tuple[str, ...]


def read(block: str) -> str:
    """Return the current text of a block."""
    match = _pattern(block).search(DOCUMENT.read_text(encoding="utf-8"))
    if match is None:
        raise SystemExit(f"{DOCUMENT.name} has no block <!-- {block} -->")
    return match[2].strip("\n")


def write(block: str, text: str) -> None:
    """Replace the text of a block."""
    read(block)
    text_of_document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(_pattern(block).sub(lambda m: f"{m[1]}\n{text}\n{m[3]}", text_of_document), encoding="utf-8")


def rows(block: str) -> dict[str, Row]:
    """Return the rows of the table in a block, by their first cell."""
    lines = [line for line in read(block).splitlines() if line.startswith("|")][2:]
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    return {row[0]: row for row in cells}


def table(header: Row, content: Mapping[str, Row]) -> str:
    """Format a Markdown table, sorted by the first cell of its rows."""
    lines = [header, ("---",) * len(header), *(content[name] for name in sorted(content))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def operators() -> set[str]:
    """Return the operators that occur in the surveyed files."""
    return set(read("operators").replace("`", "").replace("\n", " ").split(", ")) - {""}


def add_row(block: str, header: Row, row: Row) -> None:
    """Add a row to the table of a block, or replace the one with the same first cell."""
    with _locked():
        write(block, table(header, rows(block) | {row[0]: row}))


def add_operators(more: Iterable[str]) -> None:
    """Add to the list of operators that occur in the surveyed files."""
    with _locked():
        write("operators", ", ".join(f"`{name}`" for name in sorted(operators() | set(more))))


@contextmanager
def _locked() -> Iterator[None]:
    """Lock the document against other scripts."""
    with DOCUMENT.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pattern(block: str) -> re.Pattern[str]:
    return re.compile(f"(<!-- {re.escape(block)} -->)\n(.*?)\n?(<!-- /{re.escape(block)} -->)", re.DOTALL)
