"""Fast gradient sign method: one step along the sign of the loss gradient.

The loss L is the margin, the largest other logit less that of the label. Goodfellow et al. take cross-entropy, whose
gradient is zero in float32 for confident predictions: a model with logits multiplied by 30 would appear robust. The
gradient of the margin has the same direction at any scale (Carlini and Wagner 2017, arXiv:1608.04644, section VI).

x' = clip(x + epsilon sign(grad L(x, y))) for L-inf; for L2 the step is epsilon grad / ||grad||. By SNR it is the L-inf
step of the size for which 20 log10(||x||_2 / ||delta||_2) is the SNR, per image and before clipping.
Goodfellow, Shlens and Szegedy 2015, arXiv:1412.6572, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Attack, Level, Meta, ThreatModel
from auditor.algorithms.norms import image_norms
from auditor.probes.levels import budget_text, epsilon_levels

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class Fgsm(Attack):
    """Take one gradient step of each size."""

    meta = Meta(
        id="attacks.fgsm",
        title="Fast gradient sign method",
        area="attacks",
        why="The weakest gradient attack: a model that fails here fails against every stronger one. Withstanding it"
        " proves nothing.",
        references=("https://arxiv.org/abs/1412.6572", "https://arxiv.org/abs/1608.04644"),
        needs=frozenset({"gradients"}),
        version=2,
        input_kinds=frozenset({"images", "rows"}),
    )
    epsilons: Sequence[float] = tuple(n / 255 for n in (0.5, 1, 2, 4, 8, 16, 32))
    """L-infinity sizes, as fractions of the pixel range."""
    l2_epsilons: Sequence[float] = (0.1, 0.25, 0.5, 1.0, 2.0)
    """L2 sizes, Euclidean length over all pixels in [0, 1]."""
    snrs: Sequence[float] = ()
    """Signal-to-noise ratios in dB."""

    def threat_model(self) -> ThreatModel:
        """Return one gradient step."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm="linf and l2",
            budget=budget_text(self.epsilons, self.l2_epsilons),
        )

    def levels(self) -> Sequence[Level]:
        """Return every epsilon of both norms and every SNR."""
        return epsilon_levels(self.epsilons, self.l2_epsilons, snrs=self.snrs)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Take one step of this size."""
        del rng
        import numpy as np

        from auditor.algorithms.art import steepest

        step = steepest(classifier, batch.pixels, batch.labels, "l2" if level["norm"] == "l2" else "linf")
        images: Pixels = np.float32(level["epsilon"]) * step
        if level["norm"] == "snr":
            signal, length = (
                image_norms(x).astype(np.float32).reshape(-1, *[1] * (step.ndim - 1)) for x in (batch.pixels, step)
            )
            images *= signal / np.maximum(length, np.float32(1e-12))
        images += batch.pixels
        return images
