"""The search of DeepFool: steps onto the nearest plane of the linearised model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.algorithms.balls import inwards, length
from auditor.algorithms.losses import DUAL, margin, per_image

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels

_OVERSHOOT = 1.02
"""Factor by which a step crosses the plane (the paper's eta = 0.02)."""


def nearest_by_planes(classifier: Classifier, batch: Batch, norm: str, *, iterations: int, candidates: int) -> Pixels:
    """Return the first point that the differentiable copy misclassifies, (n, c, h, w); else the clean image.

    Args:
        classifier: Its differentiable copy is linearised.
        batch: The clean images.
        norm: "l2" or "linf".
        iterations: Largest number of linearisations.
        candidates: Number of classes considered, with that of the label.
    """
    import torch

    clean = classifier.tensor(batch.pixels)
    labels = torch.from_numpy(batch.labels).to(clean.device)
    result, delta = clean.clone(), torch.zeros_like(clean)
    left = torch.arange(len(clean), device=clean.device)
    rivals = torch.zeros((len(clean), 0), dtype=torch.long, device=clean.device)
    for iteration in range(iterations + 1):
        x = (clean[left] + _OVERSHOOT * delta).clamp(0, 1).requires_grad_()
        logits = classifier.scaled_logits(x)
        if iteration == 0:
            others = logits.detach().scatter(1, labels[:, None], -torch.inf)
            rivals = others.topk(min(candidates, logits.shape[1]) - 1, dim=1).indices
        wrong = margin(logits.detach(), labels[left]) > 0
        result[left[wrong]] = x.detach()[wrong]
        if iteration == iterations or bool(wrong.all()):
            break
        step = _step_to_nearest_plane(x, logits, labels[left], rivals[left], norm)
        left, delta = left[~wrong], (delta + step)[~wrong]
    images: Pixels = result.cpu().numpy()
    return images


def _step_to_nearest_plane(
    x: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor, norm: str
) -> torch.Tensor:
    """Return the shortest step (n, c, h, w) that makes the linearised logits of the label and a rival equal."""
    import torch

    own = logits.gather(1, labels[:, None])[:, 0]
    shortest = torch.full((len(x),), torch.inf, device=x.device)
    best_gradient, best_slope = torch.zeros_like(x), torch.ones_like(shortest)
    for i in range(rivals.shape[1]):
        lead = logits.gather(1, rivals[:, i, None])[:, 0] - own
        (gradient,) = torch.autograd.grad(lead.sum(), x, retain_graph=i + 1 < rivals.shape[1])
        gradient = inwards(gradient, x.detach())
        slope = length(gradient, DUAL[norm]).clamp_min(1e-12)
        distance = lead.detach().abs() / slope
        nearer = distance < shortest
        shortest = torch.where(nearer, distance, shortest)
        best_slope = torch.where(nearer, slope, best_slope)
        best_gradient = torch.where(per_image(nearer), gradient, best_gradient)
    direction = best_gradient.sign() if norm == "linf" else best_gradient / per_image(best_slope)
    return per_image(shortest) * direction
