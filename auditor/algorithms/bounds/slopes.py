"""Optimise the lines below the activations and the multipliers of the splits, by gradient ascent of the bound.

The lower line of a ReLU may have any slope between 0 and 1 (alpha-CROWN, Xu et al. 2021, arXiv:2011.13824). A split
restricts an activation's operand z to z >= 0 or z <= 0; a multiplier times z is added to the objective (beta-CROWN,
Wang et al. 2021, arXiv:2103.06624). Any slope in its range and any multiplier of the right sign is valid, so the search
need not be exact: the bound is computed again from the result, in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from auditor.algorithms.bounds.activations import Lines, clamped
from auditor.algorithms.bounds.operation import Relaxation

_SLOPE_STEP, _MULTIPLIER_STEP, _DECAY = 0.3, 0.1, 0.95
"""Steps of Adam and their decay per iteration: our choice; they affect the tightness of a bound, not its validity."""

_FIRST, _SECOND = 0.9, 0.999
"""Decay of the moments of the gradient: the defaults of Adam."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Slopes by activation and multipliers by operand, (n, ...) or (n, r, ...) each."""

    slopes: dict[str, Tensor] = field(default_factory=dict)
    multipliers: dict[str, Tensor] = field(default_factory=dict)
    """Not negative; the sign of the split is applied by ``signed``."""

    def signed(self, signs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the multipliers with the signs (n, ...) of the splits: 1 for z >= 0, -1 for z <= 0, 0 for none."""
        return {
            name: signs[name].to(value.dtype) * clamped(value, 0, torch.inf) for name, value in self.multipliers.items()
        }

    def applied(self, relaxations: Mapping[str, Relaxation]) -> dict[str, Relaxation]:
        """Return the relaxations with these slopes."""
        return {
            name: relaxation.with_slope(self.slopes[name])
            if name in self.slopes and isinstance(relaxation, Lines)
            else relaxation
            for name, relaxation in relaxations.items()
        }

    def take(self, rows: Tensor) -> Choice:
        """Return the choice for some entries."""
        return Choice(
            slopes={name: value[rows] for name, value in self.slopes.items()},
            multipliers={name: value[rows] for name, value in self.multipliers.items()},
        )


def first_choice(relaxations: Mapping[str, Relaxation], functions: int) -> Choice:
    """Return the slopes of the relaxations (n, ...), for each of several linear functions: (n, functions, ...)."""
    return Choice(
        slopes={
            name: one.low_slope[:, None].repeat(1, functions, *[1] * (one.low_slope.dim() - 1))
            for name, one in relaxations.items()
            if isinstance(one, Lines) and one.free is not None
        }
    )


def optimise(
    bound: Callable[[Choice], Tensor], start: Choice, *, iterations: int, target: Tensor | None = None
) -> tuple[Choice, Tensor]:
    """Return the best choice found for each entry and its bounds; stop if all bounds exceed ``target``.

    ``bound`` returns the bounds (n,) or (n, r) of a choice and is differentiable in it.
    """
    slopes = {name: value.clone().requires_grad_() for name, value in start.slopes.items()}
    multipliers = {name: value.clone().requires_grad_() for name, value in start.multipliers.items()}
    choice, best = Choice(slopes=slopes, multipliers=multipliers), start
    largest = torch.tensor(-torch.inf)
    values = [*slopes.values(), *multipliers.values()]
    rates = [_SLOPE_STEP] * len(slopes) + [_MULTIPLIER_STEP] * len(multipliers)
    search = _Adam(values)
    for iteration in range(iterations + 1):
        with torch.set_grad_enabled(iteration < iterations):
            found = bound(choice)
            total = found.sum()
        value = found.detach()
        better = value > largest
        best = Choice(
            slopes=_merged(better, slopes, best.slopes), multipliers=_merged(better, multipliers, best.multipliers)
        )
        largest = torch.fmax(largest, value)
        if iteration == iterations or (target is not None and bool((largest > target).all())):
            break
        slope = torch.autograd.grad(total, values, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for part, rate, step in zip(values, rates, search.steps(slope), strict=True):
                part.add_(step, alpha=rate * _DECAY**iteration)
            for part in slopes.values():
                part.clamp_(0, 1)
            for part in multipliers.values():
                part.clamp_(min=0)
    return best, largest


class _Adam:
    """Directions of Adam (Kingma & Ba 2015, arXiv:1412.6980).

    The first use of the optimiser in torch imports its compiler, which takes longer than many proofs.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._count = 0
        self._mean = [torch.zeros_like(value) for value in values]
        self._square = [torch.zeros_like(value) for value in values]

    def steps(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the steps for a learning rate of 1."""
        self._count += 1
        first, second = 1 - _FIRST**self._count, 1 - _SECOND**self._count
        for mean, square, gradient in zip(self._mean, self._square, gradients, strict=True):
            mean.lerp_(gradient, 1 - _FIRST)
            square.lerp_(gradient**2, 1 - _SECOND)
        return [
            mean / first / ((square / second).sqrt() + 1e-8)
            for mean, square in zip(self._mean, self._square, strict=True)
        ]


def _merged(better: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def where(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(better.reshape(*better.shape, *[1] * (one.dim() - better.dim())), one.detach(), other)

    return {name: where(value, old[name]) for name, value in new.items()}
