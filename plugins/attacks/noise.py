"""Random noise: uniform and Gaussian, by size and by signal-to-noise ratio.

SNR = 20 log10(||x||_2 / ||delta||_2) in dB, per image, before clipping to [0, 1]. The table reports the SNR after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Corruption, Level, Meta, ThreatModel
from auditor.algorithms.norms import image_norms

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class Noise(Corruption):
    """Noise without knowledge of the model: the baseline of every attack."""

    meta = Meta(
        id="attacks.noise",
        title="Random noise",
        area="attacks",
        why="A model that loses accuracy to noise fails without an adversary, under camera noise or in low light."
        " Noise is also the baseline: an attack that is not stronger than noise of its size does not work.",
        references=("https://arxiv.org/abs/1903.12261",),
    )
    headline: ClassVar[Level | None] = {"noise": "uniform", "epsilon": 8 / 255}
    epsilons: Sequence[float] = tuple(n / 255 for n in (2, 4, 8, 16, 32))
    """Half-widths of the uniform noise."""
    sigmas: Sequence[float] = tuple(n / 255 for n in (2, 4, 8, 16, 32))
    """Standard deviations of the Gaussian noise."""
    snrs: Sequence[float] = (50.0, 40.0, 33.0, 20.0, 10.0)
    """Signal-to-noise ratios in dB, weakest noise first."""

    def threat_model(self) -> ThreatModel:
        """Return chance, without an adversary."""
        return ThreatModel(
            goal="none: misclassification by chance",
            knowledge="none",
            norm="linf, sigma or SNR",
            budget=f"up to {max(self.epsilons, default=0) * 255:g}/255; SNR down to {min(self.snrs, default=0):g} dB",
        )

    def levels(self) -> Sequence[Level]:
        """Return uniform noise by epsilon, Gaussian noise by sigma, and both by SNR."""
        return [
            *({"noise": "uniform", "epsilon": e} for e in self.epsilons),
            *({"noise": "Gaussian", "sigma": s} for s in self.sigmas),
            *({"noise": "uniform, by SNR", "snr": r} for r in self.snrs),
            *({"noise": "Gaussian, by SNR", "snr": r} for r in self.snrs),
        ]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Add noise; every level scales the same draw, so that levels differ only in strength."""
        del classifier
        import numpy as np

        uniform = str(level["noise"]).startswith("uniform")
        noise = np.empty_like(batch.pixels)
        for i, image_id in enumerate(batch.ids):
            generator = rng(image_id, "uniform" if uniform else "gaussian")
            if uniform:
                noise[i] = generator.uniform(-1, 1, batch.pixels[i].shape)
            else:
                noise[i] = generator.standard_normal(batch.pixels[i].shape, dtype=np.float32)
        if "snr" not in level:
            strength = np.float32(level["epsilon"] if uniform else level["sigma"])
            noisy: Pixels = batch.pixels + noise * strength
            return noisy
        signal, length = (image_norms(images).reshape(-1, 1, 1, 1) for images in (batch.pixels, noise))
        noisy = batch.pixels + (noise * signal / length * 10 ** (-level["snr"] / 20)).astype(np.float32)
        return noisy
