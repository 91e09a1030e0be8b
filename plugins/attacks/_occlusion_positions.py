"""The worst and the control position of ``attacks.occlusion`` for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Randomness
    from auditor.algorithms.masking import Block
    from auditor.probes.grid_search import GridAnswers


def position_columns(
    batch: Batch, rng: Randomness, blocks: Sequence[Block], answers: GridAnswers
) -> dict[str, NDArray[Any]]:
    """Return the columns of one size and fill: position, drop of the label's probability and errors of each image.

    Args:
        batch: The clean images.
        rng: Source of the control positions.
        blocks: The positions.
        answers: Answers of the deployed model at each position.
    """
    import numpy as np

    rows = np.arange(len(batch))
    drops = batch.probabilities[rows, batch.labels][:, None] - answers.label_probability
    worst = drops.argmax(axis=1)
    control = np.array([_control(rng, batch.ids[i], blocks, int(worst[i])) for i in rows])
    return {
        "position": worst,
        "drop": drops[rows, worst],
        "misclassified": answers.misclassified.any(axis=1),
        "misclassified_at_worst": answers.misclassified[rows, worst],
        "control_position": control,
        "control_drop": drops[rows, control],
        "control_misclassified": answers.misclassified[rows, control],
        "drops": _as_objects(drops.astype(np.float32)),
    }


def _control(rng: Randomness, image_id: str, blocks: Sequence[Block], worst: int) -> int:
    """Draw another position, one that shares no pixel with the worst if there is one."""
    disjoint = [i for i, block in enumerate(blocks) if not block.overlaps(blocks[worst])]
    others = disjoint or [i for i in range(len(blocks)) if i != worst]
    return int(rng(image_id, "control").choice(others))


def _as_objects(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the rows as objects: small images have fewer positions for larger blocks, so rows differ in length."""
    import numpy as np

    result = np.empty(len(rows), dtype=object)
    result[:] = list(rows)
    return result
