"""CLEVER: an estimate of the adversarial distance from the steepest slope of the margin around the image.

A margin g with slopes of at most L (in the dual norm) within a ball of radius R stays positive up to g / L, if that is
within R. CLEVER draws points from the ball, takes the largest slope of every batch of them, and estimates L as the
upper endpoint of the distribution of these maxima (Weng et al. 2018, arXiv:1801.10578, theorem 3.2 and algorithm 1). It
is an estimate, neither a guarantee nor an attack; masked gradients mislead it (Goodfellow 2018, arXiv:1804.07870).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Finding, Level, Meta, Metric, MetricSpec, Probe, Records
from auditor.findings.formatting import norm_name
from auditor.plugins.metrics._clever_evidence import effort_table, reliability_table, score_scatter
from auditor.plugins.metrics._clever_metrics import attacked, score_metrics, share_text
from auditor.plugins.metrics._clever_sampling import Plan, sample_slopes
from auditor.plugins.metrics._clever_scores import TARGETS, score_columns
from auditor.probes.distances import attack_records, smallest
from auditor.probes.levels import size

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Batch, Classifier, Columns, Randomness

_FIT_P_VALUE = 0.05
"""P-value of the Kolmogorov-Smirnov test above which the distribution fits (Weng et al. 2018, section 5.2)."""

_FIT_IMAGES = 16
"""Images whose distributions are fitted together, which takes hardly longer than one."""


@dataclass(frozen=True, kw_only=True)
class Clever(Probe):
    """Compute the CLEVER scores of the correctly classified images, in several norms."""

    meta = Meta(
        id="metrics.clever",
        title="CLEVER score",
        area="metrics",
        why="It estimates the adversarial distance without an attack. If an attack needs less than the estimate, the"
        " estimate is wrong.",
        references=("https://arxiv.org/abs/1801.10578", "https://arxiv.org/abs/1804.07870"),
        needs=frozenset({"gradients"}),
        version=2,
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="clever_median", label="Median CLEVER score", better="higher", unit="norm", bound="estimate"),
        MetricSpec(name="clever_below_distance", label="CLEVER scores below the distance found", better="neither"),
        MetricSpec(
            name="clever_spread",
            label="Relative difference of the CLEVER scores of two halves of the sample",
            better="neither",
            unit="1",
        ),
        MetricSpec(name="clever_fits", label="CLEVER scores whose distribution fits", better="neither"),
        MetricSpec(name="clever_at_radius", label="CLEVER scores at the radius", better="neither"),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)
    norms: tuple[str, ...] = ("linf", "l2")
    """Any of "linf", "l2", "l1"."""
    batches: int = 50
    """Number of maxima to which the distribution is fitted."""
    batch_samples: int = 100
    """Points of each batch."""
    radius_linf: float = 0.3
    radius_l2: float = 3.0
    radius_l1: float = 30.0
    """Radius of the ball in each norm; the largest possible score."""
    smaller: Sequence[Sequence[int]] = ()
    """Further pairs of ``batches`` and ``batch_samples``, scored on the first of the same points, to show how the score
    depends on their number."""
    targets: int = 10
    """Number of likeliest other classes; a random and the least likely class are added. The score is the smallest over
    all of them."""
    pooled: bool = False
    """Draw all batches from one pool of points and fit as ART does, for comparison only: batches from one pool add no
    information about the endpoint, and the fit depends on its start."""
    pool_factor: int = 10
    """Size of the pool in batches; ART's default."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if not set(self.norms) <= {"linf", "l2", "l1"} or not self.norms:
            raise ValueError(f"norms {list(self.norms)}: expected some of linf, l2, l1")
        if self.batches < 2 or self.batch_samples < 1 or self.targets < 1 or self.pool_factor < 1:
            raise ValueError("expected at least two batches of one sample, one target class and a pool of one batch")
        most = self._plan("linf").n_points((self.batches, self.batch_samples))
        for pair in self.smaller:
            if len(pair) != 2 or min(pair) < 1 or pair[0] < 2 or self._plan("linf").n_points(pair) > most:
                raise ValueError(
                    f"smaller has {list(pair)}; expected pairs of batches (at least two) and samples that need no more"
                    " points than batches and batch_samples"
                )
        if min(self.radius_linf, self.radius_l2, self.radius_l1) <= 0:
            raise ValueError("every radius must be above 0")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per correctly classified image and norm."""
        import numpy as np

        correct = np.flatnonzero(batch.predictions == batch.labels).tolist()
        rows: list[dict[str, Any]] = []
        for norm in self.norms:
            for start in range(0, len(correct), _FIT_IMAGES):
                subset = correct[start : start + _FIT_IMAGES]
                scores = self._score(classifier, batch.take(subset), rng, norm)
                rows += [{"row": row, "norm": norm, **score} for row, score in zip(subset, scores, strict=True)]
        types: dict[str, Any] = {"row": np.int64, "norm": "U4", "clever": np.float64}
        types |= {f"clever_{name}": np.float64 for name in TARGETS}
        types |= {"clever_target": np.int64}
        types |= dict.fromkeys(("spread", "ks", "shape", "slope", "margin", *map(_column, self.smaller)), np.float64)
        return {name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in types.items()}

    def _score(self, classifier: Classifier, images: Batch, rng: Randomness, norm: str) -> list[dict[str, Any]]:
        """Return the columns of each image; the distributions of all images are fitted together."""
        plan = self._plan(norm)
        samples = [sample_slopes(classifier, images.take([i]), rng, norm, plan) for i in range(len(images))]
        return score_columns(samples, plan, [_column(pair) for pair in self.smaller])

    def _plan(self, norm: str) -> Plan:
        return Plan(
            targets=self.targets,
            pairs=[(self.batches, self.batch_samples), *((pair[0], pair[1]) for pair in self.smaller)],
            radius=self._radius(norm),
            pool_factor=self.pool_factor if self.pooled else 0,
        )

    def _radius(self, norm: str) -> float:
        return {"linf": self.radius_linf, "l2": self.radius_l2, "l1": self.radius_l1}[norm]

    def conclude(self, records: Records) -> Conclusion:
        """Return per norm the median score, and the share of scores below the distance that an attack found."""
        attacks = attack_records(records.others)
        parts = []
        for norm in self.norms if len(records.frame) else ():
            rows = records.frame[records.frame["norm"] == norm]
            if len(rows):
                distance = smallest(attacks, norm)["distance"].reindex(rows["image_id"])
                rows = rows.assign(distance=distance.to_numpy())
                parts.append(self._conclude_norm(rows, norm, len(records.classes)))
        if not parts:
            return Conclusion(inconclusive="the model misclassifies all images, so there is no margin to estimate")
        return Conclusion(
            metrics=[metric for metrics, _ in parts for metric in metrics], findings=[finding for _, finding in parts]
        )

    def _conclude_norm(self, rows: pd.DataFrame, norm: str, classes: int) -> tuple[list[Metric], Finding]:
        from auditor import statistics

        at: Level = {"norm": norm}
        score = rows["clever"].to_numpy()
        median, share = score_metrics(rows, "clever", at)
        spread = statistics.median("clever_spread", rows["spread"], unit="1", at=at, units=rows.get("unit"))
        tested = rows[rows["ks"].notna()]
        fits = statistics.proportion("clever_fits", tested["ks"] > _FIT_P_VALUE, at=at, units=tested.get("unit"))
        capped = statistics.proportion("clever_at_radius", score >= self._radius(norm), at=at, units=rows.get("unit"))
        smaller = {
            (pair[0], pair[1]): score_metrics(rows, _column(pair), {**at, "batches": pair[0], "batch_samples": pair[1]})
            for pair in self.smaller
        }
        by_effort = {**smaller, (self.batches, self.batch_samples): (median, share)}
        by_name = {metric.name: metric for metric in (share, fits, capped, spread)}
        scope = "all other classes" if self.targets >= classes - 1 else f"the {self.targets} likeliest other classes"
        finding = Finding(
            id=f"{self.meta.id}/{norm}",
            title=f"CLEVER score, {norm_name(norm)}",
            statement=f"The median CLEVER score over {scope} is {size(norm, median.value or 0.0)} ({norm_name(norm)},"
            f" n = {len(rows)}), an estimate, not a guarantee. {share_text(share)}",
            metric=median,
            evidence=[
                score_scatter(norm, score, rows["distance"].to_numpy(), attacked(rows).to_numpy()),
                reliability_table(norm, rows, median, by_name),
                *([effort_table(norm, by_effort)] if smaller else []),
            ],
        )
        others = [metric for pair in smaller.values() for metric in pair]
        return [median, share, spread, fits, capped, *others], finding


def _column(pair: Sequence[int]) -> str:
    """Return the column of the score with this number of batches and samples."""
    return f"clever_{pair[0]}x{pair[1]}"
