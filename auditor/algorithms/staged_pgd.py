"""Projected gradient descent in three stages, each from another start and with steps that shrink along a cosine.

The steps of Madry et al. 2018, arXiv:1706.06083, section 2.1. What differs, within the same number of passes:

- The first step is 2 epsilon, as in Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, section 3.2); the steps of a stage
  fall to 2 % of it along a cosine, and each carries a quarter of the one before.
- Random starts are on the surface of the ball, in L-inf at its corners: networks with small weights change little
  inside, and their gradient there shows only the nearest linear piece.
- The second stage continues from the best point and aims at its likeliest class: the sum over all classes that the
  other stages ascend may balance two of them.
- The third stage starts from the clean image; in further restarts, opposite to the random start.

On properties of VNN-COMP these stages find more errors than one of equal length; benchmarks/RESULTS.md has the figures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from auditor.algorithms.balls import Ball, length
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.losses import gain, margin, per_image, soft_margin
from auditor.algorithms.pgd import checked_every

if TYPE_CHECKING:
    import torch

    from auditor.algorithms.types import Model


class Stage(NamedTuple):
    """A part of the steps."""

    end: float
    """Share of all steps after which the stage ends."""
    start: Literal["random", "best", "other"]
    targeted: bool
    """Whether it aims at one class instead of all others."""


STAGES = (Stage(0.4, "random", False), Stage(0.6, "best", True), Stage(1.0, "other", False))

_FIRST_STEP, _LAST_SHARE = 2.0, 0.02
"""First step in epsilons, and the last as a share of it."""

CARRIED = 0.25
"""Weight of the step before (Croce and Hein 2020, section 3.2: alpha = 0.75 for the new one)."""


def step_size(share: float) -> float:
    """Return the length of a step in epsilons, after this share of the steps of a stage."""
    decay = _LAST_SHARE + (1 - _LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * share))
    return _FIRST_STEP * decay


def staged_pgd(
    model: Model,
    clean: torch.Tensor,
    labels: torch.Tensor,
    *,
    ball: Ball,
    start: torch.Tensor,
    other: torch.Tensor,
    iterations: int,
    momentum: float = 0.0,
) -> BestPoints:
    """Attack images (n, c, h, w) with ``iterations`` gradient steps in all.

    ``start`` and ``other`` (n, c, h, w) are the perturbations at which the first and the third stage start. With
    ``momentum`` the gradients are summed as by Dong et al. 2018, arXiv:1710.06081, equation 6.
    """
    import torch

    points = BestPoints(clean)
    rows = torch.arange(len(clean), device=clean.device)
    active = torch.ones_like(rows, dtype=torch.bool)
    starts = {"random": start, "other": other}
    end = 0
    for stage in STAGES:
        begin, end = end, math.ceil(stage.end * iterations)
        if begin == end:
            continue
        y, centre = labels[rows], clean[rows]
        x = points.images[rows] if stage.start == "best" else centre + starts[stage.start][rows]
        x = before = ball.project(x, centre)
        memory, targets = torch.zeros_like(x), y
        for step in range(begin, end):
            x = x.detach().requires_grad_()
            logits = model(x)
            values = logits.detach()
            if stage.targeted and step == begin:
                targets = values.scatter(1, y[:, None], -torch.inf).argmax(1)
            # misclassified images that are still in the batch are not recorded again
            active = active & points.see(rows, x.detach(), margin(values, y).where(active, -torch.inf))
            objective = gain(logits, y, targets) if stage.targeted else soft_margin(logits, y)
            kept = None
            if step % checked_every(clean.device) == 0:
                kept = active.nonzero()[:, 0]
                if len(kept) == 0:
                    return points
            (slope,) = torch.autograd.grad(objective.sum(), x)
            x = x.detach()
            if momentum:
                memory = momentum * memory + slope / per_image(length(slope, "l1").clamp_min(1e-30), slope.ndim)
                slope = memory
            if kept is not None and len(kept) < len(rows):
                rows, x, before, slope, memory, centre, y, targets, active = (
                    state[kept] for state in (rows, x, before, slope, memory, centre, y, targets, active)
                )
            size = step_size((step - begin) / (end - begin)) * ball.epsilon
            ahead = ball.project(x + size * ball.direction(slope, x), centre)
            carried = CARRIED if step > begin else 0.0
            x, before = ball.project(ahead + carried * (2 * x - before - ahead), centre), x
    with torch.no_grad():
        points.see(rows, x, margin(model(x), labels[rows]).where(active, -torch.inf))
    return points
