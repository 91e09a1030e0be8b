"""SimBA: steps along random directions, forwards or backwards, kept if they lower the label's probability.

Guo et al. 2019, arXiv:1905.07121, algorithm 1, with the orthonormal cosine basis of section 3.3, low frequencies first.
When all directions have been tried (small images), they are tried again. The step is half that of the paper: on small
images, longer steps overshoot perturbations planted at 0.5 in L2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel
from auditor.plugins.attacks._simba_walk import walk

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class Simba(MinimumNorm):
    """Query the deployed model for scores; each image has its own random order of directions."""

    meta = Meta(
        id="attacks.simba",
        title="SimBA",
        area="attacks",
        why="The simplest score-based attack: it needs the confidence of each prediction and a few thousand queries."
        " A model that withstands gradient attacks and not this one masks its gradients.",
        references=("https://arxiv.org/abs/1905.07121",),
        version=2,
        needs=frozenset({"scores"}),
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    supported_norms: ClassVar[Sequence[str]] = ("l2",)
    failure_text: ClassVar[str] = "the search reached no wrong answer"
    norms: Sequence[str] = ("l2",)
    iterations: int = 1000
    """Directions that are tried."""
    step: float = 0.1
    """Length of a step in L2."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if self.iterations < 1 or self.step <= 0:
            raise ValueError("iterations must be at least 1, step above 0")

    def threat_model(self) -> ThreatModel:
        """Return scores and many queries."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="l2",
            budget=f"{self.iterations} directions, steps of {self.step:g}; at most {2 * self.iterations} queries for"
            " each image",
        )

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the first misclassified point of each random walk."""
        del norm
        return walk(classifier, batch, rng, iterations=self.iterations, step=self.step)
