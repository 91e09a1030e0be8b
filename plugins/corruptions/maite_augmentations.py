"""Augmentations of MAITE as corruptions, for example the image perturbations of nrtk.

They are Python objects: ``auditor.audit(..., augmentations={"blur": augmentation})`` gives them. docs/how-to/maite.md
shows it. The probe exists only in such runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from auditor import Conclusion, Corruption, Level, Meta, ProbeFamily, hookimpl
from auditor.probes.random_state import kept_random_state

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Probe, Randomness, Records, RunContext
    from auditor.data.dataset import Augmenter


@dataclass(frozen=True, kw_only=True)
class MaiteAugmentations(Corruption):
    """Apply augmentations of MAITE by severity, to one image at a time."""

    meta = Meta(
        id="corruptions.maite-augmentations",
        title="Augmentations of MAITE",
        area="corruptions",
        why="The operator chose these augmentations because images in operation look like this. A model that loses"
        " accuracy under them fails without an adversary.",
        references=("https://github.com/mit-ll-ai-technology/maite", "https://github.com/Kitware/nrtk"),
        needs=frozenset({"augmentations"}),
    )
    samples: int = 500
    augmentations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What identifies each augmentation: by name, one text for each severity, mildest first."""

    def levels(self) -> Sequence[Level]:
        """Return every augmentation at every severity, mildest first."""
        return [
            {"corruption": name, "severity": severity}
            for name, texts in self.augmentations.items()
            for severity in range(1, len(texts) + 1)
        ]

    def prepare(self, run: RunContext) -> Probe:
        """Return the probe that holds the augmentations."""
        settings = {each.name: getattr(self, each.name) for each in fields(self)}
        return _Prepared(**settings, given=run.augmentations)

    def conclude(self, records: Records) -> Conclusion:
        """Return the accuracy by level, and warn about augmentations whose results cannot be repeated."""
        from auditor.probes.augmentation_effects import RANDOM

        conclusion = super().conclude(records)
        random = [name for name, texts in self.augmentations.items() if any(f", {RANDOM} " in text for text in texts)]
        if not random:
            return conclusion
        warning = (
            f"The augmentations {', '.join(random)} draw random numbers that the audit does not seed, and change an"
            " image in another way each time, so their rows depend on the order of the images and cannot be repeated."
        )
        return replace(conclusion, warnings=[*conclusion.warnings, warning])

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Raise TypeError: only the prepared probe holds the augmentations."""
        raise TypeError(f"{self.meta.id} must be prepared before it perturbs")


@dataclass(frozen=True, kw_only=True)
class _Prepared(MaiteAugmentations):
    """The probe with its augmentations."""

    given: Augmenter | None = None

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Apply one augmentation; libraries that use the global random generators get a seed for each image."""
        import numpy as np

        assert self.given is not None
        name, severity = str(level["corruption"]), int(level["severity"])
        targets = np.eye(classifier.n_classes, dtype=np.float32)[batch.labels]
        results = batch.pixels.copy()
        for i, image_id in enumerate(batch.ids):
            with kept_random_state(int(rng(image_id, name).integers(2**31))):
                results[i] = self.given.apply(name, severity, batch.pixels[i], targets[i], image_id)
        return results


@hookimpl
def auditor_probe_families() -> list[ProbeFamily]:
    """Return the family of this one probe, which exists once a run names it."""
    return [ProbeFamily(name="maite", area="corruptions", members=lambda: ["augmentations"], probe=_probe)]


def _probe(member: str) -> type[Probe]:
    del member
    return MaiteAugmentations
