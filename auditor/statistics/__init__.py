"""Intervals, tests, bootstrap, calibration and ROC."""

from auditor.statistics.bootstrap import (
    BOOTSTRAP_SEED,
    RESAMPLES,
    bootstrap,
    bootstrap_confusion,
    bootstrap_weighted,
    paired_means,
)
from auditor.statistics.calibration import (
    calibration_error,
    calibration_error_debiased,
    calibration_interval,
    debiased_interval,
)
from auditor.statistics.intervals import (
    NOTHING,
    Interval,
    matched,
    mean_interval,
    median_interval,
    newcombe,
    paired_proportions,
    wilson,
)
from auditor.statistics.metrics import mean, median, proportion
from auditor.statistics.roc import roc_auc, roc_auc_micro
from auditor.statistics.tests import (
    binomial_greater,
    fisher_lower,
    from_intervals,
    holm,
    mcnemar,
    mcnemar_two_sided,
    rank_lower,
)

__all__ = [
    "BOOTSTRAP_SEED",
    "NOTHING",
    "RESAMPLES",
    "Interval",
    "binomial_greater",
    "bootstrap",
    "bootstrap_confusion",
    "bootstrap_weighted",
    "calibration_error",
    "calibration_error_debiased",
    "calibration_interval",
    "debiased_interval",
    "fisher_lower",
    "from_intervals",
    "holm",
    "matched",
    "mcnemar",
    "mcnemar_two_sided",
    "mean",
    "mean_interval",
    "median",
    "median_interval",
    "newcombe",
    "paired_means",
    "paired_proportions",
    "proportion",
    "rank_lower",
    "roc_auc",
    "roc_auc_micro",
    "wilson",
]
