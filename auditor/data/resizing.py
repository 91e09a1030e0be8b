"""Decode images and bring them to the input size of the model."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Resize = Literal["crop", "stretch"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """How pictures come to the model's size; a picture that has it already is taken as it is."""

    resize: Resize = "crop"
    """"crop" keeps the sides' ratio and cuts the centre; "stretch" scales both sides."""
    crop: float = 1.0
    """For "crop": how much of the shorter side is kept, up to 1 (timm's crop_pct); or, above 1, to how many pixels the
    shorter side is scaled before the centre is cut (torchvision's resize_size, Hugging Face's shortest_edge)."""
    interpolation: Interpolation = "bilinear"
    """By the names of PIL; always with antialiasing."""


def fit(picture: Image.Image | NDArray[Any], shape: tuple[int, int, int], resizing: Resizing) -> NDArray[Any]:
    """A picture as ``(c, h, w)`` at the model's size: uint8, or float32 in [0, 1] where it is finer than 8 bit."""
    channels, height, width = shape
    if isinstance(picture, np.ndarray):
        array = _channels_last(picture, channels)
        if array.shape[:2] == (height, width):
            return np.ascontiguousarray(array.transpose(2, 0, 1))
        planes = [_scale(Image.fromarray(np.ascontiguousarray(array[..., i])), height, width, resizing)
                  for i in range(channels)]  # fmt: skip
        stacked = np.stack([np.asarray(plane) for plane in planes])
        return stacked if stacked.dtype == np.uint8 else np.clip(stacked, 0, 1).astype(np.float32)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        # 16-bit greyscale: PIL's own conversion to "L" would clip it to white
        deep = np.asarray(upright, dtype=np.float32) / np.float32(65535)
        return fit(np.clip(deep, 0, 1), shape, resizing)
    if upright.mode == "F":
        return fit(np.asarray(upright), shape, resizing)
    if upright.mode in {"RGBA", "LA", "PA"} or "transparency" in upright.info:
        # what a viewer shows: the picture on white, not the colours that hide behind transparent pixels
        alpha = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", alpha.size, "white"), alpha)
    flat = _scale(upright.convert("L" if channels == 1 else "RGB"), height, width, resizing)
    array = np.asarray(flat)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _scale(picture: Image.Image, height: int, width: int, resizing: Resizing) -> Image.Image:
    if picture.size == (width, height):
        return picture
    method = Image.Resampling[resizing.interpolation.upper()]
    if resizing.resize == "stretch":
        return picture.resize((width, height), method)
    if resizing.crop == 1:
        return ImageOps.fit(picture, (width, height), method)
    # rounded as torchvision and timm do it: the shorter side down, the longer side down, the cut to the nearest
    shorter = int(resizing.crop) if resizing.crop > 1 else math.floor(min(height, width) / resizing.crop)
    wide, high = (int(shorter * side / min(picture.size)) for side in picture.size)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    # a cut that is larger than what there is has black edges, as with torchvision's
    return picture.resize((wide, high), method).crop((left, top, left + width, top + height))


def _channels_last(array: NDArray[Any], channels: int) -> NDArray[Any]:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(f"an image has {array.ndim} dimensions; expected (h, w) or (h, w, c)")
    if array.shape[-1] not in {1, 3} and array.shape[0] in {1, 3}:
        array = array.transpose(1, 2, 0)
    if array.shape[-1] not in {1, 3}:
        raise ValueError(f"an image has shape {array.shape}; expected 1 or 3 channels")
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError(
                f"an image of type float holds values from {array.min():.3g} to {array.max():.3g};"
                " expected 0 to 1, or uint8"
            )
    if array.shape[-1] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    # ITU-R 601-2 luma, as PIL's convert("L")
    grey = array.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return (np.round(grey).astype(np.uint8) if array.dtype == np.uint8 else grey)[..., None]


def read_file(path: Path) -> tuple[bytes, Image.Image]:
    """An image file as ``Source.read`` gives it: its bytes and the decoded picture."""
    raw = path.read_bytes()
    if not raw:
        raise OSError("an empty file")
    try:
        picture = Image.open(io.BytesIO(raw))
    except UnidentifiedImageError:
        raise OSError(f"not an image of a known format ({len(raw)} bytes)") from None
    picture.load()
    return raw, picture
