"""Prove the answers of images over balls, by the cheapest method that suffices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from auditor.algorithms import balls
from auditor.algorithms.bounds.backward import minimum
from auditor.algorithms.bounds.bounder import Bounder
from auditor.algorithms.bounds.branching import Search
from auditor.algorithms.bounds.ranges import Known, Ranges
from auditor.algorithms.bounds.slopes import Choice, first_choice, optimise
from auditor.algorithms.pgd import pgd, usual_step

_ITERATIONS = 20
"""Steps of the optimisation of the slopes; the bound rises little after them."""

_ATTACK_ITERATIONS = 50

_SLOPES = 1 << 24
"""Number of slopes beyond which they are not optimised: the bounds of such large networks are far from the margin."""


class Method(IntEnum):
    """How an answer was proven."""

    NONE = 0
    LINEAR = 1
    SLOPES = 2
    BRANCHES = 3


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """Result for n images."""

    method: Tensor
    """(n,) of ``Method``."""
    late: Tensor
    """True (n,) where branch and bound ended at the time limit."""
    seconds: Tensor
    """Time that branch and bound took, (n,)."""


class Prover:
    """Prove that the label wins everywhere in a ball."""

    def __init__(self, bounder: Bounder, model: Callable[[Tensor], Tensor]) -> None:
        """Prepare for the copy of ``bounder``; ``model`` returns logits (n, k) of pixels under autograd."""
        self._bounder, self._model = bounder, model

    def prove(
        self,
        pixels: Tensor,
        labels: Tensor,
        epsilon: Tensor,
        norm: str,
        *,
        slack: Tensor,
        seconds: Tensor,
        known: Known | None = None,
        rows: Tensor | None = None,
    ) -> Proofs:
        """Try to prove margins above ``slack`` (n,) over the balls of ``epsilon`` (n,).

        Where PGD finds no counterexample, linear bounds are tried, then slopes are optimised, and then up to
        ``seconds`` (n,) are spent on branch and bound; 0 is off. For ``known`` and ``rows`` see
        ``Bounder.bounds``.
        """
        n = len(pixels)
        method, late = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.bool)
        spent = torch.zeros(n, dtype=torch.float64)
        open_at = (~self.attacked(pixels, labels, epsilon, norm)).nonzero()[:, 0]
        for at in open_at.split(self._bounder.images_at_once) if len(open_at) else ():
            own = None if rows is None else rows[at]
            ranges, margins = self._bounder.bounds(pixels[at], labels[at], epsilon[at], norm, known, own)
            margins = margins.cpu()
            held = (margins > slack[at][:, None]).all(1)
            method[at[held]] = Method.LINEAR
            for i in (~held).nonzero()[:, 0].tolist():
                row = int(at[i])
                start = time.thread_time()
                method[row], late[row] = self._refine(
                    ranges.take(torch.tensor([i], device=ranges.ball.epsilon.device)),
                    int(labels[row]),
                    margins[i],
                    float(slack[row]),
                    float(seconds[row]),
                )
                spent[row] = time.thread_time() - start
        return Proofs(method=method, late=late, seconds=spent)

    def _refine(self, ranges: Ranges, label: int, margins: Tensor, slack: float, seconds: float) -> tuple[Method, bool]:
        """Prove the classes of one image that linear bounds (k,) leave open; return how and whether time was over."""
        bounder = self._bounder
        classes = (margins <= slack).nonzero()[:, 0]
        if len(classes) * bounder.values > _SLOPES:
            return Method.NONE, False
        # the class that is most likely to fail comes first
        classes = classes[margins[classes].argsort()]
        slopes = bounder.rows(label, classes)
        quick = {name: one.to(bounder.fast.dtype) for name, one in ranges.relaxations.items()}

        def bound(choice: Choice) -> Tensor:
            rows = slopes.to(bounder.fast.dtype)
            return minimum(bounder.fast, bounder.fast.scores, rows, ranges.ball, choice.applied(quick))

        start = first_choice(quick, len(classes))
        if not start.slopes:
            return Method.NONE, False
        target = torch.full((1, len(classes)), slack, dtype=torch.float64, device=slopes.device)
        choice, _ = optimise(bound, start, iterations=_ITERATIONS, target=target)
        with torch.no_grad():
            exact = minimum(
                bounder.network,
                bounder.network.scores,
                slopes,
                ranges.ball,
                choice.applied(ranges.relaxations),
                magnitudes=ranges.magnitudes,
            )[0]
        if bool((exact > slack).all()):
            return Method.SLOPES, False
        if not seconds:
            return Method.NONE, False
        deadline = time.thread_time() + seconds
        for index in (~(exact > slack)).nonzero()[:, 0].tolist():
            search = Search(bounder.network, bounder.fast, ranges, slopes[:, index : index + 1])
            own = Choice(slopes={name: value[:, index] for name, value in choice.slopes.items()})
            if not search.prove(slack, own, deadline):
                return Method.NONE, time.thread_time() > deadline
        return Method.BRANCHES, False

    def attacked(self, pixels: Tensor, labels: Tensor, epsilon: Tensor, norm: str) -> Tensor:
        """Return True (n,) where PGD finds a counterexample, for which no proof exists."""
        found = torch.zeros(len(pixels), dtype=torch.bool)
        for size in epsilon.unique().tolist():
            rows = (epsilon == size).nonzero()[:, 0]
            x = pixels[rows].float()
            points = pgd(
                self._model,
                x,
                labels[rows],
                ball=balls.Ball(norm, size),
                start=torch.zeros_like(x),
                iterations=_ATTACK_ITERATIONS,
                step=usual_step(size, _ATTACK_ITERATIONS),
            )
            found[rows] = points.broken.cpu()
        return found
