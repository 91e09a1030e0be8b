"""Square attack: random squares at the edge of the epsilon ball, kept where they raise the margin; no gradients.

Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3. The margin is that of the original's log-probabilities,
which is that of its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Attack, Level, Meta, Probe, ThreatModel, hookimpl
from auditor.algorithms.balls import Ball
from auditor.algorithms.losses import margin
from auditor.algorithms.square import square
from auditor.probes.attack import epsilon_levels

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Asks the original for its scores and for nothing else, so it works where there is no gradient."""

    meta = Meta(
        id="attacks.square",
        title="Square attack",
        area="attacks",
        why="An attacker who can only send images and read the scores does this. Where it breaks what gradients do not,"
        " the gradients are masked.",
        references=("https://arxiv.org/abs/1912.00049",),
        version=2,
    )
    epsilons: Sequence[float] = (8 / 255,)
    """L-infinity sizes, as fractions of the pixel range."""
    l2_epsilons: Sequence[float] = (0.5,)
    """L2 sizes."""
    queries: int = 5000
    """Questions to the model for each image and epsilon; 5,000 in AutoAttack."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1; got {self.queries}")

    def threat_model(self) -> ThreatModel:
        """Scores and many questions."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="linf and l2",
            budget=f"epsilon up to {max(self.epsilons, default=0) * 255:g}/255 in L-inf,"
            f" {max(self.l2_epsilons, default=0):g} in L2; at most {self.queries} questions for each image",
        )

    def levels(self) -> Sequence[Level]:
        """Every epsilon of both norms."""
        return epsilon_levels(self.epsilons, self.l2_epsilons)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Per image the best of all squares; an image that is broken asks no further."""
        import numpy as np
        import torch

        # on the CPU, where the original's answers are
        labels = torch.from_numpy(batch.labels)

        def margins(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            scores = torch.from_numpy(classifier.predict(images.numpy())).clamp_min(1.2e-38).log()
            return margin(scores, labels[rows])

        ball = Ball(str(level["norm"]), float(level["epsilon"]))
        clean = torch.from_numpy(np.array(batch.pixels))
        hits = square(margins, clean, ball, queries=self.queries, draw=lambda row, name: rng(batch.ids[row], name))
        images: Pixels = hits.images.numpy()
        return images


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Square]
