"""Branch and bound: split activations at their kink until the margin is proven in every branch.

A branch fixes the signs of some operands; its activations are exact there. Multipliers of the splits are optimised
together with the slopes (beta-CROWN, Wang et al. 2021, arXiv:2103.06624). Of the operands whose relaxation costs most
(Bunel et al. 2020, arXiv:1909.06588), the one is split that gives the largest bound in the worse of its
two branches (filtered smart branching, De Palma et al. 2021, arXiv:2104.06718).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from auditor.algorithms.bounds.activations import Lines
from auditor.algorithms.bounds.backward import minimum
from auditor.algorithms.bounds.network import Network
from auditor.algorithms.bounds.operation import Relaxation
from auditor.algorithms.bounds.ranges import Ranges
from auditor.algorithms.bounds.slopes import Choice, optimise

_AT_ONCE = 64
"""Branches that are split together."""

_OPEN = 8192
"""Open branches beyond which the search gives up."""

_CANDIDATES = 4
"""Operands whose two branches are tried before each split."""

_ROUNDS = (3, 7)
"""Steps of the optimisation in each branch; proven branches leave after the first round."""


class Branches(NamedTuple):
    """Branches of the search."""

    signs: Tensor
    """(n, all operands): 1 where an operand is assumed to be >= 0, -1 for <= 0, 0 where it is not split."""
    choice: Choice
    bounds: Tensor
    """(n,), in double precision."""

    def take(self, rows: Tensor) -> Branches:
        """Return some of the branches."""
        return Branches(self.signs[rows], self.choice.take(rows), self.bounds[rows])


class Search:
    """Branch and bound for one linear function of the scores over the ball of one image."""

    def __init__(self, network: Network, fast: Network, ranges: Ranges, slope: Tensor) -> None:
        """Prepare the search for ``ranges`` of one image and a linear function (1, 1, ...) of the scores."""
        self._network, self._fast, self._ranges, self._slope = network, fast, ranges, slope
        self._quick = {name: one.to(fast.dtype) for name, one in ranges.relaxations.items()}
        self._operand = {
            operation.name: operation.operands[0]
            for operation in network.operations
            if isinstance(one := ranges.relaxations.get(operation.name), Lines) and one.free is not None
        }
        self._names = list(dict.fromkeys(self._operand.values()))
        self._shapes = [network.shapes[name] for name in self._names]

    @torch.no_grad()
    def prove(self, target: float, choice: Choice, deadline: float) -> bool:
        """Return whether the function exceeds ``target`` everywhere; False if ``time.thread_time`` is over.

        ``choice`` (1, ...) are the slopes to start from.
        """
        signs = torch.zeros(1, sum(map(math.prod, self._shapes)), dtype=torch.int8, device=self._slope.device)
        multipliers = {
            name: torch.zeros(1, *shape, dtype=self._fast.dtype, device=self._slope.device)
            for name, shape in zip(self._names, self._shapes, strict=True)
        }
        choice = Choice(slopes=choice.slopes, multipliers=multipliers)
        open_branches = Branches(signs, choice, self._bound(signs, choice))
        while len(open_branches.bounds):
            if time.thread_time() > deadline or len(open_branches.bounds) > _OPEN:
                return False
            order = open_branches.bounds.argsort()
            chosen, rest = open_branches.take(order[:_AT_ONCE]), open_branches.take(order[_AT_ONCE:])
            open_branches = _joined([self._unproven(self._split(chosen), target), rest])
        return True

    def _split(self, parents: Branches) -> Branches:
        """Return both branches of each parent, or the parent itself if nothing is left to be split."""
        scores = self._scores(parents)
        most = min(_CANDIDATES, scores.shape[1])
        values, candidates = scores.topk(most, dim=1)
        final = values[:, 0] == -torch.inf
        inner, candidates = parents.take(~final), candidates[~final]
        children = []
        worse = []
        for column in candidates.T:
            both = [self._child(inner, column, sign) for sign in (1, -1)]
            children.append(both)
            worse.append(torch.minimum(both[0].bounds, both[1].bounds))
        if not len(inner.bounds):
            return parents
        best = torch.stack(worse).argmax(0)
        picked = candidates.gather(1, best[:, None])[:, 0]
        return _joined([*(self._child(inner, picked, sign) for sign in (1, -1)), parents.take(final)])

    def _child(self, parents: Branches, column: Tensor, sign: int) -> Branches:
        """Return the branches where one operand (n,) of each parent has a sign."""
        signs = parents.signs.scatter(1, column[:, None], sign)
        return Branches(signs, parents.choice, self._bound(signs, parents.choice))

    def _unproven(self, branches: Branches, target: float) -> Branches:
        """Optimise the branches and return those that are not proven in double precision."""
        for iterations in _ROUNDS:
            if not len(branches.bounds):
                break
            choice, bounds = optimise(
                partial(self._bound, branches.signs),
                branches.choice,
                iterations=iterations,
                target=torch.full_like(branches.bounds, target),
            )
            # a branch's bound is never below that of its parent
            branches = Branches(branches.signs, choice, torch.maximum(bounds, branches.bounds))
            kept = branches.bounds <= target
            likely = branches.take(~kept)
            if len(likely.bounds):
                exact = self._bound(likely.signs, likely.choice, exact=True)
                kept[(~kept).nonzero()[:, 0]] = ~(exact > target)
            branches = branches.take(kept)
        return branches

    def _bound(self, signs: Tensor, choice: Choice, *, exact: bool = False, passed: Any = None) -> Tensor:
        """Return lower bounds (n,) of the branches; with ``exact`` valid in spite of rounding."""
        network = self._network if exact else self._fast
        relaxations = self._ranges.relaxations if exact else self._quick
        by_name = self._by_name(signs)
        return minimum(
            network,
            network.scores,
            self._slope.to(network.dtype).expand(len(signs), *self._slope.shape[1:]),
            self._ranges.ball,
            {name: self._restricted(name, one, by_name, choice) for name, one in relaxations.items()},
            multipliers=choice.signed(by_name),
            magnitudes=self._ranges.magnitudes if exact else None,
            passed=passed,
        )[:, 0]

    def _restricted(self, name: str, one: Relaxation, signs: Mapping[str, Tensor], choice: Choice) -> Relaxation:
        if name in self._operand and isinstance(one, Lines):
            return one.split(signs[self._operand[name]]).with_slope(choice.slopes[name])
        n = len(next(iter(signs.values())))
        return one.take(torch.zeros(n, dtype=torch.long, device=self._slope.device))

    def _by_name(self, signs: Tensor) -> dict[str, Tensor]:
        parts = signs.split([math.prod(shape) for shape in self._shapes], dim=1)
        return {
            name: part.reshape(len(signs), *shape)
            for name, part, shape in zip(self._names, parts, self._shapes, strict=True)
        }

    def _scores(self, branches: Branches) -> Tensor:
        """Return (n, all operands) how much the relaxation of an operand's activations costs; -inf if it is exact."""
        passed: dict[str, Tensor] = {}
        self._bound(branches.signs, branches.choice, passed=passed)
        by_name = self._by_name(branches.signs)
        scores = {name: torch.zeros_like(sign, dtype=self._fast.dtype) for name, sign in by_name.items()}
        for name, operand in self._operand.items():
            lines = self._restricted(name, self._quick[name], by_name, branches.choice)
            if not isinstance(lines, Lines) or lines.free is None:
                raise TypeError(f"{name} has no free lines")
            slope = passed[name][:, 0]
            low, high = self._ranges.intervals[operand]
            below = torch.minimum(lines.low_slope * -low, (1 - lines.low_slope) * high)
            cost = slope.clamp(min=0) * below - slope.clamp(max=0) * lines.high_offset
            scores[operand] = scores[operand] + torch.where(lines.free[0], cost.to(self._fast.dtype), -torch.inf)
        return torch.cat([score.flatten(1) for score in scores.values()], 1)


def _joined(parts: Sequence[Branches]) -> Branches:
    """Concatenate branches."""
    slopes, multipliers = (
        {
            name: torch.cat([getattr(part.choice, kind)[name] for part in parts])
            for name in getattr(parts[0].choice, kind)
        }
        for kind in ("slopes", "multipliers")
    )
    signs, bounds = torch.cat([part.signs for part in parts]), torch.cat([part.bounds for part in parts])
    return Branches(signs, Choice(slopes=slopes, multipliers=multipliers), bounds)
