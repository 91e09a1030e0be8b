"""Determinism: whether the deployed model gives the same output for the same image when the query is repeated, in
another order, or without other images in the batch.

Every result of an audit compares a prediction with an earlier one. Random numbers, internal state or normalisation over
the batch make attacks appear stronger or weaker than they are (Carlini et al. 2019, arXiv:1902.06705, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records
from auditor.findings.formatting import percent
from auditor.plugins.sanity._repeated_queries import REPETITIONS, repeated_answers, repetition_table
from auditor.probes.shared_metrics import LABEL_AGREEMENT, MAX_ABS_DIFFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Randomness

_ROUNDING = 1e-6
"""Smaller differences of the float32 probabilities are rounding and count as zero."""


@dataclass(frozen=True, kw_only=True)
class Determinism(Probe):
    """Compare the predictions of repeated queries."""

    meta = Meta(
        id="sanity.determinism",
        title="Determinism of the model",
        area="sanity",
        why="If the output depends on chance or on other images in the batch, the results of this audit are not"
        " reproducible.",
        references=("https://arxiv.org/abs/1902.06705",),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (LABEL_AGREEMENT, MAX_ABS_DIFFERENCE)
    repeats_queries = True
    samples: int = 200

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return each image's largest difference from the first probabilities, and agreement of the label."""
        del rng
        import numpy as np

        columns: dict[str, NDArray[np.float64] | NDArray[np.bool_]] = {}
        for name, probabilities in repeated_answers(classifier, batch.pixels).items():
            difference = np.abs(probabilities.astype(np.float64) - batch.probabilities).max(axis=1)
            columns[name] = np.where(difference < _ROUNDING, 0.0, difference)
            columns[f"{name}_agrees"] = probabilities.argmax(axis=1) == batch.predictions
        return columns

    def conclude(self, records: Records) -> Conclusion:
        """Report the label agreement over all repetitions, and the largest difference of each."""
        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind} were measured")
        units = frame.get("unit")
        agrees = frame[[f"{name}_agrees" for name in REPETITIONS]]
        agreement = statistics.proportion("label_agreement", agrees.all(axis=1), units=units)
        each = [statistics.proportion("label_agreement", agrees[column], units=units) for column in agrees]
        differences = [
            Metric(
                name="max_abs_difference", value=float(frame[name].max()), n=len(frame), unit="1", at={"asked": text}
            )
            for name, text in REPETITIONS.items()
        ]
        largest = max(metric.value or 0.0 for metric in differences)
        size = f"by up to {largest:.2g}" if largest else f"by less than {_ROUNDING:g}"
        finding = Finding(
            id=f"{self.meta.id}/agreement",
            title="Agreement over repeated queries",
            statement=f"Repeated, in reverse order and one at a time, {percent(agreement)} of the {records.kind} get"
            f" the same label every time (n = {agreement.n}). Probabilities differ {size}.",
            metric=agreement,
            evidence=[repetition_table(each, differences)],
        )
        return Conclusion(metrics=[agreement, *differences], findings=[finding])
