"""Calibration: does a confidence of 0.8 mean right in 80 of 100 cases?

ECE: images are cut into bins of equal size by confidence; the mean over bins of |accuracy - confidence|, weighted by
size (Guo et al. 2017, arXiv:1706.04599, with equal-mass bins after Nixon et al. 2019, arXiv:1904.01685). With few
images even a perfect model has an ECE above zero: what it would have on these very confidences is simulated and
reported beside it, and so is a debiased error (Kumar, Liang and Ma 2019, arXiv:1909.10155). Brier score: mean squared
distance of the probabilities from the one-hot label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import (
    Axis,
    Conclusion,
    Curve,
    Finding,
    Meta,
    Metric,
    PerImage,
    Point,
    Probe,
    Records,
    Series,
    Table,
    hookimpl,
)
from auditor.findings.evidence import Evidence
from auditor.findings.metric import percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_GROUP_BINS = 5
_LINES = 4
"""More lines than these nobody tells apart in one diagram."""

_THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Calibration(Probe):
    """Whether the model's confidence may be used for decisions."""

    meta = Meta(
        id="performance.calibration",
        title="Calibration of confidence",
        area="performance",
        why="A threshold on the confidence ('ask a human below 0.9') protects only if the confidence is honest.",
        references=("https://arxiv.org/abs/1706.04599", "https://arxiv.org/abs/1904.01685",
                    "https://arxiv.org/abs/1909.10155"),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
        version=2,
    )  # fmt: skip
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)
    bins: int = 15
    minimum: int = 50
    """Groups with fewer images get no calibration error of their own."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Confidence, squared distance from the label and cross entropy; no passes of its own."""
        del classifier, rng
        import numpy as np

        one_hot = np.eye(batch.probabilities.shape[1])[batch.labels]
        return {
            "confidence": batch.probabilities.max(axis=1).astype(np.float64),
            "brier": ((batch.probabilities - one_hot) ** 2).sum(axis=1),
            "log_loss": -np.log(np.clip((batch.probabilities * one_hot).sum(axis=1), 1e-15, 1)),
        }

    def conclude(self, records: Records) -> Conclusion:
        """ECE, Brier score, the reliability diagram, groups, and what a threshold on the confidence would stop."""
        import numpy as np

        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind[:-1]} was measured")
        confidence = frame["confidence"].to_numpy()
        correct = (frame["prediction"] == frame["label"]).to_numpy()
        value, low, high = statistics.calibration_interval(confidence, correct, self.bins)
        ece = Metric(name="ece", value=value, low=low, high=high, n=len(frame))
        draws = np.random.default_rng(0).random((200, len(frame))) < confidence
        perfect = float(np.mean([statistics.calibration_error(confidence, draw, self.bins) for draw in draws]))
        debiased = statistics.calibration_error_debiased(confidence, correct, self.bins)
        brier = statistics.mean("brier", frame["brier"], unit="1")
        gap = float(confidence.mean() - correct.mean())
        statement = (
            f"Expected calibration error {percent(ece)} (n = {ece.n}; a perfectly calibrated model would show about"
            f" {100 * perfect:.1f} % on as many {records.kind}); on average the model is {abs(100 * gap):.1f} points"
            f" {'over' if gap > 0 else 'under'}confident."
        )
        evidence: list[Evidence] = [_diagram(confidence, correct, self.bins), *self._by_group(records)]
        findings = [
            Finding(
                id="performance.calibration/ece", title="Honesty of the confidence", statement=statement, metric=ece,
                evidence=evidence,
            ),
            _threshold(records, confidence, correct),
        ]  # fmt: skip
        metrics = [
            ece, brier, Metric(name="ece_of_perfect", value=perfect, n=len(frame)),
            Metric(name="rms_calibration_error_debiased", value=debiased, n=len(frame)),
        ]  # fmt: skip
        return Conclusion(metrics=metrics, findings=findings)

    def _by_group(self, records: Records) -> list[Evidence]:
        """Calibration error and overconfidence of every group that is large enough."""

        from auditor import statistics
        from auditor.probes.breakdown import groupings

        frame = records.frame
        rows: list[list[Any]] = []
        diagrams: list[Evidence] = []
        for name, values in groupings(frame, cross=False).items():
            series: list[Series] = []
            for value, part in frame.groupby(values, sort=True):
                if len(part) < self.minimum:
                    continue
                confidence = part["confidence"].to_numpy()
                correct = (part["prediction"] == part["label"]).to_numpy()
                error = statistics.calibration_interval(confidence, correct, self.bins, resamples=200)
                means = [statistics.mean("mean", part[key], unit="1").cell() for key in ("brier", "log_loss")]
                over = statistics.mean("overconfidence", confidence - correct, unit="fraction")
                debiased = statistics.calibration_error_debiased(confidence, correct, self.bins)
                rows.append([name, str(value), error._asdict(), debiased, *means, over.cell(), len(part)])
                series.append(Series(name=str(value), points=_points(confidence, correct, _GROUP_BINS)))
            if 2 <= len(series) <= _LINES:
                diagrams.append(
                    Curve(
                        title=f"Reliability by {name}",
                        x=Axis(label="mean confidence of the bin", format="percent", high=1, unit="fraction"),
                        y=Axis(label="accuracy in the bin", format="percent", low=0, high=1, unit="fraction"),
                        series=series, caption=f"{_GROUP_BINS} bins of equal size for each group.",
                    )
                )  # fmt: skip
        table = Table(
            title="Calibration by group",
            columns=["group", "value", "calibration error", "the same, debiased", "Brier score", "log-loss",
                     "overconfidence", "n"],
            formats=["text", "text", "percent", "percent", "number", "number", "percent", "count"], rows=rows[:60],
            caption=f"Groups of at least {self.minimum} {records.kind}; overconfidence is mean confidence less"
            " accuracy.",
        )  # fmt: skip
        return [table, *diagrams] if rows else []

    def per_image(self, records: Records) -> list[PerImage]:
        """Each image's squared distance from its label; the calibration error is no mean over images."""
        return [PerImage(name="brier", values=records.frame.set_index("image_id")["brier"])]


def _threshold(records: Records, confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Finding:
    """Who would be stopped by 'ask a human below this confidence': errors, right answers, adversarial images."""
    import numpy as np

    from auditor import statistics

    adversarial = _adversarial(records)
    rows: list[list[Any]] = []
    for threshold in _THRESHOLDS:
        below = confidence < threshold
        cells: list[Any] = [
            statistics.proportion("stopped", part < threshold).cell() if len(part) else None
            for part in (confidence[correct], confidence[~correct], *adversarial.values())
        ]
        rows.append([threshold, statistics.proportion("stopped", below).cell(), *cells])
    names = list(adversarial)
    means = [
        f"{text} {100 * float(np.mean(part)):.0f} %"
        for text, part in (("right answers", confidence[correct]), ("errors", confidence[~correct]))
        if len(part)
    ]
    means += [
        f"{records.kind} broken by {name} {100 * float(np.mean(part)):.0f} %" for name, part in adversarial.items()
    ]
    shares: list[Any] = ["percent"] * (3 + len(names))
    table = Table(
        title="What a threshold on the confidence would stop",
        columns=[
            "threshold",
            f"all {records.kind}",
            "right answers",
            "errors",
            *[f"broken by {name}" for name in names],
        ],
        formats=["number", *shares],
        rows=rows,
        caption=f"Share of the {records.kind} whose confidence lies below the threshold. Attacks here did not aim at a"
        " high confidence; one that does would be stopped less often.",
    )
    return Finding(
        id="performance.calibration/threshold",
        title="What a confidence threshold protects from",
        statement=f"Mean confidence: {', '.join(means)} (n = {len(confidence)} {records.kind}).",
        evidence=[table],
    )


def _adversarial(records: Records) -> dict[str, NDArray[np.float64]]:
    """Per attack the confidence in the wrong answer on each image that it broke, at the smallest size that did."""
    found: dict[str, NDArray[np.float64]] = {}
    for probe_id, frame in records.others.items():
        if not {"success", "norm", "confidence", "linf"} <= set(frame.columns):
            continue
        broken = frame[frame["success"].astype(bool) & (frame["norm"] == "linf")]
        first = broken.sort_values("linf", kind="stable").drop_duplicates("image_id")
        if len(first):
            found[probe_id.removeprefix("attacks.")] = first["confidence"].to_numpy(dtype=float)
    return dict(list(found.items())[:4])


def _diagram(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> Curve:
    points = _points(confidence, correct, bins)
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


def _points(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> list[Point]:
    """Accuracy against mean confidence in bins of equal size."""
    import numpy as np

    from auditor import statistics

    points = []
    for part in np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence))):
        value, low, high = statistics.wilson(int(correct[part].sum()), len(part))
        points.append(Point(x=float(confidence[part].mean()), y=value, low=low, high=high, n=len(part)))
    return points


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Calibration]
