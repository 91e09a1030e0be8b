"""Statement and table of ``sanity.gradient-masking``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import Table
from auditor.findings.formatting import percent
from auditor.findings.metric import n_of_255
from auditor.plugins.sanity._masking_checks import CheckResult

if TYPE_CHECKING:
    from auditor.findings.evidence import Cell

_CHECKS_NAMED = 3
"""Positive checks named in the statement."""


def masking_statement(results: Sequence[CheckResult], n: int, epsilon: float) -> str:
    """Count the positive checks and name the first ones; ``epsilon`` is the L-infinity size of the checks."""
    positive = [result for result in results if result.verdict == "masked"]
    undecided = sum(result.verdict == "undecided" for result in results)
    measured_at = f"n = {n}, epsilon {n_of_255(epsilon)}"
    sentences = [f"{len(positive)} of {len(results)} checks find signs of masked gradients ({measured_at})."]
    sentences += [f"For {percent(result.share)} of the images {result.text}." for result in positive[:_CHECKS_NAMED]]
    if undecided:
        sentences.append(f"Undecided: {undecided}.")
    return " ".join(sentences)


def masking_table(results: Sequence[CheckResult]) -> Table:
    """Tabulate the share of images with each sign, its limit and the verdict."""
    rows: list[list[Cell]] = [
        [result.text, result.share.cell(), result.limit, result.verdict, result.share.n] for result in results
    ]
    return Table(
        title="Share of images with each sign",
        columns=["sign of masked gradients", "share of images", "limit", "verdict", "n"],
        formats=["text", "percent", "percent", "text", "count"],
        rows=rows,
        caption="Masked: the whole 95 % interval lies above the limit.",
    )
