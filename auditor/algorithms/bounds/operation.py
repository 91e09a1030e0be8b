"""The parts of a bounded network: operations, their rules, and the relaxations that the rules return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from auditor.algorithms.bounds.affine import Affine
from auditor.algorithms.bounds.ball import Interval


class Relaxation(Protocol):
    """Affine functions below and above an operator, over the ranges of its operands."""

    @property
    def terms(self) -> int:
        """Number of products that ``back`` adds for one element of an operand, at most."""

    def to(self, dtype: torch.dtype) -> Relaxation:
        """Return the relaxation in another floating-point type."""

    def take(self, rows: Tensor) -> Relaxation:
        """Return the relaxation of some images."""

    def magnitude(self, ends: Sequence[Interval]) -> Tensor:
        """Return a bound of the sum of the absolute values of all terms of the functions, (n, ...)."""

    def back(self, slope: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Bound linear functions (n, r, ...) of the value from below: constants (n, r), functions of the operands."""


class Rule(Protocol):
    """How an operator that is not affine is enclosed."""

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value, by interval arithmetic."""

    def contested(self, ends: Sequence[Interval]) -> Sequence[Tensor | None]:
        """Return per operand True (n, ...) where a narrower range gives a better relaxation; None for nowhere."""

    def relax(self, ends: Sequence[Interval]) -> Relaxation:
        """Return the relaxation over the ranges of the operands."""


class Operation(NamedTuple):
    """One step of the network."""

    name: str
    operands: tuple[str, ...]
    rule: Affine | Rule
    shape: torch.Size
    """Shape of the value for one image."""
