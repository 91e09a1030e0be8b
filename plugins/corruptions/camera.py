"""JPEG compression, blur and brightness by strength.

ImageNet-C has fixed severities of these corruptions. These curves use physical quantities: the quality of the JPEG
file, the blur's standard deviation as a share of the image side, and the change of V in HSV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Corruption, Level, Meta

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class Camera(Corruption):
    """Compress, blur, brighten and darken the images."""

    meta = Meta(
        id="corruptions.camera",
        title="JPEG, blur and brightness",
        area="corruptions",
        why="Images are compressed, out of focus, too dark or too bright before they reach the model. The curves show"
        " which quality the model requires.",
        references=("https://arxiv.org/abs/1604.04004", "https://arxiv.org/abs/1903.12261"),
    )
    samples: int = 500
    qualities: Sequence[int] = (90, 75, 50, 30, 20, 10)
    """JPEG qualities, from 100 down to 1."""
    blurs: Sequence[float] = (0.01, 0.02, 0.04, 0.08)
    """Standard deviations of the Gaussian blur, as shares of the image's shorter side."""
    brightnesses: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """Values added to V of HSV, and subtracted from it."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if not all(1 <= quality <= 100 and int(quality) == quality for quality in self.qualities):
            raise ValueError(f"qualities is {list(self.qualities)}; expected whole numbers from 1 to 100")
        if not all(0 < strength <= 1 for strength in (*self.blurs, *self.brightnesses)):
            raise ValueError("blurs and brightnesses must lie between 0 and 1")
        if not (self.qualities or self.blurs or self.brightnesses):
            raise ValueError("expected at least one quality, blur or brightness")

    def levels(self) -> Sequence[Level]:
        """Return JPEG by quality, blur by width, brighter and darker by amount; mildest first."""
        amounts = sorted(self.brightnesses)
        return [
            *({"change": "JPEG", "quality": quality} for quality in sorted(self.qualities, reverse=True)),
            *({"change": "Gaussian blur", "blur": blur} for blur in sorted(self.blurs)),
            *({"change": name, "brightness": amount} for name in ("brighter", "darker") for amount in amounts),
        ]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Apply one change, without randomness."""
        del classifier, rng
        from auditor.algorithms.corruptions import brightness, gaussian_blur, jpeg_compression

        if "quality" in level:
            return jpeg_compression(batch.pixels, int(level["quality"]), ())
        if "blur" in level:
            return gaussian_blur(batch.pixels, float(level["blur"]) * min(batch.pixels.shape[2:]))
        sign = 1 if level["change"] == "brighter" else -1
        return brightness(batch.pixels, sign * float(level["brightness"]), ())
