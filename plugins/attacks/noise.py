"""Random noise: uniform and Gaussian, by size and by signal-to-noise ratio.

SNR = 20 log10(||x||_2 / ||delta||_2) in dB, per image, before clipping to [0, 1]; the table shows what was left after
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Corruption, Level, Meta, Probe, ThreatModel, hookimpl

if TYPE_CHECKING:
    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


@dataclass(frozen=True, kw_only=True)
class Noise(Corruption):
    """Noise that knows nothing of the model: the baseline that every attack must beat."""

    meta = Meta(
        id="attacks.noise",
        title="Random noise",
        area="attacks",
        why="A model that loses accuracy to noise needs no adversary to fail: cameras, compression and low light do it."
        " It is also the baseline: an attack no stronger than noise of its size does not work.",
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
        """Chance."""
        return ThreatModel(
            goal="none: misclassification by chance",
            knowledge="none",
            norm="linf, sigma or SNR",
            budget=f"up to {max(self.epsilons, default=0) * 255:g}/255; SNR down to {min(self.snrs, default=0):g} dB",
        )

    def levels(self) -> Sequence[Level]:
        """Uniform by epsilon, Gaussian by sigma, both by SNR."""
        return [
            *({"noise": "uniform", "epsilon": e} for e in self.epsilons),
            *({"noise": "Gaussian", "sigma": s} for s in self.sigmas),
            *({"noise": "uniform, by SNR", "snr": r} for r in self.snrs),
            *({"noise": "Gaussian, by SNR", "snr": r} for r in self.snrs),
        ]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """The same draw at every level, scaled: levels differ in strength alone."""
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
        axes = (1, 2, 3)
        signal = np.sqrt((batch.pixels.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
        length = np.sqrt((noise.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
        noisy = batch.pixels + (noise * signal / length * 10 ** (-level["snr"] / 20)).astype(np.float32)
        return noisy


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Noise]
