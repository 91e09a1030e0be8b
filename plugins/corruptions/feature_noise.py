"""Noise on rows: Gaussian, in units of every feature's own standard deviation over the table.

Features that hold whole numbers only are rounded again before the model sees them, and nothing leaves the range that
the table has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Corruption, Level, Meta, Probe, hookimpl

if TYPE_CHECKING:
    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


@dataclass(frozen=True, kw_only=True)
class FeatureNoise(Corruption):
    """Measurements that are a little off."""

    meta = Meta(
        id="corruptions.feature-noise",
        title="Noise on the features",
        area="corruptions",
        why="Features are measured, typed in and rounded by somebody. A model whose answer hangs on a tenth of a"
        " standard deviation gives another one next time.",
        references=("https://arxiv.org/abs/1903.12261",),
        input_kinds=frozenset({"rows"}),
    )
    headline: ClassVar[Level | None] = {"noise": "Gaussian", "standard_deviations": 0.1}
    deviations: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Standard deviations of the noise, each in units of the feature's own."""

    def levels(self) -> Sequence[Level]:
        """Weakest first."""
        return [{"noise": "Gaussian", "standard_deviations": deviation} for deviation in self.deviations]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """The same draw at every level, scaled."""
        import numpy as np

        scale: Any = classifier.preprocessing
        shape = batch.pixels.shape[1:]
        noise = np.stack([rng(image_id).standard_normal(shape, dtype=np.float32) for image_id in batch.ids])
        noisy: Pixels = batch.pixels + noise * scale.deviations * np.float32(level["standard_deviations"])
        return noisy


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [FeatureNoise]
