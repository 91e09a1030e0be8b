"""The four components of AutoAttack on one batch, in the order of the paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from auditor.algorithms.apgd import apgd, sparse_apgd
from auditor.algorithms.balls import Ball
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.fab import fab
from auditor.algorithms.losses import margin, soft_margin, targeted_dlr
from auditor.algorithms.square import square

if TYPE_CHECKING:
    import torch

    from auditor import Classifier
    from auditor.algorithms.types import Draw

COMPONENTS = ("APGD-CE", "APGD-T", "FAB-T", "Square")


class Effort(NamedTuple):
    """Iterations of APGD and FAB, targets of the targeted attacks, queries of Square."""

    iterations: int
    targets: int
    queries: int


class Components:
    """Attack the images that the earlier components left, each component as a function of their rows."""

    def __init__(
        self,
        classifier: Classifier,
        effort: Effort,
        *,
        clean: torch.Tensor,
        labels: torch.Tensor,
        ball: Ball,
        draw: Draw,
    ) -> None:
        """Rank the target classes of every image by their clean logits."""
        import torch

        self._classifier, self._effort, self._ball, self._draw = classifier, effort, ball, draw
        self._clean, self._labels = clean, labels
        self._apgd = sparse_apgd if ball.norm == "l1" else apgd
        with torch.no_grad():
            others = classifier.scaled_logits(clean).scatter(1, labels[:, None], -torch.inf)
        ranked = others.argsort(dim=1, descending=True)
        self._ranked = ranked[:, : min(effort.targets, classifier.n_classes - 1)]

    def run(self, best: BestPoints) -> Iterator[tuple[str, torch.Tensor]]:
        """Run all components, and yield the name and the rows of each success."""
        for name in COMPONENTS:
            for rows, found in self._attempts(name, best):
                best.see(rows, found.images, found.margin)
                yield name, rows[found.broken]

    def _attempts(self, name: str, best: BestPoints) -> Iterator[tuple[torch.Tensor, BestPoints]]:
        """Yield the rows still correct and the results on them, until no image or no target is left."""
        untargeted = {"APGD-CE": self._apgd_cross_entropy, "Square": self._square}
        if name in untargeted:
            rows = _unbroken(best)
            if len(rows):
                yield rows, untargeted[name](rows)
            return
        attack = {"APGD-T": self._apgd_targeted, "FAB-T": self._fab_targeted}[name]
        done = 0
        while done < self._ranked.shape[1] and len(rows := _unbroken(best)):
            # as many targets side by side as fit into one pass; the results do not depend on it
            attempts = min(self._ranked.shape[1] - done, max(1, self._classifier.batch_size // len(rows)))
            yield rows, attack(rows, done, attempts)
            done += attempts

    def _apgd_cross_entropy(self, rows: torch.Tensor) -> BestPoints:
        labels = self._labels[rows]
        return self._apgd(
            self._classifier.scaled_logits,
            self._clean[rows],
            labels,
            ball=self._ball,
            start=self._start(rows, "APGD-CE"),
            iterations=self._effort.iterations,
            objective=lambda logits, subset: soft_margin(logits, labels[subset]),
        )

    def _apgd_targeted(self, rows: torch.Tensor, done: int, attempts: int) -> BestPoints:
        """Attack ``attempts`` targets from number ``done`` on, by the difference of logits ratio."""
        import torch

        labels, targets = self._aims(rows, done, attempts)
        start = torch.cat([self._start(rows, f"APGD-T {k}") for k in range(done, done + attempts)])
        return self._apgd(
            self._classifier.scaled_logits,
            self._repeated(rows, attempts),
            labels,
            ball=self._ball,
            start=start,
            iterations=self._effort.iterations,
            objective=lambda logits, subset: targeted_dlr(logits, labels[subset], targets[subset]),
            attempts=attempts,
        ).first()

    def _fab_targeted(self, rows: torch.Tensor, done: int, attempts: int) -> BestPoints:
        labels, targets = self._aims(rows, done, attempts)
        return fab(
            self._classifier.scaled_logits,
            self._repeated(rows, attempts),
            labels,
            targets,
            ball=self._ball,
            iterations=self._effort.iterations,
            attempts=attempts,
        ).first()

    def _square(self, rows: torch.Tensor) -> BestPoints:
        import torch

        labels = self._labels[rows]
        numbers = rows.tolist()

        def margins(images: torch.Tensor, subset: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return margin(self._classifier.scaled_logits(images), labels[subset])

        return square(
            margins,
            self._clean[rows],
            self._ball,
            queries=self._effort.queries,
            draw=lambda row, purpose: self._draw(numbers[row], purpose),
            ahead=self._classifier.batch_size,
        )

    def _aims(self, rows: torch.Tensor, done: int, attempts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return labels and targets, each (attempts * n,)."""
        return self._labels[rows].repeat(attempts), self._ranked[rows, done : done + attempts].T.flatten()

    def _repeated(self, rows: torch.Tensor, attempts: int) -> torch.Tensor:
        return self._clean[rows].repeat(attempts, 1, 1, 1)

    def _start(self, rows: torch.Tensor, purpose: str) -> torch.Tensor:
        import numpy as np
        import torch

        shape = self._clean.shape[1:]
        noise = [self._draw(row, purpose).uniform(-1, 1, shape).astype(np.float32) for row in rows.tolist()]
        return self._ball.surface(torch.from_numpy(np.stack(noise)).to(self._clean.device))


def _unbroken(best: BestPoints) -> torch.Tensor:
    """Return the rows that are not misclassified yet."""
    return (~best.broken).nonzero()[:, 0]
