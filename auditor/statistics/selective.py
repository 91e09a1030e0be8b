"""Selective classification: the classifier refuses the images with a low confidence.

Coverage is the share of images that are accepted, risk the share of errors among them (Geifman and El-Yaniv 2017,
arXiv:1705.08500). Images with equal confidence are accepted together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auditor.statistics.bootstrap import bootstrap_weighted
from auditor.statistics.cluster import Units, effective_n
from auditor.statistics.intervals import Interval, wilson


def risk_coverage(
    confidence: NDArray[np.float64], wrong: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return threshold, coverage and risk at every distinct confidence, from the highest one; (m,) each.

    Args:
        confidence: Confidence of the prediction, (n,).
        wrong: Whether the prediction is wrong, (n,).
    """
    order = np.argsort(-confidence, kind="stable")
    ends = _block_ends(confidence[order])
    accepted = np.arange(1, len(order) + 1)[ends]
    return confidence[order][ends], accepted / len(order), wrong[order].cumsum()[ends] / accepted


def aurc(
    confidence: NDArray[np.float64], wrong: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the area under the risk-coverage curve per row of image weights (b, n).

    The mean over images of the risk among those with at least their confidence (Geifman, Uziel and El-Yaniv 2019,
    arXiv:1805.08206, section 3).
    """
    order = np.argsort(-confidence, kind="stable")
    ends = _block_ends(confidence[order])
    drawn = weights[:, order]
    accepted = drawn.cumsum(axis=1)[:, ends]
    errors = (drawn * wrong[order]).cumsum(axis=1)[:, ends]
    risk = np.divide(errors, accepted, out=np.zeros_like(errors), where=accepted > 0)
    sizes = np.diff(accepted, axis=1, prepend=0)
    area: NDArray[np.float64] = (sizes * risk).sum(axis=1) / accepted[:, -1]
    return area


def aurc_interval(confidence: NDArray[np.float64], wrong: NDArray[np.bool_], *, units: Units = None) -> Interval:
    """Return the area with a bootstrap interval over images, or over ``units`` (n,).

    If all predictions are right or all are wrong, the bootstrap gives one point. Wilson's interval of the share of
    errors replaces it: that is the area if the confidence tells nothing.
    """
    found = bootstrap_weighted(len(wrong), lambda weights: aurc(confidence, wrong, weights), units=units)
    if found.value is not None and found.low is not None and found.low == found.high:
        n = effective_n(wrong, units)
        return wilson(float(wrong.mean()) * n, n)
    return found


def least_aurc(risk: float) -> float:
    """Return the area if every error has a lower confidence than every correct prediction, for a share of errors.

    r + (1 - r) ln(1 - r), the limit for many images (Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206, section 3).
    """
    return risk + (1 - risk) * float(np.log1p(-risk)) if risk < 1 else 1.0


def _block_ends(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which entries of a sorted array (n,) are the last ones of equal values."""
    return np.append(np.diff(ordered) != 0, True)
