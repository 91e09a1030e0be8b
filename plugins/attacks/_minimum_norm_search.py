"""The search of the fast minimum-norm attack.

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
from typing import TYPE_CHECKING

from auditor.algorithms.balls import inwards, l1_in_box, length, project
from auditor.algorithms.losses import DUAL, margin, per_image, soft_margin

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels

_STEP, _LAST_STEP = 1.0, 0.01
"""Length of the first and the last step in L2 (alpha_0 = 1 and a hundredth of it, as in the published code)."""

_LINF_STEP, _LAST_LINF_STEP = 1.0, 0.02
"""Length of the first and the last step in L-inf, in radii."""

_FACTOR, _LAST_FACTOR = 0.05, 1e-3
"""First and last relative change of the radius, gamma (as in the published code)."""

_EQUAL = 1e-5
"""Lengths with a smaller relative difference are equal: rounding depends on the batch and must not decide."""


def nearest_by_radius(classifier: Classifier, batch: Batch, norm: str, *, iterations: int) -> Pixels:
    """Return the nearest iterate that the differentiable copy misclassifies, (n, c, h, w); else the clean image.

    ``norm`` is "linf", "l2" or "l1", ``iterations`` the number of gradient steps.
    """
    import torch

    clean = classifier.tensor(batch.pixels)
    labels = torch.from_numpy(batch.labels).to(clean.device)
    delta, best = torch.zeros_like(clean), torch.zeros_like(clean)
    shortest = torch.full((len(batch),), torch.inf, device=clean.device)
    radius = shortest.clone()
    for iteration in range(iterations + 1):
        x = (clean + delta).requires_grad_()
        logits = classifier.scaled_logits(x)
        value = margin(logits.detach(), labels)
        wrong, size = value > 0, length(delta, norm)
        # of two equally distant points the first one stays, however their lengths are rounded
        nearer = wrong & (size < shortest * (1 - _EQUAL))
        best, shortest = torch.where(per_image(nearer), delta, best), torch.where(nearer, size, shortest)
        if iteration == iterations:
            break
        loss = soft_margin if 2 * iteration < iterations else margin
        (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), x)
        gradient = inwards(gradient, x.detach())
        decay = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
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
