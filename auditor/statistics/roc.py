"""Area under the ROC curve, and the rate of false positives at a rate of true positives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def roc_auc(labels: NDArray[Any], scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the one-vs-rest ROC AUC per row of image weights (b, n): the mean over classes with both sides.

    The area is the probability that a positive image scores above a negative one, ties counting half (Mann-Whitney).
    """
    total = np.zeros(len(weights))
    counted = np.zeros(len(weights))
    for k in range(scores.shape[1]):
        positive = labels == k
        if not positive.any() or positive.all():
            continue
        area, pairs = _area(positive, scores[:, k], weights)
        total += np.divide(area, pairs, out=np.zeros_like(area), where=pairs > 0)
        counted += pairs > 0
    return np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)


def roc_auc_micro(
    labels: NDArray[Any], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the ROC AUC over all pairs of image and class, per row of image weights (b, n); the label is positive."""
    k = scores.shape[1]
    positive = (labels[:, None] == np.arange(k)).ravel()
    result = np.full(len(weights), np.nan)
    # a few rows at a time: a thousand draws of all pairs exceed the memory
    for rows in np.array_split(np.arange(len(weights)), max(1, weights.size * k // 4_000_000)):
        area, pairs = _area(positive, scores.ravel(), np.repeat(weights[rows], k, axis=1))
        np.divide(area, pairs, out=area, where=pairs > 0)
        result[rows] = np.where(pairs > 0, area, np.nan)
    return result


def binary_roc_auc(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the ROC AUC of one score (n,) for positive and other images, per row of image weights (b, n)."""
    area, pairs = _area(positive, scores, weights)
    return np.divide(area, pairs, out=np.full_like(area, np.nan), where=pairs > 0)


def false_positive_rate(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64], *, tpr: float = 0.95
) -> NDArray[np.float64]:
    """Return the share of the other images above the threshold that ``threshold_at`` returns, (b,).

    Args:
        positive: Which images are positive, (n,).
        scores: Higher for positive images, (n,).
        weights: Rows of image weights, (b, n).
        tpr: Share of the positive images, above 0 and at most 1, that must reach the threshold.
    """
    thresholds = threshold_at(scores[positive], weights[:, positive], tpr=tpr)
    order = np.argsort(scores[~positive], kind="stable")
    below = np.concatenate([np.zeros((len(weights), 1)), weights[:, ~positive][:, order].cumsum(axis=1)], axis=1)
    first = np.searchsorted(scores[~positive][order], thresholds, side="left")
    total = below[:, -1]
    accepted = total - below[np.arange(len(weights)), first]
    rate: NDArray[np.float64] = np.divide(accepted, total, out=np.full_like(total, np.nan), where=total > 0)
    return rate


def threshold_at(
    scores: NDArray[np.float64], weights: NDArray[np.float64], *, tpr: float = 0.95
) -> NDArray[np.float64]:
    """Return the largest score that at least a share ``tpr`` of the images reaches, per row of weights (b, n); (b,)."""
    order = np.argsort(-scores, kind="stable")
    reached = weights[:, order].cumsum(axis=1)
    # the tolerance is for rounding: 19 of 20 are 95 %
    enough = reached >= tpr * reached[:, -1:] - 1e-9
    found: NDArray[np.float64] = scores[order][enough.argmax(axis=1)]
    return found


def _area(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weight of (positive, negative) pairs in which the positive scores higher, and of all pairs; (b,)."""
    order = np.argsort(scores, kind="stable")
    w, p = weights[:, order], positive[order]
    # equal scores form one step of the curve
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    positives = np.add.reduceat(w * p, starts, axis=1)
    negatives = np.add.reduceat(w * ~p, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    return (positives * (below + negatives / 2)).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1)
