"""Perturbations of training images: gradient steps, noise, random points of Lp balls, geometry.

All values are pixels from 0 to 1 and stay in that range.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn


def fgsm(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """Take one step along the sign of the gradient of the cross-entropy of the logits (arXiv:1412.6572).

    ``epsilon`` is the size per image and channel, (n or 1, c or 1, 1, 1).
    """
    moved = pixels.detach().requires_grad_()
    loss = nn.functional.cross_entropy(model(moved), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, moved)
    return (pixels + epsilon * gradient.sign()).clamp(0, 1).detach()


def pgd(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    steps: int,
    step: float,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Run projected gradient descent in L-inf (Madry et al. 2018, arXiv:1706.06083).

    With a generator the start is random.
    """
    start = pixels
    if generator is not None:
        noise = torch.rand(pixels.shape, generator=generator).to(pixels.device)
        start = (pixels + epsilon * (2 * noise - 1)).clamp(0, 1)
    moved = start
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(moved), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (pixels + (moved + step * gradient.sign() - pixels).clamp(-epsilon, epsilon)).clamp(0, 1)
    return moved.detach()


def uniform(pixels: torch.Tensor, epsilon: float | torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add uniform noise in [-epsilon, epsilon]; one epsilon, or a tensor as for ``fgsm``."""
    noise = torch.rand(pixels.shape, generator=generator).to(pixels.device)
    return (pixels + epsilon * (2 * noise - 1)).clamp(0, 1)


def gaussian(pixels: torch.Tensor, largest: float, generator: torch.Generator) -> torch.Tensor:
    """Add Gaussian noise whose standard deviation is drawn per image, uniformly up to ``largest``."""
    sigma = largest * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    noise = sigma * torch.randn(pixels.shape, generator=generator)
    return (pixels + noise.to(pixels.device)).clamp(0, 1)


def lp_ball(pixels: torch.Tensor, p: float, radius: float, generator: torch.Generator) -> torch.Tensor:
    """Add a point drawn uniformly from the Lp ball of ``radius``, per image.

    By a generalised gamma law (Calafiore, Dabbene and Tempo 1999; used by Siedel et al. 2023, arXiv:2305.05400): for
    t_i of density ~ exp(-|t|^p) and U uniform in [0, 1], radius U^(1/d) t / ||t||_p is uniform in the ball.
    """
    if math.isinf(p):
        return uniform(pixels, radius, generator)
    shape = pixels.shape
    # |t|^p is Gamma(1/p); torch cannot draw Gamma from a generator, hence Marsaglia and Tsang's method in numpy
    import numpy as np

    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    n, d = shape[0], math.prod(shape[1:])
    size = rng.standard_gamma(1 / p, (n, d)) ** (1 / p)
    direction = size * rng.choice([-1.0, 1.0], (n, d))
    length = (size**p).sum(axis=1, keepdims=True) ** (1 / p)
    scale = radius * rng.random((n, 1)) ** (1 / d)
    noise = torch.from_numpy((direction / length * scale).astype(np.float32)).view(shape)
    return (pixels + noise.to(pixels.device)).clamp(0, 1)


def impulses(
    pixels: torch.Tensor, share: float, kind: Literal["max", "linear"], generator: torch.Generator
) -> torch.Tensor:
    """Add L0 noise: replace up to ``share`` of the values by black or white ("max") or by any value ("linear").

    The actual share is drawn per image.
    """
    most = share * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    chosen = torch.rand(pixels.shape, generator=generator) < most
    values = torch.rand(pixels.shape, generator=generator)
    if kind == "max":
        values = values.round()
    return torch.where(chosen.to(pixels.device), values.to(pixels.device), pixels)


def crop_and_flip(pixels: torch.Tensor, pad: int, generator: torch.Generator, *, flip: bool = True) -> torch.Tensor:
    """Shift by up to ``pad`` pixels, with the border repeated, and mirror half of the images."""
    n, _, height, width = pixels.shape
    padded = nn.functional.pad(pixels, (pad,) * 4, mode="replicate")
    down, right = (torch.randint(2 * pad + 1, (n,), generator=generator).to(pixels.device) for _ in range(2))
    rows = down[:, None] + torch.arange(height, device=pixels.device)
    columns = right[:, None] + torch.arange(width, device=pixels.device)
    if flip:
        mirrored = (torch.rand(n, generator=generator) < 0.5).to(pixels.device)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = torch.arange(n, device=pixels.device)
    # (n, h, w, c) with the advanced indices first
    cropped = padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def affine(
    pixels: torch.Tensor,
    generator: torch.Generator,
    *,
    degrees: float,
    shift: float,
    shear: float,
    zoom: float,
    flip: bool = True,
) -> torch.Tensor:
    """Apply a random affine map per image, and mirror half of the images; the border is repeated outside.

    Rotates by up to ``degrees``, shifts by up to ``shift`` of the side, shears by up to ``shear`` radians, and scales
    by up to 1 +- ``zoom``.
    """
    n = len(pixels)

    def draw(largest: float) -> torch.Tensor:
        return largest * (2 * torch.rand(n, generator=generator) - 1)

    angle, slant, scale = draw(math.radians(degrees)), draw(shear), 1 + draw(zoom)
    mirror = torch.where(torch.rand(n, generator=generator) < (0.5 if flip else 0), -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # affine_grid ranges from -1 to 1, so a shift of the whole side is 2
    rows = [mirror * cos, -sin + slant, 2 * draw(shift), mirror * sin, cos, 2 * draw(shift)]
    matrix = torch.stack(rows, 1).view(n, 2, 3).to(pixels.device)
    grid = nn.functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
