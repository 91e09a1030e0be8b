"""Gaussian noise on tabular features, in units of each feature's standard deviation over the table.

Integer features are rounded again before the model receives them, and values stay in the range of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Corruption, Level, Meta

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class FeatureNoise(Corruption):
    """Add noise to every feature."""

    meta = Meta(
        id="corruptions.feature-noise",
        title="Noise on the features",
        area="corruptions",
        why="Features are measured, entered and rounded with errors. If a tenth of a standard deviation changes the"
        " answer, the answer is not reproducible.",
        references=("https://arxiv.org/abs/1903.12261",),
        input_kinds=frozenset({"rows"}),
    )
    headline: ClassVar[Level | None] = {"noise": "Gaussian", "standard_deviations": 0.1}
    deviations: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Standard deviations of the noise, in units of the feature's standard deviation."""

    def levels(self) -> Sequence[Level]:
        """Return every deviation, weakest first."""
        return [{"noise": "Gaussian", "standard_deviations": deviation} for deviation in self.deviations]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Add noise; every level scales the same draw."""
        import numpy as np

        scale: Any = classifier.preprocessing
        shape = batch.pixels.shape[1:]
        noise = np.stack([rng(image_id).standard_normal(shape, dtype=np.float32) for image_id in batch.ids])
        noisy: Pixels = batch.pixels + noise * scale.deviations * np.float32(level["standard_deviations"])
        return noisy
