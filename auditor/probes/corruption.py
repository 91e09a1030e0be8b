"""Base class of corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.algorithms.norms import image_norms
from auditor.findings.evidence import Curve, Series, Table
from auditor.findings.finding import Conclusion, Finding
from auditor.findings.formatting import percent
from auditor.findings.metric import Metric, MetricSpec
from auditor.probes.attack_findings import level_text
from auditor.probes.base import Columns, Example, PerImage, Randomness, Records
from auditor.probes.example_grid import MAX_EXAMPLES, example_grid
from auditor.probes.levels import Level, level_name, line_name, number
from auditor.probes.metric_tables import lowest
from auditor.probes.perturbation import Perturbation, join_columns
from auditor.probes.plots import accuracy_axis, metric_point, number_axis
from auditor.probes.units import units_by_image

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Corruption(Perturbation):
    """Corrupt images by chance, without an adversary; the accuracy is reported separately for each level."""

    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="corruption_accuracy", label="Accuracy under corruption", better="higher"),
        MetricSpec(name="mean_corruption_accuracy", label="Mean accuracy under corruption", better="higher"),
    )
    headline: ClassVar[Level | None] = None
    """Level of the key metric; None for the mean over all levels."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and level."""
        import numpy as np

        signal = image_norms(batch.pixels)
        parts: list[dict[str, NDArray[Any]]] = []
        for level in self.levels():
            columns = self._columns(classifier, batch, self.perturbed(classifier, batch, rng, level), level, signal)
            parts.append({**columns, "row": np.arange(len(batch))})
        return join_columns(parts)

    def examples(self, records: Records) -> Sequence[Example]:
        """Request the first correctly classified image at the middle level of every line."""
        image = first_correct(records.frame)
        lines = list(self._lines().values())[:MAX_EXAMPLES]
        return [Example(image_id=image, at=levels[len(levels) // 2]) for levels in lines]

    def conclude(self, records: Records) -> Conclusion:
        """Return the accuracy at each level with Wilson's interval, one curve for each kind of number."""
        import numpy as np

        from auditor import statistics

        frame = records.frame.assign(correct=records.frame["perturbed_prediction"] == records.frame["label"])
        at_level = {
            line: [(level, frame[_matches(frame, level)]) for level in levels] for line, levels in self._lines().items()
        }
        once = frame.drop_duplicates("image_id")
        clean = statistics.proportion("accuracy", once["prediction"] == once["label"], units=once.get("unit"))
        by_line = {
            line: [
                statistics.proportion(
                    "corruption_accuracy", rows["correct"], at=level, units=rows.get("unit")
                ).lost_from(clean.value)
                for level, rows in pairs
            ]
            for line, pairs in at_level.items()
        }
        metrics = [metric for line in by_line.values() for metric in line]
        mean = mean_by_image("mean_corruption_accuracy", frame, frame["correct"])
        chosen = self._key_metric(metrics) or mean
        snr = [float(np.median(rows["snr_db"])) for pairs in at_level.values() for _, rows in pairs]
        worst = lowest(metrics)
        accuracy = records.accuracy_name
        finding = Finding(
            id=f"{self.meta.id}/levels",
            title=self.meta.title,
            statement=f"Mean {accuracy} over all levels is {percent(mean)}, on the clean {records.kind}"
            f" {percent(clean)} (n = {clean.n}). The lowest is {percent(worst)}"
            f"{f', for {line_name(worst.at)}' if line_name(worst.at) else ''} at {level_name(worst.at)}.",
            metric=chosen,
            evidence=[
                *_curves(by_line, accuracy, clean),
                _table(metrics, snr),
                *example_grid(
                    records,
                    "One image at the middle level of each kind",
                    ["clean", "perturbation", "perturbed"],
                    row_text=lambda level, _: level_text(level),
                ),
            ],
        )
        return Conclusion(metrics=[chosen, *(m for m in [*metrics, mean] if m is not chosen)], findings=[finding])

    def per_image(self, records: Records) -> Sequence[PerImage]:
        """Return whether each image is correct at each level, and at which share of the levels."""
        frame = records.frame
        correct = (frame["perturbed_prediction"] == frame["label"]).set_axis(frame["image_id"])
        by_level = [
            PerImage(name="corruption_accuracy", values=correct[_matches(frame, level)], at=level)
            for level in self.levels()
        ]
        return [*by_level, PerImage(name="mean_corruption_accuracy", values=correct.groupby(level=0).mean())]

    def _lines(self) -> dict[str, list[Level]]:
        lines: dict[str, list[Level]] = {}
        for level in self.levels():
            lines.setdefault(line_name(level), []).append(level)
        return lines

    def _key_metric(self, metrics: Sequence[Metric]) -> Metric | None:
        if self.headline is None:
            return None
        return next((metric for metric in metrics if dict(metric.at) == dict(self.headline)), None)


def mean_by_image(name: str, frame: pd.DataFrame, values: pd.Series) -> Metric:
    """Return the mean over images of each image's mean of ``values``, which has an entry per row of the records."""
    from auditor import statistics

    by_image = values.groupby(frame["image_id"]).mean()
    return statistics.mean(name, by_image, unit="fraction", share=True, units=units_by_image(frame, by_image.index))


def first_correct(frame: pd.DataFrame) -> str:
    """Return the id of the first image that is correct when clean, or of the first image."""
    correct = frame[frame["prediction"] == frame["label"]]
    return str((correct if len(correct) else frame)["image_id"].iloc[0])


def _curves(by_line: dict[str, list[Metric]], accuracy: str, clean: Metric) -> list[Curve]:
    """Plot one curve for each kind of number, with one series per line."""
    by_key: dict[str, list[Series]] = {}
    for line, metrics in by_line.items():
        series = Series(name=line, points=[metric_point(metric) for metric in metrics])
        by_key.setdefault(number(metrics[0].at)[0], []).append(series)
    return [
        Curve(
            title=f"Accuracy against {key.replace('_', ' ')}",
            caption=f"Bands: 95 % intervals. Clean: {percent(clean)}.",
            x=number_axis(key),
            y=accuracy_axis(accuracy),
            series=series,
        )
        for key, series in by_key.items()
    ]


def _table(metrics: Sequence[Metric], snr: Sequence[float]) -> Table:
    return Table(
        title="Accuracy by level",
        columns=["kind", "level", "accuracy", "median SNR (dB)", "n"],
        formats=["text", "text", "percent", "number", "count"],
        rows=[
            [line_name(metric.at), level_name(metric.at), metric.cell(), median, metric.n]
            for metric, median in zip(metrics, snr, strict=True)
        ],
    )


def _matches(frame: pd.DataFrame, level: Level) -> NDArray[np.bool_]:
    """Return which rows belong to a level."""
    import numpy as np

    rows = np.ones(len(frame), dtype=bool)
    for key, value in level.items():
        # settings read back from audit.json have six digits
        same = frame[key] == value if isinstance(value, str) else np.isclose(frame[key], value, rtol=1e-5, atol=0)
        rows &= np.asarray(same)
    return rows
