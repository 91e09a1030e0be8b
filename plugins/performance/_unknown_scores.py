"""Scores of known and unknown images, for ``performance.unknown-inputs``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor import Columns
from auditor.errors import NotFinite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, RunContext

KNOWN = ""
"""The column ``unknown`` of an audited image."""

_BLOCK = 256
"""Unknown images in memory at once."""


class Scored(NamedTuple):
    """An unknown image: id, unit, predicted class and scores; NaN if the model's scores are not finite."""

    image_id: str
    unit: str
    prediction: int
    confidence: float
    energy: float


def no_energy(classifier: Classifier) -> str:
    """Return why the model has no energy; empty if it has one."""
    if classifier.outputs == "probabilities":
        return "the model returns probabilities, and the energy is computed from logits; export it without its softmax"
    if classifier.decoder.single:
        return "the model returns one score for two classes, and the energy is computed from a logit for each class"
    if classifier.decoder.activation == "log-softmax":
        return "the model returns log-probabilities, whose energy is always 0; export it without its log-softmax"
    return ""


def scores_of(classifier: Classifier, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return probabilities (n, k), and the logarithm of the sum of exp(logit), (n,); NaN without an energy."""
    import numpy as np

    if no_energy(classifier):
        return classifier.predict(pixels), np.full(len(pixels), np.nan)
    logits = classifier.scores(pixels)
    return classifier.decoder.probabilities(logits), log_sum_exp(logits)


def log_sum_exp(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return log(sum(exp(logits))) over the last axis, (n, k) -> (n,), in double precision."""
    import numpy as np
    from scipy.special import logsumexp

    result: NDArray[np.float64] = logsumexp(logits.astype(np.float64), axis=1)
    return result


def known_columns(classifier: Classifier, batch: Batch) -> Columns:
    """Return the rows of the audited images; one model call for each if there is an energy."""
    import numpy as np

    reason, n = no_energy(classifier), len(batch)
    energy = np.full(n, np.nan) if reason else log_sum_exp(classifier.scores(batch.pixels))
    return {
        "row": np.arange(n),
        "unknown": np.full(n, KNOWN, dtype=object),
        "unknown_unit": np.full(n, KNOWN, dtype=object),
        "assigned": batch.predictions,
        "confidence": batch.probabilities.max(axis=1).astype(np.float64),
        "energy": energy,
        "no_energy": np.full(n, reason, dtype=object),
    }


def unknown_columns(known: Columns, batch: Batch, unknown: Mapping[str, Sequence[Scored]]) -> Columns:
    """Return the rows of a batch, followed by those of the unknown images that belong to it."""
    import numpy as np

    found = [(row, each) for row, image_id in enumerate(batch.ids) for each in unknown.get(image_id, ())]
    more: dict[str, list[Any]] = {
        "row": [row for row, _ in found],
        "unknown": [each.image_id for _, each in found],
        "unknown_unit": [each.unit for _, each in found],
        "assigned": [each.prediction for _, each in found],
        "confidence": [each.confidence for _, each in found],
        "energy": [each.energy for _, each in found],
        "no_energy": [known["no_energy"][0]] * len(found),
    }
    return {name: np.concatenate([values, np.array(more[name], dtype=values.dtype)]) for name, values in known.items()}


def score_unknown(run: RunContext) -> dict[str, list[Scored]]:
    """Score the unknown images, and assign each at random to one of the images that are measured.

    So a run that measures part of the images has as large a part of the unknown ones.
    """
    images = run.unknown
    assert images is not None
    order = run.rng("", "order of the unknown images").permutation(len(images))
    units = images.unit_of or {}
    hosts: dict[str, list[Scored]] = defaultdict(list)
    for start in range(0, len(order), _BLOCK):
        ids = [images.ids[i] for i in order[start : start + _BLOCK]]
        for place, (image_id, scored) in enumerate(zip(ids, _scored(run.classifier, images.pixels(ids)), strict=True)):
            host = run.ids[(start + place) % len(run.ids)]
            hosts[host].append(Scored(image_id, units.get(image_id, image_id), *scored))
    return dict(hosts)


def _scored(classifier: Classifier, pixels: Pixels) -> list[tuple[int, float, float]]:
    """Return prediction, confidence and energy of each image; NaN where the scores are not finite."""
    try:
        probabilities, energy = scores_of(classifier, pixels)
    except NotFinite:
        if len(pixels) == 1:
            return [(-1, float("nan"), float("nan"))]
        half = len(pixels) // 2
        return _scored(classifier, pixels[:half]) + _scored(classifier, pixels[half:])
    best = probabilities.argmax(axis=1)
    return [(int(k), float(row[k]), float(value)) for k, row, value in zip(best, probabilities, energy, strict=True)]
