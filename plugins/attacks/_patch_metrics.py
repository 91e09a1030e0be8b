"""Metrics of ``attacks.patch`` by size of the patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from auditor import Metric, Table
from auditor.probes.grid_search import robust_accuracy
from auditor.probes.metric_tables import metric_table

if TYPE_CHECKING:
    import pandas as pd


def block_metrics(rows: pd.DataFrame, block: float) -> list[Metric]:
    """Return robust accuracy, success rate and the success rate of random pixels, of one size."""
    from auditor import statistics

    at = {"block": block}
    correct = rows["prediction"] == rows["label"]
    attacked = rows[correct]
    units = attacked.get("unit")
    return [
        robust_accuracy(correct, rows["success_share"] > 0, at, units=rows.get("unit")),
        statistics.mean(
            "attack_success_rate", attacked["success_share"], unit="fraction", share=True, at=at, units=units
        ),
        statistics.mean("control_success_rate", attacked["control"], unit="fraction", share=True, at=at, units=units),
    ]


def size_table(by_block: Mapping[float, Sequence[Metric]]) -> Table:
    """Tabulate the metrics of ``block_metrics`` by the side of the patch."""
    return metric_table(
        "Success by size of the patch",
        {"side": "percent"},
        {
            "accuracy, worst position": "percent",
            "success at a random position": "percent",
            "success of random pixels": "percent",
        },
        [((block,), metrics) for block, metrics in by_block.items()],
        caption="On the half of the images that the patch was not trained on.",
    )
