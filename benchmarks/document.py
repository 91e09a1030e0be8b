"""The parts of docs/reference/models.md that scripts write: text between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "models.md"

Row = tuple[str, ...]


def read(block: str) -> str:
    """What stands in a block now."""
    found = _pattern(block).search(DOCUMENT.read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{DOCUMENT.name} has no block <!-- {block} -->")
    return found[2].strip("\n")


def write(block: str, text: str) -> None:
    """Replace what stands in a block."""
    read(block)
    whole = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(_pattern(block).sub(lambda m: f"{m[1]}\n{text}\n{m[3]}", whole), encoding="utf-8")


def rows(block: str) -> dict[str, Row]:
    """The rows of the table in a block, by their first cell."""
    lines = [line for line in read(block).splitlines() if line.startswith("|")][2:]
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    return {row[0]: row for row in cells}


def table(header: Row, content: Mapping[str, Row]) -> str:
    """A Markdown table, its rows in the order of their first cells."""
    lines = [header, ("---",) * len(header), *(content[name] for name in sorted(content))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def operators() -> set[str]:
    """The operators that the surveyed files hold."""
    return set(read("operators").replace("`", "").replace("\n", " ").split(", ")) - {""}


def add_row(block: str, header: Row, row: Row) -> None:
    """Put a row into the table of a block, in place of the one with the same first cell."""
    with _alone():
        write(block, table(header, rows(block) | {row[0]: row}))


def add_operators(more: Iterable[str]) -> None:
    """Add to the list of operators that the surveyed files hold."""
    with _alone():
        write("operators", ", ".join(f"`{name}`" for name in sorted(operators() | set(more))))


@contextmanager
def _alone() -> Iterator[None]:
    """While it lasts, no other script changes the document."""
    with DOCUMENT.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pattern(block: str) -> re.Pattern[str]:
    return re.compile(f"(<!-- {re.escape(block)} -->)\n(.*?)\n?(<!-- /{re.escape(block)} -->)", re.DOTALL)
