"""Randomised smoothing: a certificate of another classifier, the audited one asked about many noisy copies.

The smoothed classifier gives the class that the audited model gives most often under Gaussian noise. Its answer cannot
change within sigma * Phi^-1(p) in L2, where p is a lower bound of how often that class comes (Cohen, Rosenfeld and
Kolter 2019, arXiv:1902.02918, theorem 1; the sampling is their algorithm CERTIFY). It holds for the smoothed classifier
only, with probability 1 - alpha for each image, and says nothing of the model as it is deployed, which answers once and
without noise. Predictions suffice, so any model has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, Point, Probe, Records, Series, Table, hookimpl
from auditor.findings.metric import percent

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Smoothing(Probe):
    """Certified L2 radii of the model smoothed by Gaussian noise."""

    meta = Meta(
        id="metrics.smoothing",
        title="Certificate of the smoothed model",
        area="metrics",
        why="It says how robust the model could be made by asking it about many noisy copies of each image and taking"
        " the majority; the deployed model is not made robust by it.",
        references=("https://arxiv.org/abs/1902.02918",),
    )
    sigmas: tuple[float, ...] = (0.12, 0.25)
    """Standard deviations of the noise."""
    selection: int = 100
    """Noisy copies by which the class is chosen."""
    draws: int = 1000
    """Further copies by which its share is bounded."""
    alpha: float = 0.001
    """Probability that a radius is wrong, for each image."""
    radii: tuple[float, ...] = (0.1, 0.25, 0.5)
    """L2 radii whose certified accuracy is reported."""

    def __post_init__(self) -> None:
        if not self.sigmas or min(self.sigmas) <= 0 or min(self.radii, default=1) <= 0:
            raise ValueError("expected at least one sigma, and sigmas and radii above 0")
        if min(self.selection, self.draws) < 1 or not 0 < self.alpha < 1:
            raise ValueError("expected at least one draw each and alpha between 0 and 1")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image and sigma: the smoothed answer (-1: it abstains) and the radius that is certain."""
        import numpy as np

        rows = [
            {"row": row, "sigma": sigma, **self._certify(classifier, batch.take([row]), rng, sigma)}
            for row in range(len(batch))
            for sigma in self.sigmas
        ]
        kinds: dict[str, Any] = {"row": np.int64, "smoothed_prediction": np.int64, "hits": np.int64}
        names = ("row", "sigma", "smoothed_prediction", "hits", "radius")
        return {name: np.array([row[name] for row in rows], dtype=kinds.get(name, np.float64)) for name in names}

    def _certify(self, classifier: Classifier, image: Batch, rng: Randomness, sigma: float) -> dict[str, Any]:
        from scipy.stats import beta, norm

        chosen = int(self._counts(classifier, image, rng, sigma, "selection").argmax())
        hits = int(self._counts(classifier, image, rng, sigma, "estimation")[chosen])
        # Clopper and Pearson's one-sided lower bound of the share
        share = float(beta.ppf(self.alpha, hits, self.draws - hits + 1)) if hits else 0.0
        certain = share > 0.5
        return {
            "smoothed_prediction": chosen if certain else -1,
            "hits": hits,
            "radius": sigma * float(norm.ppf(share)) if certain else 0.0,
        }

    def _counts(self, classifier: Classifier, image: Batch, rng: Randomness, sigma: float, purpose: str) -> Any:
        """How often each class comes under noise, (k,); cutting to [0, 1] is part of what is smoothed."""
        import numpy as np

        draws = self.selection if purpose == "selection" else self.draws
        noise = rng(image.ids[0], f"{purpose} {sigma}")
        counts = np.zeros(classifier.n_classes, dtype=np.int64)
        for start in range(0, draws, classifier.batch_size):
            shape = (min(classifier.batch_size, draws - start), *image.pixels.shape[1:])
            noisy = image.pixels + sigma * noise.standard_normal(shape).astype(np.float32)
            answers = classifier.predict(noisy.clip(0, 1).astype(np.float32)).argmax(axis=1)
            counts += np.bincount(answers, minlength=len(counts))
        return counts

    def conclude(self, records: Records) -> Conclusion:
        """Certified accuracy of the smoothed model by radius, for each sigma."""
        from auditor import statistics

        frame = records.frame
        metrics: list[Metric] = []
        rows: list[list[Any]] = []
        lines: list[Series] = []
        for sigma in self.sigmas:
            some = frame[frame["sigma"] == sigma] if len(frame) else frame
            radius = self._right_radius(some)
            found = [
                statistics.proportion(
                    "smoothed_certified_accuracy", radius >= e, at={"sigma": sigma, "norm": "l2", "epsilon": e}
                )
                for e in sorted(self.radii)
            ]
            accuracy = statistics.proportion("smoothed_accuracy", radius > 0, at={"sigma": sigma})
            silent = some["smoothed_prediction"] < 0 if len(some) else []
            abstained = statistics.proportion("smoothed_abstentions", silent, at={"sigma": sigma})
            metrics += [accuracy, *found, abstained]
            rows.append([f"{sigma:g}", accuracy.cell(), *(m.cell() for m in found), abstained.cell(), accuracy.n])
            lines.append(Series(name=f"sigma {sigma:g}", points=_points(radius)))
        first = metrics[0]
        finding = Finding(
            id=f"{self.meta.id}/radius",
            title="Certified accuracy of the smoothed model, not of the deployed one",
            statement=f"Smoothed by noise of sigma {self.sigmas[0]:g} the model would be right on {percent(first)} of"
            f" the images, each of them for certain (n = {first.n}). The deployed model answers without noise, and this"
            " proves nothing of it.",
            metric=first,
            evidence=[
                Curve(
                    title="Certified accuracy of the smoothed model",
                    caption=f"A lower bound for the smoothed model, wrong with probability {self.alpha:g} for each"
                    f" image; no radius above {_largest(self):.3g} can be shown with {self.draws} draws at the largest"
                    " sigma.",
                    x=Axis(label="radius (L2)", unit="l2", low=0),
                    y=Axis(label="certified accuracy", format="percent", low=0, high=1, unit="fraction"),
                    series=lines,
                ),
                Table(
                    title="By sigma",
                    columns=["sigma", "right", *(f"right up to {e:g}" for e in sorted(self.radii)), "abstains", "n"],
                    formats=["text", "percent", *["percent"] * len(self.radii), "percent", "count"],  # type: ignore[list-item]
                    rows=rows,
                ),
            ],
        )
        return Conclusion(metrics=metrics, findings=[finding])

    def _right_radius(self, some: pd.DataFrame) -> Any:
        """Radii of the images that the smoothed model gets right; 0 for the others."""
        import numpy as np

        if not len(some):
            return np.zeros(0)
        return np.where(some["smoothed_prediction"] == some["label"], some["radius"], 0.0)


def _largest(probe: Smoothing) -> float:
    """The radius of an image whose class came every time."""
    from statistics import NormalDist

    share = probe.alpha ** (1 / probe.draws)
    return max(probe.sigmas) * NormalDist().inv_cdf(share)


def _points(radius: Any) -> list[Point]:
    import numpy as np

    from auditor import statistics

    points = []
    for end in (
        np.unique(np.quantile(radius[radius > 0], np.linspace(0, 1, 30), method="nearest"))
        if (radius > 0).any()
        else ()
    ):
        value, low, high = statistics.wilson(int((radius >= end).sum()), len(radius))
        points.append(Point(x=float(end), y=value, low=low, high=high, n=len(radius)))
    return points


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Smoothing]
