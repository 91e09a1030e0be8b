"""Tables of ``bias.groups``: fairness statistics, profiles of groups, and rates by group and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from auditor import Metric, Records, Table
from auditor.plugins.bias._rate_gaps import MAX_CLASSES
from auditor.probes.breakdown import Format, sample_size, significance
from auditor.probes.gaps import ALPHA
from auditor.probes.units import unit_codes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell
    from auditor.statistics import Units

_MAX_CELLS = 60
"""Maximum number of groups times classes for which rates are listed."""

_RESAMPLES = 200


def fairness_tests(
    records: Records, by_group: Mapping[str, pd.Series], minimum: int
) -> tuple[dict[str, dict[str, Metric]], dict[tuple[str, str], float]]:
    """Return the fairness statistics by grouping and name, and their p-values, adjusted together.

    Empty by grouping if there are too many classes. The interval of a statistic that is not significant is extended to
    the value of equal groups: extremes of several groups differ by chance.
    """
    from auditor import statistics
    from auditor.plugins.bias._fairness import including_equality

    if len(records.classes) > MAX_CLASSES:
        return {name: {} for name in by_group}, {}
    tests = {name: _fairness_test(records, name, values, minimum) for name, values in by_group.items()}
    keys = [(name, key) for name, found in tests.items() for key in found]
    adjusted = statistics.holm([tests[name][key][1] for name, key in keys])
    p_values = dict(zip(keys, adjusted, strict=True))
    metrics = {
        name: {
            key: metric if p_values[name, key] < ALPHA else including_equality(metric)
            for key, (metric, _) in found.items()
        }
        for name, found in tests.items()
    }
    return metrics, p_values


def _fairness_test(records: Records, name: str, values: pd.Series, minimum: int) -> dict[str, tuple[Metric, float]]:
    """Return the fairness statistics of one grouping with their p-values, over units if the data states them."""
    from auditor.plugins.bias._fairness import counts, fairness_statistics
    from auditor.plugins.bias._fairness_over_units import GroupedImages, fairness_statistics_over_units

    k, units = len(records.classes), unit_codes(records.frame)
    labels, predictions = records.frame["label"], records.frame["prediction"]
    if units is None:
        table = counts(values, labels.to_numpy(), predictions.to_numpy(), k, minimum)[1]
        return fairness_statistics(table, grouping=name)
    images = GroupedImages.of(values, labels, predictions, units, k=k, minimum=minimum)
    return fairness_statistics_over_units(images, grouping=name)


def fairness_table(name: str, statistics: Mapping[str, Metric], p_values: Mapping[tuple[str, str], float]) -> Table:
    """Tabulate the fairness statistics of one grouping; ``p_values`` by (grouping, statistic)."""
    rows: list[list[Cell]] = []
    for key, metric in statistics.items():
        p_value = p_values[name, key]
        verdict = "undecided" if metric.value is None else significance(p_value)
        rows.append([key.replace("_", " "), metric.cell(), metric.n, f"{p_value:.2g}", verdict])
    return Table(
        title=f"Fairness by {name}",
        columns=["statistic", "value", "n", "p (permutation, Holm)", "verdict"],
        formats=["text", "number", "count", "text", "text"],
        rows=rows,
        caption="Largest difference or smallest ratio between groups over all classes. Differences of extremes are"
        " above zero by chance: the interval includes the value of equal groups unless the p-value is significant.",
    )


def profile_table(records: Records, name: str, values: pd.Series, minimum: int) -> Table:
    """Tabulate macro recall, false positive rate, precision, calibration and ROC AUC of every large group."""
    import numpy as np

    from auditor.plugins.bias._fairness import counts, false_positive_rates, selection_rates, true_positive_rates
    from auditor.statistics import calibration_error, roc_auc

    k, frame = len(records.classes), records.frame
    labels, predictions, units = frame["label"].to_numpy(), frame["prediction"].to_numpy(), unit_codes(frame)
    names, table = counts(values, labels, predictions, k, minimum, units=units)
    probabilities = _probabilities(records)
    with np.errstate(invalid="ignore"):
        selection = selection_rates(table)
        recall, false_positives = true_positive_rates(table), false_positive_rates(table)
    rows: list[list[Cell]] = []
    for i, group in enumerate(names):
        mask = (values == group).to_numpy()
        predicted = table[i].sum(axis=0)
        precision = np.divide(np.diagonal(table[i]), predicted, out=np.full(k, np.nan), where=predicted > 0)
        row: list[Cell] = [group, *(_finite_mean(rates) for rates in (recall[i], false_positives[i], precision))]
        if k == 2:
            row.append(float(selection[i, 1]))
        if probabilities is not None:
            correct = (predictions[mask] == labels[mask]).astype(np.float64)
            weights = np.ones((1, int(mask.sum())))
            row.append(calibration_error(probabilities[mask].max(axis=1), correct))
            row.append(float(roc_auc(labels[mask], probabilities[mask], weights)[0]))
        rows.append([*row, int(mask.sum())])
    shares = ["recall", "false positive rate", "precision", *([f"share of {records.classes[1]}"] if k == 2 else [])]
    scores = ["calibration error", "ROC AUC"] if probabilities is not None else []
    share_formats: list[Format] = ["percent"] * len(shares)
    return Table(
        title=f"Profile by {name}",
        columns=[name, *shares, *scores, "n"],
        formats=["text", *share_formats, *_score_formats(scores), "count"],
        rows=rows,
        caption="Means over the classes. Calibration error: of the confidence.",
    )


def class_rates_table(
    records: Records, name: str, values: pd.Series, minimum: int, *, with_scores: bool
) -> list[Table]:
    """Tabulate the rates of every large group and class with their intervals.

    Rates have Wilson's interval; calibration error and ROC AUC (one class against the rest, ``with_scores`` only) a
    bootstrap interval. Empty if there are too many rows.
    """
    import numpy as np

    from auditor import statistics
    from auditor.plugins.bias._fairness import counts

    k, frame = len(records.classes), records.frame
    labels, predictions, units = frame["label"].to_numpy(), frame["prediction"].to_numpy(), unit_codes(frame)
    names, _ = counts(values, labels, predictions, k, minimum, units=units)
    if not names or len(names) * k > _MAX_CELLS:
        return []
    probabilities = _probabilities(records) if with_scores else None
    scores = ["calibration error", "ROC AUC"] if probabilities is not None else []
    rows: list[list[Any]] = []
    for group in names:
        mask = (values == group).to_numpy()
        inside = statistics.keep(units, mask)
        for c in range(k):
            positive, predicted = labels[mask] == c, predictions[mask] == c
            row: list[Cell] = [group, records.class_name(c)]
            everything = np.ones(len(positive), dtype=bool)
            for hits, among in (
                (predicted, positive),
                (predicted, ~positive),
                (positive, predicted),
                (predicted, everything),
            ):
                rate = statistics.proportion("rate", hits[among], units=statistics.keep(inside, among))
                row.append(rate.cell() if sample_size(rate) >= minimum else None)
            if probabilities is not None:
                enough = min(_size(positive, inside), _size(~positive, inside)) >= minimum
                row += _score_cells(positive, probabilities[mask, c], inside) if enough else [None, None]
            large = _size(positive, inside) >= minimum
            rows.append([*row, int(positive.sum()), "yes" if large else "too small"])
    rows.sort(key=lambda row: 2.0 if row[2] is None else row[2]["value"])
    rates = ["recall", "false positive rate", "precision", "share of predictions"]
    rate_formats: list[Format] = ["percent"] * len(rates)
    return [
        Table(
            title=f"Rates by {name} and class, lowest recall first",
            columns=[name, "class", *rates, *scores, "n", "compared"],
            formats=["text", "text", *rate_formats, *_score_formats(scores), "count", "text"],
            rows=rows,
            caption=f"n: {records.kind} of the class in the group. Rates over fewer than {minimum} are omitted."
            + (" Calibration error: of the class's own probability." if scores else ""),
        )
    ]


def _size(mask: NDArray[np.bool_], units: Units) -> int:
    """Return the number of images of a mask (n,), or that of their units."""
    from auditor import statistics

    inside = statistics.keep(units, mask)
    return int(mask.sum()) if inside is None else len(set(inside.tolist()))


def _score_formats(scores: list[str]) -> list[Format]:
    return ["percent", "number"] if scores else []


def _probabilities(records: Records) -> NDArray[np.float64] | None:
    """Return the clean probabilities (n, k) of all images from ``performance.accuracy``; None if incomplete."""
    import numpy as np

    accuracy = records.others.get("performance.accuracy")
    if accuracy is None or "probabilities" not in accuracy or len(accuracy) != len(records.frame):
        return None
    return np.stack(accuracy["probabilities"].to_list()).astype(np.float64)


def _score_cells(positive: NDArray[np.bool_], score: NDArray[np.float64], units: Units) -> list[Cell]:
    """Return calibration error and ROC AUC of a class's probability against the rest."""
    from auditor import statistics

    error = statistics.calibration_interval(score, positive, resamples=_RESAMPLES, units=units)
    # roc_auc expects the score of class 0 in the first column
    area = statistics.bootstrap_weighted(
        len(positive),
        lambda weights: statistics.roc_auc((~positive).astype(int), score[:, None], weights),
        resamples=_RESAMPLES,
        units=units,
    )
    return [error._asdict(), area._asdict()]


def _finite_mean(rates: NDArray[np.float64]) -> float | None:
    import numpy as np

    finite = rates[np.isfinite(rates)]
    return float(finite.mean()) if len(finite) else None
