"""Determinism: does the deployed model answer the same to the same image, asked again, in another order, alone?

Every figure of an audit compares an answer with an earlier one. A model that draws random numbers, keeps a state, or
normalises over the batch makes attacks look stronger or weaker than they are (Carlini et al. 2019, arXiv:1902.06705,
section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.findings.metric import percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_ROUNDING = 1e-6
"""Probabilities are float32; differences below this are the runtime's rounding and counted as none."""

_WAYS = {"again": "again", "reversed": "in reverse order", "alone": "one image at a time"}


@dataclass(frozen=True, kw_only=True)
class Determinism(Probe):
    """Largest difference of probabilities and agreement of labels over repetitions."""

    meta = Meta(
        id="sanity.determinism",
        title="Same image, same answer",
        area="sanity",
        why="A model whose answers depend on chance or on the other images of the batch has no accuracy of its own:"
        " every figure of this audit would be another one tomorrow.",
        references=("https://arxiv.org/abs/1902.06705",),
        input_kinds=frozenset({"images", "rows"}),
    )
    samples: int = 200

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image: differences from the first answer, by way of asking."""
        del rng
        import numpy as np

        order = slice(None, None, -1)
        # a copy: some runtimes refuse negative strides
        answers: dict[str, NDArray[Any]] = {
            "again": classifier.predict(batch.pixels),
            "reversed": classifier.predict(batch.pixels[order].copy())[order],
            "alone": np.concatenate([classifier.predict(batch.pixels[i : i + 1]) for i in range(len(batch))]),
        }
        columns: dict[str, NDArray[Any]] = {}
        for way, answer in answers.items():
            difference = np.abs(answer.astype(np.float64) - batch.probabilities).max(axis=1)
            columns[way] = np.where(difference < _ROUNDING, 0.0, difference)
            columns[f"{way}_agrees"] = answer.argmax(axis=1) == batch.predictions
        return columns

    def conclude(self, records: Records) -> Conclusion:
        """Agreement over all ways, and the largest difference by way."""
        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind[:-1]} was measured")
        agreement = statistics.proportion("label_agreement", frame[[f"{way}_agrees" for way in _WAYS]].all(axis=1))
        largest = [
            Metric(name="max_abs_difference", value=float(frame[way].max()), n=len(frame), unit="1", at={"asked": said})
            for way, said in _WAYS.items()
        ]
        rows: Sequence[Sequence[Any]] = [
            [
                said,
                statistics.proportion("agreement", frame[f"{way}_agrees"]).cell(),
                float(frame[way].max()),
                len(frame),
            ]
            for way, said in _WAYS.items()
        ]
        worst = max(float(metric.value or 0) for metric in largest)
        how = f"by up to {worst:.2g}" if worst else f"by less than {_ROUNDING:g}"
        finding = Finding(
            id=f"{self.meta.id}/agreement",
            title="Agreement of the deployed model with itself",
            statement=f"Asked again, in reverse order and one {records.kind[:-1]} at a time the model"
            f" gives {percent(agreement)} of the {records.kind} the same label every time (n = {agreement.n});"
            f" probabilities differ {how}.",
            metric=agreement,
            evidence=[
                Table(
                    title="By way of asking",
                    columns=["asked", "same label as at first", "largest difference of a probability", "n"],
                    formats=["text", "percent", "number", "count"],
                    rows=rows,
                )
            ],
        )
        return Conclusion(metrics=[agreement, *largest], findings=[finding])


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Determinism]
