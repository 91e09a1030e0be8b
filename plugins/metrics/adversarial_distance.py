"""Adversarial distance: the smallest perturbation of each image with which any attack of this audit succeeded.

It is an upper bound, not a guarantee: a better attack can only lower it. An image misclassified without an attack has
distance 0; an image on which every attack failed has infinite distance. Robustness is judged by the worst case over all
attacks, per image (Croce et al. 2021, arXiv:2010.09670, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Level, Meta, Metric, MetricSpec, PerImage, Records, Table
from auditor.findings.formatting import norm_name
from auditor.probes.attack_findings import drop_text
from auditor.probes.distances import AttackSummary, attack_records, norms_of, smallest
from auditor.probes.levels import size, size_format
from auditor.probes.minimum_norm_findings import distance_curve
from auditor.probes.perturbation import ROUNDING
from auditor.probes.robustness_metrics import DISTANCE_MEDIAN, ROBUST_ACCURACY, SNR_MEDIAN

if TYPE_CHECKING:
    import pandas as pd

    from auditor.findings.evidence import Cell


@dataclass(frozen=True, kw_only=True)
class AdversarialDistance(AttackSummary):
    """Take the worst case over all attacks."""

    meta = Meta(
        id="metrics.adversarial-distance",
        title="Worst case over all attacks",
        area="metrics",
        why="An attacker uses whichever attack works on the image; so does this metric.",
        references=("https://arxiv.org/abs/2010.09670", "https://arxiv.org/abs/1902.06705"),
        needs=frozenset({"gradients"}),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (ROBUST_ACCURACY, DISTANCE_MEDIAN, SNR_MEDIAN)
    epsilon: float = 8 / 255
    """L-infinity size of the key metric."""

    def conclude(self, records: Records) -> Conclusion:
        """Return per norm the median distance, the worst-case curve, and the best attack by number of images."""
        attacks = attack_records(records.others)
        if not attacks:
            return Conclusion(inconclusive="no attack with a norm was run, so there is no distance to take")
        parts = [self._conclude_norm(attacks, norm, records.accuracy_name) for norm in norms_of(attacks)]
        return Conclusion(
            metrics=[metric for metrics, _ in parts for metric in metrics], findings=[finding for _, finding in parts]
        )

    def per_image(self, records: Records) -> list[PerImage]:
        """Return whether each image is robust at the key epsilon; in other norms epsilon depends on the model."""
        attacks = attack_records(records.others)
        if "linf" not in norms_of(attacks):
            return []
        distance = smallest(attacks, "linf")["distance"]
        at: Level = {"norm": "linf", "epsilon": self.epsilon}
        return [PerImage(name="robust_accuracy", values=distance > self.epsilon + ROUNDING, at=at)]

    def _conclude_norm(
        self, attacks: Mapping[str, pd.DataFrame], norm: str, accuracy: str
    ) -> tuple[list[Metric], Finding]:
        import numpy as np

        from auditor import statistics

        worst_case = smallest(attacks, norm)
        # a sweep overestimates distances, so images that were searched represent all
        searched = worst_case["searched"].astype(bool)
        known = worst_case[searched] if searched.any() else worst_case
        distance = known["distance"].to_numpy()
        at: Level = {"norm": norm}
        units = known.get("unit")
        median = statistics.median("distance_median", distance, unit=norm, at=at, units=units)
        snr_db = known["snr_db"].where(np.isfinite(known["snr_db"]))
        snr = statistics.median("snr_median", snr_db, unit="dB", at=at, units=units)
        finite = distance[np.isfinite(distance) & (distance > 0)]
        epsilon = self.epsilon if norm == "linf" else float(np.median(finite)) if len(finite) else 0.0
        every = worst_case if norm == "linf" else known
        judged = every["distance"].to_numpy()
        clean = statistics.proportion("accuracy", judged > 0, units=every.get("unit"))
        robust = statistics.proportion(
            "robust_accuracy",
            judged > epsilon + ROUNDING,
            at={"norm": norm, "epsilon": epsilon},
            units=every.get("unit"),
        ).lost_from(clean.value)
        table, needed = _attack_table(attacks, known, norm, searched=bool(searched.any()))
        finding = Finding(
            id=f"{self.meta.id}/{norm}",
            title=f"Adversarial distance, {norm_name(norm)}",
            statement=f"Against the best attack on each image, {drop_text(accuracy, clean, robust)} at epsilon"
            f" {size(norm, epsilon)} ({norm_name(norm)}, n = {len(judged)}). {_median_text(median, norm)}"
            f" {_failed_text(int(np.isinf(distance).sum()), len(known))}",
            metric=robust,
            evidence=[
                distance_curve(distance, norm, accuracy, "worst case over all attacks", units=units, stated=robust),
                table,
            ],
        )
        return [robust, median, snr, *needed], finding


def _median_text(median: Metric, norm: str) -> str:
    if median.value is None or median.value == float("inf"):
        return f"Every attack failed on more than half of the images (n = {median.n})."
    return f"The median adversarial distance is at most {size(norm, median.value)} (n = {median.n})."


def _failed_text(failed: int, n: int) -> str:
    if not failed:
        return f"Each of the {n} images is misclassified, unperturbed or under an attack."
    return f"No attack succeeded on {failed} of {n} images."


def _attack_table(
    attacks: Mapping[str, pd.DataFrame], known: pd.DataFrame, norm: str, *, searched: bool
) -> tuple[Table, list[Metric]]:
    """Return a table of the attacks, best first, and the median SNR of each."""
    import numpy as np

    from auditor import statistics

    best = known["attack"][known["attack"] != ""].value_counts()
    rows: list[tuple[int, list[Cell]]] = []
    metrics = []
    for name, frame in attacks.items():
        alone = smallest({name: frame}, norm)
        successes = alone[np.isfinite(alone["distance"]) & (alone["distance"] > 0)]
        if not len(successes):
            continue
        at: Level = {"norm": norm, "attack": name}
        snr = statistics.median("snr_median", successes["snr_db"], unit="dB", at=at, units=successes.get("unit"))
        metrics.append(snr)
        count, middle = int(best.get(name, 0)), float(np.median(successes["distance"]))
        rows.append((count, [name, count, len(known), middle, snr.value, snr.n]))
    rows.sort(key=lambda row: -row[0])
    scope = (
        "Best: smallest perturbation, on the images for which an attack searched for the least distance."
        if searched
        else "Attacks within a budget find distances only up to the next epsilon of their sweep."
    )
    table = Table(
        title=f"Best attack and size of the perturbations, {norm_name(norm)}",
        columns=["attack", "best on", "of", "median size", "median SNR (dB)", "successes"],
        formats=["text", "count", "count", size_format(norm), "number", "count"],
        rows=[row for _, row in rows],
        caption=f"{scope} Size and SNR: smallest successful perturbation of each image.",
    )
    return table, metrics
