"""Fast minimum-norm attack (FMN): gradient steps within a ball that follows the border of the class.

The ball shrinks by a factor 1 - gamma while the image is wrong in it and grows by 1 + gamma while it is not; until the
first error its radius is the first-order estimate ||delta|| + |margin| / ||grad||_dual of the distance. The step
delta <- Proj(delta + alpha grad / ||grad||_2) raises the margin; gamma and alpha fall along a cosine.
Pintor, Roli, Brendel and Biggio 2021, arXiv:2102.12827, algorithm 1.

Not in the paper: the ball shrinks from the nearest error found, not to it; the gradient is taken without what points
out of [0, 1]; and until the first error the ball grows at least by gamma. Without the last two, half of the reference
model's digits, most of whose pixels are black, are never broken in L2: what clipping takes back fills the ball. The
gradient is in the first half of the steps that of the soft margin, which follows all other classes and not the nearest
alone; and in L-inf the step is along its sign, a share of the radius long. That breaks more of the digits
that are far from an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Meta, MinimumNorm, Probe, ThreatModel, hookimpl
from auditor.algorithms.balls import inwards, l1_in_box, length, project
from auditor.algorithms.losses import DUAL, margin, per_image, soft_margin

if TYPE_CHECKING:
    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness

_STEP, _LAST_STEP = 1.0, 0.01
"""Size of the steps, in L2, from first to last (alpha_0 = 1 and a hundredth of it, as in the published code)."""

_SHARE, _LAST_SHARE = 1.0, 0.02
"""Size of the steps in L-inf, in radii, from first to last."""

_FACTOR, _LAST_FACTOR = 0.05, 1e-3
"""Share by which the ball grows or shrinks, from first to last (as in the published code)."""

_EQUAL = 1e-5
"""Lengths that differ by less are equal: rounding, which depends on the batch, must not decide."""


@dataclass(frozen=True, kw_only=True)
class FastMinimumNorm(MinimumNorm):
    """On the device from the first step to the last; one search per norm instead of one attack per epsilon."""

    meta = Meta(
        id="attacks.minimum-norm",
        title="Fast minimum-norm attack",
        area="attacks",
        why="How little it takes to change the answer, image by image: a distance says more than one budget at which"
        " an attack works or does not.",
        references=("https://arxiv.org/abs/2102.12827",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    norms: Sequence[str] = ("linf", "l2", "l1")
    iterations: int = 100
    """Gradient steps in each norm."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError("iterations must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Any distance, many gradient steps."""
        return ThreatModel(
            goal="untargeted misclassification, as near as possible", knowledge="white-box",
            norm=" and ".join(self.norms), budget=f"any distance; {self.iterations} gradient steps",
        )  # fmt: skip

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Per image the nearest iterate that the copy gets wrong."""
        del rng
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        delta, best = torch.zeros_like(clean), torch.zeros_like(clean)
        shortest = torch.full((len(batch),), torch.inf, device=clean.device)
        radius = shortest.clone()
        for iteration in range(self.iterations + 1):
            x = (clean + delta).requires_grad_()
            logits = classifier.logits(x)
            value = margin(logits.detach(), labels)
            wrong, size = value > 0, length(delta, norm)
            # of two points equally far the first one stays, however their lengths are rounded
            nearer = wrong & (size < shortest * (1 - _EQUAL))
            best, shortest = torch.where(per_image(nearer), delta, best), torch.where(nearer, size, shortest)
            if iteration == self.iterations:
                break
            loss = soft_margin if 2 * iteration < self.iterations else margin
            (slope,) = torch.autograd.grad(loss(logits, labels).sum(), x)
            slope = inwards(slope, x.detach())
            progress = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
            factor = _LAST_FACTOR + (_FACTOR - _LAST_FACTOR) * progress
            estimate = size + value.abs() / length(slope, DUAL[norm]).clamp_min(1e-12)
            outwards = torch.where(
                shortest.isinf(), torch.maximum(estimate, size * (1 + factor)), radius * (1 + factor)
            )
            radius = torch.where(wrong, torch.minimum(radius, shortest) * (1 - factor), outwards)
            if norm == "linf":
                # no radius is of use that is wider than the pixels' range
                step = (_LAST_SHARE + (_SHARE - _LAST_SHARE) * progress) * per_image(radius.clamp_max(1)) * slope.sign()
            else:
                step = (
                    (_LAST_STEP + (_STEP - _LAST_STEP) * progress)
                    * slope
                    / per_image(length(slope, "l2").clamp_min(1e-12))
                )
            if norm == "l1":
                delta = l1_in_box(delta + step, clean, radius)
            else:
                delta = (clean + project(delta + step, norm, radius)).clamp(0, 1) - clean
        result: Pixels = (clean + best).cpu().numpy()
        return result


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [FastMinimumNorm]
