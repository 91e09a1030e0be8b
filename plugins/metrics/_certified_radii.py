"""Search for the largest radius within which the label is proven to win."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.algorithms.bounds.bounder import Bounder
from auditor.algorithms.bounds.prover import Method, Prover
from auditor.algorithms.bounds.ranges import Known

_SMALLEST, _LARGEST = 2.0**-14, 2.0**2
"""Radii are searched between these."""

_SLOPE = 3.0
"""First guess of the power of the radius with which the used share of the margin grows; 1 for a linear model."""


class Radii(NamedTuple):
    """Certified radii of n images, and how they were proven."""

    radius: NDArray[np.float64]
    """(n,); 0 if nothing is proven."""
    method: NDArray[np.int64]
    """Method that proved the largest of the requested epsilons, (n,)."""
    late: NDArray[np.bool_]
    """True where the time limit ended a proof, (n,)."""


class _Task(NamedTuple):
    """Images that are bounded together."""

    pixels: Tensor
    labels: Tensor
    norm: str
    slack: Tensor
    known: Known


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
    """Search for the radius with linear bounds, then try the next larger epsilons by all methods.

    pixels (n, c, h, w), labels (n,); margins must exceed ``slack`` (n,); ``iterations`` as in ``_linear_radii``;
    ``seconds`` of branch and bound per image.
    """
    sizes = torch.tensor(sorted(epsilons), dtype=torch.float64)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for x, y, least in zip(*(part.split(bounder.images_at_once) for part in (pixels, labels, slack)), strict=True):
        task = _Task(x, y, norm, least, Known(bounder.network, len(x)))
        radius = _linear_radii(bounder, task, float(sizes[-1]) if len(sizes) else 1.0, iterations)
        found.append(_larger_epsilons(prover, task, radius, sizes, seconds))
    radius, method, late = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Radii(radius.numpy(), method.numpy(), late.numpy())


def _linear_radii(bounder: Bounder, task: _Task, first: float, iterations: int) -> Tensor:
    """Return radii (n,) at which linear bounds prove a margin of at most 2^-iterations of that at the image itself.

    The logarithm of the used share of the margin is almost a straight line over that of the radius. Its zero is found
    by the secant method, from the radius ``first``, between the largest radius that holds and the smallest that fails.
    After twice as many bounds as ``iterations`` the search ends anyway.
    """
    unused = 2.0**-iterations
    scores, label = bounder.logits(task.pixels).cpu(), task.labels[:, None]
    margin = scores.gather(1, label)[:, 0] - scores.scatter(1, label, -torch.inf).amax(1) - task.slack
    low, high = torch.zeros_like(margin), torch.full_like(margin, torch.inf)
    size, last, last_share = (torch.full_like(margin, value) for value in (first, torch.nan, torch.nan))
    rows = (margin > 0).nonzero()[:, 0]
    for _ in range(2 * iterations):
        if not len(rows):
            break
        here = size[rows]
        own = task.known.take(rows)
        _, bounds = bounder.bounds(task.pixels[rows], task.labels[rows], here, task.norm, own)
        left = (bounds.amin(1).cpu() - task.slack[rows]) / margin[rows]
        share = (1 - left).clamp(1e-9, 1e9).log()
        low[rows], high[rows] = torch.where(left > 0, here, low[rows]), torch.where(left > 0, high[rows], here)
        slope = ((share - last_share[rows]) / (here / last[rows]).log()).nan_to_num(_SLOPE).clamp(1, 3 * _SLOPE)
        last[rows], last_share[rows] = here, share
        aim = here * ((math.log1p(-unused / 4) - share) / slope).exp()
        inside = (aim > low[rows]) & (aim < high[rows])
        size[rows] = torch.where(inside, aim, (low[rows] * high[rows]).sqrt()).clamp(max=_LARGEST)
        close = (left > 0) & (left <= unused) | (high[rows] / low[rows] < 1 + unused)
        rows = rows[~close & (low[rows] < _LARGEST) & (size[rows] > _SMALLEST)]
    return low


def _larger_epsilons(
    prover: Prover, task: _Task, radius: Tensor, sizes: Tensor, seconds: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return radius, method of the largest proven of the increasing sizes, and where time was over; (n,) each."""
    radius, count = radius.clone(), torch.searchsorted(sizes, radius, right=True)
    method = torch.where(count > 0, int(Method.LINEAR), int(Method.NONE))
    late, left = torch.zeros_like(radius, dtype=torch.bool), torch.full_like(radius, seconds)
    rows = (count < len(sizes)).nonzero()[:, 0]
    while len(rows):
        size = sizes[count[rows]]
        proofs = prover.prove(
            task.pixels[rows],
            task.labels[rows],
            size,
            task.norm,
            slack=task.slack[rows],
            seconds=left[rows],
            known=task.known.take(rows),
        )
        late[rows] |= proofs.late
        left[rows] = (left[rows] - proofs.seconds).clamp_min(0)
        proven = proofs.method != Method.NONE
        rows = rows[proven]
        radius[rows], method[rows] = size[proven], proofs.method[proven]
        count[rows] += 1
        rows = rows[count[rows] < len(sizes)]
    return radius, method, late
