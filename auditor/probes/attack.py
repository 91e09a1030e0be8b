"""Base class of attacks within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.algorithms.norms import image_norms
from auditor.findings.finding import Conclusion
from auditor.findings.metric import Metric, MetricSpec
from auditor.probes.attack_findings import budget_finding, snr_finding
from auditor.probes.base import Columns, Example, PerImage, Randomness, Records
from auditor.probes.example_grid import spread_over_classes
from auditor.probes.levels import Level, number
from auditor.probes.perturbation import Perturbation, PerturbationResult, clean_columns, join_columns
from auditor.probes.robustness_metrics import ATTACK_SUCCESS_RATE, ROBUST_ACCURACY, UNCONFIRMED

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Attack(Perturbation):
    """Search for misclassified images within a budget; each level is ``{"norm": ..., "epsilon": ...}``.

    The norm "snr" is a budget relative to the image: epsilon is the largest ratio of the L2 norms of perturbation and
    image, 10^(-SNR / 20). Its metrics state the SNR in dB.

    Robust accuracy at epsilon excludes images on which the attack succeeded at epsilon *or less*, since a smaller
    perturbation is within the larger budget. Images misclassified without an attack are not attacked and count as
    misclassified at every epsilon.
    """

    metrics: ClassVar[Sequence[MetricSpec]] = (ROBUST_ACCURACY, ATTACK_SUCCESS_RATE, UNCONFIRMED)
    headline: ClassVar[Level] = {"norm": "linf", "epsilon": 8 / 255}
    """Level of the key metric; the nearest epsilon of its norm is taken."""
    reports_surrogate: ClassVar[bool] = False
    """True if ``perturb`` sets ``PerturbationResult.surrogate_misclassified``."""

    def control_levels(self) -> Sequence[Level]:
        """Return the levels for ``sanity.positive-control``: per norm the nearest to the headline, else the middle one.

        Attacks that do not search for each image return none.
        """
        wanted = number(self.headline)[1]
        return [
            min(levels, key=lambda level: abs(number(level)[1] - wanted))
            if norm == self.headline["norm"]
            else levels[len(levels) // 2]
            for norm, levels in self._by_norm().items()
            if norm != "snr"
        ]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return ``ATTACK_COLUMNS``: one row per image and norm at epsilon 0, one per attacked image and level."""
        import numpy as np

        attacked = np.flatnonzero(batch.predictions == batch.labels)
        parts = [clean_columns(batch, norm, searched=False) for norm in self._by_norm()]
        if len(attacked):
            victims = batch.take(attacked)
            signal = image_norms(victims.pixels)
            for level in self.levels():
                result = self._perturbed(classifier, victims, rng, level)
                columns = self._columns(classifier, victims, result.images, level, signal)
                success = columns["perturbed_prediction"] != victims.labels
                parts.append({**columns, **self._reported(result), "row": attacked, "success": success})
        return join_columns(parts)

    def _reported(self, result: PerturbationResult) -> dict[str, NDArray[Any]]:
        """Return the columns that ``perturb`` reported; raise ValueError if they contradict ``reports_surrogate``."""
        if (result.surrogate_misclassified is not None) != self.reports_surrogate:
            raise ValueError(
                f"{self.meta.id}: perturb must set surrogate_misclassified if and only if reports_surrogate is True"
            )
        columns = {**result.columns}
        if result.surrogate_misclassified is not None:
            columns["surrogate_misclassified"] = result.surrogate_misclassified
        if result.component is not None:
            columns["component"] = result.component
        return columns

    def _by_norm(self) -> dict[str, list[Level]]:
        levels: dict[str, list[Level]] = {}
        for level in self.levels():
            levels.setdefault(str(level["norm"]), []).append(level)
        return levels

    def examples(self, records: Records) -> Sequence[Example]:
        """Request images misclassified at the smallest epsilon of the headline's norm, spread over the classes."""
        frame = records.frame
        successes = frame[(frame["norm"] == self._example_norm(frame)) & frame["success"]]
        first = successes.sort_values(["epsilon", "confidence"], ascending=[True, False], kind="stable")
        return [
            Example(image_id=row.image_id, at={"norm": row.norm, "epsilon": row.epsilon})
            for row in spread_over_classes(first).itertuples()
        ]

    def conclude(self, records: Records) -> Conclusion:
        """Return accuracy by epsilon for each norm, success rates and examples."""
        headline: list[Metric] = []
        metrics: list[Metric] = []
        findings = []
        for norm, frame in records.frame.groupby("norm", sort=False):
            if norm == "snr":
                robust = _accuracy_by_snr(frame)
                metrics += robust
                findings.append(snr_finding(self.meta, records, robust, _clean_accuracy(frame)))
                continue
            robust, rates, unconfirmed = self._metrics(frame, str(norm))
            metrics += [*rates, *robust, *unconfirmed.values()]
            chosen = self._key_metric(robust, str(norm))
            if norm == self.headline["norm"] or not headline:
                headline = [chosen]
            findings.append(
                budget_finding(
                    self.meta,
                    records,
                    frame,
                    robust,
                    chosen,
                    unconfirmed=unconfirmed.get(number(chosen.at)[1]),
                    with_examples=norm == self._example_norm(records.frame),
                )
            )
        return Conclusion(metrics=headline + [m for m in metrics if m not in headline], findings=findings)

    def _metrics(self, frame: pd.DataFrame, norm: str) -> tuple[list[Metric], list[Metric], Mapping[float, Metric]]:
        """Return robust accuracy by epsilon, success rates, and by epsilon the share of unconfirmed errors."""
        from auditor import statistics

        smallest, units = breaking_epsilon(frame), clean_units(frame)
        correct = smallest > 0
        robust, rates, unconfirmed = [], [], {}
        for epsilon in sorted(float(e) for e in frame["epsilon"].unique()):
            at: Level = {"norm": norm, "epsilon": epsilon}
            metric = statistics.proportion("robust_accuracy", smallest > epsilon, at=at, units=units)
            if epsilon == 0:
                robust.append(metric)
                continue
            robust.append(metric.lost_from(robust[0].value))
            rates.append(
                statistics.proportion(
                    "attack_success_rate", smallest[correct] <= epsilon, at=at, units=statistics.keep(units, correct)
                )
            )
            if self.reports_surrogate:
                claimed = frame[frame["surrogate_misclassified"].astype(bool) & (frame["epsilon"] == epsilon)]
                refuted = ~claimed["success"].astype(bool)
                unconfirmed[epsilon] = statistics.proportion("unconfirmed", refuted, at=at, units=claimed.get("unit"))
        return robust, rates, unconfirmed

    def _example_norm(self, frame: pd.DataFrame) -> str:
        """Return the headline's norm, or the first one if that was not attacked."""
        norms = [str(norm) for norm in frame["norm"].unique()]
        return str(self.headline["norm"]) if self.headline["norm"] in norms or not norms else norms[0]

    def _key_metric(self, robust: Sequence[Metric], norm: str) -> Metric:
        attacked = [metric for metric in robust if metric.at["epsilon"]] or list(robust)
        if norm != self.headline["norm"]:
            return attacked[len(attacked) // 2]
        wanted = number(self.headline)[1]
        return min(attacked, key=lambda metric: abs(number(metric.at)[1] - wanted))

    def per_image(self, records: Records) -> Sequence[PerImage]:
        """Return per epsilon whether each image is robust, and whether the attack succeeded on each correct image."""
        import numpy as np
        import pandas as pd

        values: list[PerImage] = []
        for norm, frame in records.frame.groupby("norm", sort=False):
            ids = frame[frame["epsilon"] == 0]["image_id"].to_numpy()
            smallest = pd.Series(breaking_epsilon(frame), index=ids)
            if norm == "snr":
                for snr, epsilon in _decibels(frame).items():
                    values.append(PerImage(name="robust_accuracy", values=smallest > epsilon, at={"snr": snr}))
                continue
            for epsilon in sorted(float(e) for e in frame["epsilon"].unique()):
                at: Level = {"norm": str(norm), "epsilon": epsilon}
                values.append(PerImage(name="robust_accuracy", values=smallest > epsilon, at=at))
                if epsilon > 0:
                    success = (smallest <= epsilon).astype(float).where(smallest > 0, np.nan)
                    values.append(PerImage(name="attack_success_rate", values=success, at=at))
        return values


def breaking_epsilon(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the smallest epsilon at which an attack succeeded on each image, from the rows of one norm.

    0 for an image misclassified without an attack, infinity for one on which the attack never succeeded.
    """
    import numpy as np

    clean = frame[frame["epsilon"] == 0].set_index("image_id")
    smallest = frame[frame["success"]].groupby("image_id")["epsilon"].min().reindex(clean.index).fillna(np.inf)
    smallest[clean["prediction"] != clean["label"]] = 0.0
    result: NDArray[np.float64] = smallest.to_numpy(dtype=np.float64)
    return result


def clean_units(frame: pd.DataFrame) -> pd.Series | None:
    """Return the unit of each image in the order of ``breaking_epsilon``; None if the data states no units."""
    return frame[frame["epsilon"] == 0].get("unit")


def _clean_accuracy(frame: pd.DataFrame) -> Metric:
    from auditor import statistics

    return statistics.proportion("accuracy", breaking_epsilon(frame) > 0, units=clean_units(frame))


def _accuracy_by_snr(frame: pd.DataFrame) -> list[Metric]:
    """Return robust accuracy by SNR, weakest attack first."""
    from auditor import statistics

    smallest, units = breaking_epsilon(frame), clean_units(frame)
    clean = _clean_accuracy(frame).value
    return [
        statistics.proportion("robust_accuracy", smallest > epsilon, at={"snr": snr}, units=units).lost_from(clean)
        for snr, epsilon in _decibels(frame).items()
    ]


def _decibels(frame: pd.DataFrame) -> dict[float, float]:
    """Map the SNRs of the norm "snr" in dB, weakest attack first, to their epsilons."""
    return {round(-20 * math.log10(e), 6): float(e) for e in sorted(frame["epsilon"].unique()) if e > 0}
