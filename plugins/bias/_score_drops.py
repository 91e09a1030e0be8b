"""Score drops under occlusion, by group and by class, for ``bias.counterfactual-occlusion``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor import Metric, Records, Table
from auditor.findings.formatting import probability
from auditor.probes.breakdown import Comparison, compare
from auditor.probes.gap_statistics import means, number_cell
from auditor.probes.gaps import Stratum
from auditor.probes.units import unit_codes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell

_MAX_CLASSES = 50
"""With more classes, the changes of the single classes are not listed."""

_MAX_CROSSED = 6
"""With more classes, the changes are not listed separately for each prediction."""

_ROWS_SHOWN = 80


class ScoreDrops(NamedTuple):
    """The fall of the predicted class's probability, over all images and for each."""

    region: Metric
    control: Metric
    excess: Metric
    """Drop of the region minus that of the control."""
    by_region: NDArray[np.float64]
    by_control: NDArray[np.float64]

    @classmethod
    def of(cls, records: Records) -> ScoreDrops:
        """Return the drops of all images of the records."""
        import numpy as np

        from auditor import statistics

        predicted = np.arange(len(records.frame)), records.frame["prediction"].to_numpy()
        region, control = (-_changes(records, name)[predicted] for name in ("change", "change_control"))
        units = records.frame.get("unit")
        return cls(
            statistics.mean("score_drop", region, unit="fraction", at={"region": "named"}, units=units),
            statistics.mean("score_drop", control, unit="fraction", at={"region": "control"}, units=units),
            statistics.mean("score_drop_over_control", region - control, unit="fraction", units=units),
            region,
            control,
        )

    @property
    def reading(self) -> str:
        """One sentence that interprets the excess over the control."""
        if self.excess.low is None or self.excess.high is None:
            return "There are too few images to compare the two."
        if self.excess.low > 0:
            return "The prediction depends on the attributed region more than on others."
        return "The effect is no larger than elsewhere, so the map does not show what the prediction depends on."


def _changes(records: Records, column: str) -> NDArray[np.float64]:
    """Return the changes of every class's probability, (n, k)."""
    import numpy as np

    return np.stack(records.frame[column].to_list()).astype(np.float64)


def drops_by_group(
    records: Records, drops: ScoreDrops, cuts: Mapping[str, pd.Series], minimum: int
) -> tuple[Table, list[Comparison]]:
    """Tabulate the drops of every large group; compare the excess over the control within each grouping."""
    from auditor import statistics

    excess, units = drops.by_region - drops.by_control, unit_codes(records.frame)
    rows: list[list[Cell]] = [
        ["all", "", drops.region.cell(), drops.control.cell(), drops.excess.cell(), drops.region.n]
    ]
    found: list[Comparison] = []
    for name, values in cuts.items():
        at = {"group": name}
        samples: dict[str, Any] = {}
        groups: dict[str, Metric] = {}
        for value in sorted(values.unique()):
            mask = (values == value).to_numpy()
            inside = statistics.keep(units, mask)
            if _sample_size(mask, units) < minimum:
                continue
            averages = [
                statistics.mean("score_drop", sample[mask], unit="fraction", units=inside)
                for sample in (drops.by_region, drops.by_control, excess)
            ]
            rows.append([name, str(value), *(metric.cell() for metric in averages), int(mask.sum())])
            groups[str(value)], samples[str(value)] = averages[-1], number_cell(excess[mask].round(6), inside)
        statistic = means(over_units=units is not None)
        stratum = Stratum(gap="score_drop_gap", cells=samples, statistic=statistic, at=at, family=(name,), worse=1)
        found.append(Comparison(grouping=name, groups=groups, stratum=stratum))
    table = Table(
        title="Drop of the predicted class's score",
        columns=["by", "value", "region", "control", "region over control", "n"],
        formats=["text", "text", "percent", "percent", "percent", "count"],
        rows=rows[:_ROWS_SHOWN],
        caption=f"Classes and groups of at least {minimum} {records.kind}; 95 % intervals over {records.kind}.",
    )
    return table, [comparison for comparison in compare(found)[0] if comparison.gaps]


def _sample_size(mask: NDArray[np.bool_], units: NDArray[np.int64] | None) -> int:
    """Return the number of images of a mask (n,), or that of their units."""
    return int(mask.sum()) if units is None else len(set(units[mask].tolist()))


def effect_gaps_table(records: Records, found: Sequence[Comparison], minimum: int) -> Table:
    """Tabulate the significant gaps of each grouping, or its clearest one."""
    rows: list[list[Cell]] = [
        [
            comparison.grouping,
            gap.group,
            comparison.groups[gap.group].cell(),
            gap.against,
            comparison.groups[gap.against].cell(),
            gap.metric.cell(),
            probability(gap.p_value),
            comparison.verdict,
        ]
        for comparison in found
        for gap in comparison.significant or comparison.gaps[:1]
    ]
    return Table(
        title="Drop over the control: gaps between groups",
        columns=["by", "higher", "drop", "lower", "drop", "gap", "p (Holm)", "verdict"],
        formats=["text", "text", "percent", "text", "percent", "percent", "text", "text"],
        rows=rows,
        caption=f"Groups of at least {minimum} {records.kind}. Mann-Whitney tests; the intervals of the gaps hold"
        " jointly.",
    )


def class_changes(records: Records, minimum: int) -> list[Table]:
    """Tabulate the mean change of every class's score, by prediction for few classes; empty for many classes."""
    from auditor import statistics

    k = len(records.classes)
    if k > _MAX_CLASSES:
        return []
    predictions, units = records.frame["prediction"].to_numpy(), unit_codes(records.frame)
    changes = [_changes(records, name) for name in ("change", "change_control")]
    rows: list[list[Cell]] = []
    for prediction in range(k) if k <= _MAX_CROSSED else [None]:
        mask = predictions >= 0 if prediction is None else predictions == prediction
        if _sample_size(mask, units) < minimum:
            continue
        inside = statistics.keep(units, mask)
        for c, name in enumerate(records.classes):
            means = [
                statistics.mean("change", change[mask, c], unit="fraction", units=inside).cell() for change in changes
            ]
            predicted = "any" if prediction is None else records.class_name(prediction)
            rows.append([predicted, name, *means, int(mask.sum())])
    table = Table(
        title="Mean change of every class's score",
        columns=["prediction", "score of", "region", "control", "n"],
        formats=["text", "text", "percent", "percent", "count"],
        rows=rows,
        caption="Negative values: the score of the class falls. The changes of all classes sum to zero.",
    )
    return [table] if rows else []
