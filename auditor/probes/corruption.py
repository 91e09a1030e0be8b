"""Base class of corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.findings.evidence import Axis, Curve, Series, Table
from auditor.findings.finding import Conclusion, Finding
from auditor.findings.metric import Metric, percent
from auditor.probes.base import Columns, Example, PerImage, Randomness, Records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
from auditor.probes.levels import Level, level_name, line_name, metric_point, number, number_axis
from auditor.probes.perturbation import SHOWN, Perturbation, join_columns, picture_rows, vector_length


@dataclass(frozen=True, kw_only=True)
class Corruption(Perturbation):
    """Images made worse by chance, not by an adversary: accuracy is what is expected at each level by itself."""

    metric: ClassVar[str] = "corruption_accuracy"
    headline: ClassVar[Level | None] = None
    """The level that stands for the probe; by default the mean over all levels does."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image and level."""
        import numpy as np

        signal = vector_length(batch.pixels.reshape(len(batch), -1))
        parts: list[dict[str, NDArray[Any]]] = []
        for level in self.levels():
            columns = self._columns(classifier, batch, self.perturbed(classifier, batch, rng, level), level, signal)
            parts.append({**columns, "row": np.arange(len(batch))})
        return join_columns(parts)

    def examples(self, records: Records) -> Sequence[Example]:
        """One image, the first that the clean model gets right, at the middle level of every line."""
        frame = records.frame
        right = frame[frame["prediction"] == frame["label"]]
        image = (right if len(right) else frame)["image_id"].iloc[0]
        return [
            Example(image_id=image, at=levels[len(levels) // 2])
            for levels in list(self._lines().values())[:SHOWN]
        ]  # fmt: skip

    def conclude(self, records: Records) -> Conclusion:
        """Accuracy at each level with Wilson's interval, one curve for each kind of number."""
        import numpy as np

        from auditor import statistics

        frame = records.frame
        correct = (frame["perturbed_prediction"] == frame["label"]).to_numpy()
        once = frame.drop_duplicates("image_id")
        clean = statistics.proportion("accuracy", once["prediction"] == once["label"])
        metrics: list[Metric] = []
        curves: dict[str, list[Series]] = {}
        rows: list[list[Any]] = []
        for line, levels in self._lines().items():
            points = []
            for level in levels:
                here = _matches(frame, level)
                metric = statistics.proportion(self.metric, correct[here], at=level)
                metrics.append(metric)
                points.append(metric_point(metric))
                rows.append([line, level_name(level), metric.cell(),
                             float(np.median(frame["snr_db"].to_numpy()[here])), metric.n])  # fmt: skip
            curves.setdefault(number(levels[0])[0], []).append(Series(name=line, points=points))
        mean = statistics.mean("mean_" + self.metric, frame.assign(ok=correct).groupby("image_id")["ok"].mean(),
                          unit="fraction")  # fmt: skip
        chosen = self._headline(metrics) or mean
        worst = min(metrics, key=lambda m: 1.0 if m.value is None else m.value)
        verb = records.accuracy_name
        plots = [
            Curve(
                title=f"Accuracy against {key.replace('_', ' ')}",
                caption=f"Bands are 95 % intervals. Clean: {percent(clean)}.",
                x=number_axis(key), y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
                series=series,
            )
            for key, series in curves.items()
        ]  # fmt: skip
        table = Table(
            title="By level", columns=["kind", "level", "accuracy", "median SNR (dB)", "n"],
            formats=["text", "text", "percent", "number", "count"], rows=rows,
        )  # fmt: skip
        finding = Finding(
            id=f"{self.meta.id}/levels",
            title=self.meta.title,
            statement=f"Over all levels {verb} is {percent(mean)} against {percent(clean)} on the clean {records.kind}"
            f" (n = {clean.n}); lowest at {line_name(worst.at)}, {level_name(worst.at)}: {percent(worst)}.",
            metric=chosen,
            evidence=[*plots, table, *picture_rows(records, "One image at the middle level of each kind")],
        )
        return Conclusion(metrics=[chosen, *[m for m in [*metrics, mean] if m is not chosen]], findings=[finding])

    def per_image(self, records: Records) -> Sequence[PerImage]:
        """Whether each image is right at each level, and at which share of the levels."""
        frame = records.frame
        correct = (frame["perturbed_prediction"] == frame["label"]).set_axis(frame["image_id"])
        each = [PerImage(name=self.metric, values=correct[_matches(frame, level)], at=level) for level in self.levels()]
        return [*each, PerImage(name="mean_" + self.metric, values=correct.groupby(level=0).mean())]

    def _lines(self) -> dict[str, list[Level]]:
        lines: dict[str, list[Level]] = {}
        for level in self.levels():
            lines.setdefault(line_name(level), []).append(level)
        return lines

    def _headline(self, metrics: Sequence[Metric]) -> Metric | None:
        if self.headline is None:
            return None
        return next((metric for metric in metrics if dict(metric.at) == dict(self.headline)), None)


def _matches(frame: pd.DataFrame, level: Level) -> NDArray[np.bool_]:
    import numpy as np

    here = np.ones(len(frame), dtype=bool)
    for key, value in level.items():
        # settings that come back from audit.json have six digits
        same = frame[key] == value if isinstance(value, str) else np.isclose(frame[key], value, rtol=1e-5, atol=0)
        here &= np.asarray(same)
    return here
