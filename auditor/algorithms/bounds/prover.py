"""Prove the answers of images over balls, by the cheapest method that suffices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
    ) -> Proofs:
        """Try to prove margins above ``slack`` (n,) over the balls of ``epsilon`` (n,).

        Where PGD finds no counterexample, linear bounds are tried, then slopes are optimised, and then up to
        ``seconds`` (n,) are spent on branch and bound; 0 is off. ``known`` as in ``Bounder.bounds``.
        """
        n = len(pixels)
        method, late = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.bool)
        spent = torch.zeros(n, dtype=torch.float64)
        open_at = (~self.attacked(pixels, labels, epsilon, norm)).nonzero()[:, 0]
        for at in open_at.split(self._bounder.images_at_once) if len(open_at) else ():
            own = None if known is None else known.take(at)
            ranges, margins = self._bounder.bounds(pixels[at], labels[at], epsilon[at], norm, own)
            margins = margins.cpu()
            held = (margins > slack[at][:, None]).all(1)
            method[at[held]] = Method.LINEAR
            for i in self._at_once((~held).nonzero()[:, 0], margins <= slack[at][:, None]):
                near = ranges.take(i.to(ranges.ball.epsilon.device))
                part = self._refine(near, labels[at[i]], margins[i], slack[at[i]], seconds[at[i]])
                method[at[i]], late[at[i]], spent[at[i]] = part.method, part.late, part.seconds
        return Proofs(method=method, late=late, seconds=spent)

    def _at_once(self, images: Tensor, open_classes: Tensor) -> Sequence[Tensor]:
        """Return groups of images whose slopes for their open classes (n, k) fit into memory."""
        most = _SLOPES // self._bounder.values
        counts = open_classes.sum(1)[images]
        images, counts = images[counts <= most], counts[counts <= most]
        return images.split(max(1, most // int(counts.max()))) if len(images) else ()

    def _refine(self, ranges: Ranges, labels: Tensor, margins: Tensor, slack: Tensor, seconds: Tensor) -> Proofs:
        """Prove the classes that linear bounds (n, k) leave open."""
        bounder, n = self._bounder, len(labels)
        method, late = torch.full((n,), int(Method.NONE)), torch.zeros(n, dtype=torch.bool)
        spent = torch.zeros(n, dtype=torch.float64)
        # the class that is most likely to fail comes first; images with fewer open classes are filled with proven ones
        order = margins.argsort(dim=1)[:, : int((margins <= slack[:, None]).sum(1).max())]
        classes = order.to(ranges.ball.epsilon.device)
        slopes = torch.cat([bounder.rows(label, own) for label, own in zip(labels.tolist(), classes, strict=True)])
        quick = {name: one.to(bounder.fast.dtype) for name, one in ranges.relaxations.items()}
        start = first_choice(quick, order.shape[1])
        if not start.slopes:
            return Proofs(method=method, late=late, seconds=spent)

        def bound(choice: Choice) -> Tensor:
            rows = slopes.to(bounder.fast.dtype)
            return minimum(bounder.fast, bounder.fast.scores, rows, ranges.ball, choice.applied(quick))

        target = slack.to(slopes)[:, None].expand(order.shape)
        choice, _ = optimise(bound, start, iterations=_ITERATIONS, target=target)
        with torch.no_grad():
            exact = minimum(
                bounder.network,
                bounder.network.scores,
                slopes,
                ranges.ball,
                choice.applied(ranges.relaxations),
                magnitudes=ranges.magnitudes,
            ).cpu()
        held = (exact > slack[:, None]) | (margins.gather(1, order) > slack[:, None])
        method[held.all(1)] = Method.SLOPES
        for i in (~held.all(1) & (seconds > 0)).nonzero()[:, 0].tolist():
            start_time = time.thread_time()
            deadline = start_time + float(seconds[i])
            own = ranges.take(torch.tensor([i], device=slopes.device))
            for index in (~held[i]).nonzero()[:, 0].tolist():
                search = Search(bounder.network, bounder.fast, own, slopes[i : i + 1, index : index + 1])
                first = Choice(slopes={name: value[i : i + 1, index] for name, value in choice.slopes.items()})
                if not search.prove(float(slack[i]), first, deadline):
                    late[i] = time.thread_time() > deadline
                    break
            else:
                method[i] = Method.BRANCHES
            spent[i] = time.thread_time() - start_time
        return Proofs(method=method, late=late, seconds=spent)

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
