"""Keep the best adversarial point of every image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MARGIN_TOLERANCE = 1e-3
"""Margin of scaled logits at which a search stops: a tie on the copy need not be an error of the deployed model."""


class BestPoints:
    """The visited point with the largest margin, per image.

    With several ``attempts`` at each of n images, rows are grouped by attempt. A successful attempt ends itself and all
    later ones at its image, but no earlier one. So ``first`` returns what attempts in sequence would have found,
    although they run in parallel.
    """

    def __init__(self, clean: torch.Tensor, attempts: int = 1) -> None:
        """Start from the clean images, (attempts * n, c, h, w), with margin minus infinity."""
        import torch

        self.images = clean.clone()
        self.margin = torch.full((len(clean),), -math.inf, device=clean.device)
        self._attempts = attempts

    def see(self, rows: torch.Tensor, images: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """Record points of the rows; return True for rows whose search continues, (n,)."""
        better = margins > self.margin[rows]
        if images.device.type == "cpu":
            at = rows[better]
            self.images[at] = images[better]
            self.margin[at] = margins[better]
        else:
            self._write_all(rows, images, margins, better)
        if self._attempts == 1:
            return ~self.broken[rows]
        return self.broken.view(self._attempts, -1).cumsum(0).flatten()[rows] == 0

    def _write_all(self, rows: torch.Tensor, images: torch.Tensor, margins: torch.Tensor, better: torch.Tensor) -> None:
        """Write all rows, changed or not: a boolean index makes a GPU wait, and copies are cheap there."""
        import torch

        column = better.view(-1, *(1,) * (images.ndim - 1))
        self.images[rows] = torch.where(column, images, self.images[rows])
        self.margin[rows] = torch.where(better, margins, self.margin[rows])

    @property
    def broken(self) -> torch.Tensor:
        """Return True for misclassified rows, (attempts * n,)."""
        return self.margin > MARGIN_TOLERANCE

    def first(self) -> BestPoints:
        """Return, per image, the first successful attempt, else the one with the largest margin."""
        import torch

        if self._attempts == 1:
            return self
        broken, margins = (values.view(self._attempts, -1) for values in (self.broken, self.margin))
        attempt = torch.where(broken.any(0), broken.int().argmax(0), margins.argmax(0))
        rows = attempt * len(attempt) + torch.arange(len(attempt), device=attempt.device)
        result = BestPoints(self.images[rows])
        result.margin = self.margin[rows]
        return result
