"""Findings of attacks within a budget: accuracy by epsilon and by signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor.findings.evidence import Curve, Evidence, Point, Series, Table
from auditor.findings.finding import Finding
from auditor.findings.formatting import norm_name, percent
from auditor.findings.metric import Metric
from auditor.probes.base import Meta, Records
from auditor.probes.example_grid import example_grid
from auditor.probes.levels import Level, level_name, line_name, number, size, size_format
from auditor.probes.metric_tables import metric_table
from auditor.probes.plots import accuracy_axis, epsilon_axis, metric_point, number_axis

if TYPE_CHECKING:
    import pandas as pd


def level_text(level: Level) -> str:
    """Name a level for the label of an example: ``L∞, epsilon 8/255``."""
    return f"{line_name(level)}, {level_name(level)}"


def drop_text(name: str, before: Metric, after: Metric) -> str:
    """Describe an accuracy before and after an attack: "accuracy falls from 98 % to 61 %"."""
    old, new = percent(before), percent(after)
    return f"{name} is unchanged at {new}" if old == new else f"{name} falls from {old} to {new}"


def budget_finding(
    meta: Meta,
    records: Records,
    frame: pd.DataFrame,
    robust: Sequence[Metric],
    chosen: Metric,
    *,
    unconfirmed: Metric | None,
    with_examples: bool,
) -> Finding:
    """Report the accuracy by epsilon in one norm.

    Args:
        meta: Meta of the attack.
        records: Records of the attack.
        frame: Records in this norm.
        robust: Robust accuracy by epsilon, epsilon 0 first.
        chosen: The key metric, one of ``robust``.
        unconfirmed: Share of unconfirmed surrogate errors at the same level, if the attack reports it.
        with_examples: Whether to add the example images.
    """
    norm = str(chosen.at["norm"])
    accuracy = records.accuracy_name
    statement = (
        f"At epsilon {size(norm, number(chosen.at)[1])} ({norm_name(norm)}),"
        f" {drop_text(accuracy, robust[0], chosen)} (n = {chosen.n})."
    )
    if unconfirmed is not None and unconfirmed.n:
        confirmed = unconfirmed.n - round((unconfirmed.value or 0) * unconfirmed.n)
        statement += (
            f" The deployed model confirmed {confirmed} of {unconfirmed.n} {records.kind}"
            " that the differentiable copy misclassified."
        )
    single = [_accuracy_at(frame, number(metric.at)[1]) for metric in robust]
    evidence: list[Evidence] = [_table(norm, robust, single)]
    # a line between epsilon 0 and one other epsilon would show nothing
    if len(robust) > 2:
        evidence.insert(0, _curve(norm, accuracy, robust, single))
    if with_examples:
        evidence += example_grid(
            records,
            "Images misclassified at the smallest epsilon",
            ["clean", "perturbation", "perturbed"],
            must_succeed="perturbed",
            row_text=lambda level, _: level_text(level),
        )
    return Finding(
        id=f"{meta.id}/{norm}",
        title=f"{meta.title}, {norm_name(norm)}",
        statement=statement,
        metric=chosen,
        evidence=evidence,
    )


def _accuracy_at(frame: pd.DataFrame, epsilon: float) -> float | None:
    """Return the share of all images that are correct at exactly this epsilon."""
    n = (frame["epsilon"] == 0).sum()
    level = frame[frame["epsilon"] == epsilon]
    correct = (level["perturbed_prediction"] == level["label"]).sum()
    return float(correct) / n if n else None


def _curve(norm: str, accuracy: str, robust: Sequence[Metric], single: Sequence[float | None]) -> Curve:
    points = [Point(x=number(m.at)[1], y=value) for m, value in zip(robust, single, strict=True)]
    return Curve(
        title=f"Accuracy against epsilon, {norm_name(norm)}",
        caption="Within the budget: success at any epsilon up to this one counts. Band: 95 % interval. Dashed"
        " line: each epsilon on its own.",
        x=epsilon_axis(norm),
        y=accuracy_axis(accuracy),
        series=[
            Series(name="within the budget", points=[metric_point(metric) for metric in robust]),
            Series(name="at exactly this epsilon", points=points),
        ],
    )


def _table(norm: str, robust: Sequence[Metric], single: Sequence[float | None]) -> Table:

    return Table(
        title=f"Robust accuracy by epsilon, {norm_name(norm)}",
        columns=["epsilon", "robust accuracy", "at exactly this epsilon", "n"],
        formats=[size_format(norm), "percent", "percent", "count"],
        rows=[[number(m.at)[1], m.cell(), value, m.n] for m, value in zip(robust, single, strict=True)],
    )


def snr_finding(meta: Meta, records: Records, robust: Sequence[Metric], clean: Metric) -> Finding:
    """Report the accuracy by signal-to-noise ratio; ``robust`` has the weakest attack first."""
    strongest = robust[-1]
    return Finding(
        id=f"{meta.id}/snr",
        title=f"{meta.title}, by signal-to-noise ratio",
        statement=f"At an SNR of {number(strongest.at)[1]:g} dB,"
        f" {drop_text(records.accuracy_name, clean, strongest)} (n = {strongest.n}).",
        metric=strongest,
        evidence=[
            Curve(
                title="Accuracy against the signal-to-noise ratio",
                caption=f"20 log10 of the ratio of image to perturbation, per image. Without an attack:"
                f" {percent(clean)}.",
                x=number_axis("snr"),
                y=accuracy_axis(records.accuracy_name),
                series=[Series(name=meta.title, points=[metric_point(metric) for metric in robust])],
            ),
            metric_table(
                "Robust accuracy by signal-to-noise ratio",
                {"SNR (dB)": "number"},
                {"robust accuracy": "percent"},
                [((number(metric.at)[1],), (metric,)) for metric in robust],
            ),
        ],
    )
