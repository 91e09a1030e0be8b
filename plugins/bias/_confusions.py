"""Asymmetry of confusions, for ``bias.classes``.

For each pair of classes an exact binomial test of the two directions against one half, as in McNemar's test, adjusted
with Holm's method over all pairs. If the data states units, a sign-flip test of each unit's net difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import Finding, HeatMap, Records, Table
from auditor.probes.gaps import ALPHA
from auditor.probes.units import unit_codes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Evidence
    from auditor.findings.evidence import Cell

_PAIRS_SHOWN = 20
_MAX_HEAT_MAP = 20
"""Classes up to which the matrix of confusions is drawn."""


def asymmetry_finding(records: Records, matrix: NDArray[np.int64]) -> Finding:
    """Report pairs of classes that are confused significantly more often in one direction."""
    pairs = _confused_pairs(records, matrix)
    one_sided = sum(p < ALPHA for *_, p in pairs)
    rows: list[list[Cell]] = [
        [
            f"{records.class_name(label)} predicted as {records.class_name(predicted)}",
            int(matrix[label, predicted]),
            int(matrix[predicted, label]),
            f"{p:.2g}",
            "one-sided" if p < ALPHA else "not significant",
        ]
        for label, predicted, p in pairs[:_PAIRS_SHOWN]
    ]
    table = Table(
        title="Confusions, most one-sided first",
        columns=["confusion", "count", "opposite direction", "p (Holm)", "verdict"],
        formats=["text", "count", "count", "text", "text"],
        rows=rows,
        caption=f"First {_PAIRS_SHOWN} of {len(pairs)} pairs." if len(pairs) > _PAIRS_SHOWN else "",
    )
    evidence: list[Evidence] = [table, *_difference_map(records, matrix)] if rows else []
    errors = int(matrix.sum() - matrix.trace())
    test = "exact sign-flip tests over units" if "unit" in records.frame else "exact binomial tests"
    return Finding(
        id="bias.classes/asymmetry",
        title="Asymmetric confusions",
        statement=f"{one_sided} of the {len(pairs)} pairs of classes with at least one confusion are confused"
        f" significantly more often in one direction (n = {errors} errors; {test}, Holm)."
        if pairs
        else f"No class is confused with another (n = {errors} errors in {int(matrix.sum())} {records.kind}).",
        n=errors,
        evidence=evidence,
    )


def _confused_pairs(records: Records, matrix: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Return (label, prediction, adjusted p-value) in the more frequent direction, most one-sided pair first."""
    from auditor import statistics

    k = len(matrix)
    pairs = [(a, b) for a in range(k) for b in range(a + 1, k) if matrix[a, b] + matrix[b, a]]
    pairs.sort(key=lambda pair: -abs(int(matrix[pair]) - int(matrix[pair[::-1]])))
    units = unit_codes(records.frame)
    if units is None:
        p_values = [statistics.mcnemar_two_sided(int(matrix[a, b]), int(matrix[b, a])) for a, b in pairs]
    else:
        p_values = [statistics.sign_flip_two_sided(*_directions(records, pair, units)) for pair in pairs]
    adjusted = statistics.holm(p_values)
    return [(a, b, p) if matrix[a, b] >= matrix[b, a] else (b, a, p) for (a, b), p in zip(pairs, adjusted, strict=True)]


def _directions(
    records: Records, pair: tuple[int, int], units: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the direction of each confusion of two classes, 1 or -1, and its unit, (n,) each."""
    import numpy as np

    labels, predictions = (records.frame[column].to_numpy() for column in ("label", "prediction"))
    one, other = ((labels == a) & (predictions == b) for a, b in (pair, pair[::-1]))
    return np.where(one, 1, -1)[one | other], units[one | other]


def _difference_map(records: Records, matrix: NDArray[np.int64]) -> list[HeatMap]:
    """Return the confusions minus those of the opposite direction; empty for many classes."""
    if len(matrix) > _MAX_HEAT_MAP:
        return []
    return [
        HeatMap(
            title="Confusions minus those in the opposite direction",
            values=(matrix - matrix.T).astype(float).tolist(),
            row_labels=list(records.classes),
            column_labels=list(records.classes),
            row_title="label",
            column_title="prediction",
            format="count",
            diverging=True,
        )
    ]
