"""Score drops under occlusion, by group and by class, for ``bias.counterfactual-occlusion``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor import Metric, Records, Table
from auditor.probes.breakdown import Extremes, holm_adjusted, kruskal_wallis

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
        return cls(
            statistics.mean("score_drop", region, unit="fraction", at={"region": "named"}),
            statistics.mean("score_drop", control, unit="fraction", at={"region": "control"}),
            statistics.mean("score_drop_over_control", region - control, unit="fraction"),
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
) -> tuple[Table, list[Extremes]]:
    """Tabulate the drops of every large group; compare the excess over the control within each grouping."""
    from auditor import statistics

    excess = drops.by_region - drops.by_control
    rows: list[list[Cell]] = [
        ["all", "", drops.region.cell(), drops.control.cell(), drops.excess.cell(), drops.region.n]
    ]
    found: list[Extremes] = []
    for name, values in cuts.items():
        samples: dict[str, NDArray[np.float64]] = {}
        groups: dict[str, Metric] = {}
        for value in sorted(values.unique()):
            mask = (values == value).to_numpy()
            if mask.sum() < minimum:
                continue
            means = [
                statistics.mean("score_drop", sample[mask], unit="fraction")
                for sample in (drops.by_region, drops.by_control, excess)
            ]
            rows.append([name, str(value), *(metric.cell() for metric in means), int(mask.sum())])
            groups[str(value)], samples[str(value)] = means[-1], excess[mask].round(6)
        if len(groups) > 1:
            order = sorted(groups, key=lambda value: groups[value].value or 0.0)
            p_value = kruskal_wallis(list(samples.values()))
            found.append(Extremes(grouping=name, groups=groups, highest=order[-1], lowest=order[0], p_value=p_value))
    table = Table(
        title="Drop of the predicted class's score",
        columns=["by", "value", "region", "control", "region over control", "n"],
        formats=["text", "text", "percent", "percent", "percent", "count"],
        rows=rows[:_ROWS_SHOWN],
        caption=f"Classes and groups of at least {minimum} {records.kind}; 95 % intervals over {records.kind}.",
    )
    return table, holm_adjusted(found)


def extremes_table(records: Records, found: Sequence[Extremes], minimum: int) -> Table:
    """Tabulate the extreme groups of each grouping."""
    rows: list[list[Cell]] = [
        [
            comparison.grouping,
            comparison.highest,
            comparison.groups[comparison.highest].cell(),
            comparison.lowest,
            comparison.groups[comparison.lowest].cell(),
            f"{comparison.p_value:.2g}",
            comparison.verdict,
        ]
        for comparison in found
    ]
    return Table(
        title="Drop over the control: extreme groups",
        columns=["by", "highest", "drop", "lowest", "drop", "p (Holm)", "verdict"],
        formats=["text", "text", "percent", "text", "percent", "text", "text"],
        rows=rows,
        caption=f"Groups of at least {minimum} {records.kind}. Kruskal-Wallis test over all groups; the intervals do"
        " not account for the selection of the extremes.",
    )


def class_changes(records: Records, minimum: int) -> list[Table]:
    """Tabulate the mean change of every class's score, by prediction for few classes; empty for many classes."""
    from auditor import statistics

    k = len(records.classes)
    if k > _MAX_CLASSES:
        return []
    predictions = records.frame["prediction"].to_numpy()
    changes = [_changes(records, name) for name in ("change", "change_control")]
    rows: list[list[Cell]] = []
    for prediction in range(k) if k <= _MAX_CROSSED else [None]:
        mask = predictions >= 0 if prediction is None else predictions == prediction
        if mask.sum() < minimum:
            continue
        for c, name in enumerate(records.classes):
            means = [statistics.mean("change", change[mask, c], unit="fraction").cell() for change in changes]
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
