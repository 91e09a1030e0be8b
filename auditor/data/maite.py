"""Datasets of MAITE as images of an audit: image classification, protocols of MAITE 0.10.

MAITE defines protocols, not base classes, so nothing here imports it:
https://mit-ll-ai-technology.github.io/maite/generated/maite.protocols.image_classification.Dataset.html.
A datum is (image, target, metadata): an array (channels, height, width), a one-hot array (classes,) and a mapping
with an "id". Its images are uint8, or floats in [0, 1], because the protocol does not state a value range.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from auditor.data.dataset import Pixels, Source
from auditor.errors import BadInput

_DATASET = "expected a path, or a MAITE dataset of image classification: __len__, __getitem__ and metadata with an id"
_NAMED = 3
"""Keys that a warning lists."""


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """How images are given to the objects of MAITE: as a dataset returns them."""

    shape: tuple[int, ...] = (3, 32, 32)
    """(channels, height, width) of the first image."""
    dtype: Literal["uint8", "float32"] = "uint8"
    """uint8 from 0 to 255, or float32 from 0 to 1."""
    tensors: bool = False
    """Whether they are torch tensors; NumPy arrays otherwise."""

    @property
    def white(self) -> int:
        """The value of white."""
        return 255 if self.dtype == "uint8" else 1

    def batch(self, images: NDArray[Any]) -> list[Any]:
        """Return images (n, c, h, w) of this type as a batch of MAITE: a list of arrays or tensors (c, h, w)."""
        if not self.tensors:
            return [np.array(image) for image in images]
        import torch

        return list(torch.from_numpy(np.array(images)))

    def from_pixels(self, pixels: Pixels) -> list[Any]:
        """Return pixels (n, c, h, w) in [0, 1] as a batch of MAITE; uint8 is rounded."""
        images = np.rint(pixels * np.float32(255)).astype(np.uint8) if self.dtype == "uint8" else pixels
        return self.batch(images)


@dataclass(frozen=True, kw_only=True)
class MaiteDataset:
    """A dataset of MAITE, opened."""

    source: Source
    kind: ImageKind
    metadata: Mapping[str, Mapping[str, Any]]
    """The metadata of each image by its id in the audit."""


def as_array(value: Any) -> NDArray[Any]:
    """Convert what MAITE calls ArrayLike to NumPy; a torch tensor may have a gradient or be on a GPU."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def stated_id(thing: Any, expected: str) -> str:
    """Return the id in the metadata of an object of MAITE. Raises BadInput, with what is ``expected``, if it has none.

    A TypedDict has no class at run time, so any mapping will do.
    """
    metadata = getattr(thing, "metadata", None)
    name = metadata.get("id") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not name:
        found = f"has metadata {metadata!r:.80}" if hasattr(thing, "metadata") else "has no metadata"
        raise BadInput(f"the {type(thing).__name__} {found}; {expected}")
    return name


def class_names(thing: Any, where: str) -> list[str] | None:
    """Return the class names of ``index2label`` in the order of the indices; None if it is not stated.

    Raises BadInput if it does not name the classes 0, 1, ... once each.
    """
    names = thing.metadata.get("index2label")
    if names is None:
        return None
    if not isinstance(names, Mapping) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise BadInput(f"{where}: index2label is {names!r:.80}; expected one name for each of the classes 0, 1, ...")
    found = [str(names.get(i, names.get(str(i)))) for i in range(len(names))]
    if len(set(found)) < len(found):
        raise BadInput(f"{where}: index2label has the name of a class twice; expected different names")
    return found


def open_dataset(dataset: Any) -> MaiteDataset:
    """Open a dataset of MAITE; targets and metadata are read at once, images when they are needed.

    Metadata that are texts, truth values or whole numbers become groups; other keys are named in a warning. Raises
    BadInput for an object, or a datum, that does not follow the protocol.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise BadInput(f"data: the {type(dataset).__name__} has no __len__ and __getitem__; {_DATASET}")
    where = f"data: dataset {stated_id(dataset, _DATASET)}"
    if not len(dataset):
        raise BadInput(f"{where}: is empty; expected at least one image")
    names = class_names(dataset, where)
    kind = _kind(_datum(dataset, 0, where)[0], f"{where}, datum 0")
    labels: list[str] = []
    metadata: dict[str, Mapping[str, Any]] = {}
    for i in range(len(dataset)):
        place = f"{where}, datum {i}"
        target, about = _target_and_metadata(dataset, i, where)
        labels.append(_label(target, names, place))
        image_id = str(about["id"])
        if image_id in metadata:
            raise BadInput(f"{place}: its id {image_id!r} is that of another datum; expected different ids")
        metadata[image_id] = about
    groups, left_out = _groups(list(metadata.values()))
    source = Source(
        path=dataset.metadata["id"],
        ids=list(metadata),
        read=_reader(dataset, where),
        labels=labels,
        classes=names,
        groups=groups,
        warnings=_left_out_warning(left_out),
    )
    return MaiteDataset(source=source, kind=kind, metadata=metadata)


def _datum(dataset: Any, index: int, where: str) -> tuple[Any, Any, Any]:
    datum = dataset[index]
    if not isinstance(datum, Sequence) or isinstance(datum, str) or len(datum) != 3:
        length = f" of {len(datum)}" if isinstance(datum, Sequence) else ""
        raise BadInput(
            f"{where}, datum {index}: is a {type(datum).__name__}{length}; expected (image, target, metadata)"
        )
    return datum[0], datum[1], datum[2]


def _target_and_metadata(dataset: Any, index: int, where: str) -> tuple[Any, Mapping[str, Any]]:
    """Read a datum without its image if the dataset can do that (MAITE's FieldwiseDataset)."""
    if hasattr(dataset, "get_target") and hasattr(dataset, "get_metadata"):
        target, about = dataset.get_target(index), dataset.get_metadata(index)
    else:
        _, target, about = _datum(dataset, index, where)
    if not isinstance(about, Mapping) or not isinstance(about.get("id"), int | str):
        raise BadInput(f"{where}, datum {index}: has metadata {about!r:.80}; expected a mapping with an id")
    return target, about


def _label(target: Any, names: Sequence[str] | None, place: str) -> str:
    """Return the class of a one-hot target: its name, or its index if there are no names."""
    scores = as_array(target)
    if scores.ndim != 1:
        raise BadInput(f"{place}: its target has the shape {scores.shape}; expected a one-hot array (classes,)")
    if np.count_nonzero(scores) != 1 or scores.max() != 1:
        raise BadInput(f"{place}: its target is {scores.tolist()!s:.80}; expected one 1 and zeros (one-hot)")
    if names is not None and len(names) != len(scores):
        raise BadInput(f"{place}: its target has {len(scores)} classes, but index2label names {len(names)}")
    index = int(scores.argmax())
    return str(index) if names is None else names[index]


def _kind(image: Any, place: str) -> ImageKind:
    """Return how the dataset presents images, by its first one. Raises BadInput if they cannot be audited."""
    array = as_array(image)
    problem = _problem(array)
    if problem:
        raise BadInput(f"{place}: {problem}")
    dtype: Literal["uint8", "float32"] = "uint8" if array.dtype == np.uint8 else "float32"
    return ImageKind(shape=array.shape, dtype=dtype, tensors=hasattr(image, "detach"))


def _problem(array: NDArray[Any]) -> str:
    """Return why an image cannot be audited; empty if it can."""
    if array.ndim != 3 or array.shape[0] not in {1, 3}:
        return f"its image has the shape {array.shape}; expected (channels, height, width) with 1 or 3 channels"
    if array.dtype == np.uint8:
        return ""
    if not np.issubdtype(array.dtype, np.floating):
        return f"its image is {array.dtype}; expected uint8, or floats from 0 to 1"
    if not (array.min() >= 0 and array.max() <= 1):
        return (
            f"its image has values from {array.min():.3g} to {array.max():.3g}; expected uint8, or floats from 0 to 1"
            " (normalisation belongs into the model)"
        )
    return ""


def _reader(dataset: Any, where: str) -> Callable[[int], tuple[bytes, NDArray[Any]]]:
    # images are read by several threads, for which a dataset need not be made
    lock = threading.Lock()

    def read(index: int) -> tuple[bytes, NDArray[Any]]:
        with lock:
            fieldwise = hasattr(dataset, "get_input")
            array = as_array(dataset.get_input(index) if fieldwise else _datum(dataset, index, where)[0])
        if problem := _problem(array):
            raise ValueError(problem)
        image = array if array.dtype == np.uint8 else array.astype(np.float32)
        return f"{image.dtype}{image.shape}".encode() + image.tobytes(), np.moveaxis(image, 0, -1)

    return read


def _groups(metadata: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the groups by key, and the keys whose values are no categories."""
    keys = dict.fromkeys(str(key) for about in metadata for key in about if key != "id")
    groups: dict[str, list[str]] = {}
    left_out = []
    for key in keys:
        values = [about.get(key) for about in metadata]
        if all(value is None or isinstance(value, str | bool | int) for value in values):
            groups[key] = ["" if value is None else str(value) for value in values]
        else:
            left_out.append(key)
    return groups, left_out


def _left_out_warning(keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    named = ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
    return [
        f"{len(keys)} keys of the dataset's metadata are not used as groups, because their values are not texts, truth"
        f" values or whole numbers: {named}."
    ]
