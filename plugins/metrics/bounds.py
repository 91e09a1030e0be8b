"""Lower bound, estimate and upper bound of every image's adversarial distance.

Three probes contribute: the certified radius (no perturbation up to it changes the answer), the CLEVER score (an
estimate, which may be wrong in both directions), and the smallest perturbation that an attack found. A certificate
above a perturbation found is a contradiction: one of the two is wrong, and neither can be trusted until it is known
which. A CLEVER score above a perturbation found means that the sampled gradients missed the steepest slope. It counts
as explained if the estimate shows why: the score is the radius of the sampled ball, the fitted distribution is poor,
its endpoint is undetermined, or two halves of the sample differ by at least as much. Otherwise no property of the
estimate reveals it: directions towards an error are rare among random points. The finding counts each cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, Records
from auditor.findings.formatting import norm_name
from auditor.plugins.metrics import _bounds_evidence as evidence
from auditor.plugins.metrics._bounds_evidence import Contradictions
from auditor.probes.distances import AttackSummary, attack_records, norms_of, smallest
from auditor.probes.perturbation import ROUNDING

if TYPE_CHECKING:
    import pandas as pd

_MISFIT = 0.05
"""P-value of the Kolmogorov-Smirnov test up to which the distribution does not fit (Weng et al. 2018, section 5.2)."""


@dataclass(frozen=True, kw_only=True)
class Bounds(AttackSummary):
    """Compare the bounds of every image that was certified or has a CLEVER score."""

    meta = Meta(
        id="metrics.bounds",
        title="Lower and upper bound of the adversarial distance",
        area="metrics",
        why="The true distance is between the proven and the found one. If the two cross, the audit itself is wrong.",
        references=("https://arxiv.org/abs/1811.00866", "https://arxiv.org/abs/1801.10578"),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(
            name="certificate_contradicted",
            label="Images where the certificate exceeds the smallest perturbation found",
            better="neither",
            unit="count",
            bound="exact",
        ),
        MetricSpec(
            name="clever_contradicted",
            label="Images where the CLEVER score exceeds the smallest perturbation found",
            better="neither",
            unit="count",
            bound="exact",
        ),
        MetricSpec(
            name="clever_unexplained",
            label="CLEVER scores above a perturbation found, without a sign of uncertainty",
            better="neither",
            unit="count",
        ),
        MetricSpec(
            name="bracket_ratio_median",
            label="Median ratio of the perturbation found to the certified radius",
            better="neither",
            unit="1",
        ),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*", "metrics.certified", "metrics.clever")

    def conclude(self, records: Records) -> Conclusion:
        """Return per norm the accuracy bounds, the images and the contradictions."""
        attacks = attack_records(records.others)
        parts = []
        for norm in norms_of(attacks):
            rows = smallest(attacks, norm).drop(columns=["snr_db", "searched"])
            rows["certified"] = _column(records, "metrics.certified", "radius", norm)
            for name in ("clever", "ks", "shape", "spread", "slope", "margin"):
                rows[name] = _column(records, "metrics.clever", name, norm)
            rows = rows[rows["certified"].notna() | rows["clever"].notna()].sort_index()
            if len(rows):
                parts.append(self._conclude_norm(rows, norm, records.accuracy_name))
        reason = "" if parts else "no image has both an attack and a certificate or a CLEVER score"
        return Conclusion(
            metrics=[metric for metrics, _ in parts for metric in metrics],
            findings=[finding for _, finding in parts],
            inconclusive=reason,
        )

    def _conclude_norm(self, rows: pd.DataFrame, norm: str, accuracy: str) -> tuple[list[Metric], Finding]:
        import numpy as np

        from auditor import statistics

        found = _contradictions(rows)
        both = found.certified[(found.certified["certified"] > 0) & np.isfinite(found.certified["distance"])]
        ratio = statistics.median(
            "bracket_ratio_median",
            both["distance"] / both["certified"],
            unit="1",
            at={"norm": norm},
            units=both.get("unit"),
        )
        n_certified, n_scored = len(found.certified), len(found.scored)
        refuted = _count("certificate_contradicted", len(found.refuted), n_certified, norm)
        overestimated = _count("clever_contradicted", len(found.overestimated), n_scored, norm)
        unexplained = _count("clever_unexplained", int((found.reasons == "").sum()), n_scored, norm)
        finding = Finding(
            id=f"{self.meta.id}/{norm}",
            title=f"Certificate, estimate and attack, {norm_name(norm)}",
            statement=evidence.statement(norm, ratio, found),
            metric=refuted,
            evidence=[
                *([evidence.accuracy_bounds(found.certified, norm, accuracy)] if n_certified else []),
                *(
                    [evidence.bounds_table(_REFUTED.format(norm_name(norm)), found.refuted, norm)]
                    if refuted.value
                    else []
                ),
                *([evidence.overestimation_table(found, norm)] if overestimated.value else []),
                evidence.bounds_table(
                    f"Bounds by image, {norm_name(norm)}",
                    rows,
                    norm,
                    "Smallest distance first. A dash: not measured, or nothing found. The estimate is not a bound.",
                ),
            ],
        )
        return [refuted, overestimated, unexplained, ratio], finding


_REFUTED = "Contradictions, {}: certificate above a distance found"


def _contradictions(rows: pd.DataFrame) -> Contradictions:
    certified = rows[rows["certified"].notna()]
    scored = rows[rows["clever"].notna()]
    refuted = certified[certified["certified"] > certified["distance"] * (1 + ROUNDING) + ROUNDING]
    overestimated = scored[scored["clever"] > scored["distance"] * (1 + ROUNDING) + ROUNDING]
    reasons = overestimated.apply(_reason, axis=1) if len(overestimated) else overestimated["attack"]
    return Contradictions(certified, scored, refuted, overestimated, reasons)


def _count(name: str, value: int, n: int, norm: str) -> Metric:
    return Metric(name=name, value=float(value) if n else None, n=n, unit="count", at={"norm": norm})


def _column(records: Records, probe_id: str, name: str, norm: str) -> pd.Series[float]:
    """Return one number per image from another probe's records; empty if it was not run."""
    import pandas as pd

    frame = records.others.get(probe_id)
    if frame is None or not len(frame):
        return pd.Series(dtype="float64")
    return frame[frame["norm"] == norm].set_index("image_id")[name]


def _reason(row: pd.Series[float]) -> str:
    """Return signs that the CLEVER score of an image may be too large by as much as it is; "" for none."""
    from auditor.algorithms.extreme_values import SHAPES

    signs = []
    if row["clever"] * row["slope"] < row["margin"] * (1 - 1e-6):
        signs.append(evidence.AT_RADIUS)
    if row["ks"] <= _MISFIT:
        signs.append(evidence.MISFIT)
    if row["shape"] >= SHAPES[1] - 1e-6:
        signs.append(evidence.NO_ENDPOINT)
    if row["clever"] * (1 - row["spread"]) <= row["distance"]:
        signs.append(f"{evidence.FEW_SAMPLES} ({100 * row['spread']:.0f} %)")
    return "; ".join(signs)
