"""The images of an audit: ids, pixels, reference labels and groups, read in batches.

Pixels are float32 in [0, 1], ``(n, c, h, w)``, RGB or one channel, at the input resolution of the model. Every epsilon,
distance and radius of an audit is in this space; mean, standard deviation, channel order, value range and layout
belong to the model (``auditor/model``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import auditor
from auditor.data.duplicates import count_near_duplicates, thumbnail
from auditor.data.looks import LOOK, Looks
from auditor.data.pixel_cache import PixelCache
from auditor.data.resizing import WHITE, Resizing, deep_maximum, fit
from auditor.errors import BadInput
from auditor.findings.record import BenchmarkRecord
from auditor.printable import printable_name, printable_text

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

Pixels = NDArray[np.float32]

NO_VALUE = "(no value)"
"""The group of images without a value in the column of a group."""

_CACHE_BYTES = 1 << 29
"""Memory for pixels; images beyond it are read again by every probe, ahead of their batch."""

_ROW_KEY = 20
"""Hexadecimal digits of the digest of an image in its rows."""

_READERS = 4
"""Threads that read and decode images; Pillow lets them run at the same time."""

_UNREADABLE = ("", math.nan, False, False)
"""Facts of an image that cannot be read."""

_NAMED = 3
"""Skipped files of each kind that a warning names; audit.json names more."""

_SLIVER = 0.26
"""Images of 16 bits that use at most this fraction of the range were probably taken with 14 bits or fewer."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a data format plugin found at a path; nothing is decoded yet."""

    path: str
    """The path as shown in the report."""
    ids: Sequence[str]
    """Unique names of the images."""
    read: Callable[[int], tuple[bytes, Image.Image | NDArray[Any]]]
    """Read the image at an index: the bytes to hash, and the picture as a PIL image or an array ``(h, w)`` or
    ``(h, w, c)``, uint8 or float in [0, 1]. Raises OSError or ValueError if it is unreadable."""
    labels: Sequence[str] | None = None
    """Class names or class indices as text, one per image."""
    classes: Sequence[str] | None = None
    """Class names in the order of the indices, if the data states that order; used if the model has no names."""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    units: Sequence[str] | None = None
    """The unit of each image: its patient, person or video. Images of one unit are correlated. None if not stated."""
    unit_name: str = "unit"
    """The column that names the units."""
    epsilons: Sequence[str] | None = None
    """The L-infinity epsilon of each image as text, such as "8/255"; None if not stated."""
    columns: Mapping[str, Sequence[Any]] | None = None
    """For tabular data: all columns of the table; ``auditor/model/tabular.py`` selects features, label and groups."""
    mask: Callable[[int], tuple[bytes, Image.Image | NDArray[Any]] | None] | None = None
    """Read the mask of the object in the image at an index, like ``read`` and of the same size; values above one half
    are inside. None for an image without a mask."""
    stamp: Callable[[int], str] | None = None
    """Return what changes with every change of the bytes that ``read`` and ``mask`` return, without reading them, such
    as ``auditor.data.looks.file_stamp``; empty if it is not known. Without it, every run reads all images."""
    note: str = ""
    """A warning for the report, for example that these are substitute images."""
    warnings: Sequence[str] = ()
    """Further warnings, such as an assumption about which of the images to read."""
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of what is at the path and is not part of the data, by reason, such as "not an image"."""

    def printable(self) -> Source:
        """Return the source with every text printable: file names may hold any bytes, reports and records hold text."""
        return replace(
            self,
            path=printable_text(self.path),
            ids=[printable_name(name) for name in self.ids],
            labels=None if self.labels is None else [printable_name(label) for label in self.labels],
            classes=None if self.classes is None else [printable_name(name) for name in self.classes],
            groups={
                printable_name(name): [printable_name(value) for value in values]
                for name, values in self.groups.items()
            },
            columns=None if self.columns is None else {printable_name(name): v for name, v in self.columns.items()},
            warnings=[printable_text(warning) for warning in self.warnings],
            skipped={why: [printable_name(name) for name in names] for why, names in self.skipped.items() if names},
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of images in memory."""

    ids: tuple[str, ...]
    pixels: Pixels
    """(n, c, h, w) float32 in [0, 1]."""
    labels: NDArray[np.int64]
    """(n,) reference classes: the labels of the data, or the model's own predictions if there are none."""
    probabilities: NDArray[np.float32]
    """(n, k) probabilities of the deployed model for the clean images."""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    masks: Pixels | None = None
    """(n, h, w), 1 inside the object and 0 outside, NaN for an image without a mask; None if the data has no masks."""
    epsilons: NDArray[np.float64] | None = None
    """(n,) L-infinity epsilon of each image; None if the data states none."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """(n,) predictions of the deployed model for the clean images."""
        answers: NDArray[np.int64] = self.probabilities.argmax(axis=1).astype(np.int64)
        return answers

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Select the images at ``indices``, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        return Batch(
            ids=tuple(self.ids[i] for i in index),
            pixels=self.pixels[index],
            labels=self.labels[index],
            probabilities=self.probabilities[index],
            groups={name: [values[i] for i in index] for name, values in self.groups.items()},
            masks=None if self.masks is None else self.masks[index],
            epsilons=None if self.epsilons is None else self.epsilons[index],
        )


class Augmenter(Protocol):
    """Augmentations of MAITE."""

    def apply(self, name: str, severity: int, pixels: Pixels, target: NDArray[np.float32], image_id: str) -> Pixels:
        """Return one image (c, h, w) in [0, 1] after an augmentation; ``target`` is its class, one-hot (k,)."""


class Images:
    """The audited images: a sample of a source, at the input resolution of the model."""

    def __init__(
        self,
        source: Source,
        *,
        shape: tuple[int, ...],
        resizing: Resizing | None = None,
        samples: int | None = None,
        seed: int = 0,
        looks: Looks | None = None,
        pixel_cache: Path | None = None,
    ) -> None:
        """Choose ``samples`` images by ``seed`` and read each once; unreadable images are named and left out.

        Images that did not change since an earlier run made its ``looks`` are not read before they are measured.
        ``pixel_cache`` is a folder for decoded images.

        Raises:
            BadInput: if no image can be read.
        """
        if not len(source.ids):
            raise BadInput(f"{source.path}: found no images; expected at least one")
        self.path = source.path
        self.note = source.note
        self.shape = shape
        self.n_available = len(source.ids)
        self.unreadable: list[str] = []
        self.skipped = source.skipped
        self.warnings = [*source.warnings, *_skipped_warning(source)]
        """Warnings for the report about which images were read, and how."""
        self.n_deep = self.n_resized = 0
        """Number of images with more than 8 bits, and of another size than the input of the model."""
        self._source = source
        self._resizing = resizing or Resizing()
        self._cache: dict[int, Pixels | NDArray[np.uint8]] = {}
        self._cached_bytes = 0
        self._recent: dict[int, NDArray[Any]] = {}
        """Images of the last call of ``pixels`` that the cache does not hold: probes ask for them twice."""
        self._coming: dict[int, Future[NDArray[Any]]] = {}
        self._masks: dict[int, NDArray[np.uint8] | None] = {}
        self._thumbnails: dict[int, NDArray[np.float16] | None] = {}
        chosen = sample(source.ids, samples, seed)
        self._chosen = np.array(chosen, dtype=np.int64)
        key = _digest_of([auditor.__version__, self.shape, asdict(self._resizing), source.mask is not None])
        self._stored = None if pixel_cache is None or len(shape) == 1 else PixelCache(pixel_cache, key)
        self._looks, self.n_read = self._scan(chosen, key, looks)
        """Also of the unreadable images; and the number of images that were read for it."""
        self._readable = np.array([not why for why in self._looks.errors], dtype=bool)
        self._index = self._chosen[self._readable]
        self._summarize()
        self.ids = tuple(source.ids[i] for i in self._index)
        self.groups = {name: [values[i] or NO_VALUE for i in self._index] for name, values in source.groups.items()}
        self.units = None if source.units is None else [source.units[i] for i in self._index]
        """The unit of each image; None if the data states none."""
        self.unit_name = source.unit_name
        self.epsilons = None if source.epsilons is None else _epsilons(source)[self._index]
        """The L-infinity epsilon of each image, (n,); None if the data states none."""
        self.benchmark: BenchmarkRecord | None = None
        """The benchmark of the Hugging Face Hub that the data is, as stated in the sidecar."""
        self.unknown: Images | None = None
        """Images that belong to no class, opened for probes that need them."""
        self.augmentations: Augmenter | None = None
        """Augmentations of MAITE, for the probe that applies them."""
        self._position = {image_id: position for position, image_id in enumerate(self.ids)}
        self.labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def resizing(self) -> Resizing:
        """How pictures are brought to the input size."""
        return self._resizing

    @property
    def label_names(self) -> list[str] | None:
        """The labels as the data names them, one per image; None without labels."""
        return None if self._source.labels is None else [self._source.labels[i] for i in self._index]

    @property
    def known_labels(self) -> Sequence[str] | None:
        """The labels of everything at the path, also of images that were not drawn or cannot be read."""
        return self._source.labels

    @cached_property
    def sha256(self) -> str:
        """Digest of everything that findings depend on: ids, bytes, labels, groups, resolution, units."""
        return self.measured_sha256 if self.units is None else self._digest(self.units)

    @cached_property
    def measured_sha256(self) -> str:
        """Digest without the units: what the rows of most probes depend on. Intervals are computed from rows."""
        return self._digest()

    def _digest(self, *more: Any) -> str:
        rows = list(zip(self.ids, self.digests, strict=True))
        content = [rows, self.label_names, self.groups, self.shape, asdict(self._resizing), *more]
        if self.epsilons is not None:
            content.append({"epsilons": self.epsilons.tolist()})
        return _digest_of(content)

    @cached_property
    def row_keys(self) -> Mapping[str, str]:
        """Digest of everything in an image that its rows depend on, by id: bytes, label, groups, epsilon.

        Complete when the labels are matched to the classes.
        """
        labels, names = self.labels, self.label_names
        return {
            image_id: _digest_of(
                [
                    digest,
                    None if names is None else names[i],
                    None if labels is None else int(labels[i]),
                    {name: values[i] for name, values in self.groups.items()},
                    None if self.epsilons is None else float(self.epsilons[i]),
                ]
            )[:_ROW_KEY]
            for i, (image_id, digest) in enumerate(zip(self.ids, self.digests, strict=True))
        }

    @property
    def unit_of(self) -> Mapping[str, str] | None:
        """The unit of each image by id; None without units."""
        return None if self.units is None else dict(zip(self.ids, self.units, strict=True))

    @cached_property
    def near_duplicates(self) -> int:
        """The number of images that are nearly equal to another one (``auditor/data/duplicates.py``)."""
        if len(self.shape) == 1:
            return 0
        if self._looks.near_duplicates is not None:
            return self._looks.near_duplicates
        with ThreadPoolExecutor(_READERS) as pool:
            missing = [int(index) for index in self._index if index not in self._thumbnails]
            read = _bounded_map(pool, lambda index: thumbnail(self._read(index)), missing)
            self._thumbnails |= dict(zip(missing, read, strict=True))
        count = count_near_duplicates([self._thumbnails[int(index)] for index in self._index], self.digests)
        # half a gigabyte for a million images
        self._thumbnails.clear()
        return count

    @property
    def looks(self) -> Looks:
        """What reading the images told about them, for the next run."""
        return replace(self._looks, near_duplicates=self.near_duplicates)

    @property
    def digests(self) -> Sequence[str]:
        """SHA-256 of each image's bytes, in the order of ``ids``."""
        return tuple(self._looks.facts["sha256"][self._readable].astype(str).tolist())

    def pixels(self, ids: Sequence[str]) -> Pixels:
        """Load the pixels of these images, (n, c, h, w) float32 in [0, 1]."""
        indices = [int(self._index[self._position[image_id]]) for image_id in ids]
        unknown = [index for index in dict.fromkeys(indices) if index not in self._cache]
        read = {index: self._recent[index] for index in unknown if index in self._recent}
        read |= {index: self._coming.pop(index).result() for index in unknown if index in self._coming}
        missing = [index for index in unknown if index not in read]
        if missing:
            with ThreadPoolExecutor(min(_READERS, len(missing))) as pool:
                read |= dict(zip(missing, pool.map(self._read, missing), strict=True))
        for index, stored in read.items():
            self._remember(index, stored)
        self._recent = {index: stored for index, stored in read.items() if index not in self._cache}
        return np.stack([_as_float(read[index] if index in read else self._cache[index]) for index in indices])

    @contextmanager
    def reading_ahead(self) -> Iterator[Callable[[Sequence[str]], None]]:
        """Return a function that begins to read images, which later calls of ``pixels`` take.

        They are read while the model computes. Those that the function was not called with again are forgotten.
        """
        with ThreadPoolExecutor(_READERS) as pool:

            def begin(ids: Sequence[str]) -> None:
                indices = [int(self._index[self._position[image_id]]) for image_id in ids]
                wanted = {index: self._coming.get(index) for index in indices if index not in self._cache}
                self._coming = {index: old or pool.submit(self._read, index) for index, old in wanted.items()}

            try:
                yield begin
            finally:
                for future in self._coming.values():
                    future.cancel()
                self._coming = {}

    def masks(self, ids: Sequence[str]) -> Pixels | None:
        """Load the masks of these images as in ``Batch.masks``."""
        if self._source.mask is None:
            return None
        _, height, width = self.shape
        masks = np.full((len(ids), height, width), np.nan, dtype=np.float32)
        for row, image_id in enumerate(ids):
            index = self._index[self._position[image_id]]
            bits = self._masks[index] if index in self._masks else self._mask(index)[1]
            if bits is not None:
                masks[row] = np.unpackbits(bits, count=height * width).reshape(height, width)
        return masks

    def position(self, image_id: str) -> int:
        """Return the position of an image in the order of the data."""
        return self._position[image_id]

    def _read(self, index: int) -> NDArray[Any]:
        if self._stored is None:
            return self._fit(self._source.read(index)[1])
        digest = self._looks.facts["sha256"][np.searchsorted(self._chosen, index)].decode()
        pixels = self._stored.get(digest)
        if pixels is None:
            pixels = self._fit(self._source.read(index)[1])
            self._stored.put(digest, pixels)
        return pixels

    def _fit(self, picture: Image.Image | NDArray[Any]) -> NDArray[Any]:
        """Bring a picture to the input size; a row of tabular data is not changed."""
        if len(self.shape) == 1:
            return np.asarray(picture)
        return fit(picture, self.shape, self._resizing)

    def _mask(self, index: int) -> tuple[bytes, NDArray[np.uint8] | None, tuple[int, ...]]:
        """Read a mask: its bytes, its packed bits at the input size of the model, and its own size."""
        found = None if self._source.mask is None else self._source.mask(index)
        if found is None:
            return b"", None, ()
        _, height, width = self.shape
        scaled = fit(found[1], (1, height, width), self._resizing)[0]
        inside = scaled > (127 if scaled.dtype == np.uint8 else 0.5)
        return found[0], np.packbits(inside), _size(found[1])

    def _remember(self, index: int, pixels: Pixels | NDArray[np.uint8]) -> None:
        if self._cached_bytes + pixels.nbytes <= _CACHE_BYTES:
            self._cache[index] = pixels
            self._cached_bytes += pixels.nbytes

    def _look(self, index: int) -> tuple[tuple[str, float, bool, bool], str, NDArray[Any] | None]:
        """Read an image: its facts, why it cannot be read, or empty text, and its pixels."""
        try:
            raw, picture = self._source.read(index)
            digest = hashlib.sha256(raw)
            if self._source.mask is not None:
                mask, bits, size = self._mask(index)
                if size and size != _size(picture):
                    raise ValueError(f"its mask has {_pixels(size)} pixels, the image {_pixels(_size(picture))}")
                digest.update(hashlib.sha256(mask).digest())
                if self._cached_bytes + (0 if bits is None else bits.nbytes) <= _CACHE_BYTES:
                    self._masks[index] = bits
            largest = deep_maximum(picture)
            resized = _size(picture) != self.shape[1:]
            pixels = self._fit(picture)
            facts = (digest.hexdigest(), math.nan if largest is None else largest, resized, _has_more_frames(picture))
            self._thumbnails[index] = thumbnail(pixels) if pixels.ndim == 3 else None
            if self._stored is not None:
                self._stored.put(facts[0], pixels)
        except BadInput:
            # the image cannot be reached; one that is there must not be left out
            raise
        except Exception as error:
            # decoders raise anything for broken files: SyntaxError, struct.error, IndexError, ...
            return _UNREADABLE, printable_text(_why(error)), None
        return facts, "", pixels

    def _scan(self, chosen: Sequence[int], key: str, earlier: Looks | None) -> tuple[Looks, int]:
        """Read each of the chosen images that has changed since ``earlier``; return the facts, and how many were read.

        Raises BadInput if none can be read.
        """
        ids = [self._source.ids[index] for index in chosen]
        # before they are read: a change while they are read gives them another stamp
        stamps = ["" if self._source.stamp is None else self._source.stamp(index) for index in chosen]
        earlier = earlier or Looks(key, [], [], np.zeros(0, dtype=LOOK), [])
        rows = earlier.known(key, ids, stamps)
        facts = np.zeros(len(ids), dtype=LOOK)
        facts[rows >= 0] = earlier.facts[rows[rows >= 0]]
        errors = [earlier.errors[row] if row >= 0 else "" for row in rows]
        unknown = np.flatnonzero(rows < 0).tolist()
        with ThreadPoolExecutor(_READERS) as pool:
            found = _bounded_map(pool, self._look, [chosen[position] for position in unknown])
            for position, (fact, why, pixels) in zip(unknown, found, strict=True):
                facts[position], errors[position] = fact, why
                if pixels is not None:
                    self._remember(chosen[position], pixels)
        if self._stored is not None and self._stored.failure:
            self.warnings.append(f"Decoded images could not be kept: {self._stored.failure}.")
        if all(errors):
            raise BadInput(f"{self.path}: none of {len(ids)} images could be read; the first: {ids[0]}: {errors[0]}")
        same = not len(unknown) and len(earlier.ids) == len(ids)
        return Looks(key, ids, stamps, facts, errors, earlier.near_duplicates if same else None), len(unknown)

    def _summarize(self) -> None:
        """Name the unreadable images, and warn of those of which the model may not see everything."""
        looks, facts = self._looks, self._looks.facts[self._readable]
        self.unreadable += [f"{name}: {why}" for name, why in zip(looks.ids, looks.errors, strict=True) if why]
        deep = facts["largest"][~np.isnan(facts["largest"])]
        self.n_deep, self.n_resized = len(deep), int(facts["resized"].sum())
        if len(deep) and self._resizing.white is None and deep.max() <= _SLIVER * WHITE:
            self.warnings.append(
                f"{len(deep)} images have 16 bits, and their largest value is {deep.max():g}, which is"
                f" {100 * deep.max() / WHITE:.1f} % of the range, so the model sees them almost black. If white is"
                f" another value, state it in the sidecar: [input] white = {_usual_white(deep.max())}."
            )
        if facts["frames"].any():
            frames = sorted(compress(compress(looks.ids, self._readable), facts["frames"]))
            named = ", ".join(frames[:_NAMED]) + (", ..." if len(frames) > _NAMED else "")
            self.warnings.append(
                f"Of images with several frames or pages, the first is audited ({len(frames)}): {named}."
            )


def _skipped_warning(source: Source) -> list[str]:
    """Return a warning that counts what was skipped and names the first of each kind."""
    kinds = []
    for why, names in source.skipped.items():
        shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        kinds.append(f"{why} ({len(names)}): {shown}")
    return [f"Skipped in {source.path}: {'; '.join(kinds)}."] if kinds else []


def _has_more_frames(picture: Image.Image | NDArray[Any]) -> bool:
    """Whether a picture is an animation or has pages; an MPO file is a photograph with previews."""
    return bool(getattr(picture, "is_animated", False)) and getattr(picture, "format", "") != "MPO"


def _usual_white(largest: float) -> int:
    """Return the white level of the smallest usual bit depth that holds a value: 255, 1023, 4095, 16383."""
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if largest <= 2**bits - 1)


def _bounded_map(pool: ThreadPoolExecutor, function: Callable[[int], Any], items: Sequence[int]) -> Iterator[Any]:
    """Like ``pool.map``, with at most 256 results in memory."""
    for start in range(0, len(items), 256):
        yield from pool.map(function, items[start : start + 256])


def _as_float(stored: NDArray[Any]) -> Pixels:
    return stored.astype(np.float32) / np.float32(255) if stored.dtype == np.uint8 else stored.astype(np.float32)


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _size(picture: Image.Image | NDArray[Any]) -> tuple[int, ...]:
    """Height and width."""
    return picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def sample(ids: Sequence[str], samples: int | None, seed: int) -> list[int]:
    """Draw ``samples`` of the ids by ``seed`` and return their indices in the order of the data.

    Each id has its own random rank. So the choice does not depend on the order of the ids, and a larger sample contains
    the smaller one.
    """
    if samples is None or samples >= len(ids):
        return list(range(len(ids)))
    return sorted(sorted(range(len(ids)), key=lambda i: rank(ids[i], seed))[:samples])


def rank(image_id: str, seed: int) -> bytes:
    """Return the rank of an image in a random order that depends only on its id and the seed."""
    return hashlib.sha256(f"{seed}\0sample\0{image_id}".encode()).digest()


def _why(error: Exception) -> str:
    """Describe why an image cannot be read, in words that do not change between runs."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}"


def _epsilons(source: Source) -> NDArray[np.float64]:
    """Return the epsilon of everything at the path, (n,). Raises BadInput for one that is none."""
    values = []
    for image_id, text in zip(source.ids, source.epsilons or (), strict=True):
        try:
            value = float(Fraction(text.replace(" ", ""))) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not 0 < value <= 1:
            raise BadInput(
                f"{source.path}: the epsilon of {image_id} is {text or 'missing'!r}; expected a number or fraction"
                " above 0 and at most 1, such as 0.03 or 8/255, for every image; or drop the column"
            )
        values.append(value)
    return np.array(values)
