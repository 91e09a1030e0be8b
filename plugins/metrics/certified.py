"""Certified radius: no perturbation up to this size changes the answer, proven by linear bound propagation.

It is a lower bound of the adversarial distance of the audited model, for the audited images (CROWN, Zhang et al. 2018,
arXiv:1811.00866). It is seldom large: bounds are loose for networks that were not trained to be certified. A small
radius says little about the model, a large one much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Curve, Finding, Level, Meta, Metric, MetricSpec, Probe, Records, Series
from auditor.findings.formatting import norm_name, percent
from auditor.probes.levels import number, size
from auditor.probes.metric_tables import epsilon_table
from auditor.probes.plots import accuracy_axis, accuracy_points, epsilon_axis

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Randomness

_SMALLEST, _LARGEST = -14, 2
"""Radii are searched between 2^-14 and 2^2."""

_SLACK = 1e-5
"""Share of the largest logit by which a proven margin must exceed 0: the rounding of the deployed model's float32."""

_POINTS = 30


@dataclass(frozen=True, kw_only=True)
class Certified(Probe):
    """Find by bisection the largest radius within which the label is proven to win."""

    meta = Meta(
        id="metrics.certified",
        title="Certified radius",
        area="metrics",
        why="No attack, known or unknown, can change these answers within the radius. A better attack cannot lower it.",
        references=("https://arxiv.org/abs/1811.00866", "https://arxiv.org/abs/2002.12920"),
        needs=frozenset({"gradients"}),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="certified_accuracy", label="Certified accuracy", better="higher", bound="lower"),
        MetricSpec(
            name="certified_radius_median",
            label="Median certified radius",
            better="higher",
            unit="norm",
            bound="lower",
        ),
    )
    norms: tuple[str, ...] = ("linf", "l2")
    """Any of "linf", "l2"."""
    epsilons: tuple[float, ...] = (0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
    """L-infinity sizes of the reported accuracies."""
    l2_epsilons: tuple[float, ...] = (0.01, 0.03, 0.1, 0.25)
    iterations: int = 10
    """Bisection steps over 16 octaves: ten find the radius to 1 %."""
    refine: int = 256
    """Activations with at most this many neurons have linear bounds, larger ones interval bounds. A larger value gives
    tighter bounds and takes longer."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if not set(self.norms) <= {"linf", "l2"} or not self.norms:
            raise ValueError(f"norms {list(self.norms)}: expected some of linf, l2")
        if self.iterations < 1 or self.refine < 0:
            raise ValueError("expected at least one iteration and refine not below 0")
        if min([*self.epsilons, *self.l2_epsilons], default=1) <= 0:
            raise ValueError("every epsilon must be above 0")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and norm. Raises NotApplicable naming the operator without bounds."""
        import numpy as np

        del rng
        return {
            "row": np.tile(np.arange(len(batch)), len(self.norms)),
            "norm": np.repeat(self.norms, len(batch)),
            "radius": np.concatenate([self._radii(classifier, batch, norm) for norm in self.norms]),
        }

    def _radii(self, classifier: Classifier, batch: Batch, norm: str) -> NDArray[np.float64]:
        """Return the largest certified radius of each image, (n,); 0 if it is misclassified or not certified."""
        import numpy as np
        import torch

        from auditor.algorithms.bounds.bounder import Bounder

        bounder = Bounder(classifier, refine=self.refine)
        correct = np.flatnonzero(batch.predictions == batch.labels)
        radii = np.zeros(len(batch))
        pixels, labels = torch.from_numpy(batch.pixels[correct]), torch.from_numpy(batch.labels[correct])
        # even without correct images: whether the graph has bounds must not depend on the images
        logits = bounder.logits(torch.from_numpy(batch.pixels))[torch.from_numpy(correct)].cpu()
        if not len(correct):
            return radii
        slack = _SLACK * logits.abs().amax(1).clamp_min(1)
        low = torch.full((len(correct),), float(_SMALLEST), dtype=torch.float64)
        high = torch.full((len(correct),), float(_LARGEST), dtype=torch.float64)
        certified = torch.zeros(len(correct), dtype=torch.float64)
        for _ in range(self.iterations):
            middle = (low + high) / 2
            proven = bounder.margins(pixels, labels, 2**middle, norm) > slack
            certified = torch.where(proven, 2**middle, certified)
            low, high = torch.where(proven, middle, low), torch.where(proven, high, middle)
        radii[correct] = certified.numpy()
        return radii

    def conclude(self, records: Records) -> Conclusion:
        """Return certified accuracy by epsilon and the median radius, for each norm."""
        if not len(records.frame):
            return Conclusion(inconclusive="no image was measured")
        by_norm = {norm: records.frame[records.frame["norm"] == norm] for norm in self.norms}
        parts = [self._conclude_norm(rows, norm, records.accuracy_name) for norm, rows in by_norm.items() if len(rows)]
        return Conclusion(
            metrics=[metric for metrics, _ in parts for metric in metrics], findings=[finding for _, finding in parts]
        )

    def _conclude_norm(self, rows: pd.DataFrame, norm: str, name: str) -> tuple[list[Metric], Finding]:
        import numpy as np

        from auditor import statistics

        radius, units = rows["radius"].to_numpy(), rows.get("unit")

        def accuracy_at(epsilon: float) -> Metric:
            at: Level = {"norm": norm, "epsilon": epsilon}
            certified = radius >= epsilon if epsilon else radius > 0
            return statistics.proportion("certified_accuracy", certified, at=at, units=units)

        accuracy = [accuracy_at(e) for e in sorted(self.epsilons if norm == "linf" else self.l2_epsilons)]
        median = statistics.median("certified_radius_median", radius, unit=norm, at={"norm": norm}, units=units)
        first = accuracy[0] if accuracy else accuracy_at(0)
        sizes = np.unique(np.quantile(radius, np.linspace(0, 1, _POINTS)))
        finding = Finding(
            id=f"{self.meta.id}/{norm}",
            title=f"Certified radius, {norm_name(norm)}",
            statement=f"{percent(first)} of {len(radius)} images are proven correct at every perturbation up to"
            f" {size(norm, number(first.at)[1])} ({norm_name(norm)}). The median radius is"
            f" {size(norm, float(median.value or 0))}.",
            metric=first,
            evidence=[
                Curve(
                    title=f"Certified {name} against epsilon, {norm_name(norm)}",
                    caption="A lower bound: no attack can go below it. Bands: 95 % intervals.",
                    x=epsilon_axis(norm),
                    y=accuracy_axis(f"certified {name}"),
                    series=[Series(name="certified", points=accuracy_points(sizes, lambda e: radius >= e, units))],
                ),
                epsilon_table(norm, f"certified {name}", accuracy),
            ],
        )
        return [*accuracy, median], finding
