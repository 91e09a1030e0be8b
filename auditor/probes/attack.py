"""Base class of attacks within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.findings.evidence import Axis, Curve, Evidence, Point, Series, Table
from auditor.findings.finding import Conclusion, Finding
from auditor.findings.formatting import norm_name
from auditor.findings.metric import Metric, percent
from auditor.probes.base import Columns, Example, PerImage, Randomness, Records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
from auditor.probes.levels import Level, epsilon_axis, metric_point, number, number_axis, size
from auditor.probes.perturbation import (
    Perturbation,
    clean_rows,
    join_columns,
    picture_rows,
    spread_over_classes,
    vector_length,
)


@dataclass(frozen=True, kw_only=True)
class Attack(Perturbation):
    """A search for wrong answers within a budget: each level is ``{"norm": ..., "epsilon": ...}``.

    The norm "snr" is a budget relative to the image: epsilon is the largest ratio of the Euclidean lengths of
    perturbation and image, 10^(-SNR / 20); metrics then state the SNR in dB.

    Robust accuracy at epsilon counts an image as lost when the attack succeeded at epsilon *or less*: a smaller
    perturbation lies within the larger budget, too. Images that the model gets wrong without an attack are not attacked
    and count as lost at every epsilon.
    """

    headline: ClassVar[Level] = {"norm": "linf", "epsilon": 8 / 255}
    """The level whose robust accuracy stands for the probe; the nearest one of its norm is taken."""

    def control_levels(self) -> Sequence[Level]:
        """Where ``sanity.positive-control`` tries the attack: of each norm the level nearest to the headline, else the
        middle one. None where it does not search for each image."""
        lines: dict[str, list[Level]] = {}
        for level in self.levels():
            if level["norm"] != "snr":
                lines.setdefault(str(level["norm"]), []).append(level)
        wanted = number(self.headline)[1]
        return [
            min(levels, key=lambda level: abs(number(level)[1] - wanted))
            if norm == self.headline["norm"]
            else levels[len(levels) // 2]
            for norm, levels in lines.items()
        ]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image at epsilon 0 for each norm, and one per attacked image and level."""
        import numpy as np

        attacked = np.flatnonzero(batch.predictions == batch.labels)
        victims = batch.take(attacked)
        parts: list[dict[str, NDArray[Any]]] = []
        for norm in dict.fromkeys(str(level["norm"]) for level in self.levels()):
            parts.append(clean_rows(batch, norm))
        signal = vector_length(victims.pixels.reshape(len(victims), -1)) if len(victims) else np.zeros(0)
        for level in self.levels():
            if not len(victims):
                break
            found = self._found(classifier, victims, rng, level)
            columns = self._columns(classifier, victims, found.images, level, signal)
            success = columns["perturbed_prediction"] != victims.labels
            parts.append({**columns, **found.columns, "row": attacked, "success": success})
        return join_columns(parts)

    def examples(self, records: Records) -> Sequence[Example]:
        """The images that broke at the smallest epsilon of the headline's norm, from as many classes as possible."""
        frame = records.frame
        broken = frame[(frame["norm"] == self._shown(frame)) & frame["success"]]
        first = broken.sort_values(["epsilon", "confidence"], ascending=[True, False], kind="stable")
        return [
            Example(image_id=row.image_id, at={"norm": row.norm, "epsilon": row.epsilon})
            for row in spread_over_classes(first).itertuples()
        ]

    def conclude(self, records: Records) -> Conclusion:
        """Accuracy against epsilon for each norm, attack success, distances, pictures."""
        from auditor import statistics

        headline: list[Metric] = []
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for norm, frame in records.frame.groupby("norm", sort=False):
            if norm == "snr":
                found, finding = self._by_snr(records, frame)
                metrics += found
                findings.append(finding)
                continue
            smallest = breaking_epsilon(frame)
            correct = smallest > 0
            robust: list[Metric] = []
            unconfirmed: list[Metric] = []
            for epsilon in sorted(frame["epsilon"].unique()):
                at: Level = {"norm": str(norm), "epsilon": float(epsilon)}
                robust.append(statistics.proportion("robust_accuracy", smallest > epsilon, at=at))
                if epsilon > 0:
                    metrics.append(statistics.proportion("attack_success_rate", smallest[correct] <= epsilon, at=at))
                    unconfirmed += _unconfirmed(frame, at)
            metrics += [*robust, *unconfirmed]
            chosen = self._nearest(robust, str(norm))
            if norm == self.headline["norm"] or not headline:
                headline = [chosen]
            findings.append(self._finding(records, frame, str(norm), robust, chosen))
        return Conclusion(metrics=headline + [m for m in metrics if m not in headline], findings=findings)

    def _shown(self, frame: pd.DataFrame) -> str:
        """The norm of the pictures: the headline's, or the first where that was not attacked."""
        norms = [str(norm) for norm in frame["norm"].unique()]
        return str(self.headline["norm"]) if self.headline["norm"] in norms or not norms else norms[0]

    def per_image(self, records: Records) -> Sequence[PerImage]:
        """Whether each image stands at each epsilon, and whether the attack succeeded on those that were right."""
        import numpy as np
        import pandas as pd

        found: list[PerImage] = []
        for norm, frame in records.frame.groupby("norm", sort=False):
            ids = frame[frame["epsilon"] == 0]["image_id"].to_numpy()
            smallest = pd.Series(breaking_epsilon(frame), index=ids)
            if norm == "snr":
                for snr, epsilon in _decibels(frame).items():
                    found.append(PerImage(name="robust_accuracy", values=smallest > epsilon, at={"snr": snr}))
                continue
            for epsilon in sorted(frame["epsilon"].unique()):
                at: Level = {"norm": str(norm), "epsilon": float(epsilon)}
                found.append(PerImage(name="robust_accuracy", values=smallest > epsilon, at=at))
                if epsilon > 0:
                    success = (smallest <= epsilon).astype(float).where(smallest > 0, np.nan)
                    found.append(PerImage(name="attack_success_rate", values=success, at=at))
        return found

    def _by_snr(self, records: Records, frame: pd.DataFrame) -> tuple[list[Metric], Finding]:
        """Accuracy against the signal-to-noise ratio, weakest attack first."""
        from auditor import statistics

        smallest = breaking_epsilon(frame)
        clean = statistics.proportion("accuracy", smallest > 0)
        robust = [
            statistics.proportion("robust_accuracy", smallest > epsilon, at={"snr": snr})
            for snr, epsilon in _decibels(frame).items()
        ]
        verb, worst = records.accuracy_name, robust[-1]
        finding = Finding(
            id=f"{self.meta.id}/snr", title=f"{self.meta.title}, by signal-to-noise ratio",
            statement=f"At an SNR of {number(worst.at)[1]:g} dB, {verb} falls from {percent(clean)} to"
            f" {percent(worst)} (n = {worst.n}).",
            metric=worst,
            evidence=[
                Curve(
                    title="Accuracy against the signal-to-noise ratio",
                    caption=f"20 log10 of image by perturbation, per image. Without an attack: {percent(clean)}.",
                    x=number_axis("snr"), y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
                    series=[Series(name=self.meta.title, points=[metric_point(metric) for metric in robust])],
                ),
                Table(
                    title="By signal-to-noise ratio", columns=["SNR (dB)", "robust accuracy", "n"],
                    formats=["number", "percent", "count"],
                    rows=[[number(metric.at)[1], metric.cell(), metric.n] for metric in robust],
                ),
            ],
        )  # fmt: skip
        return robust, finding

    def _nearest(self, robust: Sequence[Metric], norm: str) -> Metric:
        attacked = [metric for metric in robust if metric.at["epsilon"]] or list(robust)
        if norm != self.headline["norm"]:
            return attacked[len(attacked) // 2]
        wanted = number(self.headline)[1]
        return min(attacked, key=lambda metric: abs(number(metric.at)[1] - wanted))

    def _finding(
        self, records: Records, frame: pd.DataFrame, norm: str, robust: Sequence[Metric], chosen: Metric
    ) -> Finding:
        clean, epsilon = robust[0], number(chosen.at)[1]
        verb = records.accuracy_name
        statement = (
            f"At epsilon {size(norm, epsilon)} ({norm_name(norm)}), {verb} falls from {percent(clean)} to"
            f" {percent(chosen)} (n = {chosen.n})."
        )
        for metric in _unconfirmed(frame, chosen.at):
            confirmed = metric.n - round((metric.value or 0) * metric.n)
            statement += (
                f" The original confirmed {confirmed} of {metric.n} {records.kind} that the copy got wrong there."
            )
        exact = [_accuracy_at(frame, float(metric.at["epsilon"] or 0)) for metric in robust]
        evidence: list[Evidence] = [
            Curve(
                title=f"Accuracy against epsilon, {norm_name(norm)}",
                caption="Lower is weaker. What any epsilon up to this one broke counts as lost; the band is"
                " the 95 % interval. The dashed line counts each epsilon by itself.",
                x=epsilon_axis(norm),
                y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
                series=[
                    Series(name="within the budget", points=[metric_point(metric) for metric in robust]),
                    Series(
                        name="at exactly this epsilon",
                        points=[Point(x=number(m.at)[1], y=value) for m, value in zip(robust, exact, strict=True)],
                    ),
                ],
            ),
            Table(
                title=f"By epsilon, {norm_name(norm)}",
                columns=["epsilon", "robust accuracy", "at exactly this epsilon", "n"],
                formats=["n/255" if norm == "linf" else "number", "percent", "percent", "count"],
                rows=[
                    [number(m.at)[1], m.cell(), value, m.n] for m, value in zip(robust, exact, strict=True)
                ],
            ),
        ]  # fmt: skip
        if len(robust) <= 2:
            # between 0 and one epsilon there is nothing that a line could stand for
            evidence = evidence[1:]
        if norm == self._shown(records.frame):
            evidence += picture_rows(records, "The images that broke at the smallest epsilon")
        return Finding(
            id=f"{self.meta.id}/{norm}", title=f"{self.meta.title}, {norm_name(norm)}", statement=statement,
            metric=chosen, evidence=evidence,
        )  # fmt: skip


def breaking_epsilon(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Per image the smallest epsilon at which the attack succeeded: 0 for one that was wrong from the start, infinity
    for one that never broke."""
    import numpy as np

    clean = frame[frame["epsilon"] == 0].set_index("image_id")
    smallest = frame[frame["success"]].groupby("image_id")["epsilon"].min().reindex(clean.index).fillna(np.inf)
    smallest[clean["prediction"] != clean["label"]] = 0.0
    result: NDArray[np.float64] = smallest.to_numpy(dtype=np.float64)
    return result


def _decibels(frame: pd.DataFrame) -> dict[float, float]:
    """The SNRs of records of the norm "snr" in dB, weakest first, with their epsilons."""
    import math

    return {round(-20 * math.log10(e), 6): float(e) for e in sorted(frame["epsilon"].unique()) if e > 0}


def epsilon_levels(
    linf: Sequence[float], l2: Sequence[float], l1: Sequence[float] = (), *, snrs: Sequence[float] = ()
) -> list[Level]:
    """Levels of an attack in up to three norms and by SNR in dB, weakest first."""
    by_norm = {"linf": linf, "l2": l2, "l1": l1, "snr": [10 ** (-snr / 20) for snr in snrs]}
    return [{"norm": norm, "epsilon": e} for norm, sizes in by_norm.items() for e in sorted(sizes)]


def _accuracy_at(frame: pd.DataFrame, epsilon: float) -> float | None:
    """Share of all images that are still right at exactly this epsilon."""
    clean = frame[frame["epsilon"] == 0]
    here = frame[frame["epsilon"] == epsilon]
    right = (here["perturbed_prediction"] == here["label"]).sum()
    return float(right) / len(clean) if len(clean) else None


def _unconfirmed(frame: pd.DataFrame, at: Level) -> list[Metric]:
    """The share of the copy's wrong answers at a level that the original does not give; of attacks that record them."""
    from auditor import statistics

    if "surrogate_misclassified" not in frame.columns:
        return []
    # a batch in which nothing was attacked has no such column, and blanks where others have
    claimed = frame[frame["surrogate_misclassified"].eq(True) & (frame["epsilon"] == at["epsilon"])]
    return [statistics.proportion("unconfirmed", ~claimed["success"].astype(bool), at=at)]
