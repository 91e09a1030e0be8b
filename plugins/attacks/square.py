"""Square attack: random squares on the surface of the epsilon ball, kept if they raise the margin; no gradients.

Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3. The margin of the deployed model's log-probabilities
equals that of its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Attack, Level, Meta, ThreatModel
from auditor.algorithms.balls import Ball
from auditor.algorithms.losses import margin
from auditor.algorithms.square import square
from auditor.probes.levels import budget_text, epsilon_levels

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Query the deployed model for scores; works without gradients."""

    meta = Meta(
        id="attacks.square",
        title="Square attack",
        area="attacks",
        why="An attacker can do this with images and scores alone. If it succeeds where gradient attacks fail, the"
        " gradients are masked.",
        references=("https://arxiv.org/abs/1912.00049",),
        version=3,
        needs=frozenset({"scores"}),
    )
    epsilons: Sequence[float] = (8 / 255,)
    """L-infinity sizes, as fractions of the pixel range."""
    l2_epsilons: Sequence[float] = (0.5,)
    """L2 sizes."""
    queries: int = 5000
    """Queries for each image and epsilon; 5,000 in AutoAttack."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1; got {self.queries}")

    def threat_model(self) -> ThreatModel:
        """Return scores and many queries."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="linf and l2",
            budget=f"{budget_text(self.epsilons, self.l2_epsilons)}; at most {self.queries} queries for each image",
        )

    def levels(self) -> Sequence[Level]:
        """Return every epsilon of both norms."""
        return epsilon_levels(self.epsilons, self.l2_epsilons)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Return the best image over all squares; a misclassified image needs no further queries."""
        import numpy as np
        import torch

        # on the CPU, like the answers of the deployed model
        labels = torch.from_numpy(batch.labels)

        def margins(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return margin(torch.from_numpy(classifier.log_probabilities(images.numpy())), labels[rows])

        ball = Ball(str(level["norm"]), float(level["epsilon"]))
        clean = torch.from_numpy(np.array(batch.pixels))
        best = square(margins, clean, ball, queries=self.queries, draw=lambda row, name: rng(batch.ids[row], name))
        images: Pixels = best.images.numpy()
        return images
