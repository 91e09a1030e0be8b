"""Fast adaptive boundary attack (Croce and Hein 2020, arXiv:1907.02044)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    Model = Callable[[torch.Tensor], torch.Tensor]
    """Logits (n, k) of pixels (n, c, h, w)."""
    Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """What is to rise, (n,), from logits (n, k) and the numbers (n,) of their images in the batch."""
    Draw = Callable[[int, str], np.random.Generator]
    """Random numbers of one image, from its number in the batch and a purpose."""
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
    """Targeted fast adaptive boundary attack: the least perturbation that swaps label and target, to first order.

    Croce and Hein 2020, arXiv:1907.02044, algorithm 1: from x and from the clean image to the plane on which the
    linearised logits of label and target are equal (here: ``SURE`` apart), 5 % further, at most 10 % of the clean
    image's step in the mixture; from an adversarial point back to 90 % of its perturbation. It minimises the norm; what
    counts is only whether it ends within the ball, and there the search is over. ``attempts`` as in ``Hits``.
    """
    import torch

    hits = BestPoints(clean, attempts)
    rows = torch.arange(len(clean), device=clean.device)
    x = clean

    def look(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """How far the target is from leading by SURE, the slope of its lead, where the answer is wrong, and which rows
        are still to be broken."""
        x = x.detach().requires_grad_()
        logits = model(x)
        lead = (logits.gather(1, targets[rows, None]) - logits.gather(1, labels[rows, None]))[:, 0]
        (slope,) = torch.autograd.grad(lead.sum(), x)
        margins = margin(logits.detach(), labels[rows])
        inside = ball.length(x.detach() - clean[rows]) <= ball.epsilon
        going = hits.see(rows, x.detach(), margins.where(inside, -math.inf))
        return MARGIN_TOLERANCE - lead.detach(), slope, margins > MARGIN_TOLERANCE, going

    for iteration in range(iterations + 1):
        lacking, slope, wrong, going = look(x, rows)
        if iteration == iterations or not bool(going.any()):
            break
        if bool((wrong & going).any()):
            far = (wrong & going).nonzero()[:, 0]
            x = x.clone()
            x[far] = clean[rows[far]] + 0.9 * (x[far] - clean[rows[far]])
            lacking[far], slope[far], _, going[far] = look(x[far], rows[far])
        if not bool(going.all()):
            rows, x, lacking, slope = rows[going], x[going], lacking[going], slope[going]
        centre = clean[rows]
        from_x = step_to_plane(x, slope, lacking, ball.norm)
        from_clean = step_to_plane(centre, slope, lacking - (slope * (centre - x)).flatten(1).sum(1), ball.norm)
        near, far_off = (ball.length(step).clamp_min(1e-8) for step in (from_x, from_clean))
        mix = per_image((near / (near + far_off)).clamp_max(0.1))
        x = ((1 - mix) * (x + 1.05 * from_x) + mix * (centre + 1.05 * from_clean)).clamp(0, 1)
    return hits
