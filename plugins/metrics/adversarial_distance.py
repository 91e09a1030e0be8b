"""Adversarial distance: per image the smallest perturbation with which any attack of this audit succeeded.

An upper bound of the true distance to the nearest error, never a guarantee: a better attack can only lower it. An image
that is wrong without an attack has distance 0, one that nothing broke has none (infinite). The worst case over all
attacks, per image, is what robustness is judged by (Croce et al. 2021, arXiv:2010.09670, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Finding, Level, Meta, Metric, PerImage, Probe, Records, Table, hookimpl
from auditor.findings.evidence import Evidence
from auditor.findings.formatting import norm_name
from auditor.findings.metric import percent
from auditor.probes.levels import size
from auditor.probes.minimum_norm import distance_curve

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class AdversarialDistance(Probe):
    """The worst case over all attacks; makes no model call of its own."""

    meta = Meta(
        id="metrics.adversarial-distance",
        title="Worst case over all attacks",
        area="metrics",
        why="An attacker takes whichever attack works on the image at hand, so the audit does, too.",
        references=("https://arxiv.org/abs/2010.09670", "https://arxiv.org/abs/1902.06705"),
        needs=frozenset({"gradients"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)
    epsilon: float = 8 / 255
    """The L-infinity size whose robust accuracy stands for the probe."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing: all is in the attacks' records."""
        del classifier, batch, rng
        return {}

    def conclude(self, records: Records) -> Conclusion:
        """Per norm the median distance, the curve of the worst case, and which attack was best on how many images."""
        from auditor.probes.distances import attack_records, norms_of, smallest

        attacks = attack_records(records.others)
        if not attacks:
            return Conclusion(inconclusive="no attack with a norm was run, so there is no distance to take")
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for norm in norms_of(attacks):
            alone = {name: smallest({name: frame}, norm) for name, frame in attacks.items()}
            found, finding = self._conclude_norm(smallest(attacks, norm), alone, norm, records.accuracy_name)
            metrics += found
            findings.append(finding)
        return Conclusion(metrics=metrics, findings=findings)

    def per_image(self, records: Records) -> list[PerImage]:
        """Whether each image stands at the epsilon that is judged; the L2 size is the model's own, so not compared."""
        from auditor.probes.distances import attack_records, norms_of, smallest

        attacks = attack_records(records.others)
        if "linf" not in norms_of(attacks):
            return []
        distance = smallest(attacks, "linf")["distance"]
        at: Level = {"norm": "linf", "epsilon": self.epsilon}
        return [PerImage(name="robust_accuracy", values=distance > self.epsilon + 1e-6, at=at)]

    def _conclude_norm(
        self, smallest: pd.DataFrame, alone: Mapping[str, pd.DataFrame], norm: str, verb: str
    ) -> tuple[list[Metric], Finding]:
        import numpy as np

        from auditor import statistics

        # a sweep knows a distance to its next epsilon only: where some images were searched, they speak for all
        known = smallest[smallest["searched"].astype(bool)] if smallest["searched"].any() else smallest
        distance = known["distance"].to_numpy()
        median = statistics.median("distance_median", distance, unit=norm, at={"norm": norm})
        snr = statistics.median(
            "snr_median", known["snr_db"][np.isfinite(known["snr_db"])], unit="dB", at={"norm": norm}
        )
        broken = distance[np.isfinite(distance) & (distance > 0)]
        chosen = self.epsilon if norm == "linf" else float(np.median(broken)) if len(broken) else 0.0
        judged = smallest["distance"].to_numpy() if norm == "linf" else distance
        clean = statistics.proportion("accuracy", judged > 0)
        robust = statistics.proportion("robust_accuracy", judged > chosen + 1e-6, at={"norm": norm, "epsilon": chosen})
        best = known["attack"][known["attack"] != ""].value_counts()
        rows: list[list[Any]] = []
        noise: list[Metric] = []
        for attack, frame in alone.items():
            broke = frame[np.isfinite(frame["distance"]) & (frame["distance"] > 0)]
            if len(broke):
                needed = statistics.median(
                    "snr_median", broke["snr_db"], unit="dB", at={"norm": norm, "attack": attack}
                )
                noise.append(needed)
                middle = float(np.median(broke["distance"]))
                rows.append([attack, int(best.get(attack, 0)), len(known), middle, needed.value, needed.n])
        rows.sort(key=lambda row: -row[1])
        near = f"more than half of the images withstood everything that was tried (n = {len(known)})"
        if median.value is not None and np.isfinite(median.value):
            near = f"the median image is at most {size(norm, median.value)} from an error (n = {len(known)})"
        statement = (
            f"Against the best attack for each image {verb} falls from {percent(clean)} to {percent(robust)} at epsilon"
            f" {size(norm, chosen)} ({norm_name(norm)}, n = {len(judged)}); {near}; {int(np.isinf(distance).sum())} of"
            f" {len(known)} images were never broken."
        )
        evidence: list[Evidence] = [
            distance_curve(distance, norm, verb, "worst case over all attacks"),
            Table(
                title="Which attack needed least, and what each needed",
                columns=[
                    "attack",
                    "images on which it was best",
                    "of",
                    "median size",
                    "median SNR (dB)",
                    "images broken",
                ],
                formats=["text", "count", "count", "n/255" if norm == "linf" else "number", "number", "count"],
                rows=rows,
                caption=(
                    "Best: on the images whose least distance an attack looked for."
                    if known is not smallest
                    else "Attacks within a budget know distances only to the next epsilon of their sweep."
                )
                + " Size and signal-to-noise ratio: of the smallest perturbation with which it broke each image.",
            ),
        ]
        finding = Finding(
            id=f"{self.meta.id}/{norm}", title=f"Distance to the nearest error, {norm_name(norm)}", statement=statement,
            metric=robust, evidence=evidence,
        )  # fmt: skip
        return [robust, median, snr, *noise], finding


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [AdversarialDistance]
