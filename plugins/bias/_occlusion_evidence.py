"""Groupings, statement, images and the finding by group of ``bias.counterfactual-occlusion``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import Finding, GridRow, ImageGrid, Picture, Records
from auditor.findings.formatting import points, sample_size
from auditor.plugins.bias._score_drops import ScoreDrops, effect_gaps_table
from auditor.probes.breakdown import Comparison
from auditor.probes.gaps import clearness
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


def effect_statement(records: Records, drops: ScoreDrops, share: float, explanation: str) -> str:
    """Compare region and control; ``share`` of the cells is covered, those of the maps of ``explanation``."""
    tabular = records.kind == "rows"
    whole = "features" if tabular else "image"
    elsewhere = "as many other features" if tabular else "an equal area elsewhere"
    flipped, flipped_control = (f"{100 * records.frame[name].mean():.0f} %" for name in ("flipped", "flipped_control"))
    return (
        f"Covering the {100 * share:.0f} % of the {whole} with the highest attribution by {explanation}"
        f" lowers the score by {points(drops.region)}, {elsewhere} by {points(drops.control)}"
        f" (n = {sample_size(drops.region)}). The prediction changes on {flipped} of the {records.kind}, and on"
        f" {flipped_control} with the control {'features' if tabular else 'region'} covered. {drops.reading}"
    )


def groups_finding(records: Records, found: Sequence[Comparison], minimum: int, maps: Sequence[Evidence]) -> Finding:
    """Report whether the effect differs between groups; every significant gap is in the table."""
    clearest = max((gap for comparison in found for gap in comparison.gaps), key=clearness)
    significant = [comparison.grouping for comparison in found if comparison.significant]
    if significant:
        by = clearest.stratum.at["group"]
        statement = (
            f"The effect of occluding the attributed region differs significantly by {', '.join(significant)}."
            f" Clearest, by {by}: {clearest.statement('The score drop over the control')}"
        )
    else:
        statement = (
            f"The effect of occluding the attributed region differs significantly by none of {len(found)}"
            f" columns (n = {sample_size(clearest.metric)}), {clearest.test}."
        )
    return Finding(
        id="bias.counterfactual-occlusion/groups",
        title="Effect of the attributed region by group",
        statement=statement,
        n=len(records.frame),
        evidence=[effect_gaps_table(records, found, minimum), *maps],
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
