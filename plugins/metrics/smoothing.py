"""Randomised smoothing: a certificate of the smoothed classifier, not of the deployed one.

The smoothed classifier returns the class that the audited model returns most often under Gaussian noise. Its answer
cannot change within sigma * Phi^-1(p) in L2, where p is a lower bound of the share of that class (Cohen, Rosenfeld and
Kolter 2019, arXiv:1902.02918, theorem 1; the sampling is their algorithm CERTIFY). The certificate holds for the
smoothed classifier only, with probability 1 - alpha for each image. It says nothing about the deployed model, which is
queried once and without noise. Predictions suffice, so it applies to every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, MetricSpec, Point, Probe, Records, Series
from auditor.findings.formatting import percent
from auditor.plugins.metrics._smoothing_certificate import Certificate, certify, count_answers, largest_radius
from auditor.probes.metric_tables import metric_table
from auditor.probes.plots import accuracy_axis, accuracy_points

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Randomness

_POINTS = 30


@dataclass(frozen=True, kw_only=True)
class Smoothing(Probe):
    """Certify L2 radii of the model smoothed by Gaussian noise."""

    meta = Meta(
        id="metrics.smoothing",
        # 2: the noise is drawn in float32
        version=2,
        title="Certificate of the smoothed model",
        area="metrics",
        why="It shows how robust the model would be if it answered by majority over many noisy copies of each image."
        " It does not make the deployed model robust.",
        references=("https://arxiv.org/abs/1902.02918",),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="smoothed_accuracy", label="Accuracy of the smoothed model", better="higher"),
        MetricSpec(
            name="smoothed_certified_accuracy",
            label="Certified accuracy of the smoothed model",
            better="higher",
            bound="lower",
        ),
        MetricSpec(name="smoothed_abstentions", label="Abstentions of the smoothed model", better="lower"),
    )
    sigmas: tuple[float, ...] = (0.12, 0.25)
    """Standard deviations of the noise."""
    selection: int = 100
    """Noisy copies that select the class."""
    draws: int = 1000
    """Further copies that bound the share of the class."""
    alpha: float = 0.001
    """Probability that a radius is wrong, for each image."""
    radii: tuple[float, ...] = (0.1, 0.25, 0.5)
    """L2 radii of the reported accuracies."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if not self.sigmas or min(self.sigmas) <= 0 or min(self.radii, default=1) <= 0:
            raise ValueError("expected at least one sigma, and sigmas and radii above 0")
        if min(self.selection, self.draws) < 1 or not 0 < self.alpha < 1:
            raise ValueError("expected at least one draw each and alpha between 0 and 1")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and sigma: the smoothed answer (-1 if it abstains) and the certified radius."""
        import numpy as np

        rows = [
            {"row": row, "sigma": sigma, **self._certify(classifier, batch.take([row]), rng, sigma)._asdict()}
            for row in range(len(batch))
            for sigma in self.sigmas
        ]
        types: dict[str, Any] = {
            "row": np.int64,
            "sigma": np.float64,
            "smoothed_prediction": np.int64,
            "hits": np.int64,
            "radius": np.float64,
        }
        return {name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in types.items()}

    def _certify(self, classifier: Classifier, image: Batch, rng: Randomness, sigma: float) -> Certificate:
        chosen = int(self._counts(classifier, image, rng, sigma, "selection").argmax())
        hits = int(self._counts(classifier, image, rng, sigma, "estimation")[chosen])
        return certify(chosen, hits, self.draws, sigma=sigma, alpha=self.alpha)

    def _counts(
        self, classifier: Classifier, image: Batch, rng: Randomness, sigma: float, purpose: str
    ) -> NDArray[np.int64]:
        draws = self.selection if purpose == "selection" else self.draws
        return count_answers(classifier, image, rng(image.ids[0], f"{purpose} {sigma}"), sigma, draws)

    def conclude(self, records: Records) -> Conclusion:
        """Return certified accuracy of the smoothed model by radius, for each sigma."""
        frame = records.frame
        by_sigma = {sigma: frame[frame["sigma"] == sigma] if len(frame) else frame for sigma in self.sigmas}
        metrics = {sigma: self._metrics(rows, sigma) for sigma, rows in by_sigma.items()}
        first = metrics[self.sigmas[0]][0]
        finding = Finding(
            id=f"{self.meta.id}/radius",
            title="Certified accuracy of the smoothed model",
            statement=f"Smoothed by noise of sigma {self.sigmas[0]:g}, the model is certified correct on"
            f" {percent(first)} of the images (n = {first.n}). This does not apply to the deployed model, which answers"
            " without noise.",
            metric=first,
            evidence=[
                self._curve(by_sigma),
                metric_table(
                    "Accuracy of the smoothed model by sigma",
                    {"sigma": "text"},
                    {
                        "correct": "percent",
                        **{f"correct up to {e:g}": "percent" for e in sorted(self.radii)},
                        "abstentions": "percent",
                    },
                    [((f"{sigma:g}",), values) for sigma, values in metrics.items()],
                ),
            ],
        )
        return Conclusion(metrics=[metric for values in metrics.values() for metric in values], findings=[finding])

    def _metrics(self, rows: pd.DataFrame, sigma: float) -> list[Metric]:
        """Return accuracy, certified accuracy by radius, and abstentions."""
        from auditor import statistics

        radius, units = _correct_radius(rows), rows.get("unit")
        certified = [
            statistics.proportion(
                "smoothed_certified_accuracy",
                radius >= e,
                at={"sigma": sigma, "norm": "l2", "epsilon": e},
                units=units,
            )
            for e in sorted(self.radii)
        ]
        abstained = rows["smoothed_prediction"] < 0 if len(rows) else []
        return [
            statistics.proportion("smoothed_accuracy", radius > 0, at={"sigma": sigma}, units=units),
            *certified,
            statistics.proportion("smoothed_abstentions", abstained, at={"sigma": sigma}, units=units),
        ]

    def _curve(self, by_sigma: dict[float, pd.DataFrame]) -> Curve:
        largest = largest_radius(self.draws, sigma=max(self.sigmas), alpha=self.alpha)
        return Curve(
            title="Certified accuracy of the smoothed model",
            caption=f"A lower bound for the smoothed model, wrong with probability {self.alpha:g} for each image."
            f" {self.draws} draws cannot certify a radius above {largest:.3g} at the largest sigma.",
            x=Axis(label="radius (L2)", unit="l2", low=0),
            y=accuracy_axis("certified accuracy"),
            series=[Series(name=f"sigma {sigma:g}", points=_points(rows)) for sigma, rows in by_sigma.items()],
        )


def _correct_radius(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return the radii of the images that the smoothed model classifies correctly; 0 for the others."""
    import numpy as np

    if not len(rows):
        return np.zeros(0)
    return np.where(rows["smoothed_prediction"] == rows["label"], rows["radius"], 0.0)


def _points(rows: pd.DataFrame) -> list[Point]:
    import numpy as np

    radius = _correct_radius(rows)
    positive = radius[radius > 0]
    sizes = np.quantile(positive, np.linspace(0, 1, _POINTS), method="nearest") if len(positive) else np.zeros(0)

    def correct_at(size: float) -> NDArray[np.bool_]:
        return radius >= size if size else radius > 0

    return accuracy_points((0.0, *np.unique(sizes)), correct_at, rows.get("unit"))
