"""Empirical robustness: how large a successful perturbation is, in units of the image's own length.

The mean of distance by length of the image over the images that an attack broke (Moosavi-Dezfooli, Fawzi and Frossard
2016, arXiv:1511.04599, equation 2). It knows nothing of the images that were not broken, so it is never shown without
the share of those that were: of a model that hardly ever breaks it is the mean over the few weakest images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.findings.formatting import norm_name
from auditor.findings.metric import percent

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class EmpiricalRobustness(Probe):
    """Relative size of the smallest perturbations that the attacks found; makes no model call of its own."""

    meta = Meta(
        id="metrics.empirical-robustness",
        title="Empirical robustness",
        area="metrics",
        why="It says in one number how large the perturbations were that worked; only with the success rate does it say"
        " anything about the model.",
        references=("https://arxiv.org/abs/1511.04599",),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Lengths of the images, by which distances are divided."""
        import numpy as np

        del classifier, rng
        wide = np.abs(batch.pixels.reshape(len(batch), -1).astype(np.float64))
        return {"linf": wide.max(axis=1), "l2": np.sqrt((wide**2).sum(axis=1)), "l1": wide.sum(axis=1)}

    def conclude(self, records: Records) -> Conclusion:
        """Per norm the mean relative distance of the images that broke, and the share of those."""
        from auditor.probes.distances import attack_records, norms_of, smallest

        attacks = attack_records(records.others)
        metrics: list[Metric] = []
        rows: list[list[Any]] = []
        said: list[str] = []
        for norm in norms_of(attacks):
            distance = smallest(attacks, norm)["distance"]
            found = self._of_norm(distance[distance > 0], records.frame, norm)
            metrics += found
            mean, success = found
            rows.append([norm_name(norm), mean.cell(), success.cell(), success.n])
            if mean.value is not None:
                said.append(
                    f"{percent(success)} of {success.n} right images were broken, by perturbations of"
                    f" {100 * mean.value:.2g} % of the image's length in the mean ({norm_name(norm)}, n = {mean.n})"
                )
        if not said:
            return Conclusion(metrics=metrics, inconclusive="no attack broke any image, so there is nothing to take the"
                                                            " mean of")  # fmt: skip
        finding = Finding(
            id=f"{self.meta.id}/distances", title="Size of the perturbations that worked",
            statement="; ".join(said) + ".", metric=next(m for m in metrics if m.value is not None),
            evidence=[
                Table(
                    title="Empirical robustness and what it is the mean of",
                    columns=["norm", "distance by length of the image", "images broken", "images attacked"],
                    formats=["text", "percent", "percent", "count"], rows=rows,
                    caption="Over all attacks, of each image the smallest perturbation; images that nothing broke are"
                    " not in the mean.",
                )
            ],
        )  # fmt: skip
        return Conclusion(metrics=metrics, findings=[finding])

    def _of_norm(self, distance: pd.Series[float], frame: pd.DataFrame, norm: str) -> tuple[Metric, Metric]:
        import numpy as np

        from auditor import statistics

        length = frame.set_index("image_id")[norm] if len(frame) else frame.get(norm)
        if length is not None:
            distance = distance[distance.index.isin(length.index)]
        success = statistics.proportion("attack_success_rate", np.isfinite(distance), at={"norm": norm})
        broken = distance[np.isfinite(distance)]
        relative = [] if length is None else (broken / length.reindex(broken.index)).to_numpy()
        mean = statistics.mean("empirical_robustness", relative, unit="fraction", at={"norm": norm})
        return mean, success


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [EmpiricalRobustness]
