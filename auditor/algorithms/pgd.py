"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from auditor.algorithms.types import Model

from auditor.algorithms.balls import Ball, length
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.losses import margin, per_image, soft_margin


def usual_step(epsilon: float, iterations: int) -> float:
    """Return PGD's step: with 2.5 epsilon / iterations an iterate can cross the ball (Madry et al. 2018, appendix)."""
    return 2.5 * epsilon / iterations


def pgd(
    model: Model,
    clean: torch.Tensor,
    labels: torch.Tensor,
    *,
    ball: Ball,
    start: torch.Tensor,
    iterations: int,
    step: float,
    momentum: float = 0.0,
) -> BestPoints:
    """Run projected gradient descent from the perturbation ``start`` (n, c, h, w), with steps of length ``step``.

    Madry et al. 2018, arXiv:1706.06083, section 2.1; with ``momentum`` Dong et al. 2018, arXiv:1710.06081, equation 6.
    """
    import torch

    points = BestPoints(clean)
    rows = torch.arange(len(clean), device=clean.device)
    x, centre, y = ball.project(clean + start, clean), clean, labels
    memory = torch.zeros_like(x)
    active = torch.ones_like(rows, dtype=torch.bool)
    for iteration in range(iterations + 1):
        x = x.detach().requires_grad_()
        logits = model(x)
        # misclassified images that are still in the batch are not recorded again
        margins = torch.where(active, margin(logits.detach(), y), -torch.inf)
        active = active & points.see(rows, x.detach(), margins)
        if iteration == iterations:
            break
        kept = None
        if iteration % checked_every(clean.device) == 0:
            kept = active.nonzero()[:, 0]
            if len(kept) == 0:
                break
        (slope,) = torch.autograd.grad(soft_margin(logits, y).sum(), x)
        x = x.detach()
        if momentum:
            memory = momentum * memory + slope / per_image(length(slope, "l1").clamp_min(1e-30), slope.ndim)
            slope = memory
        if kept is not None and len(kept) < len(rows):
            # misclassified images leave the batch
            rows, x, slope, memory, centre, y, active = (
                state[kept] for state in (rows, x, slope, memory, centre, y, active)
            )
        x = ball.project(x + step * ball.direction(slope, x), centre)
    return points


def checked_every(device: torch.device) -> int:
    """Return after how many steps misclassified images leave the batch: a GPU waits for their number."""
    return 1 if device.type == "cpu" else 5
