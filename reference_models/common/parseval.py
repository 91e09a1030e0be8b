"""Parseval networks (Cisse et al. 2017, arXiv:1704.08847): weights near a tight frame and aggregation by convex
combinations, so that no layer amplifies a perturbation.

After every update each weight matrix takes one retraction step W <- (1 + beta) W - beta W W^T W (section 4.2, algorithm
1), and the coefficients of every aggregation are projected onto the simplex (section 4.3). As in the paper, batch
normalisation is not constrained, so the whole network does not have a Lipschitz constant of 1.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class Convex(nn.Module):
    """Sum of two branches weighted by two trained numbers on the simplex, initially 1/2 each."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, short: torch.Tensor, long: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum, same shape as both."""
        return self.shares[0] * short + self.shares[1] * long


class ScaledConv2d(nn.Conv2d):
    """A convolution divided by the side of its kernel.

    Unfolding an image repeats each pixel up to k * k times, which increases its length by up to k, so an orthogonal
    kernel alone does not preserve length (section 4.2).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve and divide by the root of the number of kernel positions."""
        result: torch.Tensor = super().forward(x) / math.sqrt(self.kernel_size[0] * self.kernel_size[1])
        return result


def scale_convolutions(network: nn.Module) -> None:
    """Replace every convolution by a ``ScaledConv2d``, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = ScaledConv2d


def start_orthogonal(network: nn.Module) -> None:
    """Initialise all convolutions and linear layers orthogonally: the retraction only preserves near-orthogonality."""
    for weight in _matrices(network):
        with torch.no_grad():
            weight.copy_(nn.init.orthogonal_(torch.empty_like(weight).flatten(1)).view_as(weight))


@torch.no_grad()
def constrain(network: nn.Module, beta: float) -> None:
    """Apply one retraction step to every convolution and linear layer, and project all aggregation coefficients."""
    for weight in _matrices(network):
        weight.copy_(retract(weight.flatten(1), beta).view_as(weight))
    for module in network.modules():
        if isinstance(module, Convex):
            module.shares.copy_(onto_simplex(module.shares))


def retract(matrix: torch.Tensor, beta: float) -> torch.Tensor:
    """Return (1 + beta) W - beta W W^T W: moves each singular value s towards 1, to s + beta s (1 - s^2)."""
    # by the smaller of the two Gram matrices
    gram = matrix @ matrix.T @ matrix if matrix.shape[0] <= matrix.shape[1] else matrix @ (matrix.T @ matrix)
    return (1 + beta) * matrix - beta * gram


def onto_simplex(values: torch.Tensor) -> torch.Tensor:
    """Project onto the simplex: entries at least 0 that sum to 1 (Michelot 1986; Duchi et al. 2008, figure 1)."""
    falling = values.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, len(values) + 1, device=values.device)
    count = int((falling > excess).sum())
    return (values - excess[count - 1]).clamp(min=0)


def singular_values(network: nn.Module) -> torch.Tensor:
    """Return the singular values of all constrained weights together."""
    return torch.cat([torch.linalg.svdvals(weight.detach().flatten(1)) for weight in _matrices(network)])


def shares(network: nn.Module) -> list[float]:
    """Return the weight of the skip in every aggregation, from input to output."""
    return [float(module.shares[0].detach()) for module in network.modules() if isinstance(module, Convex)]


def _matrices(network: nn.Module) -> list[torch.Tensor]:
    """Return the constrained weights; the rows of ``flatten(1)`` are (outputs, inputs x kernel positions)."""
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
