"""Resize and Upsample: each resized axis is one small matrix [size out, size in], built on the host."""
# ruff: noqa: N802, N803 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.onnx.operators.registry import check_size, operator

Array = NDArray[np.float64]
Mode = Literal["nearest", "linear", "cubic"]
Coordinates = Literal[
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
]


@dataclass(frozen=True)
class Axis:
    """Resizing parameters of one axis."""

    size: int
    out: int
    scale: float
    start: float = 0.0
    end: float = 1.0
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: bool = False


def _coordinates(axis: Axis) -> Array:
    """Return the coordinate of each output entry among the input entries."""
    x = np.arange(axis.out, dtype=np.float64)
    match axis.coordinates:
        case "half_pixel":
            return (x + 0.5) / axis.scale - 0.5
        case "half_pixel_symmetric":
            adjustment = axis.out / (axis.scale * axis.size)
            centre = axis.size / 2
            return centre * (1 - adjustment) + (x + 0.5) / axis.scale - 0.5
        case "pytorch_half_pixel":
            return (x + 0.5) / axis.scale - 0.5 if axis.out > 1 else np.zeros(axis.out)
        case "align_corners":
            return x * (axis.size - 1) / (axis.out - 1) if axis.out > 1 else np.zeros(axis.out)
        case "asymmetric":
            return x / axis.scale
        case "tf_half_pixel_for_nn":
            return (x + 0.5) / axis.scale
        case "tf_crop_and_resize":
            last = axis.size - 1
            if axis.out == 1:
                return np.full(1, 0.5 * (axis.start + axis.end) * last)
            return axis.start * last + x * (axis.end - axis.start) * last / (axis.out - 1)
    raise NotImplementedError(f"Resize: coordinate_transformation_mode {axis.coordinates}")


def _nearest(axis: Axis, coordinates: Array) -> NDArray[np.int64]:
    """Return the input entry that each output entry copies."""
    # a runtime that computes in float32 sees 2.5000000001 as 2.5
    coordinates = np.round(coordinates, 6)
    rounded = {
        "round_prefer_floor": lambda: np.ceil(coordinates - 0.5),
        "round_prefer_ceil": lambda: np.floor(coordinates + 0.5),
        "floor": lambda: np.floor(coordinates),
        "ceil": lambda: np.ceil(coordinates),
        # opset 10: round down when enlarging, up when reducing
        "simple": lambda: np.ceil(coordinates) if axis.scale < 1 else np.floor(coordinates),
    }[axis.nearest]()
    return np.clip(rounded, 0, axis.size - 1).astype(np.int64)


def _kernel(axis: Axis, distance: Array) -> Array:
    """Return the weight of an input entry at a distance from the sampled coordinate."""
    d: Array = np.abs(distance)
    a = axis.cubic
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    cubic: Array = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    linear: Array = np.maximum(1 - d, 0.0)
    return linear if axis.mode == "linear" else cubic


@functools.lru_cache(maxsize=64)
def _matrix(axis: Axis) -> Tensor:
    """Return [size out, size in] in float64: row i holds the weights of the input entries in output entry i."""
    coordinates = _coordinates(axis)
    squeeze = min(axis.scale, 1.0) if axis.antialias else 1.0
    radius = math.ceil((1 if axis.mode == "linear" else 2) / squeeze)
    neighbours = np.floor(coordinates)[:, None].astype(np.int64) + np.arange(-radius + 1, radius + 1)
    weights = _kernel(axis, (coordinates[:, None] - neighbours) * squeeze)
    inside = (neighbours >= 0) & (neighbours < axis.size)
    if axis.exclude_outside:
        weights = np.where(inside, weights, 0.0)
    if axis.exclude_outside or axis.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((axis.out, axis.size))
    rows = np.broadcast_to(np.arange(axis.out)[:, None], neighbours.shape)
    np.add.at(matrix, (rows, np.clip(neighbours, 0, axis.size - 1)), weights)
    return torch.from_numpy(matrix)


def _outside(axis: Axis) -> NDArray[np.bool_]:
    """Return True for output entries outside the input, which take the extrapolation value."""
    coordinates = _coordinates(axis)
    return (coordinates < 0) | (coordinates > axis.size - 1)


def _resize_axis(x: Tensor, dim: int, axis: Axis) -> Tensor:
    if axis.mode == "nearest":
        index = torch.from_numpy(_nearest(axis, _coordinates(axis)))
        return x.index_select(dim, index.to(x.device))
    if not x.is_floating_point():
        # runtimes round the result differently
        raise NotImplementedError("Resize: interpolation between integers")
    matrix = _matrix(axis).to(x.device, x.dtype)
    return torch.matmul(x.movedim(dim, -1), matrix.T).movedim(-1, dim)


def _resize(x: Tensor, axes: dict[int, Axis], extrapolation_value: float) -> Tensor:
    check_size([axes[i].out if i in axes else n for i, n in enumerate(x.shape)], "Resize")
    result = x
    for dim, axis in axes.items():
        # an axis that keeps its size at scale 1 is the identity in every mode except cropping
        if axis.coordinates == "tf_crop_and_resize" or axis.size != axis.out or axis.scale != 1:
            result = _resize_axis(result, dim, axis)
    for dim, axis in axes.items():
        if axis.extrapolation:
            shape = [-1 if i == dim else 1 for i in range(x.dim())]
            mask = torch.from_numpy(_outside(axis)).to(x.device).reshape(shape)
            result = result.masked_fill(mask, extrapolation_value)
    return result


def _scaled(size: int, scale: float) -> int:
    """Return the scaled size, computed in float32 like ONNX Runtime (10 times 0.7 is 7; in float64, 6.99999988)."""
    return math.floor(np.float32(size) * np.float32(scale))


def _sizes_from_policy(x: Tensor, dims: list[int], sizes: list[int], policy: str) -> tuple[list[float], list[int]]:
    """Return scales and sizes, with one scale for all axes if the aspect ratio is kept."""
    ratios = [size / x.shape[dim] for dim, size in zip(dims, sizes, strict=True)]
    if policy == "stretch":
        return ratios, sizes
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [ratio] * len(dims), [math.floor(ratio * x.shape[dim] + 0.5) for dim in dims]


@operator(since=11)
def Resize__11(
    X: Tensor,
    roi: list[float] | None = None,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    *,
    antialias: bool = False,
    axes: list[int] | None = None,
    coordinate_transformation_mode: Coordinates = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: Literal["stretch", "not_larger", "not_smaller"] = "stretch",
    mode: Mode = "nearest",
    nearest_mode: Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] = "round_prefer_floor",
) -> Tensor:
    """Resize the axes of X by scales or to sizes."""
    dims = list(range(X.dim())) if axes is None else [axis % X.dim() for axis in axes]
    if sizes:
        scales, sizes = _sizes_from_policy(X, dims, sizes, keep_aspect_ratio_policy)
    elif scales:
        if coordinate_transformation_mode == "align_corners" and any(
            abs(X.shape[dim] * scale - round(X.shape[dim] * scale)) > 1e-3
            for dim, scale in zip(dims, scales, strict=True)
        ):
            # the standard uses the unrounded size, ONNX Runtime the rounded one
            raise NotImplementedError("Resize: align_corners with scales that give fractional sizes")
        sizes = [_scaled(X.shape[dim], scale) for dim, scale in zip(dims, scales, strict=True)]
    else:
        raise ValueError("Resize: neither scales nor sizes")
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    starts, ends = ([0.0] * len(dims), [1.0] * len(dims)) if not roi else (roi[: len(dims)], roi[len(dims) :])
    plan = {
        dim: Axis(
            X.shape[dim],
            sizes[i],
            scales[i],
            starts[i],
            ends[i],
            mode,
            coordinate_transformation_mode,
            nearest_mode,
            cubic_coeff_a,
            bool(exclude_outside),
            bool(antialias),
            crop,
        )
        for i, dim in enumerate(dims)
    }
    return _resize(X, plan, extrapolation_value)


def _upsample(X: Tensor, scales: list[float], mode: str) -> Tensor:
    """Resize by the rule before opset 11: coordinate x / scale."""
    plan = {
        dim: Axis(size, _scaled(size, scale), scale, mode=mode, coordinates="asymmetric", nearest="simple")
        for dim, (size, scale) in enumerate(zip(X.shape, scales, strict=True))
    }
    return _resize(X, plan, 0.0)


@operator(since=10)
def Resize__10(X: Tensor, scales: list[float], *, mode: Literal["nearest", "linear"] = "nearest") -> Tensor:
    """Resize X by scales (opset 10)."""
    return _upsample(X, scales, mode)


@operator()
def Upsample(X: Tensor, scales: list[float], *, mode: Literal["nearest", "linear"] = "nearest") -> Tensor:
    """Resize X by scales (before opset 10)."""
    return _upsample(X, scales, mode)
