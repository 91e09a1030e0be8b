"""Sums with known rounding errors.

A sum of k products in floating point has an absolute error of at most gamma_k times the sum of their absolute values,
in any order of summation (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 256

_FEW = 4
"""Number of blocks that the matrix library sums one by one: faster than all products in memory, up to this number."""


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Return the relative error bound k u / (1 - k u) of a sum of ``terms`` products; u is the unit roundoff."""
    size = terms * torch.finfo(dtype).eps / 2
    return size / (1 - size)


def dot(slope: Tensor, vector: Tensor) -> Tensor:
    """Return the scalar products (n, r) of linear functions (n, r, ...) and values (n, ...) or (1, ...).

    Blocks of 256 products are summed in the type of ``slope`` and the blocks in double precision, so that the error is
    at most ``dot_error`` times the scalar product of the absolute values.
    """
    rows, values = slope.flatten(2), vector.flatten(1).to(slope.dtype)
    if not values.any():
        return rows.new_zeros(rows.shape[:2]).double()
    if values.shape[1] <= _FEW * _BLOCK:
        parts = zip(rows.split(_BLOCK, 2), values[:, :, None].split(_BLOCK, 1), strict=True)
        return torch.stack([(part @ factor)[:, :, 0].double() for part, factor in parts]).sum(0)
    products = rows * values[:, None]
    count = products.shape[2] // _BLOCK
    blocks, rest = products.tensor_split([count * _BLOCK], dim=2)
    total: Tensor = blocks.unflatten(2, (count, _BLOCK)).sum(3).double().sum(2) + rest.sum(2).double()
    return total


def dot_error(slope: Tensor) -> float:
    """Return the relative error bound of ``dot`` for linear functions (n, r, ...), with one rounding of each factor."""
    blocks = slope[0, 0].numel() // _BLOCK + 1
    return gamma(_BLOCK + 3, slope.dtype) + gamma(blocks, torch.float64)


def length(slope: Tensor) -> Tensor:
    """Return the L2 lengths (n, r) of linear functions (n, r, ...), with double precision sums."""
    lengths: Tensor = torch.linalg.vector_norm(slope.flatten(2), dim=2, dtype=torch.float64)
    return lengths
