"""How often the class-order check and the comparison with guessing are wrong, on 200 simulated data sets each.

python benchmarks/false_alarms.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from auditor import Metric, statistics
from auditor.plugins.performance._confusion_metrics import CONFUSION_METRICS
from auditor.plugins.performance._guessing import compare_with_guessing
from auditor.probes.class_orders import fitting_order, other_orders

SEEDS = 200


def main() -> None:
    """Print one line per setting."""
    for k, n, accuracy in ((2, 40, 0.6), (2, 400, 0.95), (10, 100, 0.5), (10, 400, 0.9), (100, 1000, 0.7)):
        moved = np.random.default_rng(1).permutation(k)
        accused = sum(fits(k, n, accuracy, seed, np.arange(k)) for seed in range(SEEDS))
        found = "" if k == 2 else sum(fits(k, n, accuracy, seed, moved) for seed in range(SEEDS))
        print(f"class order: k {k}, n {n}, accuracy {accuracy}: accused {accused}; shuffled names found {found}")
    for k, share in ((2, 0.5), (3, 0.95), (10, 0.1)):
        for n in (100, 400):
            random = [guesses(k, share, n, seed, 0.0) for seed in range(SEEDS)]
            knowing = [guesses(k, share, n, seed, 0.3) for seed in range(SEEDS)]
            counts = random.count(1.0), random.count(None), random.count(0.0)
            print(
                f"guessing: k {k}, commonest class {share}, n {n}: random answers failed, undecided, cleared {counts};"
                f" knows 30 %: accused {knowing.count(1.0)}"
            )


def fits(k: int, n: int, accuracy: float, seed: int, outputs: Any) -> bool:
    """Whether another order is found for a model with evenly spread errors, whose label i means ``outputs[i]``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    wrong = (labels + rng.integers(1, k, n)) % k
    answers = outputs[np.where(rng.random(n) < accuracy, labels, wrong)]
    ids, classes = [f"image {i}" for i in range(n)], [f"class {i:03d}" for i in range(k)]
    return fitting_order(other_orders(labels, answers, ids, classes)) is not None


def guesses(k: int, share: float, n: int, seed: int, known: float) -> float | None:
    """Return the signs of guessing of a model that knows a share of the answers and draws the others at random."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, n, p=[share, *np.full(k - 1, (1 - share) / (k - 1))])
    drawn = rng.choice(k, n)
    answers = np.where(rng.random(n) < known, labels, drawn)
    matrix = confusion_matrix(labels, answers, labels=np.arange(k))
    interval = statistics.bootstrap_confusion(matrix, CONFUSION_METRICS["balanced_accuracy"], resamples=200)
    balanced = Metric(name="balanced_accuracy", **interval._asdict(), n=n)
    return compare_with_guessing(labels, answers, balanced, [str(c) for c in range(k)], "images").metrics[0].value


if __name__ == "__main__":
    main()
