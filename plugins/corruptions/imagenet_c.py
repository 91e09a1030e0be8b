"""ImageNet-C style corruptions: noise, blur, weather and digital artefacts at up to five severities.

Parameters are those of CIFAR-10-C up to 84 pixels and those of ImageNet-C above. The key metric is the mean corruption
error without the published division by AlexNet's errors, which exist for ImageNet only. Numbers differ from those on
the ImageNet-C files, which were stored as JPEG and whose frost is made from photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import (
    Conclusion,
    Corruption,
    Example,
    Finding,
    Level,
    Meta,
    Metric,
    MetricSpec,
    PerImage,
    Records,
)
from auditor.findings.formatting import percent
from auditor.plugins.corruptions import _imagenet_c_evidence as evidence
from auditor.probes.corruption import first_correct
from auditor.probes.units import units_by_image

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Pixels, Randomness

FAMILIES: Mapping[str, Sequence[str]] = {
    "noise": ("gaussian-noise", "shot-noise", "impulse-noise"),
    "blur": ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic-transform", "pixelate", "jpeg-compression"),
}
"""The families of the paper."""

ALL = tuple(name for names in FAMILIES.values() for name in names)


@dataclass(frozen=True, kw_only=True)
class ImageNetC(Corruption):
    """Apply the 15 corruptions of Hendrycks and Dietterich."""

    meta = Meta(
        id="corruptions.imagenet-c",
        title="ImageNet-C style corruptions",
        area="corruptions",
        why="Cameras shake, lenses fog, files are compressed. A model that loses accuracy to this fails without an"
        " adversary and must not be used unattended under these conditions.",
        references=("https://arxiv.org/abs/1903.12261",),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="mce", label="Mean corruption error", better="lower"),
        MetricSpec(
            name="relative_mce", label="Mean corruption error less the clean error", better="lower", difference=True
        ),
        *Corruption.metrics,
    )
    samples: int = 500
    corruptions: Sequence[str] = ALL
    """Any of the 15."""
    severities: Sequence[int] = (1, 2, 3, 4, 5)

    def __post_init__(self) -> None:
        """Refuse unknown corruptions and severities."""
        unknown = [name for name in self.corruptions if name not in ALL]
        if unknown:
            raise ValueError(f"unknown corruption {', '.join(unknown)}; expected some of {', '.join(ALL)}")
        if not self.corruptions or not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise ValueError("corruptions and severities must name at least one; severities lie between 1 and 5")

    def levels(self) -> Sequence[Level]:
        """Return every corruption at every severity, mildest first."""
        return [{"corruption": name, "severity": s} for name in self._names() for s in self._severities()]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Corrupt the batch; every severity uses the same random draws."""
        del classifier
        from auditor.algorithms.corruptions import corrupt

        name = str(level["corruption"])
        return corrupt(name, batch.pixels, int(level["severity"]), [rng(image_id, name) for image_id in batch.ids])

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and level, with the parameter set for the image size."""
        import numpy as np

        from auditor.algorithms.corruptions import parameter_set

        columns = super().measure(classifier, batch, rng)
        return {**columns, "parameters": np.full(len(columns["row"]), parameter_set(batch.pixels.shape))}

    def examples(self, records: Records) -> Sequence[Example]:
        """Request the first correctly classified image in every family's corruptions at a middle severity."""
        image = first_correct(records.frame)
        severities = self._severities()
        severity = severities[len(severities) // 2]
        return [Example(image_id=image, at={"family": name, "severity": severity}) for name in self._families()]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """Draw the clean images and their corruptions of one family."""
        severity = example.at["severity"]
        corrupted = {
            name: self.perturbed(classifier, batch, rng, {"corruption": name, "severity": severity})
            for name in self._families()[str(example.at["family"])]
        }
        return {"clean": batch.pixels, **corrupted}

    def conclude(self, records: Records) -> Conclusion:
        """Return the mean corruption error, absolute and relative to the clean error, and accuracy by level."""
        from auditor import statistics

        frame = records.frame.assign(correct=records.frame["perturbed_prediction"] == records.frame["label"])
        once = frame.drop_duplicates("image_id").set_index("image_id")
        clean_error = (once["prediction"] != once["label"]).astype(float)
        clean = statistics.proportion("accuracy", clean_error == 0, units=once.get("unit"))
        # every image has every level, so its mean over rows is its mean over corruptions of means over severities
        error = 1.0 - frame.groupby("image_id")["correct"].mean()
        units = units_by_image(frame, error.index)
        mce = statistics.mean("mce", error, unit="fraction", share=True, units=units)
        relative = statistics.mean("relative_mce", error - clean_error, unit="fraction", units=units)
        levels = [
            statistics.proportion(
                "corruption_accuracy",
                rows["correct"],
                at={"corruption": name, "severity": int(severity)},
                units=rows.get("unit"),
            ).lost_from(clean.value)
            for (name, severity), rows in frame.groupby(["corruption", "severity"], sort=False)
        ]
        means = {name: evidence.mean_accuracy(frame, [name]) for name in self._names()}
        families = self._families()
        finding = Finding(
            id=f"{self.meta.id}/levels",
            title=self.meta.title,
            statement=self._statement(records, mce, relative, clean, means),
            metric=mce,
            evidence=[
                evidence.method_text(frame),
                evidence.accuracy_map(levels),
                evidence.family_curve(families, frame, clean, records.accuracy_name),
                evidence.corruption_table(families, frame, levels, means),
                evidence.worst_table(levels),
                *evidence.family_grid(records),
            ],
        )
        return Conclusion(metrics=[mce, relative, *levels], findings=[finding])

    def per_image(self, records: Records) -> list[PerImage]:
        """Return each image's error over all corruptions, absolute and relative, and correctness at each level."""
        frame = records.frame
        correct = (frame["perturbed_prediction"] == frame["label"]).set_axis(frame["image_id"])
        error = 1.0 - correct.groupby(level=0).mean()
        once = frame.drop_duplicates("image_id").set_index("image_id")
        clean_error = (once["prediction"] != once["label"]).astype(float)
        values = [
            PerImage(name="mce", values=error),
            PerImage(name="relative_mce", values=error - clean_error),
        ]
        for level in self.levels():
            rows = (frame["corruption"] == level["corruption"]) & (frame["severity"] == level["severity"])
            if rows.any():
                values.append(PerImage(name="corruption_accuracy", values=correct[rows.to_numpy()], at=level))
        return values

    def _names(self) -> list[str]:
        return [name for name in ALL if name in self.corruptions]

    def _severities(self) -> list[int]:
        return sorted(set(self.severities))

    def _families(self) -> dict[str, list[str]]:
        chosen = {family: [name for name in names if name in self.corruptions] for family, names in FAMILIES.items()}
        return {family: names for family, names in chosen.items() if names}

    def _statement(
        self, records: Records, mce: Metric, relative: Metric, clean: Metric, means: Mapping[str, Metric]
    ) -> str:
        worst = min(means, key=lambda name: means[name].value or 0.0)
        scope = f"Over {len(means)} corruptions at {len(self._severities())} severities, the model"
        if not records.labelled:
            return (
                f"{scope} changes its clean answer on {percent(mce)} of the images (n = {mce.n}). The worst corruption"
                f" is {worst}, with {percent(means[worst])} unchanged answers."
            )
        points = "" if relative.value is None else f", {100 * relative.value:.1f} points above the clean error"
        return (
            f"{scope} misclassifies {percent(mce)} of the images{points} (n = {mce.n}; clean accuracy"
            f" {percent(clean)}). The worst corruption is {worst}, with a mean accuracy of {percent(means[worst])}."
        )
