"""What is known of every image's distance to its nearest error: proven from below, estimated, and found from above.

Three kinds of number, from three probes: the certified radius (no perturbation up to it changes the answer), the
CLEVER score (an estimate, which may be wrong either way), and the smallest perturbation that an attack found. A
certificate above a perturbation that was found is a contradiction: one of the two is wrong, and until it is known
which, neither may be believed. A CLEVER score above it is a slope that the sample missed: on the way to the error the
margin fell faster than the estimate of the steepest slope allows. Where the estimate itself said that it is uncertain
(its law does not fit, its end is not in sight, its halves differ by as much) that is an explanation; else it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, Point, Probe, Records, Series, Table, hookimpl
from auditor.findings.formatting import norm_name
from auditor.probes.levels import epsilon_axis

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_ROWS = 40
"""Images in the table; the records hold all of them."""

_MISFIT = 0.05
"""P-value of the Kolmogorov-Smirnov test up to which the law does not fit (Weng et al. 2018, section 5.2)."""

_ROUNDING = 1e-6
"""Distances are measured on float32 images, and a certificate may be above them by so little."""


@dataclass(frozen=True, kw_only=True)
class Bounds(Probe):
    """The bracket of every image that was certified or has a CLEVER score; makes no model call of its own."""

    meta = Meta(
        id="metrics.bounds",
        title="Bracket of the distance to the nearest error",
        area="metrics",
        why="Between what is proven and what was found lies what nobody knows; where the two cross, the audit itself is"
        " wrong.",
        references=("https://arxiv.org/abs/1811.00866", "https://arxiv.org/abs/1801.10578"),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*", "metrics.certified", "metrics.clever")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing: all is in the records of other probes."""
        del classifier, batch, rng
        return {}

    def conclude(self, records: Records) -> Conclusion:
        """Per norm the accuracy bracket, the images one by one, and contradictions by name."""
        from auditor.probes.distances import attack_records, norms_of, smallest

        attacks = attack_records(records.others)
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for norm in norms_of(attacks):
            rows = smallest(attacks, norm)[["distance", "attack"]]
            rows["certified"] = _column(records, "metrics.certified", "radius", norm)
            rows["clever"] = _column(records, "metrics.clever", "clever", norm)
            for name in ("ks", "shape", "spread"):
                rows[name] = _column(records, "metrics.clever", name, norm)
            rows = rows[rows["certified"].notna() | rows["clever"].notna()].sort_index()
            if len(rows):
                found, finding = self._conclude_norm(rows, norm, records.accuracy_name)
                metrics += found
                findings.append(finding)
        why = (
            "" if findings else "no image has both an attack and a certificate or a CLEVER score, so nothing to bracket"
        )
        return Conclusion(metrics=metrics, findings=findings, inconclusive=why)

    def _conclude_norm(self, rows: pd.DataFrame, norm: str, verb: str) -> tuple[list[Metric], Finding]:
        import numpy as np

        from auditor import statistics

        at = {"norm": norm}
        certified = rows[rows["certified"].notna()]
        scored = rows[rows["clever"].notna()]
        broken = certified[certified["certified"] > certified["distance"] * (1 + _ROUNDING) + _ROUNDING]
        misled = scored[scored["clever"] > scored["distance"] * (1 + _ROUNDING) + _ROUNDING]
        contradicted = Metric(name="certificate_contradicted", value=float(len(broken)) if len(certified) else None,
                              n=len(certified), unit="count", at=at)  # fmt: skip
        reasons = misled.apply(_reason, axis=1) if len(misled) else misled["attack"]
        unexplained = Metric(name="clever_unexplained", value=float((reasons == "").sum()) if len(scored) else None,
                             n=len(scored), unit="count", at=at)  # fmt: skip
        estimate = Metric(name="clever_contradicted", value=float(len(misled)) if len(scored) else None, n=len(scored),
                          unit="count", at=at)  # fmt: skip
        both = certified[(certified["certified"] > 0) & np.isfinite(certified["distance"])]
        width = statistics.median("bracket_ratio_median", both["distance"] / both["certified"], unit="1", at=at)
        crossed = f"Contradictions, {norm_name(norm)}"
        finding = Finding(
            id=f"{self.meta.id}/{norm}",
            title=f"Certificate, estimate and attack, {norm_name(norm)}",
            statement=_statement(
                norm, width, broken=broken, misled=misled, reasons=reasons, counts=(len(certified), len(scored))
            ),
            metric=contradicted,
            evidence=[
                *([_bracket(certified, norm, verb)] if len(certified) else []),
                *([_table(f"{crossed}: certificate above a distance found", broken, norm, "")] if len(broken) else []),
                *([_explained(misled, reasons, norm)] if len(misled) else []),
                _table(
                    f"Image by image, {norm_name(norm)}", rows, norm,
                    "The images nearest to an error first. A dash: not measured, or nothing found. The estimate bounds"
                    " nothing from either side.",
                ),
            ],
        )  # fmt: skip
        return [contradicted, estimate, unexplained, width], finding


def _column(records: Records, probe_id: str, name: str, norm: str) -> pd.Series[float]:
    """One number per image from another probe's records; empty where it was not run."""
    import pandas as pd

    frame = records.others.get(probe_id)
    if frame is None or "norm" not in frame.columns:
        return pd.Series(dtype="float64")
    return frame[frame["norm"] == norm].set_index("image_id")[name]


def _reason(row: pd.Series[float]) -> str:
    """Why the CLEVER score of an image may be too large by as much as it is, as its own signs say; "" for no sign."""
    from auditor.algorithms.extreme_values import SHAPES

    signs = []
    if row["ks"] <= _MISFIT:
        signs.append("the law does not fit its largest slopes")
    if row["shape"] >= SHAPES[1] - 1e-6:
        signs.append("its largest slopes do not tell where they end")
    if row["clever"] * (1 - row["spread"]) <= row["distance"]:
        signs.append(f"half of its sample gives {100 * row['spread']:.0f} % more or less")
    return "; ".join(signs)


def _explained(rows: pd.DataFrame, reasons: pd.Series[str], norm: str) -> Table:
    style: Any = "n/255" if norm == "linf" else "number"
    first = rows.assign(reason=reasons).sort_values("distance", kind="stable").head(_ROWS)
    return Table(
        title=f"Contradictions, {norm_name(norm)}: CLEVER score above a perturbation found",
        columns=["image", "CLEVER: estimate", "found: at most", "by", "slope missed by a factor of", "sign of it"],
        formats=["text", style, style, "text", "number", "text"],
        rows=[
            [str(row.Index), float(row.clever), float(row.distance), row.attack,
             float(row.clever / row.distance) if row.distance else None, row.reason or "none: not explained"]
            for row in first.itertuples()
        ],
        caption="On the way to the error the margin falls at least so many times as fast as the steepest slope that was"
        " estimated. The signs are the estimate's own.",
    )  # fmt: skip


def _statement(
    norm: str,
    width: Metric,
    *,
    broken: pd.DataFrame,
    misled: pd.DataFrame,
    reasons: pd.Series[str],
    counts: tuple[int, int],
) -> str:
    certified, scored = counts
    parts = []
    if len(broken):
        parts.append(
            f"SOMETHING IS BROKEN: on {len(broken)} of {certified} images the certificate is above a perturbation that"
            f" changes the answer ({', '.join(map(str, broken.index[:5]))})"
        )
    elif certified:
        parts.append(f"No attack contradicts a certificate (n = {certified}, {norm_name(norm)})")
    if width.value is not None:
        parts.append(f"the smallest perturbation found is in the median {width.value:.3g} times the certified radius")
    if scored:
        said = f"the CLEVER score is above a perturbation that was found on {len(misled)} of {scored} images"
        silent = int((reasons == "").sum())
        parts.append(said + (f", on {silent} of these without a sign that it was uncertain" if len(misled) else ""))
    return "; ".join(parts) + "."


def _bracket(rows: pd.DataFrame, norm: str, verb: str) -> Curve:
    """Accuracy against epsilon: at least what is certified, at most what the best attacks left."""
    import numpy as np

    from auditor import statistics

    def line(name: str, holds: Any, ends: Any) -> Series:
        sizes: Any = np.unique(np.quantile(ends, np.linspace(0, 1, 30), method="nearest")) if len(ends) else []
        points = []
        for epsilon in [0.0, *sizes]:
            value, low, high = statistics.wilson(int(holds(epsilon).sum()), len(rows))
            points.append(Point(x=float(epsilon), y=value, low=low, high=high, n=len(rows)))
        return Series(name=name, points=points)

    radius, distance = rows["certified"].to_numpy(), rows["distance"].to_numpy()
    return Curve(
        title=f"Accuracy bracket, {norm_name(norm)}",
        caption=f"On the same {len(rows)} images. The true curve lies between the two; bands are 95 % intervals over"
        " images.",
        x=epsilon_axis(norm),
        y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
        series=[
            line("at most: best attack", lambda e: distance > e, distance[np.isfinite(distance) & (distance > 0)]),
            line("at least: certified", lambda e: (radius >= e) & (distance > 0), radius[radius > 0]),
        ],
    )


def _table(title: str, rows: pd.DataFrame, norm: str, caption: str) -> Table:
    """The three numbers of each image, in three columns."""
    import numpy as np

    def shown(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    first = rows.sort_values("distance", kind="stable").head(_ROWS)
    style: Any = "n/255" if norm == "linf" else "number"
    if len(rows) > len(first):
        caption = f"{caption} {len(first)} of {len(rows)} images; the records hold all.".strip()
    return Table(
        title=title,
        columns=["image", "certified: at least", "CLEVER: estimate", "found: at most", "by"],
        formats=["text", style, style, style, "text"],
        rows=[
            [str(row.Index), shown(row.certified), shown(row.clever), shown(row.distance), row.attack or "–"]
            for row in first.itertuples()
        ],
        caption=caption,
    )


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Bounds]
