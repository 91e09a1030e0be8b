"""Preprocessing: whether another common preprocessing gives a higher accuracy on the same images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, Probe, Records
from auditor.plugins.sanity import _preprocessing_evidence as evidence
from auditor.probes.preprocessing_comparison import best_of, compare_preprocessings
from auditor.probes.shared_metrics import ACCURACY

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness


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
        used = frame[frame["preprocessing"] == ""] if len(frame) else frame
        alternatives = compare_preprocessings(frame)
        if not alternatives:
            return _no_alternatives(len(used))
        best = best_of(alternatives)
        accuracy = statistics.proportion("accuracy", used["correct"], at={"preset": "in use"}, units=used.get("unit"))
        doubt = evidence.doubt_about(best, records) if best.better else ""
        gain = replace(best.gain, value=None, low=None, high=None) if doubt else best.gain
        finding = Finding(
            id="sanity.preprocessing/best",
            title="Best alternative preprocessing",
            statement=evidence.statement(accuracy, best, alternatives, doubt),
            metric=gain,
            evidence=[evidence.table(accuracy, alternatives)],
        )
        metrics = [gain, accuracy, *(other.accuracy for other in alternatives)]
        return Conclusion(metrics=metrics, findings=[finding], inconclusive=doubt)


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
