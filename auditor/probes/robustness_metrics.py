"""Specs of the metrics that several robustness probes share, so that a name has one meaning."""

from __future__ import annotations

from auditor.findings.metric import MetricSpec

ROBUST_ACCURACY = MetricSpec(
    name="robust_accuracy", label="Robust accuracy", better="higher", bound="upper", monotone="epsilon"
)
"""Share of images that are correct without an attack and at every perturbation tried. A better search can only lower
it, so it is an upper bound for a grid search, too."""

ATTACK_SUCCESS_RATE = MetricSpec(name="attack_success_rate", label="Attack success rate", better="lower", bound="lower")
"""Share of the correctly classified images that the attack misclassifies."""

DISTANCE_MEDIAN = MetricSpec(
    name="distance_median", label="Median adversarial distance", better="higher", unit="norm", bound="upper"
)

SNR_MEDIAN = MetricSpec(
    name="snr_median", label="Median SNR of the adversarial perturbations", better="lower", unit="dB"
)
"""A high signal-to-noise ratio means that a small perturbation suffices."""

UNCONFIRMED = MetricSpec(
    name="unconfirmed", label="Surrogate errors that the deployed model does not confirm", better="neither"
)
