"""Success rates of ``attacks.transfer`` by source and target model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import HeatMap, Table
from auditor.probes.metric_tables import metric_table

if TYPE_CHECKING:
    import pandas as pd


def transfer_matrix(rows: pd.DataFrame, names: Sequence[str]) -> HeatMap:
    """Plot the success rate for every pair of models.

    ``rows`` are the records at one level, ``names`` the models: first the audited one, then the surrogates.
    """

    def rate(source: int, target: int) -> float | None:
        column = f"misclassified_{source}_{target}"
        correct = rows[f"correct_{target}"].astype(bool)
        return float(rows.loc[correct, column].mean()) if column in rows and correct.any() else None

    models = range(len(names))
    return HeatMap(
        title="Transfer success rate by source and target model",
        values=[[rate(source, target) for target in models] for source in models],
        row_labels=names,
        column_labels=names,
        row_title="source",
        column_title="target",
        format="percent",
        caption="Share of the images that the target classifies correctly without an attack. An empty row: the source"
        " has no gradients.",
    )


def surrogate_table(rows: pd.DataFrame, names: Sequence[str]) -> Table:
    """Tabulate the success on the audited model by surrogate; arguments as ``transfer_matrix``."""
    from auditor import statistics

    return metric_table(
        "Success on the audited model, by surrogate",
        {"source": "text"},
        {"attack success": "percent"},
        [
            (
                (name,),
                (statistics.proportion("attack_success_rate", rows[f"misclassified_{i}_0"], units=rows.get("unit")),),
            )
            for i, name in enumerate(names)
            if i
        ],
    )
