"""Search for the largest radius within which the label is proven to win."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.algorithms.bounds.bounder import Bounder
from auditor.algorithms.bounds.prover import Method, Proofs, Prover

_SMALLEST, _LARGEST = -14, 2
"""Radii are searched between 2^-14 and 2^2."""


class Radii(NamedTuple):
    """Certified radii of n images, and how they were proven."""

    radius: NDArray[np.float64]
    """(n,); 0 if nothing is proven."""
    method: NDArray[np.int64]
    """Method that proved the largest of the requested epsilons, (n,)."""
    late: NDArray[np.bool_]
    """True where the time limit ended a proof, (n,)."""


def find_radii(
    bounder: Bounder,
    prover: Prover,
    pixels: Tensor,
    labels: Tensor,
    *,
    norm: str,
    slack: Tensor,
    epsilons: Sequence[float],
    iterations: int,
    seconds: float,
) -> Radii:
    """Test the epsilons by all methods, then bisect by linear bounds between the largest that holds and the next.

    pixels (n, c, h, w), labels (n,); margins must exceed ``slack`` (n,); ``seconds`` of branch and bound per image.
    """
    sizes = torch.tensor(sorted(epsilons), dtype=torch.float64)

    def prove(rows: Tensor, size: Tensor, left: Tensor) -> Proofs:
        return prover.prove(pixels[rows], labels[rows], size, norm, slack=slack[rows], seconds=left)

    count, method, late = _count_proven(sizes, len(pixels), seconds, prove)
    ends = torch.cat([torch.zeros(1), sizes, torch.tensor([2.0**_LARGEST])]).double()
    radius = ends[count]
    low, high = radius.clamp_min(2.0**_SMALLEST).log2(), ends[count + 1].log2()
    for _ in range(iterations):
        middle = (low + high) / 2
        held = bounder.margins(pixels, labels, 2**middle, norm) > slack
        radius = torch.where(held, 2**middle, radius)
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    return Radii(radius.numpy(), method.numpy(), late.numpy())


def _count_proven(
    sizes: Tensor, n: int, seconds: float, prove: Callable[[Tensor, Tensor, Tensor], Proofs]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many of the increasing sizes hold (binary search), the method, and where time was over; (n,) each."""
    held, failed = torch.zeros(n, dtype=torch.long), torch.full((n,), len(sizes) + 1)
    method, late = torch.full((n,), int(Method.NONE)), torch.zeros(n, dtype=torch.bool)
    left = torch.full((n,), seconds, dtype=torch.float64)
    while len(rows := (failed - held > 1).nonzero()[:, 0]):
        middle = (held[rows] + failed[rows]) // 2
        proofs = prove(rows, sizes[middle - 1], left[rows])
        proven = proofs.method != Method.NONE
        held[rows] = torch.where(proven, middle, held[rows])
        failed[rows] = torch.where(proven, failed[rows], middle)
        method[rows] = torch.where(proven, proofs.method, method[rows])
        late[rows] |= proofs.late
        left[rows] = (left[rows] - proofs.seconds).clamp_min(0)
    return held, method, late
