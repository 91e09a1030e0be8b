"""Square Attack (Andriushchenko et al. 2020, arXiv:1912.00049)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from auditor.algorithms.types import Draw

from auditor.algorithms.balls import Ball
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.losses import per_image


def square(
    margins: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    clean: torch.Tensor,
    ball: Ball,
    *,
    queries: int,
    draw: Draw,
    ahead: int = 1,
) -> BestPoints:
    """Run the Square Attack: random squares at the ball's edge, kept if they raise the margin; needs only scores.

    Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3, in L-inf and L2, and in L1 as in Croce and Hein
    2021, arXiv:2103.01208, appendix; with AutoAttack's p = 0.8 and the schedule of the published code, scaled to
    ``queries``. ``margins(images, rows)`` returns the margins (n,) of the images with indices ``rows``. Squares may
    touch the last row and column, which those of the published code never do.

    Most squares are rejected, and the next one is applied to the same image. If a pass over few images costs hardly
    less than one over ``ahead`` images, several squares are therefore evaluated together, as if each had been rejected;
    results after the first accepted one are discarded. The result is the same, only faster.
    """
    import torch

    if ball.norm not in _SQUARES:
        raise ValueError(f"the Square Attack supports the norms {', '.join(_SQUARES)}; got {ball.norm!r}")
    first, propose = _SQUARES[ball.norm]
    points = BestPoints(clean)
    rows = torch.arange(len(clean), device=clean.device)
    channels, height, width = clean.shape[1:]
    x = first(clean, ball, draw)
    rows = rows[points.see(rows, x, margins(x, rows))]
    if not len(rows) or queries == 1:
        return points
    sides = torch.tensor(
        [max(1, round(math.sqrt(_share(query, queries) * height * width))) for query in range(queries - 1)],
        device=clean.device,
    ).clamp_max(min(height, width))
    # random numbers of images that the first guess leaves correct, one set per query
    numbers = _uniform(clean, rows, draw, "squares", (queries - 1, 5 + channels))
    number_row = torch.full((len(clean),), -1, device=clean.device)
    number_row[rows] = torch.arange(len(rows), device=clean.device)
    query = torch.zeros_like(rows)
    accepted, evaluated = 1.0, 4.0
    while len(rows):
        # as far ahead as about every second square is still useful
        together = max(1, min(ahead // len(rows), round(evaluated / accepted)))
        later = query[:, None] + torch.arange(together, device=clean.device)
        image, turn = (later < queries - 1).nonzero(as_tuple=True)
        proposal = later[image, turn]
        owner = rows[image]
        x = torch.empty((len(image), *clean.shape[1:]), device=clean.device)
        side_of = sides[proposal]
        for side in side_of.unique().tolist():
            same_side = side_of == side
            image_rows = owner[same_side]
            x[same_side] = propose(
                points.images[image_rows],
                clean[image_rows],
                ball,
                side,
                numbers[number_row[image_rows], proposal[same_side]],
            )
        proposed_margins = torch.full(later.shape, -math.inf, device=clean.device)
        proposed_margins[image, turn] = margins(x, owner)
        better = proposed_margins > points.margin[rows, None]
        any_better = better.any(1)
        step = torch.where(any_better, better.int().argmax(1), together - 1)
        flat_index = torch.full(later.shape, -1, device=clean.device)
        flat_index[image, turn] = torch.arange(len(image), device=clean.device)
        improved = flat_index.gather(1, step[:, None])[any_better, 0]
        points.see(rows[any_better], x[improved], proposed_margins.gather(1, step[:, None])[any_better, 0])
        query = query + step + 1
        accepted, evaluated = 0.9 * accepted + float(any_better.sum()), 0.9 * evaluated + float((step + 1).sum())
        active = ~points.broken[rows] & (query < queries - 1)
        rows, query = rows[active], query[active]
    return points


def _share(query: int, queries: int) -> float:
    """Return the share of the image that a square covers: 0.8, halved nine times over the queries."""
    spent = int(query / queries * 10_000)
    halvings = sum(spent > limit for limit in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return math.ldexp(0.8, -halvings)


def _uniform(clean: torch.Tensor, rows: torch.Tensor, draw: Draw, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw numbers uniform in [0, 1) for the images with indices ``rows``, (n, *shape)."""
    import numpy as np
    import torch

    drawn = np.stack([draw(row, purpose).random(shape, dtype=np.float32) for row in rows.tolist()])
    return torch.from_numpy(drawn).to(clean.device)


def _signs(uniform: torch.Tensor) -> torch.Tensor:
    return (uniform < 0.5).float() * 2 - 1


def _stripes(clean: torch.Tensor, ball: Ball, draw: Draw) -> torch.Tensor:
    """Return the first guess in L-inf: vertical stripes of one pixel, each at plus or minus epsilon."""
    import torch

    _, channels, _, width = clean.shape
    rows = torch.arange(len(clean))
    stripes = _signs(_uniform(clean, rows, draw, "stripes", (channels, 1, width)))
    return (clean + ball.epsilon * stripes).clamp(0, 1)


def _linf_squares(
    best: torch.Tensor, clean: torch.Tensor, ball: Ball, side: int, numbers: torch.Tensor
) -> torch.Tensor:
    """Set a square in each image to plus or minus epsilon, one sign per channel."""
    import torch

    height, width = clean.shape[2:]
    top, left = _corner(numbers[:, 0], height - side), _corner(numbers[:, 1], width - side)
    rows, columns = torch.arange(height, device=clean.device), torch.arange(width, device=clean.device)
    inside = ((rows >= top) & (rows < top + side))[:, None, :, None] & ((columns >= left) & (columns < left + side))[
        :, None, None, :
    ]
    edge = (clean + ball.epsilon * _signs(numbers[:, 5:])[:, :, None, None]).clamp(0, 1)
    return torch.where(inside, edge, best)


def _corner(uniform: torch.Tensor, largest: int) -> torch.Tensor:
    """Return whole numbers from 0 to ``largest``, (n, 1)."""
    return (uniform * (largest + 1)).long().clamp_max(largest)[:, None]


def _tiles(clean: torch.Tensor, ball: Ball, draw: Draw) -> torch.Tensor:
    """Return the first guess in L2 and L1: a grid of five by five bumps, each with its own sign per channel."""
    import torch

    _, channels, height, width = clean.shape
    side = max(1, min(height, width) // 5)
    tile = torch.arange(height * width, device=clean.device).view(height, width)
    down, across = tile // width // side, tile % width // side
    bump = _bump(side, clean.device)[tile // width % side, tile % width % side]
    number = down * (width // side + 1) + across
    signs = _signs(_uniform(clean, torch.arange(len(clean)), draw, "tiles", (channels, int(number.max()) + 1)))
    delta = bump * signs[:, :, number.flatten()].view(-1, channels, height, width)
    return ball.project(clean + ball.surface(delta), clean)


@cache
def _bump(side: int, device: torch.device) -> torch.Tensor:
    """Return two opposite bumps side by side, (side, side), of length 1.

    At distance r from a bump's centre, in the maximum norm, its height is the sum of 1 / m^2 for m from r + 1 on
    (Andriushchenko et al. 2020, arXiv:1912.00049, section 3.3).
    """
    import torch

    def half(height: int) -> torch.Tensor:
        rows, columns = torch.arange(height, device=device), torch.arange(side, device=device)
        distance = torch.maximum((rows - height // 2).abs()[:, None], (columns - side // 2).abs()[None])
        terms = 1 / torch.arange(1, max(height // 2, side // 2) + 2, device=device) ** 2
        heights: torch.Tensor = terms.flip(0).cumsum(0).flip(0)[distance]
        return heights

    if side == 1:
        return torch.ones((1, 1), device=device)
    up, down = half(side // 2), half(side - side // 2)
    bump: torch.Tensor = torch.cat([up / up.norm(), -down / down.norm()]) / math.sqrt(2)
    return bump


def _moved_bumps(best: torch.Tensor, clean: torch.Tensor, ball: Ball, side: int, numbers: torch.Tensor) -> torch.Tensor:
    """Clear the perturbation of one window per image, and move its length to a bump in another window."""
    import torch

    height, width = clean.shape[2:]
    # the quantity that is additive over pixels: squares in L2, magnitudes in L1
    power = 2 if ball.norm == "l2" else 1
    side = min(max(side, 3) | 1, height, width)
    delta = best - clean
    spare = per_image(ball.epsilon**power - ball.length(delta) ** power).clamp_min(0) / clean.shape[1]
    grid = torch.arange(side, device=clean.device)
    image = torch.arange(len(clean), device=clean.device)[:, None, None]

    def window(first: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = _corner(numbers[:, first], height - side) + grid
        columns = _corner(numbers[:, first + 1], width - side) + grid
        return rows[:, :, None], columns[:, None, :]

    def scaled(bumps: torch.Tensor) -> torch.Tensor:
        unit: torch.Tensor = bumps / bumps.flatten(2).norm(p=power, dim=2).clamp_min(1e-12)[:, :, None, None]
        return unit

    # as (n, h, w, c), so that each image can have its own window
    delta = delta.permute(0, 2, 3, 1).contiguous()
    target, source = window(0), window(2)
    old = scaled(delta[image, target[0], target[1]].permute(0, 3, 1, 2))
    before = delta.abs().pow(power).sum((1, 2))
    delta[image, source[0], source[1]] = 0
    delta[image, target[0], target[1]] = 0
    freed = (before - delta.abs().pow(power).sum((1, 2)))[:, :, None, None]
    bump = _bump(side, clean.device)[None, None]
    turned = (numbers[:, 4] < 0.5)[:, None, None, None]
    new = scaled(torch.where(turned, bump.mT, bump)) * _signs(numbers[:, 5:])[:, :, None, None] + old
    new = scaled(new) * (spare + freed).clamp_min(0).pow(1 / power)
    delta[image, target[0], target[1]] = new.permute(0, 2, 3, 1)
    return ball.project(clean + ball.surface(delta.permute(0, 3, 1, 2)), clean)


_SQUARES = {"linf": (_stripes, _linf_squares), "l2": (_tiles, _moved_bumps), "l1": (_tiles, _moved_bumps)}


def choose(rows: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Select images of ``yes`` where ``rows`` is True, else of ``no``."""
    import torch

    return torch.where(per_image(rows), yes, no)
