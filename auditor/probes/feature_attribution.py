"""Attribution of the features of tabular data: shares over all rows, means by prediction and group, single rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auditor.findings.evidence import Cell, Evidence, HeatMap, Table
from auditor.findings.metric import Metric, MetricSpec
from auditor.probes.attribution_regions import cuts

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.probes.base import Records

METRIC = MetricSpec(name="feature_attribution", label="Share of the attribution", better="neither")

_FEATURES_SHOWN = 20
_GROUPS_SHOWN = 40
_STRONGEST = 3


def feature_tables(records: Records, frame: pd.DataFrame, maps: NDArray[Any]) -> tuple[list[Metric], list[Evidence]]:
    """Return each feature's share of the absolute attribution, largest first, and tables; ``maps`` (n, features)."""
    import numpy as np

    from auditor import statistics

    names = list(records.features) or [f"feature {i}" for i in range(maps.shape[1])]
    size = np.abs(maps)
    total = size.sum(axis=1, keepdims=True)
    share = np.divide(size, total, out=np.full_like(size, np.nan), where=total > 0)
    metrics = [
        statistics.mean(METRIC.name, share[:, i], unit="fraction", at={"feature": name}, units=frame.get("unit"))
        for i, name in enumerate(names)
    ]
    order = sorted(range(len(names)), key=lambda i: (-(metrics[i].value or 0.0), i))[:_FEATURES_SHOWN]
    signed = {i: statistics.mean("mean", maps[:, i], unit="1", units=frame.get("unit")) for i in order}
    rows: list[list[Cell]] = [[names[i], metrics[i].cell(), signed[i].cell(), metrics[i].n] for i in order]
    more = f" Largest {_FEATURES_SHOWN} of {len(names)}." if len(names) > _FEATURES_SHOWN else ""
    table = Table(
        title="Attribution by feature",
        columns=["feature", "share", "signed mean", "n"],
        formats=["text", "percent", "number", "count"],
        rows=rows,
        caption="Share: of the sum of absolute attributions of a row. Signed mean: in the unit of the method; positive"
        f" values support the prediction.{more}",
    )
    largest = sorted(metrics, key=lambda metric: -(metric.value or 0.0))[:_FEATURES_SHOWN]
    return largest, [table, *_group_means(records, frame, maps[:, order], [names[i] for i in order])]


def _group_means(records: Records, frame: pd.DataFrame, maps: NDArray[Any], features: Sequence[str]) -> list[HeatMap]:
    """Return the mean attribution of each prediction and group; empty without groups."""
    groups = list(cuts(records, frame, cross=False))[:_GROUPS_SHOWN]
    if len(groups) < 2:
        return []
    return [
        HeatMap(
            title="Mean attribution by prediction and group",
            values=[maps[mask].mean(axis=0).tolist() for *_, mask in groups],
            row_labels=[f"{f'{by} {value}'.strip()} ({int(mask.sum())})" for by, value, mask in groups],
            column_labels=list(features),
            diverging=True,
            caption="In brackets the number of rows; in the unit of the method.",
        )
    ]


def row_table(records: Records, frame: pd.DataFrame, first: Sequence[str], most: int) -> list[Table]:
    """Return up to ``most`` rows with their three strongest features: ids in ``first``, then errors, then others."""
    import numpy as np

    if not len(frame):
        return []
    turn = {image_id: number for number, image_id in enumerate(first)}
    wrong = frame["prediction"] != frame["label"]
    ordered = frame.assign(turn=frame["image_id"].map(turn).fillna(len(turn) + 1 - wrong.astype(int)))
    rows: list[list[Cell]] = []
    for row in ordered.sort_values("turn", kind="stable").head(most).itertuples():
        values, attribution = np.asarray(row.values), np.asarray(row.map)
        strongest = np.argsort(-np.abs(attribution), kind="stable")[:_STRONGEST]
        text = "; ".join(f"{records.features[i]} = {values[i]:.4g} ({attribution[i]:+.3g})" for i in strongest)
        rows.append([row.image_id, records.class_name(row.label), records.class_name(row.prediction), text])
    return [
        Table(
            title="Single rows",
            columns=["row", "label", "prediction", "the three strongest features"],
            formats=["text", "text", "text", "text"],
            rows=rows,
            caption="Confident errors and small adversarial distances first. In brackets the attribution; positive"
            " values support the prediction.",
        )
    ]
