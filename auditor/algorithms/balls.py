"""Lengths, balls and projections of the norms, for attacks and the searches of AutoAttack.

Functions map tensors to tensors on the same device, image by image: ``images`` and ``delta`` are (n, c, h, w),
per-image numbers (n,). torch is imported inside, so that a plugin can import this module at its top.

A search queries ``model``, which maps pixels (n, c, h, w) in [0, 1] to logits (n, k), under autograd if it needs
gradients. It returns per image the visited point with the largest margin. Once the margin exceeds ``MARGIN_TOLERANCE``,
the image leaves the batch. The searches deviate from the published code only where that loses no adversarial image:
they stop at the first one, and require a margin instead of a tie.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

from auditor.algorithms.losses import per_image

_L1_SHARE = 0.01
"""Share of coordinates moved by one L1 step (Tramer and Boneh 2019, arXiv:1904.13000, section 4.1, q = 99 %)."""


def length(delta: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the length of each image's perturbation in "linf", "l2" or "l1", (n,)."""
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().sum(1)


def inwards(direction: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Remove the components of a direction that point out of [0, 1] at ``x``.

    Clipping would undo them, and until then they use up the ball at the cost of pixels that can move.
    """
    # rounding errors of a step, 1e-9 of a pixel, must not decide: the result would depend on the batch
    edge = 1e-5
    return direction * ~((x <= edge) & (direction < 0) | (x >= 1 - edge) & (direction > 0))


def project(delta: torch.Tensor, norm: str, radius: torch.Tensor) -> torch.Tensor:
    """Project a perturbation (in L2) onto the ball with each image's ``radius`` (n,).

    L1 by thresholding the sorted magnitudes (Duchi et al. 2008, Efficient projections onto the l1-ball, figure 1).
    """
    if norm == "linf":
        size = per_image(radius, delta.ndim)
        return delta.clamp(-size, size)
    if norm == "l2":
        return delta * per_image((radius / length(delta, norm).clamp_min(1e-30)).clamp_max(1), delta.ndim)
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
"""Maximum number of Newton steps (about five are needed), and the relative error at which they stop."""


class Ball:
    """Epsilon ball of a norm ("linf", "l2", "l1") around clean images, intersected with [0, 1]."""

    def __init__(self, norm: str, epsilon: float) -> None:
        """Create a ball; ``epsilon`` is in pixel units from 0 to 1."""
        self.norm, self.epsilon = norm, epsilon

    def length(self, delta: torch.Tensor) -> torch.Tensor:
        """Return the norm of each image's perturbation, (n,)."""
        return length(delta, self.norm)

    def inside(self, noise: torch.Tensor) -> torch.Tensor:
        """Return a random perturbation within the ball, from noise uniform in [-1, 1]."""
        if self.norm == "linf":
            return noise * self.epsilon
        return self.surface(noise) * per_image(noise.flatten(1)[:, 0].abs(), noise.ndim)

    def surface(self, noise: torch.Tensor) -> torch.Tensor:
        """Scale the noise to the surface of the ball."""
        return noise * per_image(self.epsilon / self.length(noise).clamp_min(1e-30), noise.ndim)

    def outermost(self, noise: torch.Tensor) -> torch.Tensor:
        """Return a random perturbation on the surface of the ball, in L-inf one of its corners."""
        return self.surface(noise.sign() if self.norm == "linf" else noise)

    def direction(self, slope: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the unit step from ``x`` that raises a loss with this gradient most.

        In L1 that step changes only the coordinate with the largest slope. It is shared among the largest 1 % of those
        with room in [0, 1], since one pixel at a time makes no progress (Tramer and Boneh 2019, arXiv:1904.13000,
        section 4.1).
        """
        import torch

        if self.norm == "linf":
            return slope.sign()
        if self.norm == "l2":
            return slope / per_image(self.length(slope).clamp_min(1e-30), slope.ndim)
        room = torch.where(slope > 0, x < 1, x > 0)
        size = (slope.abs() * room).flatten(1)
        least = size.topk(max(1, math.ceil(_L1_SHARE * size.shape[1])), dim=1).values[:, -1:]
        chosen = (size >= least) & (size > 0)
        step = slope.flatten(1).sign() * chosen / chosen.sum(1, keepdim=True).clamp_min(1)
        return step.view_as(slope)

    def project(self, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Project onto the ball and [0, 1].

        L-inf and L1: the nearest point (in L2) of their intersection. L2: first the ball, then the box.
        """
        delta = x - clean
        radius = delta.new_full((len(delta),), self.epsilon)
        if self.norm == "l1":
            return clean + l1_in_box(delta, clean, radius)
        return (clean + project(delta, self.norm, radius)).clamp(0, 1)


def l1_in_box(delta: torch.Tensor, clean: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Project (in L2) onto the perturbations of L1 length at most ``radius`` (n,) that keep the images in [0, 1].

    Each coordinate is shrunk by one level, then clipped to its room. The length is piecewise linear in the level, so
    Newton steps find it, bracketed between a level that is too low and one that is high enough; this needs fewer passes
    over the pixels than sorting. Projecting onto one set after the other leaves part of the budget unused (Croce and
    Hein 2021, arXiv:2103.01208, proposition 2.1).
    """
    import torch

    flat, start, radius = delta.flatten(1), clean.flatten(1), radius[:, None]
    size = flat.abs()
    room = torch.where(flat > 0, 1 - start, start)
    level = low = torch.zeros_like(size[:, :1])
    # shrinking by the largest coordinate leaves nothing
    high = largest = size.amax(1, keepdim=True)
    for _ in range(_NEWTON):
        shrunk = size - level
        kept = torch.minimum(shrunk.clamp_min(0), room)
        over = kept.sum(1, keepdim=True) - radius
        low, high = torch.where(over > 0, level, low), torch.where(over > 0, high, level)
        # the level is only as accurate as float32 represents the largest coordinate
        unfinished = (over > 0) | ((over < -_EXACT * radius) & (level > 0))
        if not bool((unfinished & (high - low > 1e-7 * largest)).any()):
            break
        moving = ((shrunk > 0) & (shrunk < room)).sum(1, keepdim=True)
        # slightly beyond the linear step, to end on the feasible side
        step = level + (over + 0.5 * _EXACT * radius) / moving.clamp_min(1)
        level = torch.where((moving > 0) & (step > low) & (step < high), step, (low + high) / 2)
        level = torch.where((over <= 0) & (over >= -_EXACT * radius) | (high == 0), high, level)
    return (flat.sign() * torch.minimum((size - high).clamp_min(0), room)).view_as(delta)


def step_to_plane(x: torch.Tensor, slope: torch.Tensor, rise: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the shortest step d in ``norm`` with <slope, d> = rise (n,) and x + d in [0, 1]; (n, c, h, w).

    If the box is too small, the step goes as far as it allows. This is the projection of FAB (Croce and Hein 2020,
    arXiv:1907.02044, equation 4 and appendix A). In L-inf and L2 each coordinate moves by min(level * pace, room), pace
    1 or |slope|; the rise is concave and piecewise linear in the level, so Newton steps from 0 never overshoot and
    reach the solution without sorting. In L1 the steepest coordinates move first, each as far as it can.
    """
    import torch

    weight, start, need = slope.flatten(1).abs(), x.flatten(1), rise.abs()[:, None]
    towards = slope.flatten(1).sign() * rise.sign()[:, None]
    room = torch.where(towards > 0, 1 - start, start)
    if norm == "l1":
        weight, order = weight.sort(dim=1, descending=True)
        room = room.gather(1, order)
        gain = weight * room
        missing = (need - (gain.cumsum(1) - gain)).clamp_min(0)
        size = torch.zeros_like(room).scatter(1, order, torch.minimum(missing / weight.clamp_min(1e-30), room))
    else:
        pace = torch.ones_like(weight) if norm == "linf" else weight
        level = torch.zeros_like(need)
        for _ in range(_NEWTON):
            size = torch.minimum(level * pace, room)
            missing = (need - (weight * size).sum(1, keepdim=True)).clamp_min(0)
            rate = (weight * pace * (size < room)).sum(1, keepdim=True)
            if not bool(((missing > _EXACT * need) & (rate > 0)).any()):
                break
            level = level + torch.where(rate > 0, missing / rate.clamp_min(1e-30), 0)
        size = torch.minimum(level * pace, room)
    return (towards * size).view_as(x)
