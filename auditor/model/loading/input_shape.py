"""Find the input shape of an image model: from the model file, the sidecar or the data, otherwise by trying sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from auditor.errors import BadInput
from auditor.model.artefact import Artefact
from auditor.model.loading.sidecar import Sidecar
from auditor.model.preprocessing import InputTransform, Preprocessing

USUAL_SIZES = (224, 32, 28, 64, 112, 128, 96, 256, 299, 384, 48, 8)
"""Sides in pixels to try if neither model file, sidecar nor data state one; that of ImageNet first."""

_SMALLEST_SIDE = 8
"""Rows of fewer numbers than a square of this side are features, unless a size is stated."""

_LEVELS = 16
"""An integer input that the stated preprocessing maps to fewer values than this is refused."""

_INTEGER_RANGES = {
    "int8": (-128.0, 127.0),
    "uint8": (0.0, 255.0),
    "uint16": (0.0, 65535.0),
}
"""Default range by integer type; wider types get the range of 8-bit pixels, as TensorFlow exports use them."""

ImageLayout = Literal["nchw", "nhwc"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A possible preprocessing of the model."""

    preprocessing: InputTransform
    guess: str = ""
    """What had to be guessed, for a warning; empty if everything is stated."""


def candidates(
    path: Path, artefact: Artefact, sidecar: Sidecar, data_size: tuple[int, int] | None
) -> Sequence[Candidate]:
    """Return possible preprocessings, best first.

    Args:
        path: the model file, for errors.
        artefact: the opened model file.
        sidecar: what is stated about the model.
        data_size: (height, width) of the data, used if nothing else states a size.

    Raises:
        BadInput: if the model does not take images, or the statements contradict each other.
    """
    declared = artefact.input_shape
    if len(declared) in {2, 3}:
        return [Candidate(preprocessing=_flat(path, artefact, sidecar, data_size))]
    if declared and len(declared) != 4:
        raise BadInput(
            f"{path}: the model's input has shape {shape_text(declared)}; expected an image,"
            " [batch, channels, height, width] or [batch, height, width, channels], or a row of features"
        )
    # a traced file accepts the shape it was traced with, if nothing else is stated
    example = artefact.example_shape if len(artefact.example_shape) == 4 else ()
    layout: ImageLayout = sidecar.layout or _layout(declared or example)
    channels, height, width = _stated_shape(path, declared, example, sidecar, layout)
    _check_agreement(path, sidecar, height, width, channels)
    if height and width:
        sizes: list[tuple[int, int]] = [(height, width)]
    elif sidecar.size:
        sizes = [sidecar.size]
    elif example:
        sizes = [(example[2], example[3]) if layout == "nchw" else (example[1], example[2])]
    else:
        sizes = ([data_size] if data_size else []) + [(side, side) for side in USUAL_SIZES]
    known = bool(sidecar.size or example or (height and width)) and bool(channels)
    return [
        Candidate(
            preprocessing=_preprocessing(artefact, sidecar, (count, *size), layout),
            guess="" if known else f"{size[0]}x{size[1]} pixels, {count} channel{'s' if count > 1 else ''}",
        )
        for size in sizes
        for count in ([channels] if channels else [3, 1])
    ]


def is_tabular(artefact: Artefact, sidecar: Sidecar, data_size: tuple[int, int] | None) -> bool:
    """Test whether a model takes rows of features, not rows of pixels.

    Numbers are the pixels of an image if a size is stated, or if the data are images and their size or a square fits.
    ``data_size`` is (height, width) of the data; None if the data are not images.
    """
    if len(artefact.input_shape) != 2 or sidecar.size:
        return False
    inner = artefact.input_shape[1:]
    if data_size is None or any(side is None for side in inner):
        return True
    values = math.prod(side or 1 for side in inner)
    shapes = _flat_shapes(inner, sidecar, data_size)
    return not any(
        channels * height * width == values and min(height, width) >= _SMALLEST_SIDE
        for channels, height, width in shapes
    )


def shape_text(shape: Sequence[int | None]) -> str:
    """Write a shape with ``?`` for free dimensions."""
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"


def _stated_shape(
    path: Path,
    declared: tuple[int | None, ...],
    example: tuple[int, ...],
    sidecar: Sidecar,
    layout: ImageLayout,
) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width as declared; None for what is free."""
    spatial = declared[2:4] if layout == "nchw" else declared[1:3]
    channels = (declared[1] if layout == "nchw" else declared[3]) if declared else None
    traced = example[1 if layout == "nchw" else 3] if example else None
    channels = channels or sidecar.channels or (traced if traced in {1, 3} else None)
    if channels is not None and channels not in {1, 3}:
        raise BadInput(
            f"{path}: the model's input has shape {shape_text(declared)}, so {channels} channels; expected 1 or 3"
        )
    height, width = (spatial[0], spatial[1]) if spatial else (None, None)
    return channels, height, width


def _flat(path: Path, artefact: Artefact, sidecar: Sidecar, data_size: tuple[int, int] | None) -> Preprocessing:
    """The preprocessing of a model that takes pixels without an image shape: [n, 784], [n, 784, 1], [n, 28, 28]."""
    inner = artefact.input_shape[1:]
    if any(side is None for side in inner):
        raise BadInput(
            f"{path}: the model's input has shape {shape_text(artefact.input_shape)}; expected a fixed number of values"
            " per image"
        )
    values = math.prod(side or 1 for side in inner)
    for channels, height, width in _flat_shapes(inner, sidecar, data_size):
        if channels * height * width == values:
            shape = (channels, height, width)
            return _preprocessing(
                artefact, sidecar, shape, sidecar.layout or "nchw", tuple(side or 1 for side in inner)
            )
    raise BadInput(
        f"{path}: the model's input has {values} values per image ({shape_text(artefact.input_shape)}), which is not a"
        " square with 1 or 3 channels; state height and width with --input-size, or as [input] size and channels in the"
        " sidecar"
    )


def _flat_shapes(
    inner: tuple[int | None, ...], sidecar: Sidecar, data_size: tuple[int, int] | None
) -> Iterator[tuple[int, int, int]]:
    """Yield image shapes that a flat input may hold, best first: as stated, as declared, as the data, square."""
    counts = [sidecar.channels] if sidecar.channels else [1, 3]
    sides = [sidecar.size] if sidecar.size else []
    if not sides:
        sides += [(inner[0] or 1, inner[1] or 1)] if len(inner) == 2 and 1 not in inner else []
        sides += [data_size] if data_size else []
        values = math.prod(side or 1 for side in inner)
        sides += [(side, side) for side in (math.isqrt(values // count) for count in counts)]
    for height, width in sides:
        for count in counts:
            yield count, height, width


def _preprocessing(
    artefact: Artefact,
    sidecar: Sidecar,
    shape: tuple[int, int, int],
    layout: ImageLayout,
    flat: tuple[int, ...] | None = None,
) -> Preprocessing:
    """Combine shape and stated normalisation; raise BadInput if an integer input cannot represent the result."""
    for key in ("mean", "std"):
        values = getattr(sidecar, key)
        if values is not None and len(values) not in {1, shape[0]}:
            raise BadInput(f"{sidecar.where(key)}: {key} has {len(values)} values for {shape[0]} channels")
    preprocessing = Preprocessing(
        shape=shape,
        layout=layout,
        dtype=artefact.input_dtype,
        range=sidecar.range or default_range(artefact.input_dtype),
        mean=sidecar.mean or (0.0,),
        std=sidecar.std or (1.0,),
        order=sidecar.order or "rgb",
        flat=flat,
    )
    if is_integer(artefact.input_dtype):
        _check_representable(preprocessing, sidecar)
    return preprocessing


def is_integer(dtype: str) -> bool:
    """Test whether an input type is an integer type."""
    return bool(np.issubdtype(np.dtype(dtype), np.integer))


def default_range(dtype: str) -> tuple[float, float]:
    """What an input of this type takes for black and white if nothing states it."""
    return _INTEGER_RANGES.get(dtype, (0.0, 255.0)) if is_integer(dtype) else (0.0, 1.0)


def _check_representable(preprocessing: Preprocessing, sidecar: Sidecar) -> None:
    """Raise BadInput if an integer input cannot represent what the stated normalisation gives."""
    limits = np.iinfo(preprocessing.dtype)
    low, high = preprocessing.span()
    if limits.min <= round(low) and round(high) <= limits.max and high - low >= _LEVELS - 1:
        return
    key = next((key for key in ("std", "mean", "range") if getattr(sidecar, key) is not None), "range")
    raise BadInput(
        f"{sidecar.where(key) or 'preprocessing'}: maps pixels to {low:.4g} to {high:.4g}, but the model's input is"
        f" {preprocessing.dtype} ({limits.min} to {limits.max}), which holds whole numbers; expected a range such as"
        f" {[int(end) for end in default_range(preprocessing.dtype)]} without mean and std"
    )


def _check_agreement(path: Path, sidecar: Sidecar, height: int | None, width: int | None, channels: int | None) -> None:
    """Raise BadInput if the sidecar contradicts the model file."""
    if sidecar.size and height and width and sidecar.size != (height, width):
        raise BadInput(
            f"{sidecar.where('size')}: size is {list(sidecar.size)}, but {path.name} takes [{height}, {width}]"
        )
    if sidecar.channels and channels and sidecar.channels != channels:
        raise BadInput(f"{sidecar.where('channels')}: channels is {sidecar.channels}, but {path.name} takes {channels}")


def _layout(declared: tuple[int | None, ...]) -> ImageLayout:
    return "nhwc" if declared and declared[3] in {1, 3} and declared[1] not in {1, 3} else "nchw"
