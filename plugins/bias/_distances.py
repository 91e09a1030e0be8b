"""Compare the distance to the nearest error found between groups, for ``bias.robustness``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from auditor import MetricSpec, Records, Table
from auditor.findings.formatting import norm_name, probability
from auditor.probes.breakdown import Comparison, Format
from auditor.probes.gap_statistics import medians, number_cell
from auditor.probes.gaps import Stratum

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell
    from auditor.findings.metric import Scalar
    from auditor.statistics import Units

DISTANCE_GAP = MetricSpec(
    name="distance_gap",
    label="Gap in the median distance to the error found",
    better="lower",
    unit="norm",
    bound="estimate",
)
CLASS_DISTANCE_GAP = MetricSpec(
    name="class_distance_gap",
    label="Class gap in the median distance to the error found",
    better="lower",
    unit="norm",
    bound="estimate",
)


def distance_comparison(
    distance: NDArray[np.float64],
    values: pd.Series,
    share: Comparison,
    norm: str,
    at: Mapping[str, Scalar],
    *,
    units: Units = None,
) -> Comparison:
    """Prepare the comparison of median distances between the groups that ``share`` compares.

    ``distance`` (n,) is infinite for images that were never misclassified; ``values`` (n,) holds the groups and
    ``units`` (n,) the units, if any. Groups with an infinite median are not compared.
    """
    from auditor import statistics

    text = values.astype(str).to_numpy()
    key = share.stratum.key
    parts = {value: distance[text == value] for value in share.stratum.cells}
    inside = {value: statistics.keep(units, text == value) for value in parts}
    medians_by_group = {
        value: statistics.median("distance_median", part, unit=norm, at={**at, key: value}, units=inside[value])
        for value, part in parts.items()
    }
    spec = CLASS_DISTANCE_GAP if key == "class" else DISTANCE_GAP
    stratum = Stratum(
        gap=spec.name,
        cells={value: number_cell(part, inside[value]) for value, part in parts.items()},
        statistic=medians(over_units=units is not None),
        at={**at, "norm": norm},
        key=key,
        family=("distance", *share.stratum.family),
        unit=norm,
    )
    return Comparison(grouping=share.grouping, groups=medians_by_group, stratum=stratum)


def distance_format(records: Records, norm: str) -> Format:
    """Return the number format of a distance."""
    return "n/255" if norm == "linf" and records.kind == "images" else "number"


def distance_tables(records: Records, name: str, compared: Sequence[tuple[str, Comparison]]) -> list[Table]:
    """Tabulate the clearest gap of each attack, one table per norm; ``compared`` holds (probe id, comparison)."""
    tables = []
    for norm in dict.fromkeys(comparison.stratum.unit for _, comparison in compared):
        rows: list[list[Cell]] = [
            [
                probe_id,
                gap.group,
                found.groups[gap.group].cell(),
                gap.against,
                found.groups[gap.against].cell(),
                gap.metric.cell(),
                gap.metric.n,
                probability(gap.p_value),
                found.verdict,
            ]
            for probe_id, found in compared
            if found.stratum.unit == norm
            for gap in found.significant or found.gaps[:1]
        ]
        if rows:
            tables.append(_distance_table(records, name, norm, rows))
    return tables


def _distance_table(records: Records, name: str, norm: str, rows: list[list[Cell]]) -> Table:
    style = distance_format(records, norm)
    return Table(
        title=f"Median distance to the error found, by {name} ({norm_name(norm)})",
        columns=["probe", "nearest", "its median", "farther", "its median", "gap", "n", "p (Holm)", "verdict"],
        formats=["text", "text", style, "text", style, style, "count", "text", "text"],
        rows=rows,
        caption="All significant gaps of an attack, otherwise its clearest one. Mann-Whitney tests; the intervals of"
        " the gaps hold jointly. A group is missing if most of it was never misclassified.",
    )
