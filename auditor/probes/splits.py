"""Two halves of the images: what is made for all images at once is made on one half and judged on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.errors import NotApplicable

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.probes.base import Randomness, Run


def in_training_half(rng: Randomness, image_id: str) -> bool:
    """Which half an image belongs to: drawn for each image by itself, so that the others change nothing."""
    return bool(rng(image_id, "half").random() < 0.5)


def training_images(run: Run, most: int) -> Batch:
    """At most ``most`` images of the training half, drawn by chance, less those that the model gets wrong anyway.

    Raises NotApplicable where that leaves none.
    """
    import numpy as np

    half = [image_id for image_id in run.ids if in_training_half(run.rng, image_id)]
    drawn = sorted(half, key=lambda image_id: run.rng(image_id, "turn").random())[:most]
    if drawn:
        batch = run.batch(drawn)
        right = np.flatnonzero(batch.predictions == batch.labels)
        if len(right):
            return batch.take(right)
    raise NotApplicable(f"none of {len(run.ids)} images is left to train on that the model gets right")
