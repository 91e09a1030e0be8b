"""Base class of probes that perturb images.

The author of an attack writes ``levels`` and ``perturb``. The base class checks shape and range, enforces the budget
and measures success on the deployed model. Heavy modules are imported inside functions, so that listing the probes is
fast.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.algorithms.norms import image_norms
from auditor.probes.base import Example, Magnified, Probe, Randomness
from auditor.probes.levels import Level, number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier

ROUNDING = 1e-6
"""Tolerance of budgets and distances: float32 may exceed them by this much."""

ATTACK_COLUMNS = frozenset(
    {"norm", "epsilon", "success", "linf", "l2", "l1", "snr_db", "searched", "surrogate_misclassified", "component"}
)
"""Columns that every attack records: norm and epsilon of the level, whether the deployed model misclassifies the image,
and the size of the perturbation. ``searched`` is True if epsilon is the least distance that a search found and False
if it is a budget. ``surrogate_misclassified`` and ``component`` are those of ``PerturbationResult``, or False and "" if
the attack does not report them."""


@dataclass(frozen=True, kw_only=True)
class PerturbationResult:
    """Perturbed images with additional information about each."""

    images: Pixels
    """(n, c, h, w)"""
    surrogate_misclassified: NDArray[np.bool_] | None = None
    """Whether the differentiable copy misclassifies each image, (n,). An attack that sets it also sets
    ``Attack.reports_surrogate``; the report then counts the errors that the deployed model does not confirm."""
    component: NDArray[np.str_] | None = None
    """Name of the component of an ensemble that perturbed each image, (n,); "" if none succeeded."""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Further columns, one value per image: texts, booleans or floats. Rows without an attack have "", False, NaN."""


class Perturbation(Probe):
    """Perturb images at several levels and query the deployed model with each result."""

    @abstractmethod
    def levels(self) -> Sequence[Level]:
        """Return every level, weakest first within a line."""

    @abstractmethod
    def perturb(
        self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level
    ) -> Pixels | PerturbationResult:
        """Perturb the batch at one level, (n, c, h, w). The base class clips to [0, 1] and to the budget."""

    def perturbed(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Perturb the batch and enforce shape, range and the budget of the level, (n, c, h, w) in [0, 1]."""
        return self._perturbed(classifier, batch, rng, level).images

    def _perturbed(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        result = self.perturb(classifier, batch, rng, level)
        if not isinstance(result, PerturbationResult):
            result = PerturbationResult(images=result)
        images = check_images(f"{self.meta.id}: perturb", result.images, batch, level)
        norm = level.get("norm")
        if norm is not None:
            images = shrink_to_budget(images, batch.pixels, str(norm), number(level)[1])
        return PerturbationResult(**{**vars(result), "images": images})

    def _columns(
        self, classifier: Classifier, batch: Batch, images: Pixels, level: Level, signal: NDArray[np.float64]
    ) -> dict[str, NDArray[Any]]:
        """Return what every level records; ``signal`` (n,) is the L2 norm of the clean images."""
        import numpy as np

        columns = answer_columns(classifier.predict(images), batch.labels) | size_columns(images, batch.pixels, signal)
        return columns | {key: np.full(len(batch), value) for key, value in level.items()}

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels | Magnified]:
        """Draw the clean images, the magnified perturbation and the perturbed images."""
        return example_pictures(batch.pixels, self.perturbed(classifier, batch, rng, example.at))


def join_columns(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Concatenate parts; a column that a part lacks is "" for texts, False for booleans, else NaN."""
    import numpy as np

    blank = {name: {"U": "", "b": False}.get(part[name].dtype.kind, np.nan) for part in parts for name in part}
    return {
        name: np.concatenate([part.get(name, np.full(len(part["row"]), value)) for part in parts])
        for name, value in blank.items()
    }


def shrink_to_budget(images: Pixels, clean: Pixels, norm: str, epsilon: float) -> Pixels:
    """Move images outside the epsilon ball towards the clean image until they are inside.

    In L-infinity and L2 the result is the nearest image of the ball; in L1 it is in the ball, but not the nearest.
    Clean and perturbed images are in [0, 1], so the results are, too. For the norm "snr" the radius is ``epsilon``
    times the L2 norm of the clean image.
    """
    import numpy as np

    length = image_norms(images - clean, norm)
    radius = epsilon * image_norms(clean) if norm == "snr" else np.full(len(images), epsilon)
    over = length > radius + ROUNDING
    if not over.any():
        return images
    # the other images keep every bit: an image must not depend on its neighbours in the batch
    result: Pixels = images.copy()
    if norm == "linf":
        limit = np.float32(epsilon)
        result[over] = np.clip(images[over], clean[over] - limit, clean[over] + limit)
        return result
    scale = (radius[over] / length[over]).reshape(-1, *[1] * (images.ndim - 1))
    result[over] = clean[over] + (images[over] - clean[over]) * scale
    return result


def check_images(source: str, images: Pixels, batch: Batch, level: Level) -> Pixels:
    """Clip returned images to [0, 1]; raise ValueError for a wrong shape, NaN or infinity."""
    import numpy as np

    result = np.asarray(images, dtype=np.float32)
    if result.shape != batch.pixels.shape:
        raise ValueError(f"{source} returned shape {result.shape}; expected {batch.pixels.shape}")
    if not np.isfinite(result).all():
        raise ValueError(f"{source} returned NaN or infinity at {dict(level)}")
    return result.clip(0, 1)


def start_noise(rng: Randomness, ids: Sequence[str], purpose: str, shape: Sequence[int]) -> Pixels:
    """Return uniform noise in [-1, 1] for each image, (n, *shape), from which an attack starts."""
    import numpy as np

    return np.stack([rng(image_id, purpose).uniform(-1, 1, shape) for image_id in ids]).astype(np.float32)


def clean_columns(batch: Batch, norm: str, *, searched: bool) -> dict[str, NDArray[Any]]:
    """Return the rows of an attack at epsilon 0: every image without a perturbation."""
    import numpy as np

    n = len(batch)
    return (
        answer_columns(batch.probabilities, batch.labels)
        | {name: np.zeros(n) for name in ("l1", "l2", "linf")}
        | {"snr_db": np.full(n, np.inf), "norm": np.full(n, norm), "epsilon": np.zeros(n)}
        | {"row": np.arange(n), "success": np.zeros(n, dtype=bool), "searched": np.full(n, searched)}
        | {"surrogate_misclassified": np.zeros(n, dtype=bool), "component": np.full(n, "", dtype="U1")}
    )


def answer_columns(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the answers of the deployed model, (n, k), as columns."""
    import numpy as np

    return {
        "perturbed_prediction": probabilities.argmax(axis=1),
        "confidence": probabilities.max(axis=1),
        "confidence_label": probabilities[np.arange(len(labels)), labels],
    }


def size_columns(images: Pixels, clean: Pixels, signal: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Return the norms and SNRs of the perturbations; ``signal`` (n,) is the L2 norm of the clean images."""
    import numpy as np

    delta = images - clean
    noise = image_norms(delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr_db = 20 * np.log10(signal / noise)
    return {"l1": image_norms(delta, "l1"), "l2": noise, "linf": image_norms(delta, "linf"), "snr_db": snr_db}


def example_pictures(clean: Pixels, perturbed: Pixels) -> dict[str, Pixels | Magnified]:
    """Return the clean images, the magnified perturbation (grey is no change) and the perturbed images.

    The factor is the largest whole number at which no pixel is clipped, or 0.5 for changes of more than half the range.
    """
    import numpy as np

    delta = perturbed - clean
    largest = np.abs(delta).max(axis=(1, 2, 3))
    # 1e-4: a perturbation of exactly 8/255 in float32 keeps its factor of 15
    factors = np.floor(0.5 / np.where(largest > 0, largest, 0.5) + 1e-4)
    factors = np.where(factors >= 1, factors, 0.5).astype(np.float64)
    magnified = (0.5 + delta * factors[:, None, None, None]).clip(0, 1)
    return {"clean": clean, "perturbation": Magnified(magnified.astype(np.float32), factors), "perturbed": perturbed}
