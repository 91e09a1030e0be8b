"""Shift: the image moved sideways; what leaves on one side comes in on the other (arXiv:1712.02779)."""

from dataclasses import dataclass

import numpy as np

from auditor import Corruption, Meta

AUDITOR_API = "1.0"


@dataclass(frozen=True, kw_only=True)
class Shift(Corruption):
    meta = Meta(id="corruptions.shift", area="corruptions", title="Sideways shift", why="Few objects stand centred.")
    pixels: tuple[int, ...] = (1, 2, 4)

    def levels(self):
        return [{"towards": side, "pixels": n} for side in ("left", "right") for n in self.pixels]

    def perturb(self, classifier, batch, rng, level):
        return np.roll(batch.pixels, -level["pixels"] if level["towards"] == "left" else level["pixels"], axis=3)
