"""Calibration: whether predictions with confidence 0.8 are correct in 80 of 100 cases.

ECE: the mean over bins of |accuracy - confidence|, weighted by size, with equal-mass bins (Guo et al. 2017,
arXiv:1706.04599; Nixon et al. 2019, arXiv:1904.01685). For few images a perfectly calibrated model has an ECE above
zero; its value at the same confidences is simulated. A debiased error is also reported (Kumar, Liang and Ma 2019,
arXiv:1909.10155). Brier score: mean squared distance of the probabilities from the one-hot label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, PerImage, Probe, Records
from auditor.findings.formatting import percent
from auditor.plugins.performance._confidence_threshold import threshold_finding
from auditor.plugins.performance._reliability import group_calibration, reliability_diagram

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Randomness
    from auditor.statistics import Units

_SIMULATIONS = 200


@dataclass(frozen=True, kw_only=True)
class Calibration(Probe):
    """Measure how well the confidence predicts correctness."""

    meta = Meta(
        id="performance.calibration",
        title="Calibration of confidence",
        area="performance",
        why="A threshold on the confidence, such as human review below 0.9, protects only if the model is calibrated.",
        references=(
            "https://arxiv.org/abs/1706.04599",
            "https://arxiv.org/abs/1904.01685",
            "https://arxiv.org/abs/1909.10155",
        ),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
        version=2,
    )
    metrics = (
        MetricSpec(name="ece", label="Expected calibration error", better="lower"),
        MetricSpec(name="brier", label="Brier score", better="lower", unit="1"),
        MetricSpec(
            name="ece_of_perfect", label="Expected calibration error of a perfectly calibrated model", better="neither"
        ),
        MetricSpec(name="rms_calibration_error_debiased", label="RMS calibration error, debiased", better="lower"),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)
    bins: int = 15
    minimum: int = 50
    """Groups with fewer images have no calibration error."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return confidence, squared distance from the label and cross entropy; no model calls."""
        del classifier, rng
        import numpy as np

        one_hot = np.eye(batch.probabilities.shape[1])[batch.labels]
        return {
            "confidence": batch.probabilities.max(axis=1).astype(np.float64),
            "brier": ((batch.probabilities - one_hot) ** 2).sum(axis=1),
            "log_loss": -np.log(np.clip((batch.probabilities * one_hot).sum(axis=1), 1e-15, 1)),
        }

    def conclude(self, records: Records) -> Conclusion:
        """Report ECE, Brier score, reliability diagrams and the effect of a threshold on the confidence."""
        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind} were measured")
        confidence = frame["confidence"].to_numpy()
        correct = (frame["prediction"] == frame["label"]).to_numpy()
        n, units = len(frame), frame.get("unit")
        interval = statistics.calibration_interval(confidence, correct, self.bins, units=units)
        n_units = statistics.count_units(units)
        ece = Metric(name="ece", **interval._asdict(), n=n, units=n_units)
        by_chance = self._error_of_perfect(confidence, units)
        perfect = float(by_chance.mean())
        overconfidence = float(confidence.mean() - correct.mean())
        finding = Finding(
            id="performance.calibration/ece",
            title="Calibration",
            statement=f"Expected calibration error {percent(ece)} (n = {n}; a perfectly calibrated model:"
            f" {100 * perfect:.1f} %). On average the model is {abs(100 * overconfidence):.1f} points"
            f" {'over' if overconfidence > 0 else 'under'}confident.",
            metric=ece,
            evidence=[
                reliability_diagram(confidence, correct, self.bins, units),
                *group_calibration(records, self.bins, self.minimum),
            ],
        )
        metrics = [
            ece,
            statistics.mean("brier", frame["brier"], unit="1", units=units),
            Metric(
                name="ece_of_perfect",
                value=perfect,
                low=_quantile(by_chance, 0.025),
                high=_quantile(by_chance, 0.975),
                n=n,
                units=n_units,
            ),
            Metric(
                name="rms_calibration_error_debiased",
                **statistics.debiased_interval(confidence, correct, self.bins, units=units)._asdict(),
                n=n,
                units=n_units,
            ),
        ]
        return Conclusion(metrics=metrics, findings=[finding, threshold_finding(records)])

    def _error_of_perfect(self, confidence: NDArray[np.float64], units: Units) -> NDArray[np.float64]:
        """Return simulated ECEs of a perfectly calibrated model with these confidences, (simulations,).

        Images of one unit are right or wrong together, which gives the largest errors by chance.
        """
        import numpy as np

        from auditor import statistics

        code = statistics.codes(units, len(confidence))
        draws = np.random.default_rng(0).random((_SIMULATIONS, code.max() + 1))[:, code] < confidence
        return np.array([statistics.calibration_error(confidence, draw, self.bins) for draw in draws])

    def per_image(self, records: Records) -> list[PerImage]:
        """Return each image's squared distance from its label; the calibration error is not a mean over images."""
        return [PerImage(name="brier", values=records.frame.set_index("image_id")["brier"])]


def _quantile(values: NDArray[np.float64], share: float) -> float:
    import numpy as np

    return float(np.quantile(values, share))
