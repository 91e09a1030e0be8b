"""Carlini and Wagner's L2 attack: minimise distance and margin together, weighted by a constant c per image.

min_w ||x(w) - x||_2^2 + c max(-margin(x(w)), 0) with x(w) = (tanh(w) + 1) / 2, which keeps pixels in [0, 1]. Optimised
by Adam (Kingma and Ba 2015); c by bisection, since the smallest successful c gives the least distance.
Carlini and Wagner 2017, arXiv:1608.04644, sections V and VI-A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel
from auditor.plugins.attacks._carlini_wagner_search import nearest_by_descent

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(MinimumNorm):
    """Attack all images at once, each with its own c."""

    meta = Meta(
        id="attacks.carlini-wagner",
        title="Carlini-Wagner attack",
        area="attacks",
        why="The attack that defeated defensive distillation: it succeeds on models that only appear robust to steps"
        " along the sign of the gradient.",
        references=("https://arxiv.org/abs/1608.04644",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    supported_norms: ClassVar[Sequence[str]] = ("l2",)
    iterations: int = 100
    """Adam steps for each c."""
    search_steps: int = 6
    """Number of values of c."""
    first_constant: float = 1.0
    """First value of c; it is multiplied by ten until it suffices."""
    rate: float = 0.05
    """Adam's step size in w."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if min(self.iterations, self.search_steps) < 1 or min(self.first_constant, self.rate) <= 0:
            raise ValueError("iterations and search_steps must be at least 1, first_constant and rate above 0")

    def threat_model(self) -> ThreatModel:
        """Return any distance and many gradient steps."""
        return self.any_distance(f"{self.search_steps} x {self.iterations} gradient steps")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest iterate that the differentiable copy misclassifies, over all c."""
        del rng, norm
        return nearest_by_descent(
            classifier,
            batch,
            rate=self.rate,
            iterations=self.iterations,
            search_steps=self.search_steps,
            first_constant=self.first_constant,
        )
