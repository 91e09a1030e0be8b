"""Fast adaptive boundary attack (Croce and Hein 2020, arXiv:1907.02044)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from auditor.algorithms.types import Model

from auditor.algorithms.balls import Ball, step_to_plane
from auditor.algorithms.best_points import MARGIN_TOLERANCE, BestPoints
from auditor.algorithms.losses import margin, per_image


def fab(
    model: Model,
    clean: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    *,
    ball: Ball,
    iterations: int,
    attempts: int = 1,
) -> BestPoints:
    """Run targeted FAB: the smallest perturbation, to first order, that swaps label and target.

    Croce and Hein 2020, arXiv:1907.02044, algorithm 1: steps from x and from the clean image to the plane where the
    linearised logits of label and target are equal (here ``MARGIN_TOLERANCE`` apart), 5 % further; the clean image's
    step has a weight of at most 10 %. From an adversarial point the search goes back to 90 % of its perturbation. FAB
    minimises the norm, but this search ends once the point is within the ball. ``attempts`` as in ``BestPoints``.
    """
    import torch

    points = BestPoints(clean, attempts)
    rows = torch.arange(len(clean), device=clean.device)
    x = clean

    def evaluate(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the missing lead of the target, the slope of its lead, misclassified rows, and rows still active."""
        x = x.detach().requires_grad_()
        logits = model(x)
        lead = (logits.gather(1, targets[rows, None]) - logits.gather(1, labels[rows, None]))[:, 0]
        (slope,) = torch.autograd.grad(lead.sum(), x)
        margins = margin(logits.detach(), labels[rows])
        inside = ball.length(x.detach() - clean[rows]) <= ball.epsilon
        active = points.see(rows, x.detach(), margins.where(inside, -math.inf))
        return MARGIN_TOLERANCE - lead.detach(), slope, margins > MARGIN_TOLERANCE, active

    for iteration in range(iterations + 1):
        missing, slope, misclassified, active = evaluate(x, rows)
        if iteration == iterations or not bool(active.any()):
            break
        if bool((misclassified & active).any()):
            rows_back = (misclassified & active).nonzero()[:, 0]
            x = x.clone()
            x[rows_back] = clean[rows[rows_back]] + 0.9 * (x[rows_back] - clean[rows[rows_back]])
            missing[rows_back], slope[rows_back], _, active[rows_back] = evaluate(x[rows_back], rows[rows_back])
        if not bool(active.all()):
            rows, x, missing, slope = rows[active], x[active], missing[active], slope[active]
        centre = clean[rows]
        from_x = step_to_plane(x, slope, missing, ball.norm)
        from_clean = step_to_plane(centre, slope, missing - (slope * (centre - x)).flatten(1).sum(1), ball.norm)
        near, far_off = (ball.length(step).clamp_min(1e-8) for step in (from_x, from_clean))
        mix = per_image((near / (near + far_off)).clamp_max(0.1))
        x = ((1 - mix) * (x + 1.05 * from_x) + mix * (centre + 1.05 * from_clean)).clamp(0, 1)
    return points
