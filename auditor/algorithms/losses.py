"""Loss functions of gradient-based attacks: differences of logits, not probabilities.

The gradient of cross-entropy has the factor 1 - p of the label, which is zero in float32 for confident predictions: a
model whose logits are multiplied by 30 would resist every attack that uses it, although it makes the same errors.
Differences of logits do not saturate (Carlini and Wagner 2017, arXiv:1608.04644, sections V and VI; Croce and Hein
2020, arXiv:2003.01690, section 4, who also divide by another difference, so that the scale cancels).
Attacks take them of ``Classifier.scaled_logits``, so that no result depends on the scale of the logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""Dual norm by norm: to first order a step of length 1 changes the loss by the gradient's length in the dual norm."""


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the largest other logit minus the label's, (n,); positive for a misclassified image."""
    own: torch.Tensor = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - own


def soft_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return log(sum over the other classes of exp(z)) minus the label's logit, (n,): the log-odds of an error.

    It increases with cross-entropy, and its gradient has the same direction but does not vanish where the softmax
    saturates.
    """
    import torch

    label = labels[:, None]
    others = (logits - logits.gather(1, label)).scatter(1, label, -torch.inf)
    return others.logsumexp(1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each image, (n,), as log(1 + exp(soft margin)).

    Same value as torch's, but its gradient has no ``p - 1``, which in float32 loses the label's part for confident
    predictions (margins from 16): an attack would step in a wrong direction and overestimate robustness.
    """
    import torch

    return torch.nn.functional.softplus(soft_margin(logits, labels))


def gain(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the logit of each image's target class minus the label's, (n,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the targeted difference of logits ratio, (n,): (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2).

    z_(i) is the i-th largest logit. Croce and Hein 2020, arXiv:2003.01690, equation 7. For three classes the
    denominator is that of the untargeted ratio, z_(1) - z_(3) (equation 6); for two classes it is 1.
    """
    rise = gain(logits, labels, targets)
    classes = logits.shape[1]
    if classes < 3:
        return rise
    top = logits.topk(min(classes, 4), dim=1).values
    return rise / (top[:, 0] - top[:, 2:].mean(1) + 1e-12)


def per_image(values: torch.Tensor, ndim: int = 4) -> torch.Tensor:
    """Reshape one number per image (n,) to (n, 1, ...) with ``ndim`` axes, to multiply inputs."""
    return values.view(-1, *[1] * (ndim - 1))
