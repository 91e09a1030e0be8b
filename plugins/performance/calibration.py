"""Calibration: does a confidence of 0.8 mean right in 80 of 100 cases?

ECE: images are cut into bins of equal size by confidence; the mean over bins of |accuracy - confidence|, weighted by
size (Guo et al. 2017, arXiv:1706.04599, with equal-mass bins after Nixon et al. 2019, arXiv:1904.01685). With few
images even a perfect model has an ECE above zero; what it would have on these very confidences is simulated and
reported beside it. Brier score: mean squared distance of the probabilities from the one-hot label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, Point, Probe, Records, Series, hookimpl
from auditor.finding import percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.classifier import Classifier
    from auditor.images import Batch
    from auditor.probe import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Calibration(Probe):
    """Whether the model's confidence may be used for decisions."""

    meta = Meta(
        id="performance.calibration",
        title="Calibration of confidence",
        area="performance",
        why="A threshold on the confidence ('ask a human below 0.9') protects only if the confidence is honest.",
        references=("https://arxiv.org/abs/1706.04599", "https://arxiv.org/abs/1904.01685"),
        needs=frozenset({"labels"}),
    )
    bins: int = 15

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Confidence and squared distance from the label; no passes of its own."""
        del classifier, rng
        import numpy as np

        one_hot = np.eye(batch.probabilities.shape[1])[batch.labels]
        return {
            "confidence": batch.probabilities.max(axis=1).astype(np.float64),
            "brier": ((batch.probabilities - one_hot) ** 2).sum(axis=1),
        }

    def conclude(self, records: Records) -> Conclusion:
        """ECE, Brier score, the reliability diagram, confidence when right and when wrong."""
        import numpy as np

        from auditor import stats

        frame = records.frame
        confidence = frame["confidence"].to_numpy()
        correct = (frame["prediction"] == frame["label"]).to_numpy()
        pairs = np.column_stack([confidence, correct])
        value, low, high = stats.bootstrap(pairs, lambda p: expected_calibration_error(p[:, 0], p[:, 1], self.bins))
        ece = Metric(name="ece", value=value, low=low, high=high, n=len(frame))
        draws = np.random.default_rng(0).random((200, len(frame))) < confidence
        perfect = float(np.mean([expected_calibration_error(confidence, draw, self.bins) for draw in draws]))
        brier = stats.mean("brier", frame["brier"], unit="1")
        gap = float(confidence.mean() - correct.mean())
        statement = (
            f"Expected calibration error {percent(ece)} (n = {ece.n}; a perfectly calibrated model would show about"
            f" {100 * perfect:.1f} % on as many images); on average the model is {abs(100 * gap):.1f} points"
            f" {'over' if gap > 0 else 'under'}confident."
        )
        return Conclusion(
            metrics=[ece, brier, Metric(name="ece_of_perfect", value=perfect, n=len(frame))],
            findings=[
                Finding(
                    id="performance.calibration/ece", title="Honesty of the confidence", statement=statement,
                    metric=ece, evidence=[_diagram(confidence, correct, self.bins)],
                )
            ],
        )  # fmt: skip


def expected_calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.float64], bins: int) -> float:
    """ECE with bins of equal mass; confidences and correctness (n,)."""
    import numpy as np

    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(confidence[p].mean() - correct[p].mean()) * len(p) for p in parts) / len(order))


def _diagram(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> Curve:
    import numpy as np

    from auditor import stats

    points = []
    for part in np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence))):
        value, low, high = stats.wilson(int(correct[part].sum()), len(part))
        points.append(Point(x=float(confidence[part].mean()), y=value, low=low, high=high, n=len(part)))
    return Curve(
        title="Reliability diagram",
        x=Axis(label="mean confidence of the bin", format="percent", high=1, unit="fraction"),
        y=Axis(label="accuracy in the bin", format="percent", low=0, high=1, unit="fraction"),
        series=[
            Series(name="model", points=points),
            Series(name="perfect", points=[Point(x=p.x, y=p.x) for p in (points[0], points[-1])]),
        ],
        caption="Bins of equal size. Below the line the model is overconfident; bands are 95 % intervals.",
    )


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Calibration]
