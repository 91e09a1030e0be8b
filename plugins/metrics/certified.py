"""Certified radius: no perturbation up to this size changes the answer, proven by linear bound propagation.

It is a lower bound of the adversarial distance of the audited model, for the audited images (CROWN, Zhang et al. 2018,
arXiv:1811.00866). Requested epsilons above it are tried with optimised slopes (alpha-CROWN, Xu et al. 2021,
arXiv:2011.13824) and with branch and bound (beta-CROWN, Wang et al. 2021, arXiv:2103.06624). A small radius says little
about the model: bounds are loose for large networks that were not trained to be certified.
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
    from auditor.plugins.metrics._certified_radii import Radii

_SLACK = 1e-5
"""Share of the largest logit by which a proven margin must exceed 0: the rounding of the deployed model's float32."""

_POINTS = 30

_METHODS = ("linear bounds", "optimised slopes", "branch and bound")
"""Methods 1, 2 and 3 of ``auditor.algorithms.bounds.prover.Method``."""


@dataclass(frozen=True, kw_only=True)
class Certified(Probe):
    """Search for the largest radius within which the label is proven to win."""

    meta = Meta(
        id="metrics.certified",
        title="Certified radius",
        area="metrics",
        why="No attack, known or unknown, can change these answers within the radius. A better attack cannot lower it.",
        references=(
            "https://arxiv.org/abs/1811.00866",
            "https://arxiv.org/abs/2002.12920",
            "https://arxiv.org/abs/2011.13824",
            "https://arxiv.org/abs/2103.06624",
        ),
        needs=frozenset({"gradients"}),
        version=3,
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
    iterations: int = 7
    """The search for a radius ends where at most 2^-iterations of the margin at the image is left, 0.8 % with seven, or
    after twice as many steps."""
    refine: int = 256
    """Neurons of each activation, at most, that have linear bounds; the others have interval bounds. A larger value
    gives tighter bounds and takes longer."""
    seconds: float = 0.0
    """CPU seconds of branch and bound for each image and norm; off by default, because a result that reaches the limit,
    which the finding states, depends on the speed of the machine."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if not set(self.norms) <= {"linf", "l2"} or not self.norms:
            raise ValueError(f"norms {list(self.norms)}: expected some of linf, l2")
        if self.iterations < 1 or min(self.refine, self.seconds) < 0:
            raise ValueError("expected at least one iteration, and refine and seconds not below 0")
        if min([*self.epsilons, *self.l2_epsilons], default=1) <= 0:
            raise ValueError("every epsilon must be above 0")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and norm. Raises NotApplicable naming the operator without bounds."""
        import numpy as np

        del rng
        radii = [self._radii(classifier, batch, norm) for norm in self.norms]
        return {
            "row": np.tile(np.arange(len(batch)), len(self.norms)),
            "norm": np.repeat(self.norms, len(batch)),
            "radius": np.concatenate([part.radius for part in radii]),
            "method": np.concatenate([part.method for part in radii]),
            "late": np.concatenate([part.late for part in radii]),
        }

    def _radii(self, classifier: Classifier, batch: Batch, norm: str) -> Radii:
        """Return the certified radii of the images; 0 for misclassified images."""
        import numpy as np
        import torch

        from auditor.algorithms.bounds.bounder import Bounder
        from auditor.algorithms.bounds.prover import Prover
        from auditor.plugins.metrics._certified_radii import Radii, find_radii

        bounder = Bounder(classifier, refine=self.refine)
        found = Radii(np.zeros(len(batch)), np.zeros(len(batch), dtype=np.int64), np.zeros(len(batch), dtype=bool))
        correct = np.flatnonzero(batch.predictions == batch.labels)
        if not len(correct):
            return found
        pixels, labels = torch.from_numpy(batch.pixels[correct]), torch.from_numpy(batch.labels[correct])
        slack = _SLACK * bounder.logits(pixels).cpu().abs().amax(1).clamp_min(1)
        prover = Prover(bounder, classifier.scaled_logits)
        for rows, epsilons in self._tested(batch.take(correct), norm):
            radii = find_radii(
                bounder,
                prover,
                pixels[rows],
                labels[rows],
                norm=norm,
                slack=slack[rows],
                epsilons=epsilons,
                iterations=self.iterations,
                seconds=self.seconds,
            )
            for all_images, part in zip(found, radii, strict=True):
                all_images[correct[rows]] = part
        return found

    def _tested(self, batch: Batch, norm: str) -> list[tuple[NDArray[np.int64], Sequence[float]]]:
        """Return rows and the epsilons tested on them: those of the setting, in L-infinity also the image's own."""
        import numpy as np

        shared = self.epsilons if norm == "linf" else self.l2_epsilons
        if norm != "linf" or batch.epsilons is None:
            return [(np.arange(len(batch)), shared)]
        return [
            (np.flatnonzero(batch.epsilons == own), sorted({*shared, float(own)})) for own in np.unique(batch.epsilons)
        ]

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
            f" {size(norm, float(median.value or 0))}.{_methods(rows)}",
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


def _methods(rows: pd.DataFrame) -> str:
    """State how many images each method proved, and where the time limit was reached."""
    counts = [(name, int((rows["method"] == number).sum())) for number, name in enumerate(_METHODS, start=1)]
    proven = ", ".join(f"{count} by {name}" for name, count in counts if count)
    late = int(rows["late"].sum())
    text = f" Largest proven epsilon of the list: {proven}." if proven else ""
    return text + (f" The time limit ended branch and bound on {late} images." if late else "")
