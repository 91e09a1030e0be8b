"""Whether a model is better than guessing: than always answering the commonest class, and than uniform guessing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from auditor import Finding, Metric, MetricSpec, Table
from auditor.findings.formatting import formatted, p_value, percent
from auditor.probes.gaps import ALPHA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from auditor.statistics import Interval, Units

GUESSING_METRICS = (
    MetricSpec(name="guessing_signs", label="Signs of guessing", better="lower", unit="count", bound="exact"),
    MetricSpec(name="gain_over_majority", label="Accuracy above the commonest class", better="higher", difference=True),
    MetricSpec(name="gain_over_uniform", label="Accuracy above uniform guessing", better="higher", difference=True),
    MetricSpec(name="distinct_answers", label="Distinct answers", better="neither", unit="count", bound="exact"),
)

_MIN_IMAGES = 20
"""With fewer images, a model that always gives one answer is not conspicuous."""

_HEADROOM, _RATIO = 0.1, 3.0
"""An accuracy is relevant if it exceeds that of guessing by a tenth of what is left to 1, or is three times as high."""


class Guessing(NamedTuple):
    """The comparison of a model with guessing."""

    metrics: Sequence[Metric]
    """The metrics of ``GUESSING_METRICS``; the first is None if there are too few images to tell."""
    sentence: str
    """Empty unless the model guesses."""
    undecided: str
    """Why it cannot be told whether the model guesses; empty if it can."""
    finding: Finding


def compare_with_guessing(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    balanced: Metric,
    classes: Sequence[str],
    kind: str,
    *,
    units: Units = None,
) -> Guessing:
    """Compare a model with guessing.

    It guesses if it always gives the same answer, or if the intervals exclude that accuracy and balanced accuracy
    exceed those of guessing by a relevant amount. It does not if one of both is significantly higher than by guessing.

    Args:
        labels: Class of each image, (n,).
        predictions: Predicted class of each image, (n,).
        balanced: Balanced accuracy with its interval.
        classes: Class names.
        kind: What is classified, "images" or "rows".
        units: Unit of each image, (n,): intervals and tests are over units, the binomial test of effective counts.
    """
    import numpy as np

    from auditor import statistics

    n, k = len(labels), len(classes)
    answers, present = len(np.unique(predictions)), len(np.unique(labels))
    commonest = int(np.bincount(labels, minlength=k).argmax())
    hits, constant = labels == predictions, labels == commonest
    # images on which the model and the constant answer differ in being correct
    change = hits.astype(int) - constant.astype(int)
    effective, n_units = statistics.effective_count(hits, units), statistics.count_units(units)
    accuracy = statistics.wilson(*effective)
    majority = statistics.matched(*statistics.effective_change(change, units))
    p_majority = statistics.sign_flip(change, units)
    p_uniform = statistics.binomial_greater(round(effective.hits), round(effective.n), 1 / k)
    majority_share = float(constant.mean()) if n else math.nan
    size = n if n_units is None else n_units
    better = p_majority < ALPHA or (present > 1 and (balanced.low or 0.0) > 1 / present)
    irrelevant = (
        present > 1
        and (accuracy.high or 1.0) < _relevant(majority_share)
        and (1.0 if balanced.high is None else balanced.high) < _relevant(1 / present)
    )
    always = answers == 1 and present > 1 and size >= _MIN_IMAGES
    sentence = ""
    name = classes[int(np.bincount(predictions, minlength=k).argmax())]
    if always:
        sentence = f"The model answers {name} for every one of {n} {kind}, of any class."
    elif irrelevant:
        sentence = "The model is no better than guessing, or not by a relevant amount."
    signs = float(always) + float(irrelevant and not always)
    decided = n > 0 and (bool(signs) or (better and size >= _MIN_IMAGES))
    share = Metric(name="accuracy", **accuracy._asdict(), n=n, units=n_units)
    statement = (
        f"{sentence} Accuracy is {percent(share)}, that of always answering {classes[commonest]}"
        f" {formatted(majority_share, 'percent')} (McNemar's exact test: {p_value(p_majority)}) and that of uniform"
        f" guessing {formatted(1 / k, 'percent')} (exact binomial test: {p_value(p_uniform)}; n = {n})."
        f" The model gives {answers} distinct answers for {present} classes."
    ).strip()
    metrics = [
        Metric(name="guessing_signs", value=signs if decided else None, n=n, unit="count", units=n_units),
        Metric(name="gain_over_majority", **majority._asdict(), n=n, units=n_units),
        Metric(name="gain_over_uniform", **_above(accuracy, 1 / k)._asdict(), n=n, units=n_units),
        Metric(name="distinct_answers", value=float(answers) if n else None, n=n, unit="count", units=n_units),
    ]
    finding = Finding(
        id="performance.accuracy/guessing",
        title="Comparison with guessing",
        statement=statement,
        metric=metrics[0],
        evidence=[
            _table(
                ("accuracy and the commonest class", share, majority_share, p_majority),
                ("accuracy and uniform guessing", share, 1 / k, p_uniform),
                ("balanced accuracy and one answer", balanced, 1 / present if present else None, None),
            )
        ],
    )
    undecided = f"too few {kind if n_units is None else 'units'} to tell whether the model is better than guessing"
    if present < 2:
        undecided = "with images of one class only, it cannot be told whether the model is better than guessing"
    return Guessing(metrics, sentence, "" if decided else undecided, finding)


def _relevant(guess: float) -> float:
    """Return the accuracy that is better by a relevant amount than the accuracy ``guess`` of guessing."""
    return min(guess + _HEADROOM * (1 - guess), _RATIO * guess)


def _above(accuracy: Interval, guess: float) -> Interval:
    """Subtract the accuracy of guessing."""
    from auditor.statistics import Interval

    return Interval(*(None if end is None else end - guess for end in accuracy))


def _table(*rows: tuple[str, Metric, float | None, float | None]) -> Table:
    return Table(
        title="The model compared with guessing",
        columns=["compared", "model", "guessing", "p", "n"],
        formats=["text", "percent", "percent", "number", "count"],
        rows=[[name, metric.cell(), guess, p, metric.n] for name, metric, guess, p in rows],
        caption="p: probability of such an advantage by chance (exact tests).",
    )
