"""Decode images and bring them to the input size of the model."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Resize = Literal["crop", "stretch"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


WHITE = 65535.0
"""White of 16-bit images."""


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """How pictures are brought to the input size of the model; a picture of that size is not changed."""

    resize: Resize = "crop"
    """"crop" keeps the aspect ratio and crops the centre; "stretch" scales both sides."""
    crop: float = 1.0
    """For "crop", up to 1: the fraction of the shorter side to keep (crop_pct of timm). Above 1: the length of the
    shorter side before the centre is cropped (resize_size of torchvision, shortest_edge of Hugging Face)."""
    interpolation: Interpolation = "bilinear"
    """As PIL names it; always with antialiasing."""
    white: float | None = None
    """Value of white in images of more than 8 bits; by default the largest value of 16 bits, 65535."""


def fit(picture: Image.Image | NDArray[Any], shape: tuple[int, ...], resizing: Resizing) -> NDArray[Any]:
    """Resize a picture to ``shape`` (c, h, w); the result is uint8, or float32 in [0, 1] if it has more than 8 bits."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    if isinstance(picture, np.ndarray):
        array = _channels_last(_deep(picture, resizing) if picture.dtype == np.uint16 else picture, channels)
        if array.shape[:2] == (height, width):
            return np.ascontiguousarray(array.transpose(2, 0, 1))
        planes = [
            _scale(Image.fromarray(np.ascontiguousarray(array[..., i])), height, width, resizing)
            for i in range(channels)
        ]
        stacked = np.stack([np.asarray(plane) for plane in planes])
        return stacked if stacked.dtype == np.uint8 else np.clip(stacked, 0, 1).astype(np.float32)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        # 16-bit greyscale: PIL's conversion to "L" would clip it to white
        return fit(_deep(np.asarray(upright), resizing), shape, resizing)
    if upright.mode == "F":
        return fit(np.asarray(upright), shape, resizing)
    if upright.mode in {"RGBA", "LA", "PA"} or "transparency" in upright.info:
        # as viewers show it: on white, without the colours stored in transparent pixels
        alpha = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", alpha.size, "white"), alpha)
    flat = _scale(upright.convert("L" if channels == 1 else "RGB"), height, width, resizing)
    array = np.asarray(flat)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def deep_maximum(picture: Image.Image | NDArray[Any]) -> float | None:
    """Return the largest value of an image of 16 bits or more, in its own units; None for other images."""
    if isinstance(picture, np.ndarray):
        return float(picture.max()) if picture.dtype == np.uint16 and picture.size else None
    return float(np.asarray(picture).max()) if picture.mode.startswith("I") else None


def _deep(array: NDArray[Any], resizing: Resizing) -> NDArray[np.float32]:
    """Scale an image of more than 8 bits to [0, 1] by the value of white."""
    scaled: NDArray[np.float32] = np.clip(array.astype(np.float32) / np.float32(resizing.white or WHITE), 0, 1)
    return scaled


def _scale(picture: Image.Image, height: int, width: int, resizing: Resizing) -> Image.Image:
    """Scale and crop a picture."""
    from PIL import Image, ImageOps

    if picture.size == (width, height):
        return picture
    method = Image.Resampling[resizing.interpolation.upper()]
    if resizing.resize == "stretch":
        return picture.resize((width, height), method)
    if resizing.crop == 1:
        return ImageOps.fit(picture, (width, height), method)
    # rounding as in torchvision and timm: both sides down, the offset of the crop to the nearest
    shorter = int(resizing.crop) if resizing.crop > 1 else math.floor(min(height, width) / resizing.crop)
    wide, high = (int(shorter * side / min(picture.size)) for side in picture.size)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    # a crop larger than the picture has black borders, as in torchvision
    return picture.resize((wide, high), method).crop((left, top, left + width, top + height))


def _channels_last(array: NDArray[Any], channels: int) -> NDArray[Any]:
    """Check an array and bring it to (h, w, channels); raise ValueError for one that is not an image."""
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
    """Read an image file and return its bytes and the decoded picture; raise OSError if it is not an image."""
    if path.exists() and not path.is_file():
        # reading a FIFO or a device may never end
        raise OSError("is a folder" if path.is_dir() else "is a FIFO, a socket or a device, not a file")
    return decode(path.read_bytes())


def decode(raw: bytes) -> tuple[bytes, Image.Image]:
    """Return the bytes of an image file and the decoded picture; raise OSError if they are not those of an image."""
    from PIL import Image, UnidentifiedImageError

    if not raw:
        raise OSError("an empty file")
    try:
        picture = Image.open(io.BytesIO(raw))
    except UnidentifiedImageError:
        raise OSError(f"not an image of a known format ({len(raw)} bytes)") from None
    picture.load()
    return raw, picture
