"""The backward pass: from linear functions of a value to their minimum over the reachable pixels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from auditor.algorithms.bounds.affine import Affine
from auditor.algorithms.bounds.ball import Ball
from auditor.algorithms.bounds.network import PIXELS, Network
from auditor.algorithms.bounds.operation import Relaxation
from auditor.algorithms.bounds.rounding import dot, dot_error, gamma


def minimum(
    network: Network,
    start: str,
    slope: Tensor,
    ball: Ball,
    relaxations: Mapping[str, Relaxation],
    *,
    magnitudes: Mapping[str, Tensor] | None = None,
    multipliers: Mapping[str, Tensor] | None = None,
    passed: dict[str, Tensor] | None = None,
) -> Tensor:
    """Return lower bounds (n, r) of linear functions (n, r, ...) of the value ``start``, in double precision.

    With ``magnitudes`` (``Ranges``), a bound of the rounding errors of this pass is subtracted. ``multipliers``
    (n, ...) by value are subtracted from the slopes at these values (Lagrange multipliers). The slopes at all values
    are put into ``passed``.
    """
    network.check_time()
    slopes = {start: slope}
    bound = slope.new_zeros(slope.shape[:2]).double()
    for operation in reversed(network.operations):
        here = slopes.pop(operation.name, None)
        if here is None:
            continue
        if multipliers and operation.name in multipliers:
            here = here - multipliers[operation.name][:, None]
        if passed is not None:
            passed[operation.name] = here
        relaxation = operation.rule if isinstance(operation.rule, Affine) else relaxations[operation.name]
        constant, parts = relaxation.back(here)
        bound = bound + constant
        if magnitudes is not None and relaxation.terms:
            relative = gamma(relaxation.terms + 4, slope.dtype) + dot_error(here)
            bound = bound - relative * dot(here.abs(), magnitudes[operation.name])
        for source, part in zip(operation.operands, parts, strict=True):
            slopes[source] = slopes[source] + part if source in slopes else part
    at_pixels = slopes[PIXELS]
    if passed is not None:
        passed[PIXELS] = at_pixels
    return bound + ball.smallest(at_pixels, 0.0 if magnitudes is None else 2 * dot_error(at_pixels))
