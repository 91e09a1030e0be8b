"""Preprocessing: whether another common preprocessing gives a higher accuracy on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, Probe, Records, Table
from auditor.findings.formatting import percent
from auditor.probes.breakdown import ALPHA
from auditor.probes.shared_metrics import ACCURACY

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Batch, Classifier, Columns, Randomness
    from auditor.findings.evidence import Cell


class Alternative(NamedTuple):
    """Another preprocessing, compared with the one in use on the same images."""

    name: str
    accuracy: Metric
    only_other: int
    """Images that are correct only with this preprocessing."""
    only_used: int
    """Images that are correct only with the one in use."""
    gain: Metric
    """Difference of the accuracies; its interval has a Bonferroni correction over all alternatives."""
    p_value: float
    """McNemar's exact test, adjusted with Holm's method."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Probe):
    """Compare the accuracy with every common preprocessing, paired with the one in use."""

    meta = Meta(
        id="sanity.preprocessing",
        title="Preprocessing compared with common alternatives",
        area="sanity",
        why="A wrong mean, range or channel order is the most common reason for a wrong audit. The model still"
        " predicts, with lower accuracy, and the audit describes a model that is not deployed.",
        references=("https://doi.org/10.1007/BF02295996", "https://doi.org/10.1002/sim.1781"),
        needs=frozenset({"labels"}),
    )
    metrics = (
        MetricSpec(
            name="preprocessing_gain", label="Accuracy gain of another preprocessing", better="lower", difference=True
        ),
        ACCURACY,
    )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and preprocessing; the one in use has an empty name."""
        del rng
        import numpy as np

        from auditor.model import presets

        correct = {"": batch.predictions == batch.labels}
        for name, other in presets.others(classifier.preprocessing).items():
            correct[name] = presets.answers(classifier.with_preprocessing(other), batch.pixels) == batch.labels
        return {
            "row": np.tile(np.arange(len(batch)), len(correct)),
            "preprocessing": np.repeat(np.array(list(correct), dtype=object), len(batch)),
            "correct": np.concatenate(list(correct.values())),
        }

    def conclude(self, records: Records) -> Conclusion:
        """Report the gain of the best alternative, with an interval that accounts for the selection."""
        from auditor import statistics

        frame = records.frame
        groups = frame.groupby("preprocessing", sort=False) if len(frame) else ()
        by_name = {str(name): part.set_index("image_id")["correct"] for name, part in groups}
        used = by_name.pop("", None)
        if used is None or not by_name:
            return _no_alternatives(0 if used is None else len(used))
        alternatives = _compare(used, by_name)
        best = max(alternatives, key=lambda other: (other.gain.low or 0.0, other.gain.value or 0.0))
        accuracy = statistics.proportion("accuracy", used, at={"preset": "in use"})
        finding = Finding(
            id="sanity.preprocessing/best",
            title="Best alternative preprocessing",
            statement=_statement(accuracy, best, len(alternatives)),
            metric=best.gain,
            evidence=[_table(accuracy, alternatives)],
        )
        metrics = [best.gain, accuracy, *(other.accuracy for other in alternatives)]
        return Conclusion(metrics=metrics, findings=[finding])


def _no_alternatives(n: int) -> Conclusion:
    gain = Metric(name="preprocessing_gain", value=None, n=n)
    finding = Finding(
        id="sanity.preprocessing/best",
        title="No alternative preprocessing",
        metric=gain,
        statement="Undecided: there is no other common preprocessing for this input (n = 0 alternatives).",
    )
    reason = "there is no other common preprocessing for this input"
    return Conclusion(metrics=[gain], findings=[finding], inconclusive=reason)


def _compare(used: pd.Series, others: Mapping[str, pd.Series]) -> list[Alternative]:
    """Compare the correctness with each alternative, image by image, with the one in use."""
    from auditor import statistics

    found = []
    for name, other in others.items():
        correct = other.reindex(used.index)
        gained, lost = int((correct & ~used).sum()), int((used & ~correct).sum())
        interval = statistics.matched(gained, lost, len(used), confidence=1 - ALPHA / len(others))
        at = {"preset": name}
        gain = Metric(name="preprocessing_gain", **interval._asdict(), n=len(used), at=at)
        accuracy = statistics.proportion("accuracy", other, at=at)
        found.append(Alternative(name, accuracy, gained, lost, gain, statistics.mcnemar(gained, lost)))
    adjusted = statistics.holm([other.p_value for other in found])
    return [other._replace(p_value=p) for other, p in zip(found, adjusted, strict=True)]


def _statement(accuracy: Metric, best: Alternative, tests: int) -> str:
    reading = (
        "The preprocessing in use is probably not the one used in training."
        if best.p_value < ALPHA
        else "No common preprocessing is significantly better than the one in use."
    )
    return (
        f"Accuracy {percent(accuracy)} with the preprocessing in use, {percent(best.accuracy)} with the preset"
        f" {best.name} (n = {accuracy.n}; McNemar's exact test, Holm over {tests} alternatives:"
        f" p = {best.p_value:.2g}). {reading}"
    )


def _table(accuracy: Metric, alternatives: list[Alternative]) -> Table:
    rows: list[list[Cell]] = [["in use", accuracy.cell(), None, None, None, accuracy.n]]
    for other in sorted(alternatives, key=lambda other: -(other.accuracy.value or 0.0)):
        cells = [other.only_other, other.only_used, other.p_value, accuracy.n]
        rows.append([other.name, other.accuracy.cell(), *cells])
    return Table(
        title="Accuracy by preprocessing",
        columns=["preprocessing", "accuracy", "correct only with it", "correct only in use", "p (Holm)", "n"],
        formats=["text", "percent", "count", "count", "number", "count"],
        rows=rows,
        caption="p: probability of such an advantage over the preprocessing in use by chance. Size and crop are"
        " unchanged.",
    )
