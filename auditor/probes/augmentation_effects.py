"""What identifies augmentations of MAITE, which are Python objects: their effect on a test image."""

from __future__ import annotations

import hashlib

import numpy as np

from auditor.data.augmentations import Augmentations
from auditor.errors import BadInput, first_line
from auditor.probes.random_state import kept_random_state

RANDOM = "random"
"""Marks the effect of an augmentation that changes an image in another way each time."""


def effects_of(augmentations: Augmentations) -> dict[str, list[str]]:
    """Return what identifies every augmentation, by name and severity: its id, and a digest of its effect.

    Raises BadInput for one that fails on a test image or does not follow the protocol.
    """
    return {
        name: [_effect(augmentations, name, number) for number in range(1, len(severities) + 1)]
        for name, severities in augmentations.by_name.items()
    }


def _effect(augmentations: Augmentations, name: str, severity: int) -> str:
    """Apply an augmentation to a test image twice, which shows whether it draws random numbers that no seed repeats."""
    kind = augmentations.kind
    ramp = np.linspace(0, 1, int(np.prod(kind.shape)), dtype=np.float32).reshape(kind.shape)
    image_id = next(iter(augmentations.metadata), "0")
    found = []
    try:
        for _ in range(2):
            with kept_random_state(0):
                found.append(augmentations.apply(name, severity, ramp, np.array([1, 0], np.float32), image_id))
    except Exception as error:
        raise BadInput(
            f"augmentations: {name} does not work on a {kind.dtype} image of shape {ramp.shape}:"
            f" {type(error).__name__}: {first_line(error)}"
        ) from None
    stated = augmentations.by_name[name][severity - 1].metadata["id"]
    digest = hashlib.sha256(found[0].tobytes()).hexdigest()[:12]
    return f"{stated}, effect {digest}" if np.array_equal(found[0], found[1]) else f"{stated}, {RANDOM} effect {digest}"
