"""DeepFool: repeated linearisation, with a step to the nearest boundary of the linear model.

At every point the model is linearised: of the planes f_k = z_k - z_y = 0, step onto the one at the least distance
|f_k| / ||w_k||_q (w_k the gradient of f_k, q dual to the norm), until the answer changes.
Moosavi-Dezfooli, Fawzi and Frossard 2016, arXiv:1511.04599, algorithm 2; for other norms than L2 the end of section 3.
Unlike in the paper, gradients exclude components that point out of [0, 1], since clipping would undo them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel
from auditor.plugins.attacks._deepfool_search import nearest_by_planes

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimumNorm):
    """Attack all images at once; an image leaves the batch when its answer changes."""

    meta = Meta(
        id="attacks.deepfool",
        title="DeepFool",
        area="attacks",
        why="The classic estimate of the adversarial distance: cheap, and exact for a linear model.",
        references=("https://arxiv.org/abs/1511.04599",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    supported_norms: ClassVar[Sequence[str]] = ("l2", "linf")
    norms: Sequence[str] = ("l2", "linf")
    """Any of l2, linf."""
    iterations: int = 50
    """Largest number of linearisations."""
    candidates: int = 10
    """Classes considered at every point: those with the largest logits on the clean image."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if self.iterations < 1 or self.candidates < 2:
            raise ValueError("iterations must be at least 1 and candidates at least 2")

    def threat_model(self) -> ThreatModel:
        """Return any distance and a few linearisations."""
        return self.any_distance(f"at most {self.iterations} steps towards one of {self.candidates} classes")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the first point that the differentiable copy misclassifies."""
        del rng
        return nearest_by_planes(classifier, batch, norm, iterations=self.iterations, candidates=self.candidates)
