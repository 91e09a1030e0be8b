"""Grey: fade the image to grey until the deployed model is wrong.

x' = x + t (1/2 - x) with the smallest t of a grid that is misclassified. Describe what the probe does, with its formula
and its source (paper, section). `auditor probes` shows this text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from auditor import Batch, Classifier, Meta, MinimumNorm, Pixels, Randomness, ThreatModel

AUDITOR_API = "1.0"


@dataclass(frozen=True, kw_only=True)
class Grey(MinimumNorm):
    """A search with queries only; the base class bisects between the result and the clean image."""

    meta = Meta(
        id="attacks.grey",
        area="attacks",
        title="Grey",
        why="State what a bad result means: poor contrast is common, and needs no attacker.",
    )
    supported_norms: ClassVar[Sequence[str]] = ("l2",)
    steps: int = 32
    """Points of the line from the image to grey."""

    def __post_init__(self) -> None:
        """Refuse unusable settings; the message becomes one sentence for the user."""
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")

    def threat_model(self) -> ThreatModel:
        """Return any distance, and the limit of the search."""
        return self.any_distance(f"{self.steps} queries")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest misclassified images found, (n, c, h, w); the clean image if none was found."""
        del rng, norm
        import numpy as np

        nearest = batch.pixels.copy()
        left = np.arange(len(batch))
        for step in range(1, self.steps + 1):
            clean = batch.pixels[left]
            faded = clean + np.float32(step / self.steps) * (np.float32(0.5) - clean)
            wrong = classifier.predict(faded).argmax(axis=1) != batch.labels[left]
            nearest[left[wrong]] = faded[wrong]
            left = left[~wrong]
            if not len(left):
                break
        return nearest
