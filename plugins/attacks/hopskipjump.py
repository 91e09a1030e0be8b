"""HopSkipJump: walk along the class boundary, using only the labels that the deployed model returns.

Move a misclassified image towards the clean one until the boundary; estimate the boundary's normal from the share of
wrong answers among small random steps; jump along it, halving the jump until the answer is wrong; and repeat.
Chen, Jordan and Wainwright 2020, arXiv:1904.02144, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel
from auditor.plugins.attacks._hopskipjump_walk import walk

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness

_MOST_EVALUATIONS = 10_000
"""Largest number of random steps for one normal, as in the published code."""

_BISECTION_QUERIES = 25
"""Approximate queries of a bisection and a jump, for the threat model."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimumNorm):
    """Query the deployed model for labels; needs no differentiable copy."""

    meta = Meta(
        id="attacks.hopskipjump",
        title="HopSkipJump",
        area="attacks",
        why="Anyone who can query the deployed model for labels can run this attack. A model that withstands gradient"
        " attacks and not this one masks its gradients and is not robust.",
        references=("https://arxiv.org/abs/1904.02144",),
        input_kinds=frozenset({"images", "rows"}),
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    supported_norms: ClassVar[Sequence[str]] = ("l2", "linf")
    failure_text: ClassVar[str] = "no random image was misclassified, so the search could not start"
    norms: Sequence[str] = ("l2", "linf")
    """Any of l2, linf."""
    iterations: int = 20
    """Jumps."""
    evaluations: int = 100
    """Random steps for the first normal; multiplied by the square root of the jump's number for later ones."""
    starts: int = 60
    """Random images that are tried as a start."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if min(self.iterations, self.evaluations, self.starts) < 1:
            raise ValueError("iterations, evaluations and starts must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Return any distance and labels only."""
        queries = sum(count + _BISECTION_QUERIES for count in self._evaluations())
        return self.any_distance(f"labels of about {queries} images for each image and norm")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest misclassified point of each walk."""
        return walk(classifier, batch, rng, norm, jumps=self._evaluations(), starts=self.starts)

    def _evaluations(self) -> list[int]:
        """Return the number of random steps for the normal of each jump."""
        return [min(_MOST_EVALUATIONS, int(self.evaluations * math.sqrt(i))) for i in range(1, self.iterations + 1)]
