"""Auto-PGD (Croce and Hein 2020, arXiv:2003.01690) and its L1 version (Croce and Hein 2021, arXiv:2103.01208)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from auditor.algorithms.types import Model, Objective

from auditor.algorithms.balls import Ball
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.losses import margin, per_image
from auditor.algorithms.square import choose


def apgd(
    model: Model,
    clean: torch.Tensor,
    labels: torch.Tensor,
    *,
    ball: Ball,
    start: torch.Tensor,
    iterations: int,
    objective: Objective,
    attempts: int = 1,
) -> BestPoints:
    """Run Auto-PGD: momentum, and a step that starts at 2 epsilon and is halved when the objective stops rising.

    Croce and Hein 2020, arXiv:2003.01690, algorithm 1 and section 3.2: momentum 0.75; checkpoints after 22 % of the
    iterations, then after windows that shorten by 3 % down to 6 %. The step is halved, and the search restarts from the
    best point, if the objective rose in at most 75 % of the window's steps, or if neither it nor the step changed since
    the last checkpoint. ``start`` (n, c, h, w) is a perturbation; ``attempts`` as in ``BestPoints``. For L1 use
    ``sparse_apgd``.
    """
    import torch

    points = BestPoints(clean, attempts)
    rows = torch.arange(len(clean), device=clean.device)
    window, steps = max(int(0.22 * iterations), 1), 0
    x = before = best = ball.project(clean + start, clean)
    best_slope = torch.zeros_like(x)
    best_loss = previous = checked = torch.full((len(x),), -math.inf, device=x.device)
    step = torch.full((len(x),), 2 * ball.epsilon, device=x.device)
    rises, halved = torch.zeros_like(step), torch.ones_like(rows, dtype=torch.bool)
    for iteration in range(iterations + 1):
        x = x.detach().requires_grad_()
        logits = model(x)
        loss = objective(logits, rows)
        active = points.see(rows, x.detach(), margin(logits.detach(), labels[rows]))
        if iteration == iterations or not bool(active.any()):
            break
        (slope,) = torch.autograd.grad(loss.sum(), x)
        x, loss = x.detach(), loss.detach()
        higher = loss > best_loss
        best_loss = torch.where(higher, loss, best_loss)
        best, best_slope = choose(higher, x, best), choose(higher, slope, best_slope)
        if iteration:
            rises, steps = rises + (loss > previous), steps + 1
        previous = loss
        if steps == window:
            halved = (rises <= 0.75 * window) | (~halved & (checked >= best_loss))
            step = torch.where(halved, step / 2, step)
            x, slope = choose(halved, best, x), choose(halved, best_slope, slope)
            checked, rises, steps = best_loss, torch.zeros_like(rises), 0
            window = max(window - max(int(0.03 * iterations), 1), int(0.06 * iterations), 1)
        if not bool(active.all()):
            rows, x, before, best, slope, best_slope, best_loss, previous, checked, step, rises, halved = (
                state[active]
                for state in (
                    rows,
                    x,
                    before,
                    best,
                    slope,
                    best_slope,
                    best_loss,
                    previous,
                    checked,
                    step,
                    rises,
                    halved,
                )
            )
        centre = clean[rows]
        ahead = ball.project(x + per_image(step) * ball.direction(slope, x), centre)
        pull = 0.75 if iteration else 1.0
        x, before = ball.project(x + pull * (ahead - x) + (1 - pull) * (x - before), centre), x
    return points


_STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))
"""L1 balls searched in sequence: radius in epsilons, and share of the iterations."""


def sparse_apgd(
    model: Model,
    clean: torch.Tensor,
    labels: torch.Tensor,
    *,
    ball: Ball,
    start: torch.Tensor,
    iterations: int,
    objective: Objective,
    attempts: int = 1,
) -> BestPoints:
    """Run Auto-PGD in L1: equal steps along the steepest coordinates, in proportion to those the best point changed.

    Croce and Hein 2021, arXiv:2103.01208, section 3 and algorithm 1, searching balls of three, two and one epsilon,
    each from the end point of the last. Every 4 % of the iterations the share of coordinates is set to that of the best
    point divided by 1.5. If that share fell by more than 5 %, the step is reset to epsilon and the search to the best
    point; otherwise the step shrinks by 1.5, down to a tenth of epsilon. Arguments are those of ``apgd``.
    """
    import torch

    points = BestPoints(clean, attempts)
    rows = torch.arange(len(clean), device=clean.device)
    dims = clean[0].numel()
    # end point of the last stage, per row
    last = clean + start
    for factor, share in _STAGES:
        stage = Ball("l1", factor * ball.epsilon)
        steps = max(1, math.ceil(share * iterations))
        x = best = stage.project(last[rows], clean[rows])
        best_slope = torch.zeros_like(x)
        best_loss = torch.full((len(x),), -math.inf, device=x.device)
        step = torch.full((len(x),), stage.epsilon, device=x.device)
        changed = _changed(x - clean[rows])
        part = changed / dims / 1.5
        for iteration in range(steps + 1):
            x = x.detach().requires_grad_()
            logits = model(x)
            loss, margins = objective(logits, rows), margin(logits.detach(), labels[rows])
            # in the larger balls only points within epsilon count
            inside = ball.length(x.detach() - clean[rows]) <= ball.epsilon * (1 + 1e-6)
            active = points.see(rows, x.detach(), margins.where(inside, -math.inf))
            if iteration == steps or not bool(active.any()):
                higher = loss.detach() > best_loss
                last[rows] = choose(higher, x.detach(), best)
                rows = rows[active]
                break
            (slope,) = torch.autograd.grad(loss.sum(), x)
            x, loss = x.detach(), loss.detach()
            higher = loss > best_loss
            best_loss = torch.where(higher, loss, best_loss)
            best, best_slope = choose(higher, x, best), choose(higher, slope, best_slope)
            if iteration and iteration % max(1, int(0.04 * steps)) == 0:
                now = _changed(best - clean[rows])
                sparser = now < 0.95 * changed
                part, changed = now / dims / 1.5, now
                step = torch.where(sparser, stage.epsilon, (step / 1.5).clamp_min(stage.epsilon / 10))
                x, slope = choose(sparser, best, x), choose(sparser, best_slope, slope)
            if not bool(active.all()):
                rows, x, best, slope, best_slope, best_loss, step, part, changed = (
                    state[active] for state in (rows, x, best, slope, best_slope, best_loss, step, part, changed)
                )
            size = slope.flatten(1).abs()
            least = ((1 - part) * dims).long().clamp(0, dims - 1)
            rank = dims - least
            steepest = size.topk(int(rank.max()), dim=1).values
            steep = size >= steepest.gather(1, rank[:, None] - 1)
            direction = slope.flatten(1).sign() * steep
            direction = direction / direction.abs().sum(1, keepdim=True).clamp_min(1)
            x = stage.project(x + per_image(step) * direction.view_as(x), clean[rows])
        if not len(rows):
            break
    return points


def _changed(delta: torch.Tensor) -> torch.Tensor:
    """Count the coordinates that each perturbation changes, (n,)."""
    return (delta.flatten(1) != 0).float().sum(1)
