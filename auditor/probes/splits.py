"""Split the images into halves: what is fitted on all images at once is fitted on one half and tested on the other.

Images of one unit (patient, person, video) are in the same half: otherwise the test half is not new to what was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from auditor.errors import NotApplicable

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.probes.base import Randomness, RunContext


def in_training_half(rng: Randomness, image_id: str, units: Mapping[str, str] | None = None) -> bool:
    """Return whether an image, or its unit, is in the training half, independently of all other images or units."""
    return bool(rng(image_id if units is None else units[image_id], "half").random() < 0.5)


def held_out_images(run: RunContext) -> frozenset[str]:
    """Return the ids of the run's images that are not in the training half."""
    return frozenset(image_id for image_id in run.ids if not in_training_half(run.rng, image_id, run.units))


def training_images(run: RunContext, most: int) -> Batch:
    """Draw at most ``most`` images of the training half and keep those that are classified correctly.

    Raises NotApplicable if none is left.
    """
    import numpy as np

    half = [image_id for image_id in run.ids if in_training_half(run.rng, image_id, run.units)]
    drawn = sorted(half, key=lambda image_id: run.rng(image_id, "turn").random())[:most]
    if drawn:
        batch = run.batch(drawn)
        correct = np.flatnonzero(batch.predictions == batch.labels)
        if len(correct):
            return batch.take(correct)
    raise NotApplicable(f"none of {len(run.ids)} images is left for training that the model classifies correctly")
