"""ImageNet-C style corruptions: noise, blur, weather and digital artefacts at up to five severities.

Parameters are those of CIFAR-10-C up to 84 pixels and those of ImageNet-C above. The headline is the mean corruption
error without the published division by AlexNet's errors, which exist for ImageNet alone. Numbers differ from those on
the ImageNet-C files, which were stored as JPEG and whose frost is made from photographs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import (
    Axis,
    Conclusion,
    Corruption,
    Curve,
    Example,
    Finding,
    GridRow,
    HeatMap,
    ImageGrid,
    Level,
    Meta,
    Metric,
    PerImage,
    Picture,
    Point,
    Probe,
    Records,
    Series,
    Table,
    Text,
    hookimpl,
)
from auditor.findings.metric import percent

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

FAMILIES: Mapping[str, Sequence[str]] = {
    "noise": ("gaussian-noise", "shot-noise", "impulse-noise"),
    "blur": ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic-transform", "pixelate", "jpeg-compression"),
}
"""The families of the paper."""

ALL = tuple(name for names in FAMILIES.values() for name in names)

_WORST = 5
_SETS = {"imagenet": "ImageNet-C (made for 224x224)", "cifar": "CIFAR-10-C (made for 32x32)"}


@dataclass(frozen=True, kw_only=True)
class ImageNetC(Corruption):
    """What ordinary wear of an image costs: the 15 corruptions of Hendrycks and Dietterich."""

    meta = Meta(
        id="corruptions.imagenet-c",
        title="ImageNet-C style corruptions",
        area="corruptions",
        why="Cameras shake, lenses fog, files are compressed: a model that loses accuracy to this fails without an"
        " adversary, and where it does is where it must not be used unattended.",
        references=("https://arxiv.org/abs/1903.12261",),
    )
    samples: int = 500
    corruptions: Sequence[str] = ALL
    """Which of the 15."""
    severities: Sequence[int] = (1, 2, 3, 4, 5)

    def __post_init__(self) -> None:
        """Refuse unknown corruptions and severities."""
        unknown = [name for name in self.corruptions if name not in ALL]
        if unknown:
            raise ValueError(f"no corruption {', '.join(unknown)}; there are {', '.join(ALL)}")
        if not self.corruptions or not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise ValueError("corruptions and severities must name at least one; severities lie between 1 and 5")

    def levels(self) -> Sequence[Level]:
        """Every corruption at every severity, mildest first."""
        return [{"corruption": name, "severity": s} for name in self._names() for s in self._severities()]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """The same random draws at every severity."""
        del classifier
        from auditor.algorithms.corruptions import corrupt

        name = str(level["corruption"])
        return corrupt(name, batch.pixels, int(level["severity"]), [rng(image_id, name) for image_id in batch.ids])

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image and level, with the set of parameters that fits the image's size."""
        import numpy as np

        from auditor.algorithms.corruptions import parameter_set

        columns = super().measure(classifier, batch, rng)
        return {**columns, "parameters": np.full(len(columns["row"]), parameter_set(batch.pixels.shape))}

    def examples(self, records: Records) -> Sequence[Example]:
        """One image, the first that the clean model gets right, in every family's corruptions at a middle severity."""
        frame = records.frame
        right = frame[frame["prediction"] == frame["label"]]
        image = (right if len(right) else frame)["image_id"].iloc[0]
        severities = self._severities()
        severity = severities[len(severities) // 2]
        return [Example(image_id=image, at={"family": name, "severity": severity}) for name in self._families()]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """The clean images and their corruptions of one family."""
        severity = example.at["severity"]
        names = self._families()[str(example.at["family"])]
        levels: list[Level] = [{"corruption": name, "severity": severity} for name in names]
        pictures = {str(at["corruption"]): self.perturbed(classifier, batch, rng, at) for at in levels}
        return {"clean": batch.pixels, **pictures}

    def conclude(self, records: Records) -> Conclusion:
        """Mean corruption error, absolute and relative to the clean error; by corruption, severity and family."""
        from auditor import statistics

        frame = records.frame
        frame = frame.assign(correct=frame["perturbed_prediction"] == frame["label"])
        once = frame.drop_duplicates("image_id").set_index("image_id")
        clean = statistics.proportion("accuracy", once["prediction"] == once["label"])
        # every image has every level, so its mean over rows is its mean over corruptions of means over severities
        error = 1.0 - frame.groupby("image_id")["correct"].mean()
        clean_error = (once["prediction"] != once["label"]).astype(float)
        mce = statistics.mean("mce", error, unit="fraction")
        relative = statistics.mean("relative_mce", error - clean_error, unit="fraction")
        levels = [
            statistics.proportion(
                "corruption_accuracy", rows["correct"], at={"corruption": name, "severity": int(severity)}
            )
            for (name, severity), rows in frame.groupby(["corruption", "severity"], sort=False)
        ]
        means = {name: _mean_accuracy(frame, [name]) for name in self._names()}
        finding = Finding(
            id=f"{self.meta.id}/levels",
            title=self.meta.title,
            statement=self._statement(records, mce, relative, clean, means),
            metric=mce,
            evidence=[
                self._about(frame),
                self._heat_map(levels),
                self._curve(records, frame, clean),
                self._table(frame, levels, means),
                self._worst(levels),
                *self._pictures(records),
            ],
        )
        return Conclusion(metrics=[mce, relative, *levels], findings=[finding])

    def per_image(self, records: Records) -> list[PerImage]:
        """Each image's error over all corruptions, absolute and beyond its clean error, and at each severity."""
        frame = records.frame
        correct = (frame["perturbed_prediction"] == frame["label"]).set_axis(frame["image_id"])
        error = 1.0 - correct.groupby(level=0).mean()
        once = frame.drop_duplicates("image_id").set_index("image_id")
        clean_error = (once["prediction"] != once["label"]).astype(float)
        levels = [
            PerImage(
                name="corruption_accuracy",
                values=correct[rows.to_numpy()],
                at={"corruption": name, "severity": severity},
            )
            for name in self._names()
            for severity in self._severities()
            if (rows := (frame["corruption"] == name) & (frame["severity"] == severity)).any()
        ]
        return [
            PerImage(name="mce", values=error),
            PerImage(name="relative_mce", values=error - clean_error),
            *levels,
        ]

    def _names(self) -> list[str]:
        return [name for name in ALL if name in self.corruptions]

    def _severities(self) -> list[int]:
        return sorted(set(self.severities))

    def _families(self) -> dict[str, list[str]]:
        chosen = {family: [n for n in names if n in self.corruptions] for family, names in FAMILIES.items()}
        return {family: names for family, names in chosen.items() if names}

    def _statement(
        self, records: Records, mce: Metric, relative: Metric, clean: Metric, means: Mapping[str, Metric]
    ) -> str:
        worst = min(means, key=lambda name: means[name].value or 0.0)
        over = f"Over all corruptions ({len(means)}) and severities ({len(self._severities())}) the model"
        if not records.labelled:
            return (
                f"{over} departs from its own clean answer on {percent(mce)} of the images (n = {mce.n}); most under"
                f" {worst}, where {percent(means[worst])} keep it."
            )
        points = "" if relative.value is None else f", {100 * relative.value:.1f} points above the clean error"
        return (
            f"{over} is wrong on {percent(mce)} of the images{points} (n = {mce.n}; clean accuracy {percent(clean)});"
            f" worst is {worst} with a mean accuracy of {percent(means[worst])}."
        )

    def _about(self, frame: pd.DataFrame) -> Text:
        used = _SETS[str(frame["parameters"].iloc[0])]
        sentences = [
            f"ImageNet-C style: corruptions computed on the audited images with the published parameters of {used},"
            " unscaled.",
            "Accuracies differ from those on the benchmark's own files, which were rounded and stored as JPEG.",
            "The mean corruption error is not divided by AlexNet's errors, which are published for ImageNet alone, so"
            " it must not be compared with mCE figures of the literature.",
        ]
        if "frost" in self.corruptions:
            sentences.append("Frost is a stand-in: procedural ice, not the published photographs.")
        return Text(title="What was done", text=" ".join(sentences))

    def _heat_map(self, levels: Sequence[Metric]) -> HeatMap:
        value = {(metric.at["corruption"], metric.at["severity"]): metric.value for metric in levels}
        return HeatMap(
            title="Accuracy by corruption and severity",
            values=[[value.get((name, severity)) for severity in self._severities()] for name in self._names()],
            row_labels=[name.replace("-compression", "").replace("-transform", "") for name in self._names()],
            column_labels=[str(severity) for severity in self._severities()],
            row_title="corruption",
            column_title="severity",
            format="percent",
            caption="Dark is good. Intervals are with the metrics: Wilson, by level.",
        )

    def _curve(self, records: Records, frame: pd.DataFrame, clean: Metric) -> Curve:
        series = []
        for family, names in self._families().items():
            points = []
            for severity in self._severities():
                metric = _mean_accuracy(frame[frame["severity"] == severity], names)
                points.append(Point(x=severity, y=metric.value, low=metric.low, high=metric.high, n=metric.n))
            series.append(Series(name=family, points=points))
        return Curve(
            title="Mean accuracy of each family against severity",
            x=Axis(label="severity"),
            y=Axis(
                label=records.accuracy_name,
                format="percent",
                low=0,
                high=1,
                unit="fraction",
            ),
            series=series,
            caption="Means over the corruptions of a family; bands are 95 % bootstrap intervals over images. Clean:"
            f" {percent(clean)}.",
        )

    def _table(self, frame: pd.DataFrame, levels: Sequence[Metric], means: Mapping[str, Metric]) -> Table:
        ends: dict[str, list[Metric]] = {}
        for metric in levels:
            ends.setdefault(str(metric.at["corruption"]), []).append(metric)
        snr = frame.groupby("corruption")["snr_db"].median()
        return Table(
            title="By corruption",
            columns=["corruption", "family", "mean accuracy", "mildest", "strongest", "median SNR (dB)"],
            formats=["text", "text", "percent", "percent", "percent", "number"],
            rows=[
                [name, family, means[name].cell(), ends[name][0].value, ends[name][-1].value, float(snr[name])]
                for family, names in self._families().items()
                for name in names
            ],
            caption=f"Means over severities {', '.join(map(str, self._severities()))}, with bootstrap intervals over"
            f" images (n = {levels[0].n}).",
        )

    def _worst(self, levels: Sequence[Metric]) -> Table:
        worst = sorted(levels, key=lambda metric: 1.0 if metric.value is None else metric.value)[:_WORST]
        return Table(
            title="The worst levels",
            columns=["corruption", "severity", "accuracy", "n"],
            formats=["text", "number", "percent", "count"],
            rows=[[metric.at["corruption"], metric.at["severity"], metric.cell(), metric.n] for metric in worst],
        )

    def _pictures(self, records: Records) -> list[ImageGrid]:
        rows: list[GridRow] = []
        for _, pictures in records.examples.groupby("example", sort=True):
            at = json.loads(pictures["at"].iloc[0])
            label = records.class_name(pictures["label"].iloc[0])
            cells = [
                Picture(
                    file=row.file,
                    caption=f"{row.picture}: {records.said(row)}",
                    alt=f"image of class {label}, {row.picture}",
                )
                for row in pictures.itertuples()
            ]
            rows.append(GridRow(label=f"{at['family']}, severity {at['severity']}; label {label}", cells=cells))
        grid = ImageGrid(
            title="One image by family",
            columns=["clean"],
            rows=rows,
            caption="Under each picture what was done to it and what the deployed model says to the stored 8-bit file."
            " Chosen as the first image that is right when clean, not for what breaks it.",
        )
        return [grid] if rows else []


def _mean_accuracy(frame: pd.DataFrame, names: Sequence[str]) -> Metric:
    """Accuracy over these corruptions and all severities in the frame, with a bootstrap interval over images."""
    from auditor import statistics

    rows: Any = frame[frame["corruption"].isin(list(names))]
    return statistics.mean("mean_corruption_accuracy", rows.groupby("image_id")["correct"].mean(), unit="fraction")


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [ImageNetC]
