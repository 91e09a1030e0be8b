"""Split the images into halves: what is fitted on all images at once is fitted on one half and tested on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.errors import NotApplicable

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.probes.base import Randomness, RunContext


def in_training_half(rng: Randomness, image_id: str) -> bool:
    """Return whether an image is in the training half, independently of all other images."""
    return bool(rng(image_id, "half").random() < 0.5)


def training_images(run: RunContext, most: int) -> Batch:
    """Draw at most ``most`` images of the training half and keep those that are classified correctly.

    Raises NotApplicable if none is left.
    """
    import numpy as np

    half = [image_id for image_id in run.ids if in_training_half(run.rng, image_id)]
    drawn = sorted(half, key=lambda image_id: run.rng(image_id, "turn").random())[:most]
    if drawn:
        batch = run.batch(drawn)
        correct = np.flatnonzero(batch.predictions == batch.labels)
        if len(correct):
            return batch.take(correct)
    raise NotApplicable(f"none of {len(run.ids)} images is left for training that the model classifies correctly")
