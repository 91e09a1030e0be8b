"""Loss functions of gradient-based attacks."""

from __future__ import annotations

from collections.abc import Callable
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
