"""Plots and tables of ``corruptions.imagenet-c``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from auditor import Axis, Curve, GridRow, HeatMap, ImageGrid, Metric, Picture, Records, Series, Table, Text
from auditor.findings.formatting import percent
from auditor.probes.corruption import mean_by_image
from auditor.probes.metric_tables import metric_table
from auditor.probes.plots import accuracy_axis, metric_point

if TYPE_CHECKING:
    import pandas as pd

Families = Mapping[str, Sequence[str]]
"""The audited corruptions of each family."""

_WORST = 5
_PARAMETER_SETS = {"imagenet": "ImageNet-C (made for 224x224)", "cifar": "CIFAR-10-C (made for 32x32)"}


def method_text(frame: pd.DataFrame) -> Text:
    """Explain the differences from the published benchmark."""
    parameters = _PARAMETER_SETS[str(frame["parameters"].iloc[0])]
    sentences = [
        f"The corruptions are computed on the audited images with the published parameters of {parameters}, unscaled.",
        "Accuracies differ from those on the benchmark's files, which were rounded and stored as JPEG.",
        "The mean corruption error is not divided by AlexNet's errors, which are published for ImageNet only. It must"
        " not be compared with published mCE values.",
    ]
    if "frost" in set(frame["corruption"]):
        sentences.append("Frost is procedural ice instead of the published photographs.")
    return Text(title="Method", text=" ".join(sentences))


def mean_accuracy(frame: pd.DataFrame, names: Sequence[str]) -> Metric:
    """Return the accuracy over these corruptions and all severities in the frame, with a bootstrap interval."""
    rows = frame[frame["corruption"].isin(list(names))]
    return mean_by_image("mean_corruption_accuracy", rows, rows["correct"])


def accuracy_map(levels: Sequence[Metric]) -> HeatMap:
    """Plot the accuracy of each corruption and severity."""
    value = {(metric.at["corruption"], metric.at["severity"]): metric.value for metric in levels}
    names = list(dict.fromkeys(str(name) for name, _ in value))
    severities = sorted({int(severity or 0) for _, severity in value})
    return HeatMap(
        title="Accuracy by corruption and severity",
        values=[[value.get((name, severity)) for severity in severities] for name in names],
        row_labels=[name.replace("-compression", "").replace("-transform", "") for name in names],
        column_labels=[str(severity) for severity in severities],
        row_title="corruption",
        column_title="severity",
        format="percent",
        caption="The metrics of each level have Wilson intervals.",
    )


def family_curve(families: Families, frame: pd.DataFrame, clean: Metric, accuracy: str) -> Curve:
    """Plot the mean accuracy of each family against severity."""
    by_severity = {float(severity): rows for severity, rows in frame.groupby("severity")}
    return Curve(
        title="Mean accuracy by family and severity",
        x=Axis(label="severity"),
        y=accuracy_axis(accuracy),
        series=[
            Series(
                name=family,
                points=[metric_point(mean_accuracy(rows, names), severity) for severity, rows in by_severity.items()],
            )
            for family, names in families.items()
        ],
        caption="Means over the corruptions of a family. Bands: 95 % bootstrap intervals over images. Clean:"
        f" {percent(clean)}.",
    )


def corruption_table(
    families: Families, frame: pd.DataFrame, levels: Sequence[Metric], means: Mapping[str, Metric]
) -> Table:
    """Tabulate the mean accuracy of each corruption, and those at the mildest and strongest severity."""
    by_name: dict[str, list[Metric]] = {}
    for metric in levels:
        by_name.setdefault(str(metric.at["corruption"]), []).append(metric)
    snr = frame.groupby("corruption")["snr_db"].median()
    severities = ", ".join(str(severity) for severity in sorted(frame["severity"].unique()))
    return Table(
        title="Accuracy by corruption",
        columns=["corruption", "family", "mean accuracy", "mildest", "strongest", "median SNR (dB)"],
        formats=["text", "text", "percent", "percent", "percent", "number"],
        rows=[
            [name, family, means[name].cell(), by_name[name][0].value, by_name[name][-1].value, float(snr[name])]
            for family, names in families.items()
            for name in names
        ],
        caption=f"Means over severities {severities}, with bootstrap intervals over images (n = {levels[0].n}).",
    )


def worst_table(levels: Sequence[Metric]) -> Table:
    """Tabulate the levels with the lowest accuracy."""
    worst = sorted(levels, key=lambda metric: 1.0 if metric.value is None else metric.value)[:_WORST]
    return metric_table(
        "Lowest accuracies",
        {"corruption": "text", "severity": "number"},
        {"accuracy": "percent"},
        [((metric.at["corruption"], metric.at["severity"]), (metric,)) for metric in worst],
    )


def family_grid(records: Records) -> list[ImageGrid]:
    """Arrange one image under the corruptions of each family; an empty list without examples."""
    rows: list[GridRow] = []
    for _, pictures in records.examples.groupby("example", sort=True):
        at = json.loads(pictures["at"].iloc[0])
        label = records.class_name(pictures["label"].iloc[0])
        cells = [
            Picture(
                file=row.file,
                caption=f"{row.picture}: {records.prediction_text(row)}",
                alt=f"image of class {label}, {row.picture}",
            )
            for row in pictures.itertuples()
        ]
        rows.append(GridRow(label=f"{at['family']}, severity {at['severity']}; label {label}", cells=cells))
    grid = ImageGrid(
        title="One image by family",
        columns=["clean"],
        rows=rows,
        caption="Under each picture: the corruption, and the answer of the deployed model to the stored 8-bit file. The"
        " image is the first that is correct when clean.",
    )
    return [grid] if rows else []
