"""Preprocessing: from pixels in [0, 1] to the input of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Pixels


Layout = Literal["nchw", "nhwc", "rows"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From pixels in [0, 1] to the model's input: ``((low + x (high - low)) - mean) / std``, order, layout, type."""

    shape: tuple[int, int, int]
    """(channels, height, width)"""
    layout: Layout = "nchw"
    dtype: str = "float32"
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: Literal["rgb", "bgr"] = "rgb"

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
        low, high = self.range
        x: NDArray[Any] = pixels if self.order == "rgb" else pixels[:, ::-1]
        if (low, high) != (0.0, 1.0):
            x = low + x * np.float32(high - low)
        if self.mean != (0.0,) or self.std != (1.0,):
            x = x - _per_channel(self.mean)
            x /= _per_channel(self.std)
        if self.layout == "nhwc":
            x = x.transpose(0, 2, 3, 1)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            x = np.rint(x)
        return np.ascontiguousarray(x, dtype=self.dtype)

    def on_device(self, pixels: torch.Tensor) -> torch.Tensor:
        """Like ``apply`` for a tensor, on its device, in the input type of the deployed model."""
        import torch

        x = self.differentiable(pixels)
        x = x if np.issubdtype(np.dtype(self.dtype), np.floating) else x.round()
        return x.to(getattr(torch, self.dtype))

    def differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        """Like ``apply`` under autograd, in the float type of the tensor; integer inputs are scaled but not rounded."""
        import torch

        low, high = self.range
        x = pixels if self.order == "rgb" else pixels.flip(1)
        if (low, high) != (0.0, 1.0):
            x = low + x * (high - low)
        if self.mean != (0.0,) or self.std != (1.0,):
            x = (x - pixels.new_tensor(self.mean).view(1, -1, 1, 1)) / pixels.new_tensor(self.std).view(1, -1, 1, 1)
        if self.layout == "nhwc":
            x = x.permute(0, 2, 3, 1)
        return x.to(torch.float16) if self.dtype == "float16" else x


def _per_channel(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(1, -1, 1, 1)
