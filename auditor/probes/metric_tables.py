"""Tables built from metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from auditor.findings.evidence import Cell, Table
from auditor.findings.formatting import norm_name
from auditor.findings.metric import Metric
from auditor.probes.levels import number, size_format

Format = Literal["text", "number", "percent", "n/255", "count"]

MetricRow = tuple[Sequence[Cell], Sequence[Metric]]
"""Leading cells of a table row, and its metrics."""


def metric_table(
    title: str,
    keys: Mapping[str, Format],
    metrics: Mapping[str, Format],
    rows: Iterable[MetricRow],
    *,
    caption: str = "",
) -> Table:
    """Build a table with leading cells, one column per metric (with its interval), and n of the first metric.

    If another metric of a row has another n, the caption names the column that n belongs to.

    Args:
        title: Title of the table.
        keys: Names and formats of the leading columns.
        metrics: Names and formats of the metric columns.
        rows: Leading cells and metrics of each row.
        caption: Text under the table.
    """
    rows = list(rows)
    if any(metric.n != values[0].n for _, values in rows for metric in values):
        caption = f"{caption} n: of {next(iter(metrics))}.".strip()
    return Table(
        title=title,
        columns=[*keys, *metrics, "n"],
        formats=[*keys.values(), *metrics.values(), "count"],
        rows=[[*cells, *(metric.cell() for metric in values), values[0].n] for cells, values in rows],
        caption=caption,
    )


def epsilon_table(norm: str, name: str, metrics: Sequence[Metric], *, caption: str = "") -> Table:
    """Build a table of one accuracy by epsilon in a norm."""
    return metric_table(
        f"{name.capitalize()} by epsilon, {norm_name(norm)}",
        {"epsilon": size_format(norm)},
        {name: "percent"},
        [((number(metric.at)[1],), (metric,)) for metric in metrics],
        caption=caption,
    )


def lowest(metrics: Iterable[Metric]) -> Metric:
    """Return the metric with the smallest value; one without a value counts as 1."""
    return min(metrics, key=lambda metric: 1.0 if metric.value is None else metric.value)
