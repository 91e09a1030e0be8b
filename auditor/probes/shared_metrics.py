"""Specs of metrics that several probes return, so that one name has one meaning."""

from __future__ import annotations

from auditor.findings.metric import MetricSpec

ACCURACY = MetricSpec(name="accuracy", label="Accuracy", better="higher")
RECALL = MetricSpec(name="recall", label="Recall", better="higher")

LABEL_AGREEMENT = MetricSpec(name="label_agreement", label="Label agreement", better="higher")
MAX_ABS_DIFFERENCE = MetricSpec(
    name="max_abs_difference", label="Largest absolute difference", better="lower", unit="1"
)
