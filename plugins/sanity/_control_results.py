"""Results of ``sanity.positive-control`` by attack and level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import Level, Metric, Table
from auditor.findings.formatting import norm_name, percent
from auditor.probes.levels import size

if TYPE_CHECKING:
    import pandas as pd

    from auditor.findings.evidence import Cell


def tried_levels(frame: pd.DataFrame) -> list[tuple[Metric, Metric, int]]:
    """Return success of the attack, success of noise and the number of planted points, by attack and level."""
    from auditor import statistics

    found = []
    for (attack, norm, epsilon), part in frame.groupby(["attack", "norm", "epsilon"], sort=False):
        at: Level = {"attack": str(attack), "norm": str(norm), "epsilon": float(epsilon)}
        success = statistics.proportion("control_success", part["success"], at=at, units=part.get("unit"))
        noise = statistics.proportion("control_noise", part["noise"], at=at, units=part.get("unit"))
        found.append((success, noise, int(part["planted"].sum())))
    return found


def control_statement(frame: pd.DataFrame, tried: Sequence[tuple[Metric, Metric, int]], worst: Metric) -> str:
    """State the worst success of the attacks, and the images without a planted point."""
    attacks = len({success.at["attack"] for success, *_ in tried})
    if worst.value == 1:
        statement = (
            f"All {attacks} attacks find the planted adversarial example on every image: {percent(worst)}"
            f" (n = {worst.n})."
        )
    else:
        statement = (
            f"Of {attacks} attacks, {worst.at['attack']} finds the planted adversarial example least often:"
            f" {percent(worst)} of the images (n = {worst.n})."
        )
    without = int((~frame["planted"].astype(bool)).groupby(frame["image_id"]).any().sum())
    if without:
        statement += f" On {without} images no random point changes the logits, so nothing was planted."
    return statement


def control_table(tried: Sequence[tuple[Metric, Metric, int]]) -> Table:
    """Tabulate the success of each attack and level, and of noise."""
    rows: list[list[Cell]] = [
        [
            success.at["attack"],
            f"{norm_name(str(success.at['norm']))} {size(str(success.at['norm']), float(success.at['epsilon'] or 0))}",
            success.cell(),
            noise.cell(),
            planted,
            success.n,
        ]
        for success, noise, planted in tried
    ]
    return Table(
        title="Success by attack",
        columns=["attack", "budget", "success", "success of noise", "planted", "n"],
        formats=["text", "text", "percent", "percent", "count", "count"],
        rows=rows,
        caption="Each attack with its settings of this run. If noise of equal size succeeds, the control tests"
        " nothing.",
    )
