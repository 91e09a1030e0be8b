"""Read training images from any source that ``auditor run --data`` accepts, and split them without leaks.

Duplicates are removed before the split. Images of one subject, and images that look the same (equal difference
hashes: re-encoded, rescaled), are never on both sides of it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.data.resizing import Resizing, fit
from auditor.errors import BadInput
from auditor.plugin import registry
from auditor.reference_models.common.settings import Settings

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Names of sub-folders, or values of the column ``split``, by part of the split."""

SUBJECTS = ("subject", "person", "identity")
"""Columns that identify the person on an image."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Labelled images in memory."""

    ids: tuple[str, ...]
    pixels: NDArray[Any]
    """(n, c, h, w), uint8 or float32 in [0, 1]."""
    labels: NDArray[np.int64]
    """(n,) class indices."""
    groups: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Columns of (n,) strings."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Part:
        """Return the images at these indices."""
        index = np.asarray(rows, dtype=np.int64)
        return Part(
            ids=tuple(self.ids[i] for i in index),
            pixels=self.pixels[index],
            labels=self.labels[index],
            groups={name: values[index] for name, values in self.groups.items()},
        )


class Splits(NamedTuple):
    """Training, validation (chooses the checkpoint) and test images (saved next to the model, unused in training)."""

    learn: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    notes: Mapping[str, Any]
    """Numbers of images read, unreadable and removed as duplicates, and what the split kept together."""


def load(
    path: Path | None, *, recipe: str, expected: str, shape: tuple[int, int, int], resizing: Resizing | None = None
) -> tuple[Part, tuple[str, ...], int]:
    """Read all images below ``path`` at ``shape`` (channels, height, width); return them, class names and the number of
    unreadable files.

    A folder with sub-folders train, val and test becomes one part with a column ``split``. Raises BadInput for unusable
    data; ``expected`` describes what the recipe accepts.
    """
    if path is None:
        raise BadInput(f"recipe {recipe} needs images: pass them with --data; expected {expected}")
    if not path.exists():
        raise BadInput(f"--data {path}: no such file or folder; expected {expected}")
    plugins = registry.load()
    folders = (
        {entry.name: _SPLITS.get(entry.name.casefold()) for entry in path.iterdir() if entry.is_dir()}
        if path.is_dir()
        else {}
    )
    parted = bool(folders) and all(folders.values()) and "train" in folders.values()
    pieces = (
        [(path / name, f"{name}/", split) for name, split in sorted(folders.items())] if parted else [(path, "", "")]
    )
    ids: list[str] = []
    names: list[str] = []
    pictures: list[NDArray[Any]] = []
    groups: dict[str, list[str]] = defaultdict(list)
    unreadable = 0
    for folder, prefix, split in pieces:
        source = plugins.first("auditor_open_images", path=folder)
        if source is None:
            raise BadInput(f"--data {folder}: no format plugin opens it; expected {expected}")
        source = source.printable()
        if source.labels is None:
            raise BadInput(f"--data {folder}: has no labels; expected {expected}")

        def one(index: int, source: Any = source) -> NDArray[Any] | None:
            try:
                return fit(source.read(index)[1], shape, resizing or Resizing(resize="crop"))
            except Exception:
                # decoders raise arbitrary exceptions on broken files
                return None

        with ThreadPoolExecutor(4) as pool:
            for index, picture in enumerate(pool.map(one, range(len(source.ids)))):
                if picture is None:
                    unreadable += 1
                    continue
                ids.append(prefix + source.ids[index])
                names.append(source.labels[index])
                pictures.append(picture if picture.dtype == np.uint8 else np.rint(picture * 255).astype(np.uint8))
                for name, values in source.groups.items():
                    groups[name].append(values[index])
                if split:
                    groups["split"].append(split)
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise BadInput(f"--data {path}: has {len(ids)} readable images of {len(classes)} classes; expected {expected}")
    number = {name: i for i, name in enumerate(classes)}
    part = Part(
        ids=tuple(ids),
        pixels=np.stack(pictures),
        labels=np.array([number[name] for name in names], dtype=np.int64),
        groups={name: np.array(values) for name, values in groups.items() if len(values) == len(ids)},
    )
    return part, classes, unreadable


def read(path: Path | None, settings: Settings, *, recipe: str, expected: str) -> Splits:
    """Read the square RGB images below ``path`` and split them by the settings; see ``load`` and ``split``."""
    part, classes, unreadable = load(path, recipe=recipe, expected=expected, shape=(3, settings.size, settings.size))
    return split(
        part,
        classes,
        validation_share=settings.validation_share,
        test_share=settings.test_share,
        seed=settings.seed,
        samples=settings.samples,
        unreadable=unreadable,
    )


def split(
    part: Part,
    classes: tuple[str, ...],
    *,
    validation_share: float,
    test_share: float,
    seed: int,
    samples: int = 0,
    unreadable: int = 0,
    subject: Callable[[str], str] | None = None,
) -> Splits:
    """Split into three disjoint parts with equal class shares.

    ``subject`` maps an image id to a person if no column does. A column ``split`` determines the test images; training
    images that look like a test image are then removed.
    """
    read = len(part)
    part, dropped, clashing = without_duplicates(part)
    column = next((name for name in SUBJECTS if name in part.groups), None)
    people = part.groups[column] if column else np.array([subject(i) if subject else "" for i in part.ids])
    looks = np.array([difference_hash(picture) for picture in part.pixels])
    together = clusters(people, looks)
    assigned = np.array([_SPLITS.get(str(v).lower(), "") for v in part.groups.get("split", [""] * len(part))])
    notes: dict[str, Any] = {
        "images": read,
        "unreadable": unreadable,
        "duplicates": dropped,
        "duplicates_with_two_labels": clashing,
        "kept_together": column or ("subject, from the file names" if subject else "images that look the same"),
        "split": "from the data" if assigned.any() else "random, by seed",
    }
    indices = np.arange(len(part))
    if assigned.any():
        # without a separate test set, val is the test set, and validation images are taken from train
        names = ["test"] if "test" in assigned else ["validation"]
        test = indices[np.isin(assigned, names)]
        validation = indices[(assigned == "validation") & ("test" in names)]
        reserved = set(together[np.concatenate([test, validation])].tolist())
        pool = indices[assigned == "train"]
        learn = pool[[cluster not in reserved for cluster in together[pool].tolist()]]
        notes["training_images_like_test_images"] = len(pool) - len(learn)
    else:
        learn, test = _divide(indices, part.labels, together, test_share, seed)
        validation = indices[:0]
    if not len(validation):
        learn, validation = _divide(learn, part.labels, together, validation_share, seed + 1)
    if samples and samples < len(learn):
        learn = _sample(learn, part.labels, samples, seed)
    if not (len(learn) and len(validation) and len(test)):
        raise BadInput(
            f"the split leaves {len(learn)} training, {len(validation)} validation and {len(test)} test images;"
            " expected at least one of each: add images, or subjects"
        )
    first, second, third = (_plain(part.take(np.sort(rows))) for rows in (learn, validation, test))
    notes |= {"learn": len(first), "validation": len(second), "test": len(third)}
    return Splits(first, second, third, classes, notes)


def without_duplicates(part: Part) -> tuple[Part, int, int]:
    """Remove images with equal pixels; return the rest, the number removed, and the number with contradictory labels.

    One image of each set of duplicates is kept, unless the labels differ: then none can be trusted.
    """
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for i, picture in enumerate(part.pixels):
        by_digest[hashlib.sha256(picture.tobytes()).digest()].append(i)
    keep = [rows[0] for rows in by_digest.values() if len(set(part.labels[rows].tolist())) == 1]
    clashing = sum(len(rows) for rows in by_digest.values() if len(set(part.labels[rows].tolist())) > 1)
    return part.take(sorted(keep)), len(part) - len(keep), clashing


def difference_hash(picture: NDArray[Any]) -> str:
    """Return 64 bits, one for each of 8 x 8 positions: whether it is brighter than its right neighbour.

    Equal for pictures that differ only in size, compression or brightness.
    """
    grey = picture.mean(axis=0).astype(np.uint8)
    small = np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = small[:, 1:] > small[:, :-1]
    # a picture without edges has no characteristic hash
    return np.packbits(bits).tobytes().hex() if bits.any() else f"flat {hashlib.sha256(picture.tobytes()).hexdigest()}"


def clusters(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """Return cluster numbers (n,): images with an equal value of any key share one; empty strings link nothing."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(keys[0])
    rows, columns, offset = [], [], n
    for key in keys:
        values, inverse = np.unique(key, return_inverse=True)
        linked = key != ""
        rows.append(np.flatnonzero(linked))
        columns.append(inverse[linked] + offset)
        offset += len(values)
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(row)), (row, column)), shape=(offset, offset))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1][:n].astype(np.int64)
    return labels


def _divide(
    rows: NDArray[Any], labels: NDArray[np.int64], together: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Split rows by about this share, with equal class shares and no cluster on both sides; the larger part first."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, min(round(1 / share), len(set(together[rows].tolist()))))
    if len(set(together[rows].tolist())) < 2:
        raise BadInput("all images belong to one subject or look the same; expected at least two subjects")
    import warnings

    with warnings.catch_warnings():
        # a class with fewer members than folds is fine: only one fold is used
        warnings.simplefilter("ignore")
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        keep, take = next(iter(cutter.split(rows, labels[rows], together[rows])))
    return rows[keep], rows[take]


def _sample(rows: NDArray[Any], labels: NDArray[np.int64], samples: int, seed: int) -> NDArray[Any]:
    """Draw about ``samples`` of the rows, the same share of every class, at least one of each."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels[rows]):
        members = rows[labels[rows] == label]
        chosen.append(rng.permutation(members)[: max(1, round(samples * len(members) / len(rows)))])
    return np.sort(np.concatenate(chosen))


def _plain(part: Part) -> Part:
    """Remove the columns that were only needed for the split."""
    hidden = {"split", *SUBJECTS}
    return replace(part, groups={name: values for name, values in part.groups.items() if name not in hidden})
