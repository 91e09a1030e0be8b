"""What many probes share. An attack's author writes ``levels`` and ``perturb`` and nothing else.

The family owns the invariants: shape and range of what ``perturb`` returns, the budget (enforced, since it is not known
what an attack returns), success measured again on the original, denominators, intervals, curves, pictures.
Nothing heavy is imported before it is needed, so that listing the probes stays fast.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.findings.evidence import Evidence, GridRow, ImageGrid, Picture
from auditor.probes.base import Example, Probe, Randomness, Records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
from auditor.probes.levels import Level, level_name, line_name, number

ROUNDING = 1e-6
"""float32 may overshoot a budget by this much; more is an error of the attack and is cut off."""

SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class PerturbationResult:
    """What ``perturb`` gives when there is more to record about an image than the family records of every one."""

    images: Pixels
    """(n, c, h, w)"""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """One value per image: texts, flags or floats; rows without an attack have "", False and NaN. The flag
    ``surrogate_misclassified`` marks images that the differentiable copy misclassifies; the report counts those
    that the deployed model does not confirm."""


class Perturbation(Probe):
    """Images changed at several levels, and the original asked again."""

    @abstractmethod
    def levels(self) -> Sequence[Level]:
        """Every level, weakest first within a line."""

    @abstractmethod
    def perturb(
        self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level
    ) -> Pixels | PerturbationResult:
        """The batch at one level, (n, c, h, w); clipping to [0, 1] and to the budget is the family's."""

    def perturbed(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """What ``perturb`` gave, made to obey: shape, [0, 1], and the epsilon ball where the level names one."""
        return self._found(classifier, batch, rng, level).images

    def _found(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        given = self.perturb(classifier, batch, rng, level)
        found = given if isinstance(given, PerturbationResult) else PerturbationResult(images=given)
        images = check_images(f"{self.meta.id}: perturb", found.images, batch, level)
        norm = level.get("norm")
        if norm is not None:
            images = project(images, batch.pixels, str(norm), number(level)[1])
        return PerturbationResult(images=images, columns=found.columns)

    def _columns(
        self, classifier: Classifier, batch: Batch, images: Pixels, level: Level, signal: NDArray[np.float64]
    ) -> dict[str, NDArray[Any]]:
        """What every level records; ``signal`` (n,) is the Euclidean length of the clean images."""
        import numpy as np

        columns = answer_columns(classifier.predict(images), batch.labels) | size_columns(images, batch.pixels, signal)
        return columns | {key: np.full(len(batch), value) for key, value in level.items()}

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """The images, what was added (magnified, grey is nothing), and the results."""
        return example_pictures(batch.pixels, self.perturbed(classifier, batch, rng, example.at))


def join_columns(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Parts below each other; what a part does not have is blank: "" among texts, False among flags, else NaN."""
    import numpy as np

    blank = {name: {"U": "", "b": False}.get(part[name].dtype.kind, np.nan) for part in parts for name in part}
    return {
        name: np.concatenate([
            part[name] if name in part else np.full(len(part["row"]), value) for part in parts
        ])
        for name, value in blank.items()
    }  # fmt: skip


def project(images: Pixels, clean: Pixels, norm: str, epsilon: float) -> Pixels:
    """The nearest images within the ``norm`` ball of radius ``epsilon`` around the clean ones.

    Clean and perturbed images lie in [0, 1], so shrinking towards the clean image stays there. L1 is scaled down, which
    is not the nearest point of the ball but within it. The ball of the norm "snr" has a radius of ``epsilon`` lengths
    of the image.
    """
    import numpy as np

    delta = (images - clean).reshape(len(images), -1)
    length = vector_length(delta, norm)
    radius = epsilon * vector_length(clean.reshape(len(clean), -1)) if norm == "snr" else np.full(len(images), epsilon)
    over = length > radius + ROUNDING
    if not over.any():
        return images
    # the others stay as they are, to the last bit: an image must not depend on its neighbours in the batch
    result: Pixels = images.copy()
    if norm == "linf":
        size = np.float32(epsilon)
        result[over] = np.clip(images[over], clean[over] - size, clean[over] + size)
        return result
    scale = (radius[over] / length[over]).reshape(-1, *[1] * (images.ndim - 1))
    result[over] = clean[over] + (images[over] - clean[over]) * scale
    return result


def check_images(who: str, answer: Pixels, batch: Batch, level: Level) -> Pixels:
    """What an author returned, in [0, 1]; ValueError where it is no batch of images."""
    import numpy as np

    images = np.asarray(answer, dtype=np.float32)
    if images.shape != batch.pixels.shape:
        raise ValueError(f"{who} returned shape {images.shape}; expected {batch.pixels.shape}")
    if not np.isfinite(images).all():
        raise ValueError(f"{who} returned NaN or infinity at {dict(level)}")
    return images.clip(0, 1)


def clean_rows(batch: Batch, norm: str) -> dict[str, NDArray[Any]]:
    """The rows at epsilon 0: every image as it is."""
    import numpy as np

    nothing = {name: np.zeros(len(batch)) for name in ("l1", "l2", "linf")}
    return (
        answer_columns(batch.probabilities, batch.labels)
        | nothing
        | {"snr_db": np.full(len(batch), np.inf), "norm": np.full(len(batch), norm), "epsilon": np.zeros(len(batch))}
        | {"row": np.arange(len(batch)), "success": np.zeros(len(batch), dtype=bool)}
    )


def answer_columns(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What the original said, (n, k), as columns."""
    import numpy as np

    return {
        "perturbed_prediction": probabilities.argmax(axis=1),
        "confidence": probabilities.max(axis=1),
        "confidence_label": probabilities[np.arange(len(labels)), labels],
    }


def size_columns(images: Pixels, clean: Pixels, signal: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """How large the perturbations are, as columns; ``signal`` (n,) is the Euclidean length of the clean images."""
    import numpy as np

    delta = (images - clean).reshape(len(images), -1)
    size = vector_length(delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr_db = 20 * np.log10(signal / size)
    return {"l1": vector_length(delta, "l1"), "l2": size, "linf": vector_length(delta, "linf"), "snr_db": snr_db}


def example_pictures(clean: Pixels, perturbed: Pixels) -> dict[str, Pixels]:
    """Before, what was added (magnified, grey is nothing), after."""
    import numpy as np

    delta = perturbed - clean
    largest = np.abs(delta).max(axis=(1, 2, 3), keepdims=True)
    magnified = 0.5 + delta * (0.5 / np.where(largest > 0, largest, 1))
    return {"clean": clean, "perturbation": magnified.astype(np.float32), "perturbed": perturbed}


def vector_length(rows: NDArray[np.float32], norm: str = "l2") -> NDArray[np.float64]:
    """Length of each row in a norm, summed in double precision."""
    import numpy as np

    if norm == "linf":
        largest: NDArray[np.float64] = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
        return largest
    if norm == "l1":
        total: NDArray[np.float64] = np.abs(rows).sum(axis=1, dtype=np.float64)
        return total
    # not by torch, which were faster alone: its threads spin on when they are done and slow ONNX Runtime down
    wide = rows.astype(np.float64)
    length: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return length


def spread_over_classes(frame: pd.DataFrame) -> pd.DataFrame:
    """The first rows of a frame, each image once, taking turns among the classes."""
    first = frame.drop_duplicates("image_id")
    turns = first.assign(turn=first.groupby("label").cumcount())
    return turns.sort_values("turn", kind="stable").head(SHOWN)


def picture_rows(
    records: Records, title: str, distances: Mapping[str, float] | None = None, note: str = ""
) -> list[Evidence]:
    """The examples of a perturbation as a grid; only what still succeeds from the stored 8-bit file is called so.

    ``distances`` by image id stand for the epsilon where the level of the example has none.
    """
    rows: list[GridRow] = []
    dropped = 0
    for _, pictures in records.examples.groupby("example", sort=True):
        by_name = {row.picture: row for row in pictures.itertuples()}
        clean, changed = by_name["clean"], by_name["perturbed"]
        level: Level = json.loads(changed.at)
        if distances is not None:
            level = {**level, "epsilon": distances[changed.image_id]}
        # an attack is shown for what it broke; what 8-bit rounding repaired is no evidence
        if "norm" in level and not changed.success:
            dropped += 1
            continue
        label = records.class_name(clean.label)
        rows.append(
            GridRow(
                label=f"{label}; {line_name(level)}, {level_name(level)}",
                cells=[
                    Picture(file=clean.file, caption=records.said(clean), alt=f"image of class {label}"),
                    Picture(file=by_name["perturbation"].file, caption="magnified; grey is no change",
                            alt="what was added, magnified"),
                    Picture(file=changed.file, caption=records.said(changed), alt=f"perturbed, class {label}"),
                ],
            )
        )  # fmt: skip
    caption = "Label in front; under each picture what the deployed model says to the stored 8-bit file." + note
    if dropped:
        caption += f" {dropped} more no longer succeeded after rounding to 8 bit and are not shown."
    grid = ImageGrid(title=title, columns=["clean", "perturbation", "perturbed"], rows=rows, caption=caption)
    return [grid] if rows else []
