"""Fit tables and image grids to the page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from auditor.findings import formatting
from auditor.findings.record import CellRecord

FEW_ROWS = 3
"""Number of rows from which a column with equal cells is replaced by a note, on paper."""

_Row = Sequence[CellRecord]


@dataclass(frozen=True)
class Limits:
    """How much of one piece of evidence is printed; the page states how much is left out."""

    rows: int
    """Rows of a table."""
    image_rows: int
    """Rows of an image grid."""
    characters: int
    """Characters of a table row; further columns follow in a second block that repeats the first columns."""
    images: int = 8
    """Images of a grid in one row."""


SCREEN = Limits(rows=1000, image_rows=1000, characters=100000)
"""On screen, where tables can be sorted and filtered."""

PAPER = Limits(rows=20, image_rows=3, characters=105)
"""On paper, for probes that failed."""

PAPER_SHORT = Limits(rows=10, image_rows=1, characters=105)
"""On paper, for all other probes."""


def constant_columns(columns: Sequence[str], rows: Sequence[_Row], formats: Sequence[str]) -> dict[int, str]:
    """Return the columns whose cells are all equal: index to cell text.

    Columns that identify a row are excluded. A table with few rows, or without any other column, has none.
    """
    texts = {column: set(_texts(rows, formats, column)) for column in range(_n_keys(rows, len(columns)), len(columns))}
    constant = {column: values.pop() for column, values in texts.items() if len(values) == 1}
    return constant if len(rows) >= FEW_ROWS and len(constant) < len(texts) else {}


def column_blocks(
    columns: Sequence[str], rows: Sequence[_Row], formats: Sequence[str], width: int, without: Collection[int] = ()
) -> list[list[int]]:
    """Distribute the columns of a table to blocks of at most ``width`` characters.

    Every block begins with the columns that identify a row.
    """
    keys = list(range(len(columns)))[: _n_keys(rows, len(columns))]
    widths = [_width(title, _texts(rows, formats, column)) for column, title in enumerate(columns)]
    room = available = width - sum(widths[column] for column in keys)
    blocks = [keys]
    for column in (each for each in range(len(keys), len(columns)) if each not in without):
        if widths[column] > room and len(blocks[-1]) > len(keys):
            blocks.append(keys)
            room = available
        blocks[-1] = [*blocks[-1], column]
        room -= widths[column]
    return blocks


def _texts(rows: Sequence[_Row], formats: Sequence[str], column: int) -> list[str]:
    """Return the cell texts of a column."""
    style = formats[column] if column < len(formats) else "text"
    return [formatting.cell(row[column] if column < len(row) else None, style) for row in rows]


def _width(title: str, cells: Sequence[str]) -> int:
    """Return the width of a column in characters: a title may wrap, a cell may not up to 30 characters."""
    longest_word = max(map(len, title.split()), default=0)
    return 3 + min(max([longest_word, *map(len, cells)]), 30)


def _n_keys(rows: Sequence[_Row], n_columns: int) -> int:
    """Return how many of the first columns identify a row: two if only both together are unique, else one."""
    pairs = {tuple(map(str, row[:2])) for row in rows}
    first = {str(row[0]) for row in rows if row}
    return 2 if n_columns > 2 and len(first) < len(pairs) == len(rows) else 1


def has_long_word(text: str) -> bool:
    """Whether a text contains a word that must be broken to fit into a table."""
    return max(map(len, text.split()), default=0) > 20


def chunks(count: int, size: int) -> list[list[int]]:
    """Split the indices up to ``count`` into chunks of at most ``size``."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]
