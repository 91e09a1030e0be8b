"""Scores from the slopes around several images, for ``metrics.clever``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auditor.plugins.metrics._clever_sampling import Plan, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.algorithms.extreme_values import Fit

TARGETS = {
    "runner_up": "the likeliest other class",
    "random": "a random class",
    "least_likely": "the least likely class",
}
"""The targets of Weng et al. 2018, section 5.1: names in the columns, and for people."""


def score_columns(samples: Sequence[Sample], plan: Plan, smaller: Sequence[str]) -> list[dict[str, Any]]:
    """Fit the distributions of all images together, and return the columns of each image.

    Args:
        samples: Slopes around each image.
        plan: How they were sampled.
        smaller: Names of the columns of the scores with the further pairs of the plan.
    """
    import numpy as np

    from auditor.algorithms.extreme_values import fit_end, fit_end_as_art

    fit_of = fit_end_as_art if plan.pool_factor else fit_end
    fits = _fits(samples, 0, fit_of)
    scores = [_scores(sample.margins, fit.end, plan.radius) for sample, fit in zip(samples, fits, strict=True)]
    best = [int(score.argmin()) for score in scores]
    margins = np.array([sample.margins[target] for sample, target in zip(samples, best, strict=True)])
    maxima = np.stack([sample.maxima[0][target] for sample, target in zip(samples, best, strict=True)])
    # the two halves of the batches share no point, so they are independent estimates
    halves = np.array_split(maxima, 2, axis=1)
    first, second = (_scores(margins, fit_of(half).end, plan.radius) for half in halves)
    columns = [
        {
            "clever": scores[i][target],
            **{f"clever_{name}": scores[i][at] for name, at in zip(TARGETS, samples[i].named, strict=True)},
            "clever_target": samples[i].targets[target],
            "spread": abs(first[i] - second[i]) / max(scores[i][target], 1e-12),
            "ks": fits[i].ks[target],
            "shape": fits[i].shape[target],
            "slope": fits[i].end[target],
            "margin": margins[i],
        }
        for i, target in enumerate(best)
    ]
    for pair, name in enumerate(smaller, start=1):
        for column, sample, fit in zip(columns, samples, _fits(samples, pair, fit_of), strict=True):
            column[name] = _scores(sample.margins, fit.end, plan.radius).min()
    return columns


def _fits(samples: Sequence[Sample], pair: int, fit_of: Any) -> list[Fit]:
    """Fit the maxima of one pair of the plan for every image and target."""
    import numpy as np

    from auditor.algorithms.extreme_values import Fit

    ends = np.cumsum([len(sample.margins) for sample in samples])[:-1]
    together = fit_of(np.concatenate([sample.maxima[pair] for sample in samples]))
    return [Fit(*columns) for columns in zip(*(np.split(column, ends) for column in together), strict=True)]


def _scores(margins: NDArray[np.float64], ends: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Divide each margin by its largest slope, between 0 and the radius."""
    import numpy as np

    scores: NDArray[np.float64] = (margins / np.maximum(ends, 1e-300)).clip(0, radius)
    return scores
