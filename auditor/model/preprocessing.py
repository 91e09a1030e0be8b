"""Preprocessing: from pixels in [0, 1] to the input of the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from auditor.data.dataset import Pixels


Layout = Literal["nchw", "nhwc", "rows"]


class InputTransform(Protocol):
    """From inputs in [0, 1], images or rows of features, to the input of the model."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, height, width), or (features,)."""

    @property
    def layout(self) -> Layout:
        """Order of the axes of an image; "rows" for tabular data."""

    @property
    def dtype(self) -> str:
        """numpy name of the input type of the model."""

    def describe(self) -> dict[str, Any]:
        """Describe the transform for audit.json, without the shape."""

    def apply(self, pixels: Pixels) -> NDArray[Any]:
        """Convert inputs (n, *shape) in [0, 1] to the input of the deployed model."""

    def on_device(self, pixels: torch.Tensor) -> torch.Tensor:
        """Like ``apply`` for a tensor, on its device, in the input type of the deployed model."""

    def differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        """Like ``apply`` under autograd, without rounding."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From pixels in [0, 1] to the model's input: ``((low + x (high - low)) - mean) / std``, order, layout, type."""

    shape: tuple[int, int, int]
    """(channels, height, width)"""
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: str = "float32"
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: Literal["rgb", "bgr"] = "rgb"
    flat: tuple[int, ...] | None = None
    """Shape of one input of a model that takes pixels without an image shape, for example (784,) or (28, 28)."""

    def describe(self) -> dict[str, Any]:
        """Describe the preprocessing for audit.json, without the shape."""
        return {
            "layout": self.layout,
            "dtype": self.dtype,
            "range": list(self.range),
            "mean": list(self.mean),
            "std": list(self.std),
            "order": self.order,
        }

    def apply(self, pixels: Pixels) -> NDArray[Any]:
        """Convert pixels (n, c, h, w) to the input of the deployed model."""
        import numpy as np

        low, high = self.range
        x: NDArray[Any] = pixels if self.order == "rgb" else pixels[:, ::-1]
        if (low, high) != (0.0, 1.0):
            x = low + x * np.float32(high - low)
        if self.mean != (0.0,) or self.std != (1.0,):
            x = x - _per_channel(self.mean)
            x /= _per_channel(self.std)
        if self.layout == "nhwc":
            x = x.transpose(0, 2, 3, 1)
        if self.flat is not None:
            x = x.reshape(len(x), *self.flat)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            x = np.clip(np.rint(x.astype(np.float64)), *_integer_limits(self.dtype))
        return np.ascontiguousarray(x, dtype=self.dtype)

    def span(self) -> tuple[float, float]:
        """Smallest and largest value that pixels in [0, 1] are mapped to, over all channels."""
        low, high = self.range
        ends = [(end - mean) / std for end in (low, high) for mean, std in self._channel_constants()]
        return min(ends), max(ends)

    def _channel_constants(self) -> list[tuple[float, float]]:
        count = max(len(self.mean), len(self.std))
        means, stds = (values if len(values) > 1 else values * count for values in (self.mean, self.std))
        return list(zip(means, stds, strict=True))

    def on_device(self, pixels: torch.Tensor) -> torch.Tensor:
        """Like ``apply`` for a tensor, on its device, in the input type of the deployed model."""
        import numpy as np
        import torch

        x = self.differentiable(pixels)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            # float32 holds the limits of 16 bits, not those of 32; some devices have no float64
            wide = x if np.dtype(self.dtype).itemsize <= 2 else x.double()
            x = wide.round().clamp(*_integer_limits(self.dtype))
        return x.to(getattr(torch, self.dtype))

    def differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        """Like ``apply`` under autograd, in the float type of the tensor; integer inputs are scaled but not rounded."""
        import torch

        low, high = self.range
        x = pixels if self.order == "rgb" else pixels.flip(1)
        if (low, high) != (0.0, 1.0):
            x = low + x * (high - low)
        if self.mean != (0.0,) or self.std != (1.0,):
            mean, std = (device_constant(values, pixels.device, pixels.dtype) for values in (self.mean, self.std))
            x = (x - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
        if self.layout == "nhwc":
            x = x.permute(0, 2, 3, 1)
        if self.flat is not None:
            x = x.reshape(len(x), *self.flat)
        return x.to(torch.float16) if self.dtype == "float16" else x


@lru_cache(maxsize=64)
def device_constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers as a tensor (n,), uploaded once: a copy from host to device at every pass makes a GPU wait."""
    import torch

    # autograd refuses tensors that were made in inference mode
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)


def _integer_limits(dtype: str) -> tuple[float, float]:
    """Return the smallest and largest float64 that an integer type holds; a cast of values beyond wraps around."""
    import numpy as np

    limits = np.iinfo(dtype)
    # the largest int64 is no float64: the next one below it is
    largest = float(limits.max) if int(float(limits.max)) == limits.max else float(np.nextafter(float(limits.max), 0))
    return float(limits.min), largest


def _per_channel(values: tuple[float, ...]) -> NDArray[np.float32]:
    import numpy as np

    return np.asarray(values, dtype=np.float32).reshape(1, -1, 1, 1)
