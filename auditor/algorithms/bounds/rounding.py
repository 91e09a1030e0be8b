"""Sums with known rounding errors.

A sum of k products in floating point has an absolute error of at most gamma_k times the sum of their absolute values,
in any order of summation (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128

_WHOLE = 1024
"""Number of products that are summed at once: the error bound of longer sums in single precision is too large."""


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Return the relative error bound k u / (1 - k u) of a sum of ``terms`` products; u is the unit roundoff."""
    size = terms * torch.finfo(dtype).eps / 2
    return size / (1 - size)


def dot(slope: Tensor, vector: Tensor) -> Tensor:
    """Return the scalar products (n, r) of linear functions (n, r, ...) and values (n, ...) or (1, ...).

    The error is at most ``dot_error`` times the scalar product of the absolute values: long sums are split into blocks
    of 128 products, which are summed in the type of ``slope``, and the blocks in double precision.
    """
    rows, values = slope.flatten(2), vector.flatten(1).to(slope.dtype)
    if not values.any():
        return rows.new_zeros(rows.shape[:2]).double()
    if _at_once(slope):
        if len(values) == 1:
            return (rows @ values[0]).double()
        return torch.bmm(rows, values[:, :, None])[:, :, 0].double()
    products = rows * values[:, None]
    count = products.shape[2] // _BLOCK
    blocks, rest = products.tensor_split([count * _BLOCK], dim=2)
    total: Tensor = blocks.unflatten(2, (count, _BLOCK)).sum(3).double().sum(2) + rest.sum(2).double()
    return total


def dot_error(slope: Tensor) -> float:
    """Return the relative error bound of ``dot`` for linear functions (n, r, ...), with one rounding of each factor."""
    terms = slope[0, 0].numel()
    if _at_once(slope):
        return gamma(terms + 3, slope.dtype)
    return gamma(_BLOCK + 3, slope.dtype) + gamma(terms // _BLOCK + 1, torch.float64)


def _at_once(slope: Tensor) -> bool:
    """Return True if all products of a linear function (n, r, ...) are summed at once, by the matrix library."""
    return slope.dtype == torch.float64 or slope[0, 0].numel() <= _WHOLE


def length(slope: Tensor) -> Tensor:
    """Return the L2 lengths (n, r) of linear functions (n, r, ...), with double precision sums."""
    lengths: Tensor = torch.linalg.vector_norm(slope.flatten(2), dim=2, dtype=torch.float64)
    return lengths
