"""The search of Carlini and Wagner's attack: Adam for one constant c, and bisection of c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.algorithms.losses import margin, per_image

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels

_TANH_RANGE = 0.999
"""Black and white are mapped to this share of tanh's range, since its gradient is zero at the ends. The published code
has 0.999999, with which a black pixel needs hundreds of steps to become visible."""

_DECAY, _SQUARE_DECAY, _TINY = 0.9, 0.999, 1e-8
"""Adam's usual constants (arXiv:1412.6980, section 2)."""

_STALLED = 0.9999
"""An image stops if its loss is above this share of its loss a tenth of the steps ago (abort_early of the published
code)."""


def nearest_by_descent(
    classifier: Classifier, batch: Batch, *, rate: float, iterations: int, search_steps: int, first_constant: float
) -> Pixels:
    """Return the nearest iterate that the differentiable copy misclassifies, (n, c, h, w); else the clean image.

    Args:
        classifier: Its differentiable copy is attacked.
        batch: The clean images.
        rate: Adam's step size in w.
        iterations: Adam steps for each c.
        search_steps: Number of values of c.
        first_constant: First value of c; it is multiplied by ten until it suffices.
    """
    import torch

    clean = classifier.tensor(batch.pixels)
    labels = torch.from_numpy(batch.labels).to(clean.device)
    best, shortest = clean.clone(), torch.full((len(clean),), torch.inf, device=clean.device)
    constant = torch.full_like(shortest, first_constant)
    low, high = torch.zeros_like(shortest), torch.full_like(shortest, torch.inf)
    for _ in range(search_steps):
        nearest, size = _descend(classifier, clean, labels, constant, iterations=iterations, rate=rate)
        wrong, nearer = size.isfinite(), size < shortest
        best, shortest = torch.where(per_image(nearer), nearest, best), torch.where(nearer, size, shortest)
        high, low = torch.where(wrong, constant, high), torch.where(wrong, low, constant)
        constant = torch.where(high.isinf(), 10 * constant, (low + high) / 2)
    result: Pixels = best.cpu().numpy()
    return result


def _descend(
    classifier: Classifier,
    clean: torch.Tensor,
    labels: torch.Tensor,
    constant: torch.Tensor,
    *,
    iterations: int,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run Adam once.

    Returns:
        The nearest misclassified iterate of each image (n, c, h, w), and its distance (n,), infinite if there is
        none.
    """
    import torch

    best, shortest = clean.clone(), torch.full_like(constant, torch.inf)
    rows = torch.arange(len(clean), device=clean.device)
    w = torch.atanh((2 * clean - 1) * _TANH_RANGE)
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    before = torch.full_like(shortest, torch.inf)
    for iteration in range(iterations + 1):
        w = w.detach().requires_grad_()
        x = (torch.tanh(w) + 1) / 2
        values = margin(classifier.scaled_logits(x), labels[rows])
        squared = (x - clean[rows]).square().flatten(1).sum(1)
        loss = squared + constant[rows] * (-values).clamp_min(0)
        size = squared.detach().sqrt()
        nearer = (values.detach() > 0) & (size < shortest[rows])
        best[rows[nearer]], shortest[rows[nearer]] = x.detach()[nearer], size[nearer]
        if iteration == iterations:
            break
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        mean = _DECAY * mean + (1 - _DECAY) * gradient
        square = _SQUARE_DECAY * square + (1 - _SQUARE_DECAY) * gradient.square()
        unbiased_mean = mean / (1 - _DECAY ** (iteration + 1))
        unbiased_square = square / (1 - _SQUARE_DECAY ** (iteration + 1))
        w = w.detach() - rate * unbiased_mean / (unbiased_square.sqrt() + _TINY)
        if iteration % max(1, iterations // 10) == 0:
            going = loss.detach() <= _STALLED * before[rows]
            before[rows] = loss.detach()
            if not bool(going.all()):
                rows, w, mean, square = rows[going], w[going], mean[going], square[going]
            if not len(rows):
                break
    return best, shortest
