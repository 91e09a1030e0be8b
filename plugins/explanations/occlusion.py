"""Occlusion map: how much the answer's probability falls when each cell of a grid is covered (Zeiler and Fergus 2014,
arXiv:1311.2901, section 4.2). Of rows: when each feature has its mean over the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Explanation, Meta, Probe, hookimpl
from auditor.probes.explanation import blank
from auditor.probes.grading import parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


@dataclass(frozen=True, kw_only=True)
class OcclusionMap(Explanation):
    """Cover each cell in turn."""

    meta = Meta(
        id="explanations.occlusion",
        title="Occlusion map",
        area="explanations",
        why="If the answer hangs on the background or on the border, accuracy here says little about other data.",
        references=("https://arxiv.org/abs/1311.2901", "https://arxiv.org/abs/1806.07421"),
        version=2,
        input_kinds=frozenset({"images", "rows"}),
    )

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """What covering the cell costs, at each of its pixels."""
        del rng
        import numpy as np

        rows, answer = np.arange(len(batch)), batch.predictions
        before = classifier.predict(batch.pixels)[rows, answer]
        result = np.zeros((len(batch), *classifier.shape[1:]), dtype=np.float32)
        shown = np.broadcast_to(blank(classifier, batch.pixels, self.fill), batch.pixels.shape)
        for cell in parts(classifier, self.grid):
            place = (..., slice(cell.top, cell.bottom), slice(cell.left, cell.right))
            covered = batch.pixels.copy()
            covered[place] = shown[place]
            fall = before - classifier.predict(covered)[rows, answer]
            result[place] = fall[:, None, None]
        return result


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [OcclusionMap]
