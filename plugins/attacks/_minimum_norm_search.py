"""The search of the fast minimum-norm attack.

Differences from the paper, which find more errors:

- The radius shrinks from the nearest error found, not to it, and never grows beyond it.
- Gradients exclude components that point out of [0, 1]: clipping undoes them, but they use up the budget.
- Until the first error the radius grows at least by gamma. Without this and the previous change, half of the reference
  model's digits, which are mostly black, are never misclassified in L2. It grows at most fourfold in a step: where the
  gradient almost vanishes, the first-order estimate of the distance diverges.
- In the first half of the steps the loss is the soft margin, which takes all other classes into account.
- In L-inf the step is along the sign of the gradient, proportional to the radius.
- The steps are shared between the search from the clean image, short attacks from random starts on balls whose radius
  is bisected between one that failed and the nearest error, and a search from the nearest error. The short attacks also
  find a first error where the search from the clean image failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from auditor.algorithms.balls import Ball, inwards, l1_in_box, length, project
from auditor.algorithms.losses import DUAL, margin, per_image, soft_margin
from auditor.algorithms.staged_pgd import CARRIED, step_size

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

_CLEAN_SHARE, _ATTACK_SHARE = 0.3, 0.08
"""Shares of the steps from the clean image and of each short attack; the rest start from the nearest error."""

_ATTACKS = 6
"""Number of short attacks, whose steps are those of ``staged_pgd``."""

_SPAN = 16.0
"""First bracket of the bisection: from the nearest error divided by this."""

_GROWTH = 4.0
"""Largest factor by which the radius grows in a step before the first error."""

Noise = Callable[[int], "torch.Tensor"]
"""Uniform noise in [-1, 1] for all images, (n, c, h, w), by the number of the start."""


def nearest_by_radius(classifier: Classifier, batch: Batch, norm: str, *, iterations: int, noise: Noise) -> Pixels:
    """Return the nearest visited point that the differentiable copy misclassifies, (n, c, h, w); else the clean image.

    ``norm`` is "linf", "l2" or "l1", ``iterations`` the number of gradient steps in all.
    """
    search = _Search(classifier, batch, norm)
    first = math.ceil(_CLEAN_SHARE * iterations)
    short = int(_ATTACK_SHARE * iterations)
    search.follow_boundary(first, from_clean=True)
    if short:
        search.bisect(short, noise)
    search.follow_boundary(iterations - first - _ATTACKS * short, from_clean=False)
    return search.result()


def refined(classifier: Classifier, batch: Batch, starts: Pixels, norm: str, *, iterations: int) -> Pixels:
    """Continue from misclassified images ``starts`` (n, c, h, w); return the nearest misclassified point visited."""
    search = _Search(classifier, batch, norm)
    search.best = search.last = classifier.tensor(starts) - search.clean
    search.shortest = length(search.best, norm)
    search.follow_boundary(iterations, from_clean=False)
    return search.result()


class _Search:
    """The nearest errors of a batch so far, and the steps that improve them."""

    def __init__(self, classifier: Classifier, batch: Batch, norm: str) -> None:
        import torch

        self._model, self.norm = classifier.scaled_logits, norm
        self.clean = classifier.tensor(batch.pixels)
        self._labels = torch.from_numpy(batch.labels).to(self.clean.device)
        self.best = self.last = torch.zeros_like(self.clean)
        self.shortest = torch.full((len(batch),), torch.inf, device=self.clean.device)
        size = float(self.clean[0].numel())
        self._largest = {"linf": 1.0, "l2": math.sqrt(size), "l1": size}[norm]

    def result(self) -> Pixels:
        """Judge the last point, and return the nearest errors as images, the clean image where none was found."""
        import torch

        with torch.no_grad():
            self._keep(self.last, margin(self._model(self.clean + self.last), self._labels))
        images: Pixels = (self.clean + self.best).cpu().numpy()
        return images

    def follow_boundary(self, steps: int, *, from_clean: bool) -> None:
        """Let the radius follow the class boundary, from the clean images or the nearest errors."""
        import torch

        known = self.shortest.isfinite()
        radius = torch.where(known, self.shortest * (1 - _FACTOR), torch.inf)
        delta = torch.zeros_like(self.clean)
        if not from_clean:
            delta = torch.where(per_image(known), self._inside(self.best, radius.where(known, 0)), self.last)
        for step in range(steps):
            x, logits, value = self._see(delta)
            wrong, size = value > 0, length(delta, self.norm)
            loss = soft_margin if from_clean and 2 * step < steps else margin
            (gradient,) = torch.autograd.grad(loss(logits, self._labels).sum(), x)
            gradient = inwards(gradient, x.detach())
            decay = 0.5 * (1 + math.cos(math.pi * step / steps))
            factor = _LAST_FACTOR + (_FACTOR - _LAST_FACTOR) * decay
            estimate = size + value.abs() / length(gradient, DUAL[self.norm]).clamp_min(1e-12)
            estimate = torch.minimum(estimate, _GROWTH * radius).clamp_max(self._largest)
            first = torch.maximum(estimate, size * (1 + factor))
            known = self.shortest.isfinite()
            grown = torch.minimum(radius * (1 + factor), self.shortest * (1 - _LAST_FACTOR))
            radius = torch.where(
                wrong, torch.minimum(radius, self.shortest) * (1 - factor), torch.where(known, grown, first)
            )
            delta = self._inside(delta + _step(gradient, radius, self.norm, decay), radius)
        self.last = delta

    def bisect(self, steps: int, noise: Noise) -> None:
        """Attack from random starts within balls between a radius that failed and the nearest error.

        Without an error the radius doubles instead.
        """
        import torch

        failed = torch.where(self.shortest.isfinite(), self.shortest / _SPAN, 0.0)
        trial = self._largest / 2 ** (_ATTACKS - 1)
        for number in range(_ATTACKS):
            radius = (failed.clamp_min(1e-6) * self.shortest).sqrt()
            radius = torch.where(self.shortest.isfinite(), radius, min(trial * 2**number, self._largest))
            before = self.shortest
            self._attack(radius, steps, noise(number))
            failed = torch.where(self.shortest < before, failed, torch.maximum(failed, radius))
            # of a ball that failed by chance, the bracket stays open
            failed = torch.minimum(failed, 0.98 * self.shortest)

    def _attack(self, radius: torch.Tensor, steps: int, noise: torch.Tensor) -> None:
        """Run projected gradient descent within each image's ``radius`` (n,)."""
        import torch

        ball, size = Ball(self.norm, 1.0), per_image(radius)
        delta = before = self._inside(size * ball.outermost(noise), radius)
        for step in range(steps):
            x, logits, _ = self._see(delta)
            (gradient,) = torch.autograd.grad(soft_margin(logits, self._labels).sum(), x)
            ahead = self._inside(delta + step_size(step / steps) * size * ball.direction(gradient, x.detach()), radius)
            carried = CARRIED if step else 0.0
            delta, before = self._inside(ahead + carried * (2 * delta - before - ahead), radius), delta
        self.last = delta

    def _see(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keep the points that are nearer errors; return pixels and logits under autograd, and the margins (n,)."""
        x = (self.clean + delta).requires_grad_()
        logits = self._model(x)
        value = margin(logits.detach(), self._labels)
        self._keep(delta, value)
        return x, logits, value

    def _keep(self, delta: torch.Tensor, value: torch.Tensor) -> None:
        import torch

        size = length(delta, self.norm)
        # of two equally distant points the first one stays, however their lengths are rounded
        nearer = (value > 0) & (size < self.shortest * (1 - _EQUAL))
        self.best = torch.where(per_image(nearer), delta, self.best)
        self.shortest = torch.where(nearer, size, self.shortest)

    def _inside(self, delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """Project onto the balls and [0, 1]."""
        if self.norm == "l1":
            return l1_in_box(delta, self.clean, radius)
        return (self.clean + project(delta, self.norm, radius)).clamp(0, 1) - self.clean


def _step(gradient: torch.Tensor, radius: torch.Tensor, norm: str, decay: float) -> torch.Tensor:
    """Return the gradient step (n, c, h, w); ``decay`` falls from 1 to 0 during the search."""
    if norm == "linf":
        # a radius above 1 exceeds the pixel range
        share = _LAST_LINF_STEP + (_LINF_STEP - _LAST_LINF_STEP) * decay
        return share * per_image(radius.clamp_max(1)) * gradient.sign()
    step = _LAST_STEP + (_STEP - _LAST_STEP) * decay
    return step * gradient / per_image(length(gradient, "l2").clamp_min(1e-12))
