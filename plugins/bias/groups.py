"""Accuracy gaps and fairness statistics between groups of images, and accuracy gaps between classes.

The gap is the accuracy of the best group less that of the worst (Fairlearn's difference of a MetricFrame). The pair was
picked for being extreme, so its interval is Newcombe's at a level shared out over all pairs (Bonferroni): what then
lies above zero is not an artefact of the picking. Demographic parity, equal opportunity and equalised odds get a
bootstrap interval and a permutation test. P-values are corrected for their number by Holm's method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import (
    Axis,
    Conclusion,
    Curve,
    Finding,
    Meta,
    Metric,
    PerImage,
    Point,
    Probe,
    Records,
    Series,
    Table,
    hookimpl,
)
from auditor.findings import formatting
from auditor.findings.evidence import Evidence
from auditor.probes.breakdown import Comparison, compare, groupings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_ALPHA = 0.05
_SHOWN = 50
_MOST_CLASSES = 30
"""Above it rates per group and class are too thin to compare."""

_CROSSED_CLASSES = 12
"""Up to so many classes are crossed with the groups."""

_CELLS = 60
"""Most groups times classes for which rates are listed."""


@dataclass(frozen=True, kw_only=True)
class Groups(Probe):
    """Whom does the model fail?"""

    meta = Meta(
        id="bias.groups",
        title="Accuracy by group and by class",
        area="bias",
        why="An accuracy over everybody can hide a group that the model fails. Groups come from the data's own columns;"
        " nothing is inferred from faces.",
        references=("https://fairlearn.org/main/user_guide/assessment/index.html", "https://arxiv.org/abs/1802.04697",
                    "https://arxiv.org/abs/1610.02413"),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )  # fmt: skip
    depends_on: ClassVar[Sequence[str]] = ("performance.accuracy",)
    minimum: int = 20
    """Groups with fewer images are listed but not compared."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Whether each clean answer is right; no passes of its own."""
        del classifier, rng
        return {"correct": batch.predictions == batch.labels}

    def conclude(self, records: Records) -> Conclusion:
        """For each column of groups and each pair of columns accuracy and fairness; accuracy for the classes."""
        from auditor import statistics

        frame = records.frame
        by_group = groupings(frame)
        every = _with_classes(records, by_group)
        compared = {name: compare(name, frame["correct"], values, self.minimum) for name, values in every.items()}
        adjusted = dict(zip(compared, statistics.holm([c.p_value for c in compared.values()]), strict=True))
        for name, p_value in adjusted.items():
            gap = compared[name].gap
            if p_value >= _ALPHA and gap.low:
                # where the test over all groupings shows no difference, the interval must not show one to the policy
                compared[name] = replace(compared[name], gap=replace(gap, low=0.0))
        fair = {name: self._fairness(records, name, values) for name, values in by_group.items()}
        corrected = _corrected(fair)
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for name, comparison in compared.items():
            metrics.append(comparison.gap)
            metrics += [
                Metric(name="accuracy", **cell, n=n, at={"group": name, "value": value})
                for value, (cell, n) in list(comparison.groups.items())[:_SHOWN]
            ]
            metrics += [metric for metric, _ in fair.get(name, {}).values()]
            more = self._rates(records, name, by_group[name], fair[name], corrected) if name in by_group else []
            findings.append(self._finding(records, name, comparison, (adjusted[name], len(compared)), more))
        largest = max((c.gap for c in compared.values()), key=lambda gap: (gap.low or 0.0, gap.value or 0.0))
        return Conclusion(metrics=[largest, *[m for m in metrics if m is not largest]], findings=findings)

    def per_image(self, records: Records) -> list[PerImage]:
        """Whether each image of a group is right."""
        frame = records.frame
        correct = frame.set_index("image_id")["correct"]
        return [
            PerImage(name="accuracy", values=correct[(values == value).to_numpy()], at={"group": name, "value": value})
            for name, values in _with_classes(records, groupings(frame)).items()
            for value in sorted(set(values))
        ]

    def _fairness(self, records: Records, name: str, values: pd.Series) -> dict[str, tuple[Metric, float]]:
        """Every fairness statistic with its p-value; none where there are too many classes."""
        from auditor.statistics.fairness import FAIRNESS, counts, fairness

        k = len(records.classes)
        if k > _MOST_CLASSES:
            return {}
        frame = records.frame
        _, table = counts(values, frame["label"].to_numpy(), frame["prediction"].to_numpy(), k, self.minimum)
        return {key: fairness(key, table, grouping=name) for key in FAIRNESS}

    def _rates(
        self, records: Records, name: str, values: pd.Series, found: Mapping[str, tuple[Metric, float]],
        corrected: Mapping[tuple[str, str], float],
    ) -> list[Evidence]:  # fmt: skip
        """Fairness statistics, and what each group's answers look like."""
        if not found:
            return []
        rows: list[list[Any]] = []
        for key, (metric, _) in found.items():
            p_value = corrected[name, key]
            reading = "cannot tell" if metric.value is None else "groups differ" if p_value < _ALPHA else "not shown"
            rows.append([key.replace("_", " "), metric.cell(), metric.n, f"{p_value:.2g}", reading])
        statistics = Table(
            title=f"Fairness by {name}",
            columns=["statistic", "value", "n", "p (permutation, Holm)", "reading"],
            formats=["text", "number", "count", "text", "text"],
            rows=rows,
            caption="The largest difference, or the smallest ratio, between groups over all classes. Differences of"
            " extremes lie above zero by chance, too: the p-value takes that into account, the interval does not.",
        )
        profile = _profile(records, name, values, self.minimum)
        tables = [profile, *_by_class(records, name, values, self.minimum)]
        return [statistics, *(table for table in tables if table.rows)]

    def _finding(
        self, records: Records, name: str, comparison: Comparison, test: tuple[float, int], more: Sequence[Evidence]
    ) -> Finding:
        """``test``: the p-value, corrected for this number of groupings."""
        gap, (p_value, groupings) = comparison.gap, test
        if gap.value is None or gap.low is None:
            statement = f"Cannot tell: fewer than two values of {name} have {self.minimum} {records.kind} or more."
        elif comparison.best == comparison.worst:
            statement = f"Accuracy is the same in every group by {name} that is large enough (n = {gap.n})."
        else:
            found = "differs between groups" if p_value < _ALPHA else "does not differ demonstrably between groups"
            statement = (
                f"Accuracy {found} by {name}: {comparison.worst} is lowest, {comparison.best} highest, a gap of"
                f" {formatting.points(gap)} (n = {gap.n}; p = {p_value:.2g}, Holm over {groupings}"
                f" grouping{'s' if groupings > 1 else ''})."
            )
            if p_value >= _ALPHA:
                statement += " That no difference was shown does not mean that there is none: see the interval."
        small = comparison.small
        if small:
            some = ", ".join(f"{value} ({n})" for value, n in list(small.items())[:10])
            statement += f" Too small to compare: {some}{', ...' if len(small) > 10 else ''}."
        items = sorted(comparison.groups.items(), key=lambda item: item[1][0]["value"] or 0)
        points = [
            Point(x=float(i + 1), y=cell["value"], low=cell["low"], high=cell["high"], n=n)
            for i, (_, (cell, n)) in enumerate(items[:_SHOWN])
        ]
        return Finding(
            id=f"bias.groups/{name}",
            title=f"By {name}",
            statement=statement,
            metric=gap,
            evidence=[
                Table(
                    title=f"Accuracy by {name}, lowest first",
                    columns=[name, "accuracy", "n", "compared"],
                    formats=["text", "percent", "count", "text"],
                    rows=[[v, cell, n, "yes" if n >= self.minimum else "too small"] for v, (cell, n) in items[:_SHOWN]],
                    caption="" if len(items) <= _SHOWN else f"The {_SHOWN} lowest of {len(items)}.",
                ),
                Curve(
                    title=f"Accuracy by {name}, lowest first, with intervals",
                    x=Axis(label="rank in the table above"),
                    y=Axis(label="accuracy", format="percent", unit="fraction"),
                    series=[Series(name="accuracy", points=points)],
                ),
                *more,
            ],
        )


def _corrected(fairness: Mapping[str, Mapping[str, tuple[Metric, float]]]) -> dict[tuple[str, str], float]:
    """P-values of all fairness statistics of all groupings, corrected together."""
    from auditor import statistics

    keys = [(name, key) for name, found in fairness.items() for key in found]
    return dict(zip(keys, statistics.holm([fairness[name][key][1] for name, key in keys]), strict=True))


def _profile(records: Records, name: str, values: pd.Series, minimum: int) -> Table:
    """Precision, recall, false positives, calibration and ROC AUC of every large group, by scikit-learn."""
    import numpy as np

    from auditor.statistics.calibration import calibration_error
    from auditor.statistics.fairness import counts, false_positive_rates, selection_rates, true_positive_rates
    from auditor.statistics.roc import roc_auc

    k, frame = len(records.classes), records.frame
    names, table = counts(values, frame["label"].to_numpy(), frame["prediction"].to_numpy(), k, minimum)
    accuracy = records.others.get("performance.accuracy")
    known = accuracy is not None and "probabilities" in accuracy and len(accuracy) == len(frame)
    rows: list[list[Any]] = []
    with np.errstate(invalid="ignore"):
        chosen, right, false = selection_rates(table), true_positive_rates(table), false_positive_rates(table)
    for i, group in enumerate(names):
        here = (values == group).to_numpy()
        answered = table[i].sum(axis=0)
        precise = np.divide(np.diagonal(table[i]), answered, out=np.full(k, np.nan), where=answered > 0)
        row: list[Any] = [group, _plain_mean(right[i]), _plain_mean(false[i]), _plain_mean(precise)]
        if k == 2:
            row.append(float(chosen[i, 1]))
        if known and accuracy is not None:
            probabilities = np.stack(accuracy["probabilities"][here].to_list()).astype(np.float64)
            labels = frame["label"].to_numpy()[here]
            correct = (frame["prediction"].to_numpy()[here] == labels).astype(np.float64)
            row += [
                calibration_error(probabilities.max(axis=1), correct),
                float(roc_auc(labels, probabilities, np.ones((1, len(labels))))[0]),
            ]
        rows.append([*row, int(here.sum())])
    columns = ["recall", "false positive rate", "precision"]
    columns += [f"share of {records.classes[1]}"] if k == 2 else []
    columns += ["calibration error", "ROC AUC"] if known else []
    shares: list[Any] = ["percent"] * (len(columns) - int(known))
    last: list[Any] = ["number"] * int(known)
    return Table(
        title=f"Profile by {name}", columns=[name, *columns, "n"],
        formats=["text", *shares, *last, "count"],
        rows=rows, caption="Means over the classes; calibration error of the answer's confidence.",
    )  # fmt: skip


def _with_classes(records: Records, by_group: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """The groupings, the classes, and each column crossed with the classes."""
    classes = records.frame["label"].map(records.class_name)
    every = {**by_group, "class": classes}
    if classes.nunique() <= _CROSSED_CLASSES:
        # what the model does to the women over 60, where sex is what it tells
        every |= {f"{name} x class": by_group[name] + ", " + classes for name in groupings(records.frame, cross=False)}
    return every


def _by_class(records: Records, name: str, values: pd.Series, minimum: int) -> list[Table]:
    """The rates of every large group and class, each with its interval: Wilson's, and of calibration error and ROC AUC
    (the class against the rest) a bootstrap."""
    import numpy as np

    from auditor import statistics
    from auditor.statistics.fairness import counts

    k, frame = len(records.classes), records.frame
    labels, answers = frame["label"].to_numpy(), frame["prediction"].to_numpy()
    names, _ = counts(values, labels, answers, k, minimum)
    if not names or len(names) * k > _CELLS:
        return []
    accuracy = records.others.get("performance.accuracy")
    probabilities = None
    # a crossing has many small cells, for which the plain rates must do
    if accuracy is not None and "probabilities" in accuracy and len(accuracy) == len(frame) and " x " not in name:
        probabilities = np.stack(accuracy["probabilities"].to_list()).astype(np.float64)
    rows: list[list[Any]] = []
    for group in names:
        here = (values == group).to_numpy()
        for c in range(k):
            label, answer = labels[here] == c, answers[here] == c
            row: list[Any] = [group, records.class_name(c)]
            for part in (answer[label], answer[~label], label[answer], answer):
                row.append(statistics.proportion("rate", part).cell() if len(part) >= minimum else None)
            if probabilities is not None:
                known = min(int(label.sum()), int((~label).sum())) >= minimum
                row += _scores(label, probabilities[here, c]) if known else [None, None]
            n = int(label.sum())
            rows.append([*row, n, "yes" if n >= minimum else "too small: cannot tell"])
    rows.sort(key=lambda row: 2.0 if row[2] is None else row[2]["value"])
    scores = ["calibration error", "ROC AUC"] if probabilities is not None else []
    formats: list[Any] = ["percent", "number"] if scores else []
    return [
        Table(
            title=f"Rates by {name} and class, lowest recall first",
            columns=[name, "class", "recall", "false positive rate", "precision", "share of answers", *scores, "n",
                     "compared"],
            formats=["text", "text", "percent", "percent", "percent", "percent", *formats, "count", "text"],
            rows=rows,
            caption=f"n: {records.kind} of the class in the group. A rate over fewer than {minimum} is not shown."
            + (" Calibration error: of the class's own probability." if scores else ""),
        )
    ]  # fmt: skip


def _scores(label: NDArray[np.bool_], score: NDArray[np.float64]) -> list[Any]:
    """Calibration error and ROC AUC of a class's probability against the rest, as cells."""
    from auditor import statistics

    error = statistics.calibration_interval(score, label, resamples=200)
    # roc_auc looks for class number 0 in the first column
    area = statistics.bootstrap_weighted(
        len(label), lambda w: statistics.roc_auc((~label).astype(int), score[:, None], w), resamples=200
    )
    return [error._asdict(), area._asdict()]


def _plain_mean(rates: Any) -> float | None:
    import numpy as np

    finite = rates[np.isfinite(rates)]
    return float(finite.mean()) if len(finite) else None


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Groups]
