"""Fast minimum-norm attack (FMN): gradient steps within a ball whose radius follows the class boundary.

The radius shrinks by a factor 1 - gamma while the image is misclassified and grows by 1 + gamma while it is not. Until
the first error it is the first-order estimate ||delta|| + |margin| / ||grad||_dual of the distance. The step
delta <- Proj(delta + alpha grad / ||grad||_2) raises the margin; gamma and alpha decay along a cosine.
Pintor, Roli, Brendel and Biggio 2021, arXiv:2102.12827, algorithm 1.

``_minimum_norm_search.py`` lists the differences from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Meta, MinimumNorm, ThreatModel
from auditor.plugins.attacks._minimum_norm_search import nearest_by_radius

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class FastMinimumNorm(MinimumNorm):
    """One search per norm instead of one attack per epsilon."""

    meta = Meta(
        id="attacks.minimum-norm",
        title="Fast minimum-norm attack",
        area="attacks",
        why="The smallest perturbation that changes the answer, for each image. A distance is more informative than the"
        " result at one budget.",
        references=("https://arxiv.org/abs/2102.12827",),
        needs=frozenset({"gradients"}),
        version=4,
    )
    norms: Sequence[str] = ("linf", "l2", "l1")
    iterations: int = 100
    """Gradient steps in each norm."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError("iterations must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Return any distance and many gradient steps."""
        return self.any_distance(f"{self.iterations} gradient steps")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest iterate that the differentiable copy misclassifies."""
        import numpy as np

        def noise(number: int) -> torch.Tensor:
            shape = batch.pixels.shape[1:]
            draws = [rng(image_id, f"start {number} {norm}").uniform(-1, 1, shape) for image_id in batch.ids]
            return classifier.tensor(np.stack(draws).astype(np.float32))

        return nearest_by_radius(classifier, batch, norm, iterations=self.iterations, noise=noise)
