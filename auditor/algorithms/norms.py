"""Norms of NumPy images. For tensors, see ``balls.length``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def image_norms(images: NDArray[np.float32], norm: str = "l2") -> NDArray[np.float64]:
    """Compute the norm of each image or perturbation, (n,), in double precision.

    Args:
        images: (n, c, h, w).
        norm: "linf", "l2" or "l1"; any other name is the L2 norm.
    """
    import numpy as np

    rows = images.reshape(len(images), int(np.prod(images.shape[1:])))
    if norm == "linf":
        largest: NDArray[np.float64] = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
        return largest
    if norm == "l1":
        total: NDArray[np.float64] = np.abs(rows).sum(axis=1, dtype=np.float64)
        return total
    # torch would be faster, but its idle threads slow down ONNX Runtime
    wide = rows.astype(np.float64)
    length: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return length
