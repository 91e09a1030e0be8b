"""Fast minimum-norm attack (FMN): gradient steps within a ball whose radius follows the class boundary.

The radius shrinks by a factor 1 - gamma while the image is misclassified and grows by 1 + gamma while it is not. Until
the first error it is the first-order estimate ||delta|| + |margin| / ||grad||_dual of the distance. The step
delta <- Proj(delta + alpha grad / ||grad||_2) raises the margin; gamma and alpha decay along a cosine.
Pintor, Roli, Brendel and Biggio 2021, arXiv:2102.12827, algorithm 1.

Differences from the paper, which find more errors:

- The radius shrinks from the nearest error found, not to it.
- Gradients exclude components that point out of [0, 1]: clipping undoes them, but they use up the budget.
- Until the first error the radius grows at least by gamma. Without this and the previous change, half of the reference
  model's digits, which are mostly black, are never misclassified in L2.
- In the first half of the steps the loss is the soft margin, which takes all other classes into account.
- In L-inf the step is along the sign of the gradient, proportional to the radius.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Meta, MinimumNorm, ThreatModel
from auditor.algorithms.balls import inwards, l1_in_box, length, project
from auditor.algorithms.losses import DUAL, margin, per_image, soft_margin

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels, Randomness

_STEP, _LAST_STEP = 1.0, 0.01
"""Length of the first and the last step in L2 (alpha_0 = 1 and a hundredth of it, as in the published code)."""

_LINF_STEP, _LAST_LINF_STEP = 1.0, 0.02
"""Length of the first and the last step in L-inf, in radii."""

_FACTOR, _LAST_FACTOR = 0.05, 1e-3
"""First and last relative change of the radius, gamma (as in the published code)."""

_EQUAL = 1e-5
"""Lengths with a smaller relative difference are equal: rounding depends on the batch and must not decide."""


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
        version=3,
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
        return ThreatModel(
            goal="untargeted misclassification, as near as possible",
            knowledge="white-box",
            norm=" and ".join(self.norms),
            budget=f"any distance; {self.iterations} gradient steps",
        )

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest iterate that the differentiable copy misclassifies."""
        del rng
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        delta, best = torch.zeros_like(clean), torch.zeros_like(clean)
        shortest = torch.full((len(batch),), torch.inf, device=clean.device)
        radius = shortest.clone()
        for iteration in range(self.iterations + 1):
            x = (clean + delta).requires_grad_()
            logits = classifier.scaled_logits(x)
            value = margin(logits.detach(), labels)
            wrong, size = value > 0, length(delta, norm)
            # of two equally distant points the first one stays, however their lengths are rounded
            nearer = wrong & (size < shortest * (1 - _EQUAL))
            best, shortest = torch.where(per_image(nearer), delta, best), torch.where(nearer, size, shortest)
            if iteration == self.iterations:
                break
            loss = soft_margin if 2 * iteration < self.iterations else margin
            (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), x)
            gradient = inwards(gradient, x.detach())
            decay = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
            factor = _LAST_FACTOR + (_FACTOR - _LAST_FACTOR) * decay
            estimate = size + value.abs() / length(gradient, DUAL[norm]).clamp_min(1e-12)
            first = torch.maximum(estimate, size * (1 + factor))
            grown = torch.where(shortest.isinf(), first, radius * (1 + factor))
            radius = torch.where(wrong, torch.minimum(radius, shortest) * (1 - factor), grown)
            moved = delta + _step(gradient, radius, norm, decay)
            if norm == "l1":
                delta = l1_in_box(moved, clean, radius)
            else:
                delta = (clean + project(moved, norm, radius)).clamp(0, 1) - clean
        result: Pixels = (clean + best).cpu().numpy()
        return result


def _step(gradient: torch.Tensor, radius: torch.Tensor, norm: str, decay: float) -> torch.Tensor:
    """Return the gradient step (n, c, h, w); ``decay`` falls from 1 to 0 during the search."""
    if norm == "linf":
        # a radius above 1 exceeds the pixel range
        share = _LAST_LINF_STEP + (_LINF_STEP - _LAST_LINF_STEP) * decay
        return share * per_image(radius.clamp_max(1)) * gradient.sign()
    step = _LAST_STEP + (_STEP - _LAST_STEP) * decay
    return step * gradient / per_image(length(gradient, "l2").clamp_min(1e-12))
