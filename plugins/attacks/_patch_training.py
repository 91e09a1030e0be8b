"""Training and placement of the patches of ``attacks.patch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness

_FIRST_STEP, _LAST_STEP = 0.1, 0.01
"""Change of a pixel in the first and the last training step."""


def train_patch(classifier: Classifier, batch: Batch, rng: Randomness, block: float, iterations: int) -> Pixels:
    """Train the patch (c, s, s) with the largest expected margin over random positions.

    Args:
        classifier: A model with gradients.
        batch: Training images.
        rng: Source of the positions.
        block: Side of the patch as a share of the image side.
        iterations: Gradient steps, each at another position in every image.
    """
    import numpy as np
    import torch

    from auditor.algorithms.losses import margin

    side = max(1, round(block * min(batch.pixels.shape[-2:])))
    patch = np.full((batch.pixels.shape[1], side, side), 0.5, dtype=np.float32)
    for iteration in range(iterations):
        corners = [random_corner(rng, i, f"training {iteration}", batch.pixels.shape, side) for i in batch.ids]
        images = paste(batch.pixels, patch, corners)
        gradient = np.zeros_like(patch)
        for start in range(0, len(batch), classifier.batch_size):
            rows = slice(start, start + classifier.batch_size)
            x = classifier.tensor(images[rows]).requires_grad_()
            margins = margin(classifier.scaled_logits(x), torch.from_numpy(batch.labels[rows]).to(x.device))
            (part,) = torch.autograd.grad(margins.sum(), x)
            # an image for which the model returns NaN must not decide for all others
            for each, (top, left) in zip(part.nan_to_num(0, 0, 0).cpu().numpy(), corners[rows], strict=True):
                gradient += each[:, top : top + side, left : left + side]
        progress = iteration / max(1, iterations - 1)
        step = _FIRST_STEP + (_LAST_STEP - _FIRST_STEP) * progress
        patch = (patch + np.float32(step) * np.sign(gradient)).clip(0, 1)
    return patch


def paste(images: Pixels, patch: Pixels, corners: Sequence[tuple[int, int]]) -> Pixels:
    """Paste one patch (c, s, s), or one per image (n, c, s, s), into images (n, c, h, w) at (top, left)."""
    pasted: Pixels = images.copy()
    side = patch.shape[-1]
    for i, (top, left) in enumerate(corners):
        pasted[i, :, top : top + side, left : left + side] = patch if patch.ndim == 3 else patch[i]
    return pasted


def random_corner(rng: Randomness, image_id: str, purpose: str, shape: Sequence[int], side: int) -> tuple[int, int]:
    """Draw a position (top, left) at which a patch of this side fits into the image."""
    top, left = rng(image_id, purpose).integers(0, [shape[-2] - side + 1, shape[-1] - side + 1])
    return int(top), int(left)
