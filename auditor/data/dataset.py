"""The images of an audit: ids, pixels, reference labels, groups; streamed, so 100,000 need no more memory than 100.

Pixels are float32 in [0, 1], ``(n, c, h, w)``, RGB or one channel, at the model's input resolution. Every epsilon,
distance and radius of an audit is in this space; mean, standard deviation, channel order, value range and layout
belong to the model (``classifier.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.data.resizing import Resizing, fit
from auditor.errors import BadInput

Pixels = NDArray[np.float32]

_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a format plugin found at a path; nothing is decoded yet."""

    path: str
    """As the report shows it."""
    ids: Sequence[str]
    """Unique names of the images."""
    read: Callable[[int], tuple[bytes, Image.Image | NDArray[Any]]]
    """From an index to the bytes to hash and the picture: a PIL image or an array ``(h, w)`` or ``(h, w, c)``, uint8 or
    float in [0, 1]. Raises OSError or ValueError for an unreadable one."""
    labels: Sequence[str] | None = None
    """Class names or class numbers as text, one per image."""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Mapping[str, Sequence[Any]] | None = None
    """Not images but a table of rows, with all its columns; ``rows.py`` tells features, label and groups apart."""
    mask: Callable[[int], tuple[bytes, Image.Image | NDArray[Any]] | None] | None = None
    """From an index to what marks the object in the picture, as ``read`` gives it and of the picture's own size: above
    half is inside. None for a picture without one."""
    note: str = ""
    """A plain warning for the report, for example that these are stand-in images."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images in memory."""

    ids: tuple[str, ...]
    pixels: Pixels
    """(n, c, h, w) float32 in [0, 1]."""
    labels: NDArray[np.int64]
    """(n,) reference classes: the data's labels or, where it has none, the model's own answers."""
    probabilities: NDArray[np.float32]
    """(n, k) what the deployed artefact answers on the clean images."""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    masks: Pixels | None = None
    """(n, h, w), 1 inside the object and 0 outside, NaN for an image without a mask; None where the data has none."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """(n,) the class the deployed artefact gives to the clean image."""
        answers: NDArray[np.int64] = self.probabilities.argmax(axis=1).astype(np.int64)
        return answers

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The images at ``indices``, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        return Batch(
            ids=tuple(self.ids[i] for i in index),
            pixels=self.pixels[index],
            labels=self.labels[index],
            probabilities=self.probabilities[index],
            groups={name: [values[i] for i in index] for name, values in self.groups.items()},
            masks=None if self.masks is None else self.masks[index],
        )


class Images:
    """The audited images: a chosen sample of a source, at the model's resolution."""

    def __init__(
        self,
        source: Source,
        *,
        shape: tuple[int, int, int],
        resizing: Resizing | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        """Choose ``samples`` images by ``seed`` and read each once: unreadable ones are named and left out.

        Raises BadInput when not one image can be read.
        """
        if not len(source.ids):
            raise BadInput(f"{source.path}: found no images; expected at least one")
        self.path = source.path
        self.note = source.note
        self.shape = shape
        self.n_available = len(source.ids)
        self.unreadable: list[str] = []
        self._source = source
        self._resizing = resizing or Resizing()
        self._cache: dict[int, Pixels | NDArray[np.uint8]] = {}
        self._cached_bytes = 0
        self._masks: dict[int, NDArray[np.uint8] | None] = {}
        self._index: list[int] = []
        self._digests: list[str] = []
        self._scan(sample(source.ids, samples, seed))
        self.ids = tuple(source.ids[i] for i in self._index)
        self.groups = {name: [values[i] for i in self._index] for name, values in source.groups.items()}
        self._position = {image_id: position for position, image_id in enumerate(self.ids)}
        self.labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def label_names(self) -> list[str] | None:
        """The data's own names of the labels, one per image, or None."""
        return None if self._source.labels is None else [self._source.labels[i] for i in self._index]

    @property
    def sha256(self) -> str:
        """Digest of all that the findings depend on: ids, bytes, labels, groups, resolution."""
        rows = list(zip(self.ids, self._digests, strict=True))
        text = json.dumps([rows, self.label_names, self.groups, self.shape, asdict(self._resizing)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def digests(self) -> Sequence[str]:
        """SHA-256 of each image's bytes, in the order of ``ids``."""
        return tuple(self._digests)

    def pixels(self, ids: Sequence[str]) -> Pixels:
        """The pixels of some images, (n, c, h, w) float32 in [0, 1]."""
        return np.stack([self._pixels(self._index[self._position[image_id]]) for image_id in ids])

    def masks(self, ids: Sequence[str]) -> Pixels | None:
        """The masks of some images, (n, h, w), 1 inside and 0 outside, NaN where one has none; None without masks."""
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
        """The place of an image in the order of the data."""
        return self._position[image_id]

    def _pixels(self, index: int) -> Pixels:
        stored = self._cache.get(index)
        if stored is None:
            stored = fit(self._source.read(index)[1], self.shape, self._resizing)
            self._remember(index, stored)
        return stored.astype(np.float32) / np.float32(255) if stored.dtype == np.uint8 else stored.astype(np.float32)

    def _mask(self, index: int) -> tuple[bytes, NDArray[np.uint8] | None, tuple[int, ...]]:
        """A picture's mask: its bytes, its bits at the model's size, packed, and the size that it has itself."""
        found = None if self._source.mask is None else self._source.mask(index)
        if found is None:
            return b"", None, ()
        scaled = fit(found[1], (1, *self.shape[1:]), self._resizing)[0]
        inside = scaled > (127 if scaled.dtype == np.uint8 else 0.5)
        return found[0], np.packbits(inside), _size(found[1])

    def _remember(self, index: int, pixels: Pixels | NDArray[np.uint8]) -> None:
        if self._cached_bytes + pixels.nbytes <= _CACHE_BYTES:
            self._cache[index] = pixels
            self._cached_bytes += pixels.nbytes

    def _scan(self, chosen: Sequence[int]) -> None:
        def look(index: int) -> tuple[int, str, Pixels | NDArray[np.uint8]] | str:
            try:
                raw, picture = self._source.read(index)
                digest = hashlib.sha256(raw)
                if self._source.mask is not None:
                    mask, bits, size = self._mask(index)
                    if size and size != _size(picture):
                        # what it marks would be guessed
                        raise ValueError(f"its mask has {_pixels(size)} pixels, the image {_pixels(_size(picture))}")
                    digest.update(hashlib.sha256(mask).digest())
                    if self._cached_bytes + (0 if bits is None else bits.nbytes) <= _CACHE_BYTES:
                        self._masks[index] = bits
                return index, digest.hexdigest(), fit(picture, self.shape, self._resizing)
            except Exception as error:
                # broken files raise whatever their decoder trips over: SyntaxError, struct.error, IndexError, ...
                return f"{self._source.ids[index]}: {_why(error)}"

        with ThreadPoolExecutor(4) as pool:
            for found in _bounded_map(pool, look, chosen):
                if isinstance(found, str):
                    self.unreadable.append(found)
                else:
                    self._index.append(found[0])
                    self._digests.append(found[1])
                    self._remember(found[0], found[2])
        if not self._index:
            raise BadInput(
                f"{self.path}: not one of {len(chosen)} images could be read; the first: {self.unreadable[0]}"
            )


def _bounded_map(pool: ThreadPoolExecutor, function: Callable[[int], Any], items: Sequence[int]) -> Iterator[Any]:
    """``pool.map`` that keeps at most some hundred results waiting, so that a large folder is never all in memory."""
    for start in range(0, len(items), 256):
        yield from pool.map(function, items[start : start + 256])


def _size(picture: Image.Image | NDArray[Any]) -> tuple[int, ...]:
    """Height and width."""
    return picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def sample(ids: Sequence[str], samples: int | None, seed: int) -> list[int]:
    """Indices of ``samples`` ids drawn by ``seed``, in the order of the data.

    Each id has its own random rank, so the choice does not depend on the order of the ids, and a larger sample
    contains the smaller one.
    """
    if samples is None or samples >= len(ids):
        return list(range(len(ids)))
    return sorted(sorted(range(len(ids)), key=lambda i: rank(ids[i], seed))[:samples])


def rank(image_id: str, seed: int) -> bytes:
    """An image's place in a random order that depends on its id and the seed alone."""
    return hashlib.sha256(f"{seed}\0sample\0{image_id}".encode()).digest()


def _why(error: Exception) -> str:
    """Why an image cannot be read, in words that are the same on every run."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}"
