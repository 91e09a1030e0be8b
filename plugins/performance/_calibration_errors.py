"""Calibration errors of a model, and of a perfectly calibrated one with the same confidences.

ECE: the mean over bins of |accuracy - confidence|, weighted by size, with equal-mass bins (Guo et al. 2017,
arXiv:1706.04599; Nixon et al. 2019, arXiv:1904.01685). For few images a perfectly calibrated model has an ECE above
zero; its value at the same confidences is simulated. A debiased error is also reported (Kumar, Liang and Ma 2019,
arXiv:1909.10155).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import Metric, MetricSpec
from auditor.findings.formatting import percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.statistics import Units

CALIBRATION_METRICS = (
    MetricSpec(name="ece", label="Expected calibration error", better="lower"),
    MetricSpec(name="brier", label="Brier score", better="lower", unit="1"),
    MetricSpec(
        name="ece_of_perfect", label="Expected calibration error of a perfectly calibrated model", better="neither"
    ),
    MetricSpec(name="rms_calibration_error_debiased", label="RMS calibration error, debiased", better="lower"),
)

_SIMULATIONS = 200


def calibration_errors(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int, units: Units
) -> tuple[Metric, Metric, Metric]:
    """Return the expected calibration error, that of a perfectly calibrated model, and the debiased RMS error.

    Args:
        confidence: Probability of the predicted class, (n,).
        correct: Whether the prediction is the label, (n,).
        bins: Number of bins of equal size.
        units: The unit of each image, (n,).
    """
    import numpy as np

    from auditor import statistics

    n, n_units = len(confidence), statistics.count_units(units)
    interval = statistics.calibration_interval(confidence, correct, bins, units=units)
    debiased = statistics.debiased_interval(confidence, correct, bins, units=units)
    by_chance = _errors_of_perfect(confidence, bins, units)
    low, high = (float(np.quantile(by_chance, share)) for share in (0.025, 0.975))
    return (
        Metric(name="ece", **interval._asdict(), n=n, units=n_units),
        Metric(name="ece_of_perfect", value=float(by_chance.mean()), low=low, high=high, n=n, units=n_units),
        Metric(name="rms_calibration_error_debiased", **debiased._asdict(), n=n, units=n_units),
    )


def _errors_of_perfect(confidence: NDArray[np.float64], bins: int, units: Units) -> NDArray[np.float64]:
    """Return simulated ECEs of a perfectly calibrated model with these confidences, (simulations,).

    Images of one unit are right or wrong together, which gives the largest errors by chance.
    """
    import numpy as np

    from auditor import statistics

    code = statistics.codes(units, len(confidence))
    draws = np.random.default_rng(0).random((_SIMULATIONS, code.max() + 1))[:, code] < confidence
    return np.array([statistics.calibration_error(confidence, draw, bins) for draw in draws])


def calibration_statement(
    ece: Metric, perfect: Metric, confidence: NDArray[np.float64], correct: NDArray[np.bool_]
) -> str:
    """State the calibration error and the mean overconfidence."""
    overconfidence = float(confidence.mean() - correct.mean())
    return (
        f"Expected calibration error {percent(ece)} (n = {ece.n}; a perfectly calibrated model:"
        f" {100 * (perfect.value or 0):.1f} %). On average the model is {abs(100 * overconfidence):.1f} points"
        f" {'over' if overconfidence > 0 else 'under'}confident."
    )
