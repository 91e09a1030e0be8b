"""What attacks are made of: losses, lengths and balls of the norms, and the searches of AutoAttack.

Tensors in, tensors out, on their own device, image by image: ``images`` and ``delta`` are (n, c, h, w), per-image
numbers (n,). torch is imported inside, so that a plugin may import this module at its top.

A search asks ``model``, from pixels (n, c, h, w) in [0, 1] to logits (n, k), under autograd where it needs gradients,
and gives per image the visited point that is furthest on the wrong side. As soon as that is further than ``SURE``, the
image leaves the batch. The searches differ from the published code in nothing that finds fewer adversarial images:
they stop earlier where one is found, and ask for a margin instead of a tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
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

SURE = 1e-3
"""A search goes on until the margin is this wide: a tie on the copy need not be an error of the original."""

_L1_SHARE = 0.01
"""Share of the coordinates that one L1 step moves (Tramer and Boneh 2019, arXiv:1904.13000, section 4.1, q = 99 %)."""

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""The norm in which a gradient is measured: to first order a step of length 1 changes the loss by its dual length."""


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Largest other logit less that of the label, (n,); positive where the answer is wrong."""
    own: torch.Tensor = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - own


def soft_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log(sum over the other classes of exp(z)) less the label's logit, (n,): the logarithm of the odds of an error.

    It rises where cross-entropy rises, and its gradient has the same direction, but that does not vanish where the
    softmax saturates.
    """
    import torch

    label = labels[:, None]
    others = (logits - logits.gather(1, label)).scatter(1, label, -torch.inf)
    return others.logsumexp(1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each image, (n,), as log(1 + exp(soft margin)).

    The same number as torch's, but its gradient has no ``p - 1``, which in float32 loses the label's part as soon as
    the model is sure (margins from 16): an attack would then step in a wrong direction and call the model robust.
    """
    import torch

    return torch.nn.functional.softplus(soft_margin(logits, labels))


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Targeted difference of logits ratio, (n,): (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), z_(i) the i-th largest.

    Croce and Hein 2020, arXiv:2003.01690, equation 7. With three classes there is no fourth logit and the denominator
    is that of the untargeted ratio, z_(1) - z_(3) (equation 6); with two there is none and the difference stands alone.
    """
    gain = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
    classes = logits.shape[1]
    if classes < 3:
        return gain
    top = logits.topk(min(classes, 4), dim=1).values
    return gain / (top[:, 0] - top[:, 2:].mean(1) + 1e-12)


def per_image(values: torch.Tensor) -> torch.Tensor:
    """Numbers of images (n,) in the shape in which they multiply images, (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def length(delta: torch.Tensor, norm: str) -> torch.Tensor:
    """Length of each image's perturbation in "linf", "l2" or "l1", (n,)."""
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().sum(1)


def inwards(direction: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A direction without what points out of [0, 1] at ``x``: clipping would take it back, and until then it fills
    the ball at the cost of the pixels that can move."""
    # what rounding leaves of a step, 1e-9 of a pixel, must not decide: an image would depend on its batch
    edge = 1e-5
    return direction * ~((x <= edge) & (direction < 0) | (x >= 1 - edge) & (direction > 0))


def project(delta: torch.Tensor, norm: str, radius: torch.Tensor) -> torch.Tensor:
    """The nearest perturbation (in L2) within the ball of each image's ``radius`` (n,).

    L1 by thresholding the sorted magnitudes (Duchi et al. 2008, Efficient projections onto the l1-ball, figure 1).
    """
    if norm == "linf":
        size = per_image(radius)
        return delta.clamp(-size, size)
    if norm == "l2":
        return delta * per_image((radius / length(delta, norm).clamp_min(1e-30)).clamp_max(1))
    import torch

    magnitude = delta.flatten(1).abs()
    falling = magnitude.sort(dim=1, descending=True).values
    counted = torch.arange(1, magnitude.shape[1] + 1, device=delta.device)
    threshold = (falling.cumsum(1) - radius[:, None]) / counted
    kept = (falling > threshold).sum(1, keepdim=True).clamp_min(1)
    shrunk = (magnitude - threshold.gather(1, kept - 1).clamp_min(0)).clamp_min(0)
    return delta.sign() * shrunk.view_as(delta)


_NEWTON = 50
_EXACT = 1e-6
"""Newton's steps at most, and the relative error at which they end; they need about five."""


class Ball:
    """The epsilon ball of a norm ("linf", "l2", "l1") around clean images, cut with [0, 1]."""

    def __init__(self, norm: str, epsilon: float) -> None:
        """``epsilon`` is in pixels from 0 to 1."""
        self.norm, self.epsilon = norm, epsilon

    def length(self, delta: torch.Tensor) -> torch.Tensor:
        """The norm of each image's perturbation, (n,)."""
        return length(delta, self.norm)

    def inside(self, noise: torch.Tensor) -> torch.Tensor:
        """A random perturbation within the ball, from noise uniform in [-1, 1]."""
        if self.norm == "linf":
            return noise * self.epsilon
        return self.surface(noise) * per_image(noise.flatten(1)[:, 0].abs())

    def surface(self, noise: torch.Tensor) -> torch.Tensor:
        """The noise scaled to the ball's surface."""
        return noise * per_image(self.epsilon / self.length(noise).clamp_min(1e-30))

    def direction(self, slope: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The step of length 1 from ``x`` that raises a loss with this gradient most.

        In L1 that is a step along the one largest slope. It is shared among the largest 1 % of those along which [0, 1]
        leaves room, since one pixel at a time goes nowhere (Tramer and Boneh 2019, arXiv:1904.13000, section 4.1).
        """
        import torch

        if self.norm == "linf":
            return slope.sign()
        if self.norm == "l2":
            return slope / per_image(self.length(slope).clamp_min(1e-30))
        room = torch.where(slope > 0, x < 1, x > 0)
        size = (slope.abs() * room).flatten(1)
        least = size.topk(max(1, math.ceil(_L1_SHARE * size.shape[1])), dim=1).values[:, -1:]
        chosen = (size >= least) & (size > 0)
        step = slope.flatten(1).sign() * chosen / chosen.sum(1, keepdim=True).clamp_min(1)
        return step.view_as(slope)

    def project(self, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Back into the ball and into [0, 1]: the nearest point (in L2) of their section in L-inf and in L1; in L2 the
        nearest of the ball, then of the box."""
        delta = x - clean
        radius = delta.new_full((len(delta),), self.epsilon)
        if self.norm == "l1":
            return clean + l1_in_box(delta, clean, radius)
        return (clean + project(delta, self.norm, radius)).clamp(0, 1)


def l1_in_box(delta: torch.Tensor, clean: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """The nearest perturbation (in L2) of length at most ``radius`` (n,) in L1 with which the images stay in [0, 1].

    Each coordinate is shortened by one level, then cut to its room. The length falls piecewise linearly with the level,
    so Newton's steps find it, kept between a level that is too low and one that is high enough; that takes fewer passes
    over the pixels than sorting them. Projecting onto one set and then the other leaves a part of the budget unspent
    (Croce and Hein 2021, arXiv:2103.01208, proposition 2.1).
    """
    import torch

    flat, start, radius = delta.flatten(1), clean.flatten(1), radius[:, None]
    size = flat.abs()
    room = torch.where(flat > 0, 1 - start, start)
    level = low = torch.zeros_like(size[:, :1])
    # shortened by the largest coordinate nothing is left
    high = largest = size.amax(1, keepdim=True)
    for _ in range(_NEWTON):
        rest = size - level
        kept = torch.minimum(rest.clamp_min(0), room)
        over = kept.sum(1, keepdim=True) - radius
        low, high = torch.where(over > 0, level, low), torch.where(over > 0, high, level)
        # a level is known no better than float32 knows the largest coordinate
        open_still = (over > 0) | ((over < -_EXACT * radius) & (level > 0))
        if not bool((open_still & (high - low > 1e-7 * largest)).any()):
            break
        moving = ((rest > 0) & (rest < room)).sum(1, keepdim=True)
        # a little further than linear, so as to end on the side that is short enough
        step = level + (over + 0.5 * _EXACT * radius) / moving.clamp_min(1)
        level = torch.where((moving > 0) & (step > low) & (step < high), step, (low + high) / 2)
        level = torch.where((over <= 0) & (over >= -_EXACT * radius) | (high == 0), high, level)
    return (flat.sign() * torch.minimum((size - high).clamp_min(0), room)).view_as(delta)


def step_to_plane(x: torch.Tensor, slope: torch.Tensor, rise: torch.Tensor, norm: str) -> torch.Tensor:
    """The shortest step d in ``norm`` with <slope, d> = rise (n,) for which x + d stays in [0, 1]; (n, c, h, w).

    Where the box does not let it get that far, it goes as far as the box lets it. This is the projection of FAB (Croce
    and Hein 2020, arXiv:1907.02044, equation 4 and appendix A). In L-inf and L2 each coordinate moves by min(level *
    pace, room), pace 1 or |slope|; the rise is concave and piecewise linear in the level, so Newton's steps from 0
    never overshoot and end at the solution without sorting. In L1 the steepest coordinates go first, each to its end.
    """
    import torch

    weight, start, need = slope.flatten(1).abs(), x.flatten(1), rise.abs()[:, None]
    towards = slope.flatten(1).sign() * rise.sign()[:, None]
    room = torch.where(towards > 0, 1 - start, start)
    if norm == "l1":
        weight, order = weight.sort(dim=1, descending=True)
        room = room.gather(1, order)
        gain = weight * room
        lacking = (need - (gain.cumsum(1) - gain)).clamp_min(0)
        size = torch.zeros_like(room).scatter(1, order, torch.minimum(lacking / weight.clamp_min(1e-30), room))
    else:
        pace = torch.ones_like(weight) if norm == "linf" else weight
        level = torch.zeros_like(need)
        for _ in range(_NEWTON):
            size = torch.minimum(level * pace, room)
            lacking = (need - (weight * size).sum(1, keepdim=True)).clamp_min(0)
            rate = (weight * pace * (size < room)).sum(1, keepdim=True)
            if not bool(((lacking > _EXACT * need) & (rate > 0)).any()):
                break
            level = level + torch.where(rate > 0, lacking / rate.clamp_min(1e-30), 0)
        size = torch.minimum(level * pace, room)
    return (towards * size).view_as(x)


class Hits:
    """Per image the visited point with the largest margin.

    With several ``attempts`` at each of n images the rows are those of the first attempt, then those of the second, and
    so on. An attempt that succeeds ends itself and all later ones at its image, and none before it: whatever is tried
    side by side, ``first`` is what one attempt after the other would have found.
    """

    def __init__(self, clean: torch.Tensor, attempts: int = 1) -> None:
        """Nothing visited yet: the clean images, (attempts * n, c, h, w), at margin minus infinity."""
        import torch

        self.images = clean.clone()
        self.margin = torch.full((len(clean),), -math.inf, device=clean.device)
        self._attempts = attempts

    def see(self, rows: torch.Tensor, images: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """Take note of points of the rows; which of these are still to be broken, (n,)."""
        better = margins > self.margin[rows]
        at = rows[better]
        self.images[at] = images[better]
        self.margin[at] = margins[better]
        if self._attempts == 1:
            return ~self.broken[rows]
        return self.broken.view(self._attempts, -1).cumsum(0).flatten()[rows] == 0

    @property
    def broken(self) -> torch.Tensor:
        """Which rows are broken, (attempts * n,)."""
        return self.margin > SURE

    def first(self) -> Hits:
        """Of each image the first attempt that broke it, else the one that came nearest."""
        import torch

        if self._attempts == 1:
            return self
        broken, margins = (values.view(self._attempts, -1) for values in (self.broken, self.margin))
        chosen = torch.where(broken.any(0), broken.int().argmax(0), margins.argmax(0))
        rows = chosen * len(chosen) + torch.arange(len(chosen), device=chosen.device)
        result = Hits(self.images[rows])
        result.margin = self.margin[rows]
        return result


def usual_step(epsilon: float, iterations: int) -> float:
    """The step of PGD: 2.5 epsilon / iterations lets an iterate cross the ball (Madry et al. 2018, appendix)."""
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
) -> Hits:
    """Projected gradient descent from the perturbation ``start`` (n, c, h, w), in steps of ``step`` in the ball's norm.

    Madry et al. 2018, arXiv:1706.06083, section 2.1; with ``momentum`` Dong et al. 2018, arXiv:1710.06081, equation 6.
    """
    import torch

    hits = Hits(clean)
    rows = torch.arange(len(clean), device=clean.device)
    x, centre, y = ball.project(clean + start, clean), clean, labels
    memory = torch.zeros_like(x)
    for iteration in range(iterations + 1):
        x = x.detach().requires_grad_()
        logits = model(x)
        going = hits.see(rows, x.detach(), margin(logits.detach(), y))
        if iteration == iterations or not bool(going.any()):
            break
        (slope,) = torch.autograd.grad(soft_margin(logits, y).sum(), x)
        x = x.detach()
        if momentum:
            memory = momentum * memory + slope / per_image(length(slope, "l1").clamp_min(1e-30))
            slope = memory
        if not bool(going.all()):
            # an image that is broken leaves the batch
            rows, x, slope, memory, centre, y = (
                state[going] for state in (rows, x, slope, memory, centre, y)
            )  # fmt: skip
        x = ball.project(x + step * ball.direction(slope, x), centre)
    return hits


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
) -> Hits:
    """Auto-PGD: momentum, and a step that starts at 2 epsilon and is halved where the objective stops rising.

    Croce and Hein 2020, arXiv:2003.01690, algorithm 1 and section 3.2: momentum 0.75; checkpoints after 22 % of the
    iterations, then after windows that shorten by 3 % down to 6 %; halved, and set back to the best point so far, where
    the objective rose in at most 75 % of the window's steps, or neither it nor the step changed since the last one.
    ``start`` (n, c, h, w) is a perturbation; ``attempts`` as in ``Hits``. L1 is ``sparse_apgd``'s.
    """
    import torch

    hits = Hits(clean, attempts)
    rows = torch.arange(len(clean), device=clean.device)
    window, seen = max(int(0.22 * iterations), 1), 0
    x = before = best = ball.project(clean + start, clean)
    best_slope = torch.zeros_like(x)
    best_loss = previous = checked = torch.full((len(x),), -math.inf, device=x.device)
    step = torch.full((len(x),), 2 * ball.epsilon, device=x.device)
    rises, halved = torch.zeros_like(step), torch.ones_like(rows, dtype=torch.bool)
    for iteration in range(iterations + 1):
        x = x.detach().requires_grad_()
        logits = model(x)
        loss = objective(logits, rows)
        going = hits.see(rows, x.detach(), margin(logits.detach(), labels[rows]))
        if iteration == iterations or not bool(going.any()):
            break
        (slope,) = torch.autograd.grad(loss.sum(), x)
        x, loss = x.detach(), loss.detach()
        higher = loss > best_loss
        best_loss = torch.where(higher, loss, best_loss)
        best, best_slope = _where(higher, x, best), _where(higher, slope, best_slope)
        if iteration:
            rises, seen = rises + (loss > previous), seen + 1
        previous = loss
        if seen == window:
            halved = (rises <= 0.75 * window) | (~halved & (checked >= best_loss))
            step = torch.where(halved, step / 2, step)
            x, slope = _where(halved, best, x), _where(halved, best_slope, slope)
            checked, rises, seen = best_loss, torch.zeros_like(rises), 0
            window = max(window - max(int(0.03 * iterations), 1), int(0.06 * iterations), 1)
        if not bool(going.all()):
            rows, x, before, best, slope, best_slope, best_loss, previous, checked, step, rises, halved = (
                state[going]
                for state in (
                    rows, x, before, best, slope, best_slope, best_loss, previous, checked, step, rises, halved
                )
            )  # fmt: skip
        centre = clean[rows]
        ahead = ball.project(x + per_image(step) * ball.direction(slope, x), centre)
        pull = 0.75 if iteration else 1.0
        x, before = ball.project(x + pull * (ahead - x) + (1 - pull) * (x - before), centre), x
    return hits


_STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))
"""The balls of L1 that are searched one after the other, in epsilons, and their shares of the iterations."""


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
) -> Hits:
    """Auto-PGD in L1: steps of equal size along as many of the steepest coordinates as the best point has changed.

    Croce and Hein 2021, arXiv:2103.01208, section 3 and algorithm 1, with its search in balls of three, two and one
    epsilon, each from where the last one ended. Every 4 % of the iterations the share of coordinates becomes that of
    the best point so far over 1.5; where that fell by more than 5 % the step is set back to epsilon and the search to
    the best point, elsewhere the step shrinks by 1.5 down to a tenth of epsilon. Arguments are those of ``apgd``.
    """
    import torch

    hits = Hits(clean, attempts)
    rows = torch.arange(len(clean), device=clean.device)
    dims = clean[0].numel()
    # where the last stage ended, for every row
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
            # in the larger balls nothing counts but where the search goes
            inside = ball.length(x.detach() - clean[rows]) <= ball.epsilon * (1 + 1e-6)
            going = hits.see(rows, x.detach(), margins.where(inside, -math.inf))
            if iteration == steps or not bool(going.any()):
                higher = loss.detach() > best_loss
                last[rows] = _where(higher, x.detach(), best)
                rows = rows[going]
                break
            (slope,) = torch.autograd.grad(loss.sum(), x)
            x, loss = x.detach(), loss.detach()
            higher = loss > best_loss
            best_loss = torch.where(higher, loss, best_loss)
            best, best_slope = _where(higher, x, best), _where(higher, slope, best_slope)
            if iteration and iteration % max(1, int(0.04 * steps)) == 0:
                now = _changed(best - clean[rows])
                sparser = now < 0.95 * changed
                part, changed = now / dims / 1.5, now
                step = torch.where(sparser, stage.epsilon, (step / 1.5).clamp_min(stage.epsilon / 10))
                x, slope = _where(sparser, best, x), _where(sparser, best_slope, slope)
            if not bool(going.all()):
                rows, x, best, slope, best_slope, best_loss, step, part, changed = (
                    state[going] for state in (rows, x, best, slope, best_slope, best_loss, step, part, changed)
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
    return hits


def _changed(delta: torch.Tensor) -> torch.Tensor:
    """How many coordinates each perturbation changes, (n,)."""
    return (delta.flatten(1) != 0).float().sum(1)


def fab(
    model: Model,
    clean: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    *,
    ball: Ball,
    iterations: int,
    attempts: int = 1,
) -> Hits:
    """Targeted fast adaptive boundary attack: the least perturbation that swaps label and target, to first order.

    Croce and Hein 2020, arXiv:1907.02044, algorithm 1: from x and from the clean image to the plane on which the
    linearised logits of label and target are equal (here: ``SURE`` apart), 5 % further, at most 10 % of the clean
    image's step in the mixture; from an adversarial point back to 90 % of its perturbation. It minimises the norm; what
    counts is only whether it ends within the ball, and there the search is over. ``attempts`` as in ``Hits``.
    """
    import torch

    hits = Hits(clean, attempts)
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
        return SURE - lead.detach(), slope, margins > SURE, going

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


def square(
    margins: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    clean: torch.Tensor,
    ball: Ball,
    *,
    queries: int,
    draw: Draw,
    ahead: int = 1,
) -> Hits:
    """Square attack: random squares at the ball's edge, kept where they raise the margin; asks for nothing but scores.

    Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3, in L-inf and L2, and in L1 as in Croce and Hein
    2021, arXiv:2103.01208, appendix; with AutoAttack's p = 0.8 and the schedule of the published code, scaled to
    ``queries``. ``margins(images, rows)`` gives the margins (n,) of the images number ``rows``. Squares may touch the
    last row and column, which those of the published code never do.

    Most squares are rejected, and then the next one is laid on the same image. So where a pass over few images costs
    hardly less than one over ``ahead`` images, that many squares are asked about together, as if each of them had been
    rejected; what comes after one that was kept is thrown away. The result is the same, only sooner.
    """
    import torch

    if ball.norm not in _SQUARES:
        raise ValueError(f"the square attack knows the norms {', '.join(_SQUARES)}; got {ball.norm!r}")
    first, propose = _SQUARES[ball.norm]
    hits = Hits(clean)
    rows = torch.arange(len(clean), device=clean.device)
    channels, height, width = clean.shape[1:]
    x = first(clean, ball, draw)
    rows = rows[hits.see(rows, x, margins(x, rows))]
    if not len(rows) or queries == 1:
        return hits
    sides = torch.tensor(
        [max(1, round(math.sqrt(_share(query, queries) * height * width))) for query in range(queries - 1)],
        device=clean.device,
    ).clamp_max(min(height, width))
    # of the images that the first guess did not break, one set for each query
    numbers = _uniform(clean, rows, draw, "squares", (queries - 1, 5 + channels))
    place = torch.full((len(clean),), -1, device=clean.device)
    place[rows] = torch.arange(len(rows), device=clean.device)
    query = torch.zeros_like(rows)
    kept, asked = 1.0, 4.0
    while len(rows):
        # as far ahead as about every second square is still of use
        together = max(1, min(ahead // len(rows), round(asked / kept)))
        later = query[:, None] + torch.arange(together, device=clean.device)
        image, turn = (later < queries - 1).nonzero(as_tuple=True)
        which = later[image, turn]
        owner = rows[image]
        x = torch.empty((len(image), *clean.shape[1:]), device=clean.device)
        side_of = sides[which]
        for side in side_of.unique().tolist():
            some = side_of == side
            of = owner[some]
            x[some] = propose(hits.images[of], clean[of], ball, side, numbers[place[of], which[some]])
        found = torch.full(later.shape, -math.inf, device=clean.device)
        found[image, turn] = margins(x, owner)
        better = found > hits.margin[rows, None]
        any_better = better.any(1)
        step = torch.where(any_better, better.int().argmax(1), together - 1)
        at = torch.full(later.shape, -1, device=clean.device)
        at[image, turn] = torch.arange(len(image), device=clean.device)
        chosen = at.gather(1, step[:, None])[any_better, 0]
        hits.see(rows[any_better], x[chosen], found.gather(1, step[:, None])[any_better, 0])
        query = query + step + 1
        kept, asked = 0.9 * kept + float(any_better.sum()), 0.9 * asked + float((step + 1).sum())
        going = ~hits.broken[rows] & (query < queries - 1)
        rows, query = rows[going], query[going]
    return hits


def _share(query: int, queries: int) -> float:
    """Share of the image that a square covers, by the share of queries spent: 0.8, halved nine times."""
    spent = int(query / queries * 10_000)
    halvings = sum(spent > limit for limit in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return math.ldexp(0.8, -halvings)


def _uniform(clean: torch.Tensor, rows: torch.Tensor, draw: Draw, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers uniform in [0, 1) of the images number ``rows``, (n, *shape)."""
    import numpy as np
    import torch

    drawn = np.stack([draw(row, purpose).random(shape, dtype=np.float32) for row in rows.tolist()])
    return torch.from_numpy(drawn).to(clean.device)


def _signs(uniform: torch.Tensor) -> torch.Tensor:
    return (uniform < 0.5).float() * 2 - 1


def _stripes(clean: torch.Tensor, ball: Ball, draw: Draw) -> torch.Tensor:
    """The first guess in L-inf: vertical stripes of one pixel, each at plus or minus epsilon."""
    import torch

    _, channels, _, width = clean.shape
    rows = torch.arange(len(clean))
    stripes = _signs(_uniform(clean, rows, draw, "stripes", (channels, 1, width)))
    return (clean + ball.epsilon * stripes).clamp(0, 1)


def _linf_squares(
    best: torch.Tensor, clean: torch.Tensor, ball: Ball, side: int, numbers: torch.Tensor
) -> torch.Tensor:
    """A square in each image set to plus or minus epsilon, one sign per channel."""
    import torch

    height, width = clean.shape[2:]
    top, left = _corner(numbers[:, 0], height - side), _corner(numbers[:, 1], width - side)
    rows, columns = torch.arange(height, device=clean.device), torch.arange(width, device=clean.device)
    inside = ((rows >= top) & (rows < top + side))[:, None, :, None] & (
        (columns >= left) & (columns < left + side)
    )[:, None, None, :]  # fmt: skip
    edge = (clean + ball.epsilon * _signs(numbers[:, 5:])[:, :, None, None]).clamp(0, 1)
    return torch.where(inside, edge, best)


def _corner(uniform: torch.Tensor, largest: int) -> torch.Tensor:
    """Whole numbers from 0 to ``largest``, (n, 1)."""
    return (uniform * (largest + 1)).long().clamp_max(largest)[:, None]


def _tiles(clean: torch.Tensor, ball: Ball, draw: Draw) -> torch.Tensor:
    """The first guess in L2 and L1: a grid of five by five bumps, each with a sign of its own per channel."""
    import torch

    _, channels, height, width = clean.shape
    side = max(1, min(height, width) // 5)
    tile = torch.arange(height * width, device=clean.device).view(height, width)
    down, across = tile // width // side, tile % width // side
    bump = _bump(side, clean.device)[tile // width % side, tile % width % side]
    number = down * (width // side + 1) + across
    signs = _signs(_uniform(clean, torch.arange(len(clean)), draw, "tiles", (channels, int(number.max()) + 1)))
    delta = bump * signs[:, :, number.flatten()].view(-1, channels, height, width)
    return ball.project(clean + ball.surface(delta), clean)


@cache
def _bump(side: int, device: torch.device) -> torch.Tensor:
    """Two opposite bumps side by side, (side, side), of length 1.

    At distance r from a bump's centre, in the maximum norm, its height is the sum of 1 / m^2 for m from r + 1 on
    (Andriushchenko et al. 2020, arXiv:1912.00049, section 3.3).
    """
    import torch

    def half(height: int) -> torch.Tensor:
        rows, columns = torch.arange(height, device=device), torch.arange(side, device=device)
        distance = torch.maximum((rows - height // 2).abs()[:, None], (columns - side // 2).abs()[None])
        terms = 1 / torch.arange(1, max(height // 2, side // 2) + 2, device=device) ** 2
        heights: torch.Tensor = terms.flip(0).cumsum(0).flip(0)[distance]
        return heights

    if side == 1:
        return torch.ones((1, 1), device=device)
    up, down = half(side // 2), half(side - side // 2)
    bump: torch.Tensor = torch.cat([up / up.norm(), -down / down.norm()]) / math.sqrt(2)
    return bump


def _moved_bumps(best: torch.Tensor, clean: torch.Tensor, ball: Ball, side: int, numbers: torch.Tensor) -> torch.Tensor:
    """In each image the perturbation of one window is emptied, and its length put into a bump in another window."""
    import torch

    height, width = clean.shape[2:]
    # what adds up over pixels: squares in L2, sizes in L1
    power = 2 if ball.norm == "l2" else 1
    side = min(max(side, 3) | 1, height, width)
    delta = best - clean
    spare = per_image(ball.epsilon**power - ball.length(delta) ** power).clamp_min(0) / clean.shape[1]
    grid = torch.arange(side, device=clean.device)
    image = torch.arange(len(clean), device=clean.device)[:, None, None]

    def window(first: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = _corner(numbers[:, first], height - side) + grid
        columns = _corner(numbers[:, first + 1], width - side) + grid
        return rows[:, :, None], columns[:, None, :]

    def scaled(bumps: torch.Tensor) -> torch.Tensor:
        unit: torch.Tensor = bumps / bumps.flatten(2).norm(p=power, dim=2).clamp_min(1e-12)[:, :, None, None]
        return unit

    # as (n, h, w, c), so that a window can be taken from every image at a place of its own
    delta = delta.permute(0, 2, 3, 1).contiguous()
    here, there = window(0), window(2)
    old = scaled(delta[image, here[0], here[1]].permute(0, 3, 1, 2))
    before = delta.abs().pow(power).sum((1, 2))
    delta[image, there[0], there[1]] = 0
    delta[image, here[0], here[1]] = 0
    freed = (before - delta.abs().pow(power).sum((1, 2)))[:, :, None, None]
    bump = _bump(side, clean.device)[None, None]
    turned = (numbers[:, 4] < 0.5)[:, None, None, None]
    new = scaled(torch.where(turned, bump.mT, bump)) * _signs(numbers[:, 5:])[:, :, None, None] + old
    new = scaled(new) * (spare + freed).clamp_min(0).pow(1 / power)
    delta[image, here[0], here[1]] = new.permute(0, 2, 3, 1)
    return ball.project(clean + ball.surface(delta.permute(0, 3, 1, 2)), clean)


_SQUARES = {"linf": (_stripes, _linf_squares), "l2": (_tiles, _moved_bumps), "l1": (_tiles, _moved_bumps)}


def _where(rows: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Images of ``yes`` where ``rows``, else of ``no``."""
    import torch

    return torch.where(per_image(rows), yes, no)
