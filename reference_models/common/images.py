"""Images to train on, from wherever ``auditor run --data`` takes them, and their split without leaks.

Duplicates are removed before the split. Images of one subject, and images that look the same (equal difference
hashes: re-encoded, rescaled), never stand on both sides of it.
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

_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
           "validation": "validation", "test": "test"}  # fmt: skip
"""Names of sub-folders, or values of the column ``split``, that say to which part an image belongs."""

SUBJECTS = ("subject", "person", "identity")
"""Columns that name who is on an image."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some labelled images in memory."""

    ids: tuple[str, ...]
    pixels: NDArray[Any]
    """(n, c, h, w), uint8 or float32 in [0, 1]."""
    labels: NDArray[np.int64]
    """(n,) class numbers."""
    groups: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Columns of (n,) texts."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Part:
        """The images at these places."""
        index = np.asarray(rows, dtype=np.int64)
        return Part(
            ids=tuple(self.ids[i] for i in index),
            pixels=self.pixels[index],
            labels=self.labels[index],
            groups={name: values[index] for name, values in self.groups.items()},
        )


class Splits(NamedTuple):
    """Learning, validation (chooses the checkpoint), test (goes beside the model, untouched by training)."""

    learn: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    notes: Mapping[str, Any]
    """How many images were read, unreadable, removed as duplicates, and what the split kept apart."""


def load(
    path: Path | None, *, recipe: str, wanted: str, shape: tuple[int, int, int], resizing: Resizing | None = None
) -> tuple[Part, tuple[str, ...], int]:
    """All readable images below ``path`` at ``shape`` (channels, height, width), their class names, and how many were
    not readable.

    A folder with sub-folders train, val and test becomes one part with a column ``split``. Raises BadInput for data
    that cannot be used; ``wanted`` says what the recipe takes.
    """
    if path is None:
        raise BadInput(f"recipe {recipe} needs images: give them with --data; expected {wanted}")
    if not path.exists():
        raise BadInput(f"--data {path}: no such file or folder; expected {wanted}")
    plugins = registry.load()
    found = {entry.name: _SPLITS.get(entry.name) for entry in path.iterdir() if entry.is_dir()} if path.is_dir() else {}
    parted = bool(found) and all(found.values()) and "train" in found.values()
    pieces = [(path / name, f"{name}/", split) for name, split in sorted(found.items())] if parted else [(path, "", "")]
    ids: list[str] = []
    names: list[str] = []
    pictures: list[NDArray[Any]] = []
    groups: dict[str, list[str]] = defaultdict(list)
    unreadable = 0
    for folder, prefix, split in pieces:
        source = plugins.first("auditor_open_images", path=folder)
        if source is None:
            raise BadInput(f"--data {folder}: no format plugin opens it; expected {wanted}")
        if source.labels is None:
            raise BadInput(f"--data {folder}: has no labels; expected {wanted}")

        def one(index: int, source: Any = source) -> NDArray[Any] | None:
            try:
                return fit(source.read(index)[1], shape, resizing or Resizing(resize="crop"))
            except Exception:
                # broken files raise whatever their decoder trips over
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
        raise BadInput(f"--data {path}: has {len(ids)} readable images of {len(classes)} classes; expected {wanted}")
    number = {name: i for i, name in enumerate(classes)}
    part = Part(
        ids=tuple(ids), pixels=np.stack(pictures), labels=np.array([number[name] for name in names], dtype=np.int64),
        groups={name: np.array(values) for name, values in groups.items() if len(values) == len(ids)},
    )  # fmt: skip
    return part, classes, unreadable


def read(path: Path | None, settings: Settings, *, recipe: str, wanted: str) -> Splits:
    """The square RGB images below ``path`` as the settings split them; see ``load`` and ``split``."""
    part, classes, unreadable = load(path, recipe=recipe, wanted=wanted, shape=(3, settings.size, settings.size))
    return split(
        part, classes, validation_share=settings.validation_share, test_share=settings.test_share, seed=settings.seed,
        samples=settings.samples, unreadable=unreadable,
    )  # fmt: skip


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
    """Three disjoint parts, the classes in equal shares.

    ``subject`` tells from an image's id who is on it, where no column does. A column ``split`` decides what is test;
    a training image that looks like a test image is then left out.
    """
    read = len(part)
    part, dropped, clashing = without_duplicates(part)
    column = next((name for name in SUBJECTS if name in part.groups), None)
    who = part.groups[column] if column else np.array([subject(i) if subject else "" for i in part.ids])
    looks = np.array([difference_hash(picture) for picture in part.pixels])
    together = clusters(who, looks)
    given = np.array([_SPLITS.get(str(v).lower(), "") for v in part.groups.get("split", [""] * len(part))])
    notes: dict[str, Any] = {
        "images": read, "unreadable": unreadable, "duplicates": dropped, "duplicates_with_two_labels": clashing,
        "kept_together": column or ("subject, from the file names" if subject else "images that look the same"),
        "split": "the data's own" if given.any() else "by seed",
    }  # fmt: skip
    every = np.arange(len(part))
    if given.any():
        # without a test set of its own, val is the test set, and what chooses the checkpoint is taken of train
        names = ["test"] if "test" in given else ["validation"]
        test = every[np.isin(given, names)]
        held = every[(given == "validation") & ("test" in names)]
        known = set(together[np.concatenate([test, held])].tolist())
        pool = every[given == "train"]
        learn = pool[[cluster not in known for cluster in together[pool].tolist()]]
        notes["training_images_like_test_images"] = len(pool) - len(learn)
    else:
        learn, test = _divide(every, part.labels, together, test_share, seed)
        held = every[:0]
    if not len(held):
        learn, held = _divide(learn, part.labels, together, validation_share, seed + 1)
    if samples and samples < len(learn):
        learn = _sample(learn, part.labels, samples, seed)
    if not (len(learn) and len(held) and len(test)):
        raise BadInput(
            f"the split leaves {len(learn)} images to learn from, {len(held)} to validate and {len(test)} to test on;"
            " expected some of each: give more images, or more subjects"
        )
    first, second, third = (_plain(part.take(np.sort(rows))) for rows in (learn, held, test))
    notes |= {"learn": len(first), "validation": len(second), "test": len(third)}
    return Splits(first, second, third, classes, notes)


def without_duplicates(part: Part) -> tuple[Part, int, int]:
    """The images of which no other has the same pixels, and one of each that has; how many went; how many of these
    because the copies are labelled differently, so that no label can be trusted."""
    seen: dict[bytes, list[int]] = defaultdict(list)
    for i, picture in enumerate(part.pixels):
        seen[hashlib.sha256(picture.tobytes()).digest()].append(i)
    keep = [rows[0] for rows in seen.values() if len(set(part.labels[rows].tolist())) == 1]
    clashing = sum(len(rows) for rows in seen.values() if len(set(part.labels[rows].tolist())) > 1)
    return part.take(sorted(keep)), len(part) - len(keep), clashing


def difference_hash(picture: NDArray[Any]) -> str:
    """64 bits, one for each of 8 x 8 places: whether it is brighter than its right neighbour. Equal for pictures that
    differ in size, compression or brightness alone."""
    grey = picture.mean(axis=0).astype(np.uint8)
    small = np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = small[:, 1:] > small[:, :-1]
    # a picture without any edge has no look of its own
    return np.packbits(bits).tobytes().hex() if bits.any() else f"flat {hashlib.sha256(picture.tobytes()).hexdigest()}"


def clusters(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """Numbers (n,), equal for images that are linked by an equal value of any key; an empty text links nothing."""
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
    """The rows without and with about this share of them, classes in equal shares, no cluster on both sides."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, min(round(1 / share), len(set(together[rows].tolist()))))
    if len(set(together[rows].tolist())) < 2:
        raise BadInput("all images belong to one subject or look the same; expected at least two subjects")
    import warnings

    with warnings.catch_warnings():
        # a class with fewer members than folds is fine here: one fold is used
        warnings.simplefilter("ignore")
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        keep, take = next(iter(cutter.split(rows, labels[rows], together[rows])))
    return rows[keep], rows[take]


def _sample(rows: NDArray[Any], labels: NDArray[np.int64], samples: int, seed: int) -> NDArray[Any]:
    """About ``samples`` of the rows, the same share of every class, at least one of each."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels[rows]):
        members = rows[labels[rows] == label]
        chosen.append(rng.permutation(members)[: max(1, round(samples * len(members) / len(rows)))])
    return np.sort(np.concatenate(chosen))


def _plain(part: Part) -> Part:
    """Without the columns that were there to split by."""
    hidden = {"split", *SUBJECTS}
    return replace(part, groups={name: values for name, values in part.groups.items() if name not in hidden})
