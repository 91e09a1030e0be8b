"""Findings of minimum-norm attacks: accuracy by epsilon from the distance of every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor.findings.evidence import Curve, Evidence, Series
from auditor.findings.finding import Finding
from auditor.findings.formatting import norm_name
from auditor.findings.metric import Metric
from auditor.probes.attack import breaking_epsilon, clean_units
from auditor.probes.attack_findings import drop_text, level_text
from auditor.probes.base import Meta, Records
from auditor.probes.example_grid import example_grid
from auditor.probes.levels import number, size
from auditor.probes.metric_tables import epsilon_table
from auditor.probes.perturbation import ROUNDING
from auditor.probes.plots import accuracy_axis, accuracy_points, epsilon_axis, metric_point

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.statistics.cluster import Units

_FAILURE_SHARE = 0.05
"""Failure rate above which an unbounded search is considered broken."""

_CURVE_POINTS = 40


class SearchCounts(NamedTuple):
    """Numbers of images that a search attacked, found an error for, and confirmed on the deployed model."""

    attacked: int
    found: int
    confirmed: int
    failure_text: str

    @classmethod
    def of(cls, attacked: pd.DataFrame, failure_text: str) -> SearchCounts:
        """Count the rows of the attacked images."""
        found = attacked[attacked["surrogate_misclassified"]]
        return cls(len(attacked), len(found), int(found["success"].sum()), failure_text)


def search_finding(
    meta: Meta,
    records: Records,
    frame: pd.DataFrame,
    robust: Sequence[Metric],
    *,
    chosen: Metric,
    median: Metric,
    counts: SearchCounts,
    with_examples: bool,
) -> Finding:
    """Report the accuracy by epsilon in one norm.

    Args:
        meta: Meta of the attack.
        records: Records of the attack.
        frame: Records in this norm.
        robust: Robust accuracy by epsilon, epsilon 0 first.
        chosen: The key metric, one of ``robust``.
        median: Median distance.
        counts: Results of the search.
        with_examples: Whether to add the example images.
    """
    norm = str(chosen.at["norm"])
    accuracy = records.accuracy_name
    evidence: list[Evidence] = [
        distance_curve(breaking_epsilon(frame), norm, accuracy, "from one search", units=clean_units(frame)),
        epsilon_table(norm, "robust accuracy", robust, caption=_caption(counts, records.kind)),
    ]
    if with_examples:
        successes = frame[frame["success"]]
        distances = dict(zip(successes["image_id"], successes["epsilon"], strict=True))
        evidence += example_grid(
            records,
            "Images nearest to an error",
            ["clean", "perturbation", "perturbed"],
            must_succeed="perturbed",
            row_text=lambda level, image_id: level_text({**level, "epsilon": distances[image_id]}),
            note="Epsilon is the distance found; the perturbation is enlarged until it survives rounding to 8 bits.",
        )
    return Finding(
        id=f"{meta.id}/{norm}",
        title=f"{meta.title}, {norm_name(norm)}",
        statement=f"{distance_text(median, norm, records.kind)} At epsilon"
        f" {size(norm, number(chosen.at)[1])} ({norm_name(norm)}) {drop_text(accuracy, robust[0], chosen)}"
        f" (n = {chosen.n}).",
        metric=chosen,
        evidence=evidence,
    )


def _caption(counts: SearchCounts, kind: str) -> str:
    caption = (
        f"The search found an error for {counts.found} of {counts.attacked} {kind}; the deployed model confirmed"
        f" {counts.confirmed} of them."
    )
    missed = counts.attacked - counts.found
    return f"{caption} On the other {missed} {counts.failure_text}." if missed else caption


def failure_reason(counts: SearchCounts, norm: str, kind: str) -> list[str]:
    """Return why the search cannot be trusted in this norm, or nothing."""
    missed = counts.attacked - counts.found
    if missed <= _FAILURE_SHARE * counts.attacked:
        return []
    return [f"{counts.failure_text} on {missed} of {counts.attacked} {kind} in {norm_name(norm)}"]


def distance_text(median: Metric, norm: str, kind: str = "images") -> str:
    """Describe the median distance in a sentence."""
    if median.value is None:
        return f"No {kind} were measured."
    if median.value == float("inf"):
        return f"The search failed on more than half of the {kind} (n = {median.n})."
    return f"The median adversarial distance is at most {size(norm, median.value)} ({norm_name(norm)})."


def distance_curve(
    distance: NDArray[np.float64],
    norm: str,
    accuracy: str,
    source: str,
    *,
    units: Units = None,
    stated: Metric | None = None,
) -> Curve:
    """Plot accuracy against epsilon from the distance of every image (n,); exact at each of its points.

    ``stated`` is the accuracy that the text names, drawn as a separate point: it may come from more images.
    """
    import numpy as np

    finite = np.sort(distance[np.isfinite(distance) & (distance > 0)])
    if len(finite):
        finite = finite[np.unique(np.linspace(0, len(finite) - 1, _CURVE_POINTS).astype(int))]
    return Curve(
        title=f"Accuracy against epsilon, {source}, {norm_name(norm)}",
        caption="An upper bound: a better attack can only lower the curve. Band: 95 % interval.",
        x=epsilon_axis(norm),
        y=accuracy_axis(accuracy),
        series=[
            Series(
                name=source,
                points=accuracy_points((0.0, *finite), lambda epsilon: distance > epsilon + ROUNDING, units),
            ),
            *([Series(name=f"in the text, n = {stated.n}", points=[metric_point(stated)])] if stated else []),
        ],
    )
