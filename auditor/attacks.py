"""What attacks share: the loss that they raise, and lengths and balls of the norms.

Tensors in, tensors out, on their own device, image by image: ``images`` and ``delta`` are (n, c, h, w), per-image
numbers (n,). torch is imported inside, so that a plugin may import this module at its top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Largest other logit less that of the label, (n,); positive where the answer is wrong."""
    own: torch.Tensor = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - own


def per_image(values: torch.Tensor) -> torch.Tensor:
    """Numbers of images (n,) in the shape in which they multiply images, (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def length(delta: torch.Tensor, norm: str) -> torch.Tensor:
    """Length of each image's perturbation in "linf", "l2" or "l1", (n,)."""
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().sum(1)


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
