"""Occlusion map: the fall of the prediction's probability when each cell of a grid is covered (Zeiler and Fergus 2014,
arXiv:1311.2901, section 4.2). For tabular data each feature is replaced by its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Explanation, Meta
from auditor.probes.cells import covering, map_cells, map_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness


@dataclass(frozen=True, kw_only=True)
class OcclusionMap(Explanation):
    """Cover each cell in turn."""

    meta = Meta(
        id="explanations.occlusion",
        title="Occlusion map",
        area="explanations",
        why="If the prediction depends on the background or the border, the accuracy may not transfer to other data.",
        references=("https://arxiv.org/abs/1311.2901", "https://arxiv.org/abs/1806.07421"),
        version=2,
        input_kinds=frozenset({"images", "rows"}),
        needs=frozenset({"scores"}),
    )

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Return the probability drop under covering each cell, at its pixels (n, h, w) or features (n, features)."""
        del rng
        import numpy as np

        predicted = np.arange(len(batch)), batch.predictions
        before = classifier.predict(batch.pixels)[predicted]
        result = np.zeros((len(batch), *map_shape(classifier)), dtype=np.float32)
        colour = np.broadcast_to(covering(classifier, batch.pixels, self.fill), batch.pixels.shape)
        for cell in map_cells(classifier, self.grid):
            region: Any = (..., *cell)
            covered = batch.pixels.copy()
            covered[region] = colour[region]
            drop = before - classifier.predict(covered)[predicted]
            result[region] = drop.reshape(-1, *[1] * len(cell))
        return result
