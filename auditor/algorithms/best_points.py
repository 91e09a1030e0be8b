"""Keep the best adversarial point of every image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    Model = Callable[[torch.Tensor], torch.Tensor]
    """Logits (n, k) of pixels (n, c, h, w)."""
    Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """What is to rise, (n,), from logits (n, k) and the numbers (n,) of their images in the batch."""
    Draw = Callable[[int, str], np.random.Generator]
    """Random numbers of one image, from its number in the batch and a purpose."""


MARGIN_TOLERANCE = 1e-3
"""A search goes on until the margin is this wide: a tie on the copy need not be an error of the original."""


class BestPoints:
    """Per image the visited point with the largest margin.

    With several ``attempts`` at each of n images the rows are those of the first attempt, then those of the second, and
    so on. An attempt that succeeds ends itself and all later ones at its image, and none before it: whatever is tried
    side by side, ``first`` is what one attempt after the other would have found.
    """

    def __init__(self, clean: torch.Tensor, attempts: int = 1) -> None:
        """Nothing visited yet: the clean images, (attempts * n, c, h, w), at margin minus infinity."""
        import torch

        self.images = clean.clone()
        self.margin = torch.full((len(clean),), -math.inf, device=clean.device)
        self._attempts = attempts

    def see(self, rows: torch.Tensor, images: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """Take note of points of the rows; which of these are still to be broken, (n,)."""
        better = margins > self.margin[rows]
        at = rows[better]
        self.images[at] = images[better]
        self.margin[at] = margins[better]
        if self._attempts == 1:
            return ~self.broken[rows]
        return self.broken.view(self._attempts, -1).cumsum(0).flatten()[rows] == 0

    @property
    def broken(self) -> torch.Tensor:
        """Which rows are broken, (attempts * n,)."""
        return self.margin > MARGIN_TOLERANCE

    def first(self) -> BestPoints:
        """Of each image the first attempt that broke it, else the one that came nearest."""
        import torch

        if self._attempts == 1:
            return self
        broken, margins = (values.view(self._attempts, -1) for values in (self.broken, self.margin))
        chosen = torch.where(broken.any(0), broken.int().argmax(0), margins.argmax(0))
        rows = chosen * len(chosen) + torch.arange(len(chosen), device=chosen.device)
        result = BestPoints(self.images[rows])
        result.margin = self.margin[rows]
        return result
