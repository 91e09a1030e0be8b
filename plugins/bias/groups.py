"""Accuracy gaps between groups of images, and between classes.

The gap is the accuracy of the best group less that of the worst (Fairlearn's difference of a MetricFrame). The pair was
picked for being extreme, so its interval is Newcombe's at a level shared out over all pairs (Bonferroni): what then
lies above zero is not an artefact of the picking. P-values: chi-square test of equal accuracy, Holm over the groupings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, Point, Probe, Records, Series, Table, hookimpl
from auditor.finding import plain
from auditor.numbers import measured

if TYPE_CHECKING:
    import pandas as pd

    from auditor.classifier import Classifier
    from auditor.images import Batch
    from auditor.probe import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Groups(Probe):
    """Whom does the model fail?"""

    meta = Meta(
        id="bias.groups",
        title="Accuracy by group and by class",
        area="bias",
        why="An accuracy over everybody can hide a group that the model fails. Groups come from the data's own columns;"
        " nothing is inferred from faces.",
        references=("https://fairlearn.org/main/user_guide/assessment/index.html", "https://arxiv.org/abs/1802.04697"),
        needs=frozenset({"labels"}),
    )
    minimum: int = 20
    """Groups with fewer images are listed but not compared."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Whether each clean answer is right; no passes of its own."""
        del classifier, rng
        return {"correct": batch.predictions == batch.labels}

    def conclude(self, records: Records) -> Conclusion:
        """One finding for each column of groups, and one for the classes."""
        from auditor import stats

        frame = records.frame
        groupings = {name.removeprefix("group:"): frame[name] for name in frame.columns if name.startswith("group:")}
        groupings["class"] = frame["label"].map(records.class_name)
        compared = {name: _compare(name, frame["correct"], values, self.minimum) for name, values in groupings.items()}
        adjusted = dict(zip(compared, stats.holm([c.p_value for c in compared.values()]), strict=True))
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for name, comparison in compared.items():
            metrics.append(comparison.gap)
            metrics += [
                Metric(name="accuracy", **cell, n=n, at={"group": name, "value": value})
                for value, (cell, n) in list(comparison.groups.items())[:50]
            ]
            findings.append(self._finding(name, comparison, adjusted[name], len(compared)))
        largest = max((c.gap for c in compared.values()), key=lambda gap: (gap.low or 0.0, gap.value or 0.0))
        return Conclusion(metrics=[largest, *[m for m in metrics if m is not largest]], findings=findings)

    def _finding(self, name: str, comparison: _Comparison, p_value: float, groupings: int) -> Finding:
        gap = comparison.gap
        if gap.value is None or gap.low is None:
            statement = f"Cannot tell: fewer than two values of {name} have {self.minimum} images or more."
        else:
            found = "differs between groups" if p_value < 0.05 else "does not differ demonstrably between groups"
            statement = (
                f"Accuracy {found} by {name}: {comparison.worst} is lowest, {comparison.best} highest, a gap of"
                f" {measured(plain(gap))} (n = {gap.n}; p = {p_value:.2g}, Holm over {groupings}"
                f" grouping{'s' if groupings > 1 else ''})."
            )
            if p_value >= 0.05:
                statement += " That no difference was shown does not mean that there is none: see the interval."
        small = comparison.small
        if small:
            some = ", ".join(f"{value} ({n})" for value, n in list(small.items())[:10])
            statement += f" Too small to compare: {some}{', ...' if len(small) > 10 else ''}."
        items = sorted(comparison.groups.items(), key=lambda item: item[1][0]["value"] or 0)
        points = [
            Point(x=float(i + 1), y=cell["value"], low=cell["low"], high=cell["high"], n=n)
            for i, (_, (cell, n)) in enumerate(items[:50])
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
                    rows=[[v, cell, n, "yes" if n >= self.minimum else "too small"] for v, (cell, n) in items[:50]],
                    caption="" if len(items) <= 50 else f"The 50 lowest of {len(items)}.",
                ),
                Curve(
                    title=f"Accuracy by {name}, lowest first, with intervals",
                    x=Axis(label="rank in the table above"),
                    y=Axis(label="accuracy", format="percent", unit="fraction"),
                    series=[Series(name="accuracy", points=points)],
                ),
            ],
        )


@dataclass(frozen=True)
class _Comparison:
    gap: Metric
    best: str
    worst: str
    p_value: float
    groups: Mapping[str, tuple[dict[str, Any], int]]
    """Accuracy cell and n of every group."""
    small: Mapping[str, int]


def _compare(grouping: str, correct: pd.Series, values: pd.Series, minimum: int) -> _Comparison:
    from fairlearn.metrics import MetricFrame, count
    from scipy.stats import chi2_contingency
    from sklearn.metrics import accuracy_score

    from auditor import stats

    table = MetricFrame(
        metrics={"accuracy": accuracy_score, "n": count},
        y_true=[True] * len(correct), y_pred=correct.tolist(), sensitive_features=values.rename("value"),
    ).by_group  # fmt: skip
    sizes = {str(value): int(n) for value, n in table["n"].items()}
    hits = {str(value): round(float(a) * sizes[str(value)]) for value, a in table["accuracy"].items()}
    groups = {value: (stats.wilson(hits[value], n)._asdict(), n) for value, n in sizes.items()}
    large = [value for value, n in sizes.items() if n >= minimum]
    small = {value: n for value, n in sizes.items() if n < minimum}
    at = {"group": grouping}
    if len(large) < 2:
        gap = Metric(name="accuracy_gap", value=None, n=sum(sizes[v] for v in large), at=at)
        return _Comparison(gap, "", "", 1.0, groups, small)
    share = {value: hits[value] / sizes[value] for value in large}
    best, worst = max(share, key=lambda v: share[v]), min(share, key=lambda v: share[v])
    pairs = len(large) * (len(large) - 1) / 2
    value, low, high = stats.newcombe(
        (hits[best], hits[worst]), (sizes[best], sizes[worst]), confidence=1 - 0.05 / pairs
    )  # fmt: skip
    gap = Metric(
        name="accuracy_gap", value=value, low=None if low is None else max(0.0, low), high=high,
        n=sum(sizes[v] for v in large), at=at,
    )  # fmt: skip
    counts = [[hits[v] for v in large], [sizes[v] - hits[v] for v in large]]
    certain = not (any(counts[0]) and any(counts[1]))
    p_value = 1.0 if certain else float(chi2_contingency(counts).pvalue)
    return _Comparison(gap, best, worst, p_value, groups, small)


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Groups]
