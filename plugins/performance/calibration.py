"""Calibration: whether predictions with confidence 0.8 are correct in 80 of 100 cases.

``_calibration_errors.py`` defines the expected calibration error (ECE). Brier score: mean squared distance of the
probabilities from the one-hot label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, PerImage, Probe, Records
from auditor.plugins.performance._calibration_errors import (
    CALIBRATION_METRICS,
    calibration_errors,
    calibration_statement,
)
from auditor.plugins.performance._confidence_threshold import threshold_finding
from auditor.plugins.performance._reliability import group_calibration, reliability_diagram
from auditor.plugins.performance._risk_coverage import AURC, risk_coverage

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness


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
            "https://arxiv.org/abs/1705.08500",
            "https://arxiv.org/abs/1805.08206",
        ),
        needs=frozenset({"labels", "scores"}),
        input_kinds=frozenset({"images", "rows"}),
        version=2,
    )
    metrics = (*CALIBRATION_METRICS, AURC)
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
        """Report ECE, Brier score, reliability diagrams, AURC and the effect of a threshold on the confidence."""
        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind} were measured")
        confidence, correct = frame["confidence"].to_numpy(), (frame["prediction"] == frame["label"]).to_numpy()
        units = frame.get("unit")
        ece, perfect, debiased = calibration_errors(confidence, correct, self.bins, units)
        groups = group_calibration(records, self.bins, self.minimum)
        finding = Finding(
            id="performance.calibration/ece",
            title="Calibration",
            statement=calibration_statement(ece, perfect, confidence, correct),
            metric=ece,
            evidence=[reliability_diagram(confidence, correct, self.bins, units), *groups],
        )
        area, selective = risk_coverage(records, confidence, correct, units)
        brier = statistics.mean("brier", frame["brier"], unit="1", units=units)
        findings = [finding, selective, threshold_finding(records)]
        return Conclusion(metrics=[ece, brier, perfect, debiased, area], findings=findings)

    def per_image(self, records: Records) -> list[PerImage]:
        """Return each image's squared distance from its label; the calibration error is not a mean over images."""
        return [PerImage(name="brier", values=records.frame.set_index("image_id")["brier"])]
