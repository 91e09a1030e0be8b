"""Compare the distance to the nearest error found between groups, for ``bias.robustness``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import Metric, MetricSpec, Records, Table
from auditor.findings.formatting import norm_name
from auditor.probes.breakdown import Comparison, Format, kruskal_wallis, pairwise_alpha

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell

DISTANCE_GAP = MetricSpec(
    name="distance_gap",
    label="Gap in the median distance to the error found",
    better="lower",
    unit="norm",
    bound="estimate",
)

_SEED = 20260103


def compare_distances(distance: NDArray[np.float64], values: pd.Series, shares: Comparison, norm: str) -> Comparison:
    """Compare median distances between the groups that ``shares`` compares.

    ``distance`` (n,) is infinite for images that were never misclassified; ``values`` (n,) holds the groups. Medians
    have bootstrap intervals, that of the gap with a Bonferroni correction over all pairs. The test is Kruskal-Wallis.
    """
    import numpy as np

    from auditor import statistics

    text = values.astype(str).to_numpy()
    samples = {value: distance[text == value] for value in shares.groups if value not in shares.small}
    medians = {value: statistics.median("distance_median", part, unit=norm) for value, part in samples.items()}
    n = sum(len(part) for part in samples.values())
    gap = Metric(name=DISTANCE_GAP.name, value=None, n=n, unit=norm)
    if len(samples) < 2:
        return Comparison(grouping=shares.grouping, groups=medians, gap=gap)
    order = sorted(samples, key=lambda value: (np.median(samples[value]), value))
    nearest, farthest = order[0], order[-1]
    middle = [float(np.median(samples[value])) for value in (nearest, farthest)]
    if np.isfinite(middle).all():
        low, high = _gap_interval(samples[nearest], samples[farthest], pairwise_alpha(len(samples)))
        gap = Metric(name=DISTANCE_GAP.name, value=middle[1] - middle[0], low=low, high=high, n=n, unit=norm)
    return Comparison(
        grouping=shares.grouping,
        groups=medians,
        lowest=nearest,
        highest=farthest,
        p_value=kruskal_wallis(list(samples.values())),
        gap=gap,
    )


def _gap_interval(near: NDArray[np.float64], far: NDArray[np.float64], alpha: float) -> tuple[float, float]:
    """Return the bootstrap interval of median(far) - median(near)."""
    import numpy as np

    from auditor import statistics

    rng = np.random.default_rng(_SEED)
    near_medians, far_medians = (
        np.median(sample[rng.integers(0, len(sample), (statistics.RESAMPLES, len(sample)))], axis=1)
        for sample in (near, far)
    )
    with np.errstate(invalid="ignore"):
        gaps = np.nan_to_num(far_medians - near_medians, nan=np.inf)
    # "lower" and "higher" do not interpolate, which would turn infinities into NaN
    low = float(np.quantile(gaps, alpha / 2, method="lower"))
    return low, float(np.quantile(gaps, 1 - alpha / 2, method="higher"))


def distance_format(records: Records, norm: str) -> Format:
    """Return the number format of a distance."""
    return "n/255" if norm == "linf" and records.kind == "images" else "number"


def distance_tables(records: Records, name: str, compared: Sequence[tuple[str, Comparison]]) -> list[Table]:
    """Tabulate the extreme groups of each attack, one table per norm; ``compared`` holds (probe id, comparison)."""
    tables = []
    for norm in dict.fromkeys(comparison.gap.unit for _, comparison in compared):
        rows: list[list[Cell]] = [
            [
                probe_id,
                found.lowest,
                found.groups[found.lowest].cell(),
                found.highest,
                found.groups[found.highest].cell(),
                found.gap.cell(),
                found.gap.n,
                f"{found.p_value:.2g}",
                found.verdict,
            ]
            for probe_id, found in compared
            if found.gap.unit == norm and found.lowest
        ]
        if rows:
            tables.append(_distance_table(records, name, norm, rows))
    return tables


def _distance_table(records: Records, name: str, norm: str, rows: list[list[Cell]]) -> Table:
    style = distance_format(records, norm)
    return Table(
        title=f"Median distance to the error found, by {name} ({norm_name(norm)})",
        columns=["probe", "nearest", "its median", "farthest", "its median", "gap", "n", "p (Holm)", "verdict"],
        formats=["text", "text", style, "text", style, style, "count", "text", "text"],
        rows=rows,
        caption="Kruskal-Wallis test over all groups; bootstrap intervals. The interval of the gap accounts for the"
        " selection of the extreme groups. A dash: most of the group was never misclassified.",
    )
