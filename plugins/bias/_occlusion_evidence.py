"""Groupings, images and the finding by group of ``bias.counterfactual-occlusion``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import Finding, GridRow, ImageGrid, Picture, Records
from auditor.findings.formatting import points
from auditor.plugins.bias._score_drops import extremes_table
from auditor.probes.breakdown import Extremes
from auditor.probes.groupings import groupings

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Evidence

PICTURES = ("clean", "region covered", "control covered")


def prediction_groupings(records: Records) -> dict[str, pd.Series]:
    """Return the groupings: prediction, whether it is correct, and the data's groups."""
    frame = records.frame
    cuts: dict[str, pd.Series] = {"prediction": frame["prediction"].map(records.class_name)}
    if records.labelled:
        cuts["correctness"] = (frame["prediction"] == frame["label"]).map({True: "correct", False: "wrong"})
    return cuts | groupings(frame)


def groups_finding(records: Records, found: Sequence[Extremes], minimum: int, maps: Sequence[Evidence]) -> Finding:
    """Report whether the effect differs between groups."""
    clearest = min(found, key=lambda comparison: comparison.p_value)
    significant = [comparison.grouping for comparison in found if comparison.verdict == "groups differ"]
    n = sum(metric.n for metric in clearest.groups.values())
    test = f"n = {n}; p = {clearest.p_value:.2g}, Kruskal-Wallis, Holm over {len(found)}"
    if significant:
        most, least = (points(clearest.groups[value]) for value in (clearest.highest, clearest.lowest))
        statement = (
            f"The effect of occluding the attributed region differs significantly by {', '.join(significant)}."
            f" Most significant difference, by {clearest.grouping}: {most} over the control for {clearest.highest},"
            f" {least} for {clearest.lowest} ({test})."
        )
    else:
        statement = (
            f"The effect of occluding the attributed region differs significantly by none of {len(found)}"
            f" columns ({test})."
        )
    return Finding(
        id="bias.counterfactual-occlusion/groups",
        title="Effect of the attributed region by group",
        statement=statement,
        n=len(records.frame),
        evidence=[extremes_table(records, found, minimum), *maps],
    )


def occlusion_images(records: Records) -> list[ImageGrid]:
    """Return the example images with region and control covered."""
    rows = []
    for _, pictures in records.examples.groupby("example", sort=True):
        by_name = {row.picture: row for row in pictures.itertuples()}
        label = records.class_name(by_name["clean"].label)
        cells = [
            Picture(
                file=by_name[name].file, caption=records.prediction_text(by_name[name]), alt=f"class {label}, {name}"
            )
            for name in PICTURES
        ]
        rows.append(GridRow(label=label, cells=cells))
    caption = "Images whose prediction changes when the region is covered and not when the control is covered."
    grid = ImageGrid(title="Region and control covered", columns=list(PICTURES), rows=rows, caption=caption)
    return [grid] if rows else []
