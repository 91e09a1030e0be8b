"""The 15 corruptions of ImageNet-C (Hendrycks and Dietterich 2019, arXiv:1903.12261), 5 severities each.

``corrupt`` maps images ``(n, c, h, w)`` float32 in [0, 1], with one channel or three, to the same shape and range. It
draws random numbers only from the given generators, one per image: no image affects another.

Parameters are the published ones (``PARAMETERS``): those of ImageNet-C, for 224x224, or those of CIFAR-10-C, for 32x32,
whichever side is nearer on a logarithmic scale (``parameter_set``). They are used unchanged, in pixels: the same
severity is harsher on a small image than on a large one of the same set, and harshest below 32x32. Only
elastic-transform is published in shares of the side and scales with it.

Differences from the published files: images are not rounded to 8 bit between steps or stored as JPEG; the frost
photographs are replaced by procedural ice (``_ice``); random draws are the same at every severity, so that the
severities of one image differ only in strength. If an image is smaller than a kernel, borders are reflected or
repeated as often as needed; if it is smaller than glass-blur's swap distance, nothing is shuffled.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

Pixels = NDArray[np.float32]
Values = NDArray[Any]
"""Images before ``corrupt`` clips them and converts them to float32."""
Generators = Sequence[np.random.Generator]
ParameterSet = Literal["imagenet", "cifar"]

SIDES: Mapping[ParameterSet, int] = {"cifar": 32, "imagenet": 224}
"""Image side that each parameter set was published for."""

PARAMETERS: Mapping[ParameterSet, Mapping[str, Sequence[Any]]] = {
    "imagenet": {
        "gaussian-noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot-noise": (60, 25, 12, 5, 3),
        "impulse-noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus-blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass-blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion-blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom-blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        # shares of 244 pixels: a published slip for 224
        "elastic-transform": (
            (2, 0.7, 0.1),
            (2, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        ),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg-compression": (25, 18, 15, 10, 7),
    },
    "cifar": {
        "gaussian-noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot-noise": (500, 250, 100, 75, 50),
        "impulse-noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus-blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass-blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion-blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom-blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic-transform": (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg-compression": (80, 65, 58, 50, 40),
    },
}
"""Parameters by set, corruption and severity (from 1); their meaning is in the docstrings of the functions."""

_NEGLIGIBLE = 1e-5
"""Taps of a motion blur below this share of the largest are omitted: they change no 8-bit value."""


def parameter_set(shape: Sequence[int]) -> ParameterSet:
    """Return the set for images of shape ``(..., h, w)``: CIFAR up to 84 pixels, the geometric mean of 32 and 224."""
    return "cifar" if min(shape[-2:]) <= math.sqrt(SIDES["cifar"] * SIDES["imagenet"]) else "imagenet"


def corrupt(name: str, images: Pixels, severity: int, generators: Generators) -> Pixels:
    """Corrupt images (n, c, h, w) at a severity from 1 to 5; one new generator per image. Same shape, in [0, 1]."""
    chosen = parameter_set(images.shape)
    parameters = PARAMETERS[chosen][name][severity - 1]
    if name == "elastic-transform":
        side = min(images.shape[-2:]) * (244 / 224 if chosen == "imagenet" else 1)
        parameters = tuple(share * side for share in parameters)
    changed = CORRUPTIONS[name](images.astype(np.float32, copy=False), parameters, generators)
    return np.clip(changed, 0, 1).astype(np.float32, copy=False)


# Noise


def gaussian_noise(images: Pixels, sigma: float, generators: Generators) -> Values:
    """Add independent normal noise with standard deviation ``sigma``."""
    noise = np.stack([g.standard_normal(images.shape[1:], dtype=np.float32) for g in generators])
    return images + np.float32(sigma) * noise


def shot_noise(images: Pixels, photons: float, generators: Generators) -> Values:
    """Apply Poisson noise, with ``photons`` for the value 1."""
    counts = [g.poisson(image.astype(np.float64) * photons) for image, g in zip(images, generators, strict=True)]
    return (np.stack(counts) / photons).astype(np.float32)


def impulse_noise(images: Pixels, amount: float, generators: Generators) -> Values:
    """Set a share ``amount`` of all values to 0 or 1, in equal parts (salt and pepper)."""
    draws = np.stack([g.random(images.shape[1:], dtype=np.float32) for g in generators])
    return np.where(draws < amount / 2, np.float32(1), np.where(draws > 1 - amount / 2, np.float32(0), images))


# Blur


def defocus_blur(images: Pixels, parameters: tuple[float, float], generators: Generators) -> Values:
    """Convolve with a disk of a radius whose edge is softened by a Gaussian of a sigma."""
    del generators
    kernel = _disk(*parameters)
    margin = len(kernel) // 2
    height, width = images.shape[-2:]
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    size = [fft.next_fast_len(length, real=True) for length in padded.shape[-2:]]
    spectrum = fft.rfft2(kernel, size)
    # one image at a time, so that rounding does not depend on the batch
    blurred = [fft.irfft2(fft.rfft2(image, size) * spectrum, size) for image in padded]
    return np.stack(blurred)[:, :, 2 * margin : 2 * margin + height, 2 * margin : 2 * margin + width]


def glass_blur(images: Pixels, parameters: tuple[float, int, int], generators: Generators) -> Values:
    """Blur by a Gaussian of a sigma, shuffle pixels up to a distance for a number of iterations, and blur again.

    The published loop visits pixels from the lower right to the upper left and assigns each the current colour of its
    random neighbour. (It is written as a swap, but on colour images both sides are views of one array, so the neighbour
    keeps its colour.) Each pixel's colour thus comes from the end of a chain of visited neighbours; all chains are
    followed at once by doubling.
    """
    sigma, reach, rounds = parameters
    height, width = images.shape[-2:]
    blurred = ndimage.gaussian_filter(images, (0, 0, sigma, sigma), mode="nearest", truncate=4)
    flat = blurred.reshape(*images.shape[:2], height * width)
    for image, generator in zip(flat, generators, strict=True):
        for _ in range(rounds):
            image[:] = image[:, _shuffled(height, width, reach, generator)]
    return np.asarray(ndimage.gaussian_filter(blurred, (0, 0, sigma, sigma), mode="nearest", truncate=4))


def motion_blur(images: Pixels, parameters: tuple[float, float], generators: Generators) -> Values:
    """Blur along a one-sided Gaussian trail of a radius and a sigma, at an angle between -45 and 45 degrees."""
    angles = [g.uniform(-45, 45) for g in generators]
    return np.stack([_trail(image, *parameters, angle) for image, angle in zip(images, angles, strict=True)])


def zoom_blur(images: Pixels, parameters: tuple[float, float], generators: Generators) -> Values:
    """Average the image and its enlargements by 1, 1 + step, ... up to a factor."""
    del generators
    factors = np.arange(1, *parameters)
    total = images.copy()
    for factor in factors:
        total += _enlarged(images, float(factor))
    return total / np.float32(len(factors) + 1)


# Weather


def snow(images: Pixels, parameters: tuple[float, ...], generators: Generators) -> Values:
    """Add flakes and whiten the image.

    Flakes are normal noise of a mean and a deviation, enlarged by a factor, cut off below a threshold and blurred along
    a trail of a radius and a sigma; the last parameter is the share of the image that is not whitened.
    """
    mean, deviation, factor, threshold, radius, sigma, share = parameters
    height, width = images.shape[-2:]
    layers = np.empty((len(images), 1, height, width), dtype=np.float32)
    for layer, generator in zip(layers, generators, strict=True):
        noise = mean + deviation * generator.standard_normal((1, height, width), dtype=np.float32)
        flakes = _enlarged(noise, factor)
        flakes = np.where(flakes < threshold, np.float32(0), flakes.clip(0, 1))
        layer[:] = _trail(flakes, radius, sigma, generator.uniform(-135, -45))
    white = np.maximum(images, 1.5 * _grey(images) + 0.5)
    kept = np.float32(share)
    return kept * images + (1 - kept) * white + layers + layers[:, :, ::-1, ::-1]


def frost(images: Pixels, parameters: tuple[float, float], generators: Generators) -> Values:
    """Mix the image with a layer of ice by two weights; the ice is procedural, see ``_ice``."""
    keep, add = np.float32(parameters[0]), np.float32(parameters[1])
    height, width = images.shape[-2:]
    layers = np.stack([_ice(height, width, g) for g in generators])
    return keep * images + add * (layers if images.shape[1] == 3 else _grey(layers))


def fog(images: Pixels, parameters: tuple[float, float], generators: Generators) -> Values:
    """Overlay a plasma fractal of a thickness and a decay per level, and rescale to the image's range."""
    thickness, decay = parameters
    height, width = images.shape[-2:]
    side = 1 << (max(height, width) - 1).bit_length()
    clouds = np.stack([_plasma(side, decay, g)[None, :height, :width] for g in generators])
    brightest: Values = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + np.float32(thickness) * clouds) * brightest / (brightest + np.float32(thickness))


def brightness(images: Pixels, amount: float, generators: Generators) -> Values:
    """Raise the V of HSV by an amount (or lower it), with hue and saturation unchanged: all channels scale equally."""
    del generators
    value: Values = images.max(axis=1, keepdims=True)
    raised = np.clip(value + np.float32(amount), 0, 1)
    return np.where(value > 0, images * (raised / np.where(value > 0, value, 1)), raised)


# Digital


def contrast(images: Pixels, share: float, generators: Generators) -> Values:
    """Shrink the difference from each channel's mean to a share."""
    del generators
    mean: Values = images.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    return (images - mean) * np.float32(share) + mean


def elastic_transform(images: Pixels, parameters: tuple[float, float, float], generators: Generators) -> Values:
    """Apply a random affine map that moves three points by up to the third parameter, then a smooth displacement.

    The displacement is uniform noise blurred with the second parameter as sigma and multiplied by the first; all in
    pixels.
    """
    strength, sigma, jitter = parameters
    height, width = images.shape[-2:]
    grid = np.indices((height, width), dtype=np.float64)
    centre = np.array([height // 2, width // 2])
    spread = max(min(height, width) // 3, 1)
    corners = centre + spread * np.array([[1, 1], [-1, 1], [-1, -1]])
    warped = np.empty_like(images)
    for image, result, generator in zip(images, warped, generators, strict=True):
        moved = corners + generator.uniform(-1, 1, corners.shape) * jitter
        # source position of each output pixel: the affine map that moves the corners back
        matrix = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
        source = np.tensordot(matrix[:2].T, grid, 1) + matrix[2][:, None, None]
        straight = [ndimage.map_coordinates(channel, source, order=1, mode="mirror") for channel in image]
        noise = generator.uniform(-1, 1, (2, height, width))
        target = grid + strength * _smooth(noise, sigma) if strength else grid
        result[:] = [ndimage.map_coordinates(channel, target, order=1, mode="reflect") for channel in straight]
    return warped


def pixelate(images: Pixels, share: float, generators: Generators) -> Values:
    """Shrink to a share of the side and enlarge again, both with a box filter."""
    del generators
    height, width = images.shape[-2:]
    small = max(1, int(width * share)), max(1, int(height * share))
    result = np.empty_like(images)
    for plane, coarse in zip(images.reshape(-1, height, width), result.reshape(-1, height, width), strict=True):
        shrunk = Image.fromarray(plane).resize(small, Image.Resampling.BOX)
        coarse[:] = np.asarray(shrunk.resize((width, height), Image.Resampling.BOX))
    return result


def jpeg_compression(images: Pixels, quality: int, generators: Generators) -> Values:
    """Encode as JPEG of a quality, with subsampled colour, and decode; this corruption rounds to 8 bit."""
    del generators
    result = np.empty_like(images)
    for image, decoded in zip(np.rint(images * 255).astype(np.uint8), result, strict=True):
        sink = io.BytesIO()
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        picture.save(sink, "JPEG", quality=quality)
        with Image.open(sink) as again:
            values = np.asarray(again, dtype=np.float32) / np.float32(255)
        decoded[:] = values if values.ndim == 2 else values.transpose(2, 0, 1)
    return result


# Helpers


def gaussian_blur(images: Pixels, sigma: float) -> Values:
    """Blur by a Gaussian of ``sigma`` pixels, cut off at 3 sigma, borders reflected."""
    flat = images.reshape(-1, *images.shape[2:]).astype(np.float64)
    return _smooth(flat, sigma).reshape(images.shape).astype(np.float32)


def _grey(images: Pixels) -> Values:
    """Return luma (n, 1, h, w), ITU-R BT.601."""
    if images.shape[1] == 1:
        return images
    shares = np.array([0.299, 0.587, 0.114], dtype=np.float32).reshape(3, 1, 1)
    luma: Values = np.sum(images * shares, axis=1, keepdims=True)
    return luma


@lru_cache(maxsize=32)
def _disk(radius: float, sigma: float) -> Pixels:
    """Return a disk (k, k) that sums to 1, blurred by a Gaussian of 3 taps (5 beyond radius 8), cropped."""
    extent, taps = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    y, x = np.mgrid[-extent : extent + 1, -extent : extent + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.float64)
    window = np.exp(-0.5 * (np.arange(-taps, taps + 1) / sigma) ** 2)
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, window / window.sum(), axis=axis, mode="mirror")
    reach = min(extent, math.ceil(radius) + taps)
    disk = disk[extent - reach : extent + reach + 1, extent - reach : extent + reach + 1]
    return np.asarray(disk / disk.sum(), dtype=np.float32)


def _shuffled(height: int, width: int, reach: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Return, for every pixel in reading order, the pixel whose colour it receives."""
    pixels = np.arange(height * width).reshape(height, width)
    inner = pixels[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    down, right = generator.integers(-reach, reach, size=(2, *inner.shape))
    neighbour = inner + down * width + right
    visited = np.zeros(height * width, dtype=bool)
    visited[inner] = True
    # numbers from height * width on denote a pixel before the round, where a chain ends
    follow = np.concatenate([pixels.ravel(), pixels.ravel()]) + height * width
    earlier = visited[neighbour] & (neighbour > inner)
    follow[inner] = np.where(earlier, neighbour, neighbour + height * width)
    source = follow[: height * width]
    while (source < height * width).any():
        follow = follow[follow]
        source = follow[: height * width]
    return source - height * width


def _trail(image: Pixels, radius: float, sigma: float, degrees: float) -> Pixels:
    """Blur (c, h, w) along a line that begins at each pixel, like ImageMagick's motion blur; edges are repeated."""
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    steps, weights = steps[weights > _NEGLIGIBLE], weights[weights > _NEGLIGIBLE]
    weights = (weights / weights.sum()).astype(np.float32)
    angle = math.radians(degrees)
    right = np.ceil(steps * math.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * math.sin(angle) - 0.5).astype(int)
    height, width = image.shape[-2:]
    margin = int(max(abs(right).max(), abs(down).max()))
    padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    total = np.zeros_like(image)
    for weight, dy, dx in zip(weights, down + margin, right + margin, strict=True):
        total += weight * padded[:, dy : dy + height, dx : dx + width]
    return total


def _enlarged(images: Pixels, factor: float) -> Pixels:
    """Enlarge (..., h, w) about its centre by bilinear interpolation and crop to its size."""
    if factor == 1:
        return images
    for axis in (-2, -1):
        side = images.shape[axis]
        crop = math.ceil(side / factor)
        full = round(crop * factor)
        # the centre crop spans the enlargement from its first pixel to its last
        position = ((full - side) // 2 + np.arange(side)) * ((crop - 1) / max(full - 1, 1))
        low = np.minimum(position.astype(int), max(crop - 2, 0))
        share = (position - low).astype(np.float32)
        first = (side - crop) // 2 + low
        second = np.minimum(first + 1, side - 1)
        if axis == -2:
            share = share[:, None]
        images = images.take(first, axis) * (1 - share) + images.take(second, axis) * share
    return images


def _plasma(side: int, decay: float, generator: np.random.Generator) -> Pixels:
    """Return a fractal (side, side) in [0, 1] on a torus, for a side that is a power of two.

    Diamond-square (Fournier, Fussell and Carpenter 1982); noise shrinks by the square of ``decay`` per level, as
    published.
    """
    field = np.zeros((side, side))
    noise, step = 1.0, side
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        right, below = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        draws = noise * generator.uniform(-1, 1, (3, *corners.shape))
        centres = (corners + right + below + np.roll(below, -1, 1)) / 4 + draws[0]
        field[half::step, half::step] = centres
        field[::step, half::step] = (corners + right + centres + np.roll(centres, 1, 0)) / 4 + draws[1]
        field[half::step, ::step] = (corners + below + centres + np.roll(centres, 1, 1)) / 4 + draws[2]
        step, noise = half, noise / decay**2
    return _stretched(field)


def _ice(height: int, width: int, generator: np.random.Generator) -> Pixels:
    """Return procedural ice in place of the published photographs of frost: (3, h, w) in [0, 1], bluish white.

    Needles are the ridges of fine random clouds (spectrum 1/f^1.5), grown where coarse clouds (1/f^2) are thick.
    """
    y, x = fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None]
    frequency = np.maximum(np.hypot(y, x), 1 / max(height, width))
    fine, coarse = (
        fft.irfft2(fft.rfft2(generator.standard_normal((height, width))) / frequency**power, (height, width))
        for power in (1.5, 2)
    )
    needles = np.exp(-np.abs(fine) / max(float(fine.std()), 1e-12))
    thickness = 0.4 + 0.6 * _stretched(coarse)
    tint = np.array([0.86, 0.94, 1.0], dtype=np.float32).reshape(3, 1, 1)
    return np.asarray(tint * thickness * (0.35 + 0.65 * needles), dtype=np.float32)


def _stretched(field: NDArray[np.float64]) -> Pixels:
    """Rescale to [0, 1]; zeros if the field is constant."""
    span = field.max() - field.min()
    return np.asarray((field - field.min()) / (span or 1.0), dtype=np.float32)


def _smooth(fields: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Blur (n, h, w) by a Gaussian cut off at 3 sigma, borders reflected.

    In the cosine basis the blur is a multiplication, which stays cheap for a sigma as large as the image.
    """
    gains = _gains(fields.shape[1], sigma)[:, None] * _gains(fields.shape[2], sigma)[None]
    smoothed: NDArray[np.float64] = fft.idctn(fft.dctn(fields, axes=(1, 2)) * gains, axes=(1, 2))
    return smoothed


@lru_cache(maxsize=32)
def _gains(length: int, sigma: float) -> NDArray[np.float64]:
    """Return the factor by which the blur scales each cosine of a signal of this length."""
    taps = np.arange(1, int(3 * sigma + 0.5) + 1)
    weights = np.exp(-0.5 * (taps / (sigma or 1.0)) ** 2)
    waves = np.cos(np.pi / length * np.outer(np.arange(length), taps))
    gains: NDArray[np.float64] = (1 + 2 * waves @ weights) / (1 + 2 * weights.sum())
    return gains


CORRUPTIONS: Mapping[str, Callable[[Pixels, Any, Generators], Values]] = {
    "gaussian-noise": gaussian_noise,
    "shot-noise": shot_noise,
    "impulse-noise": impulse_noise,
    "defocus-blur": defocus_blur,
    "glass-blur": glass_blur,
    "motion-blur": motion_blur,
    "zoom-blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic-transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg-compression": jpeg_compression,
}
