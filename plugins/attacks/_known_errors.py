"""Errors that other attacks of the run found, from which ``attacks.minimum-norm`` continues.

Only gradient attacks of many steps are read. ``sanity.gradient-masking`` compares them with attacks without gradients
and of one step: a search that continued from those would hide the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor.probes.attack import Attack
from auditor.probes.minimum_norm import MinimumNorm

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Probe, Randomness

SOURCES = ("attacks.pgd", "attacks.autoattack", "attacks.deepfool", "attacks.carlini-wagner")

_WITHOUT_GRADIENTS = "Square"
"""The component of AutoAttack that uses no gradients."""


class KnownError(NamedTuple):
    """The nearest error of an image in a norm."""

    source: str
    """Id of the attack."""
    epsilon: float
    """The level at which the attack found it."""
    distance: float


KnownErrors = Mapping[tuple[str, str], KnownError]
"""By norm and image id."""


def sources(probes: Sequence[Probe]) -> dict[str, Attack | MinimumNorm]:
    """Select the attacks by id."""
    return {p.meta.id: p for p in probes if p.meta.id in SOURCES and isinstance(p, Attack | MinimumNorm)}


def nearest_errors(records: Mapping[str, pd.DataFrame], attacks: Mapping[str, Attack | MinimumNorm]) -> KnownErrors:
    """Return the smallest confirmed perturbation of each image in each norm."""
    known: dict[tuple[str, str], KnownError] = {}
    for source in attacks:
        frame = records.get(source)
        if frame is None or not len(frame):
            continue
        hits = frame[frame["success"].astype(bool) & (frame["component"] != _WITHOUT_GRADIENTS)]
        for norm, rows in hits.groupby("norm"):
            first = rows.sort_values(str(norm), kind="stable").drop_duplicates("image_id")
            for image_id, epsilon, distance in zip(first["image_id"], first["epsilon"], first[norm], strict=True):
                at, error = (str(norm), str(image_id)), KnownError(source, float(epsilon), float(distance))
                if at not in known or error.distance < known[at].distance:
                    known[at] = error
    return known


def made_again(
    attacks: Mapping[str, Attack | MinimumNorm],
    errors: Sequence[KnownError],
    classifier: Classifier,
    batch: Batch,
    *,
    rng: Randomness,
    norm: str,
) -> Pixels:
    """Run the attacks again that found ``errors``, one per image; return their images (n, c, h, w).

    An attack depends on the seed of the run and on the image, so that it finds the same point again.
    """
    images = batch.pixels.copy()
    for source, epsilon in dict.fromkeys((error.source, error.epsilon) for error in errors):
        rows = [row for row, error in enumerate(errors) if error[:2] == (source, epsilon)]
        level = {"norm": norm, "epsilon": epsilon}
        images[rows] = attacks[source].perturbed(classifier, batch.take(rows), rng.of(source), level)
    return images


def rows_to_improve(
    known: KnownErrors, batch: Batch, norm: str, distances: NDArray[np.float64]
) -> tuple[list[int], list[KnownError]]:
    """Return the rows whose ``distances`` (n,) exceed that of a known error, and these errors."""
    found = [(row, known.get((norm, image_id))) for row, image_id in enumerate(batch.ids)]
    nearer = [(row, error) for row, error in found if error is not None and error.distance < distances[row]]
    return [row for row, _ in nearer], [error for _, error in nearer]
