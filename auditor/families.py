"""What many probes share. An attack's author writes ``levels`` and ``perturb`` and nothing else.

The family owns the invariants: shape and range of what ``perturb`` returns, the budget (enforced, since it is not known
what an attack returns), success measured again on the original, denominators, intervals, curves, pictures.
Nothing heavy is imported before it is needed, so that listing the probes stays fast.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.finding import (
    Axis,
    Conclusion,
    Curve,
    Evidence,
    Finding,
    GridRow,
    ImageGrid,
    Metric,
    Picture,
    Point,
    Series,
    Table,
    n_of_255,
    percent,
)
from auditor.numbers import norm_name
from auditor.probe import Columns, Exhibit, PerImage, Probe, Randomness, Records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.classifier import Classifier
    from auditor.images import Batch, Pixels

Level = Mapping[str, Any]
"""How strongly to perturb: any texts and exactly one number, for example ``{"norm": "linf", "epsilon": 0.03}`` or
``{"noise": "gaussian", "snr": 20.0}``. The texts name the line of the curve, the number is its x."""

_ROUNDING = 1e-6
"""float32 may overshoot a budget by this much; more is an error of the attack and is cut off."""

_SHOWN = 6

_USUAL: Mapping[str, Sequence[float]] = {
    "linf": tuple(n / 255 for n in (0.5, 1, 2, 4, 8, 16, 32)),
    "l2": (0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
    "l1": (1.0, 2.0, 4.0, 8.0, 12.0, 25.0, 60.0),
}
"""Epsilons at which a minimum-norm attack states accuracy: those of the field's benchmarks among them (8/255 and 0.5 of
RobustBench, arXiv:2010.09670; L1 of 12 and 60 for CIFAR-10 and ImageNet, arXiv:2103.01208)."""

_FURTHER = (1.0, 1.001, 1.01, 1.1, 1.5)
"""How far beyond the copy's border the original is asked, as multiples of the perturbation."""

_HALVINGS = 18
"""Steps of bisection towards the clean image: 2^-18 of the perturbation, about what float32 pixels can tell apart."""

_DRAWN = (1.0, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
"""How far a picture is drawn beyond the border, until 8 bits keep the error."""

_FAILED = 0.05
"""Share of images without any error found from which on a search without a budget is one that failed."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What ``perturb`` gives when there is more to record about an image than the family records of every one."""

    images: Pixels
    """(n, c, h, w)"""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """One value per image: texts, flags or floats; rows without an attack have "", False and NaN. The flag
    ``copy_broken`` says that the copy gives a wrong answer: the report counts what the original did not confirm."""


class _Perturbation(Probe):
    """Images changed at several levels, and the original asked again."""

    @abstractmethod
    def levels(self) -> Sequence[Level]:
        """Every level, weakest first within a line."""

    @abstractmethod
    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels | Found:
        """The batch at one level, (n, c, h, w); clipping to [0, 1] and to the budget is the family's."""

    def perturbed(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """What ``perturb`` gave, made to obey: shape, [0, 1], and the epsilon ball where the level names one."""
        return self._found(classifier, batch, rng, level).images

    def _found(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Found:
        given = self.perturb(classifier, batch, rng, level)
        found = given if isinstance(given, Found) else Found(images=given)
        images = _checked(f"{self.meta.id}: perturb", found.images, batch, level)
        norm = level.get("norm")
        if norm is not None:
            images = project(images, batch.pixels, str(norm), number(level)[1])
        return Found(images=images, columns=found.columns)

    def _columns(
        self, classifier: Classifier, batch: Batch, images: Pixels, level: Level, signal: NDArray[np.float64]
    ) -> dict[str, NDArray[Any]]:
        """What every level records; ``signal`` (n,) is the Euclidean length of the clean images."""
        import numpy as np

        columns = _answers(classifier.predict(images), batch.labels) | _sizes(images, batch.pixels, signal)
        return columns | {key: np.full(len(batch), value) for key, value in level.items()}

    def draw(self, classifier: Classifier, batch: Batch, rng: Randomness, exhibit: Exhibit) -> Mapping[str, Pixels]:
        """The images, what was added (magnified, grey is nothing), and the results."""
        return _pictures(batch.pixels, self.perturbed(classifier, batch, rng, exhibit.at))


@dataclass(frozen=True, kw_only=True)
class Attack(_Perturbation):
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
            parts.append(_untouched(batch, norm))
        signal = _length(victims.pixels.reshape(len(victims), -1)) if len(victims) else np.zeros(0)
        for level in self.levels():
            if not len(victims):
                break
            found = self._found(classifier, victims, rng, level)
            columns = self._columns(classifier, victims, found.images, level, signal)
            success = columns["perturbed_prediction"] != victims.labels
            parts.append({**columns, **found.columns, "row": attacked, "success": success})
        return _joined(parts)

    def exhibits(self, records: Records) -> Sequence[Exhibit]:
        """The images that broke at the smallest epsilon of the headline's norm, from as many classes as possible."""
        frame = records.frame
        broken = frame[(frame["norm"] == self._shown(frame)) & frame["success"]]
        first = broken.sort_values(["epsilon", "confidence"], ascending=[True, False], kind="stable")
        return [
            Exhibit(image_id=row.image_id, at={"norm": row.norm, "epsilon": row.epsilon})
            for row in spread_over_classes(first).itertuples()
        ]

    def conclude(self, records: Records) -> Conclusion:
        """Accuracy against epsilon for each norm, attack success, distances, pictures."""
        from auditor import stats

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
                robust.append(stats.proportion("robust_accuracy", smallest > epsilon, at=at))
                if epsilon > 0:
                    metrics.append(stats.proportion("attack_success_rate", smallest[correct] <= epsilon, at=at))
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
        from auditor import stats

        smallest = breaking_epsilon(frame)
        clean = stats.proportion("accuracy", smallest > 0)
        robust = [
            stats.proportion("robust_accuracy", smallest > epsilon, at={"snr": snr})
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
                    series=[Series(name=self.meta.title, points=[_point(metric) for metric in robust])],
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
                    Series(name="within the budget", points=[_point(metric) for metric in robust]),
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


@dataclass(frozen=True, kw_only=True)
class MinimumNorm(Probe):
    """A search for the *smallest* perturbation that makes the answer wrong, in one or several norms.

    One search gives the whole curve of accuracy against epsilon, because the distance of every image is known and not
    only the next larger epsilon of a sweep. What the search found on the copy is moved along the straight line to the
    clean image, as near as the original still gives a wrong answer there; where the original does not confirm it, a
    little further out is tried, too. Images that the model gets wrong without an attack have distance 0.
    """

    headline: ClassVar[Level] = {"norm": "linf", "epsilon": 8 / 255}
    """The level whose robust accuracy stands for the probe, where the norm is searched."""
    nothing_found: ClassVar[str] = "the search found nothing"
    """What is said of the images that were not even broken on the copy."""

    norms: Sequence[str] = ("l2",)
    """Of linf, l2, l1."""

    def __post_init__(self) -> None:
        """Refuse norms that nobody knows; subclasses that add checks call this one, too."""
        if not self.norms or set(self.norms) - set(_USUAL):
            raise ValueError(f"norms is {list(self.norms)}; expected some of {', '.join(_USUAL)}")

    def control_levels(self) -> Sequence[Level]:
        """Where ``sanity.positive-control`` tries the search: in each norm the headline's epsilon or the middle one of
        the usual ones."""
        return [
            self.headline if norm == self.headline["norm"] else {"norm": norm, "epsilon": usual[len(usual) // 2]}
            for norm, usual in _USUAL.items()
            if norm in self.norms
        ]

    def perturbed(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """What the search finds within the level's epsilon; the clean image where that is nothing."""
        norm, epsilon = str(level["norm"]), number(level)[1]
        images = self.nearest(classifier, batch, rng, norm)[0]
        far = _length((images - batch.pixels).reshape(len(batch), -1), norm) > epsilon + _ROUNDING
        images[far] = batch.pixels[far]
        return images

    @abstractmethod
    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """The nearest images found that get a wrong answer, (n, c, h, w); the clean image where none was found."""

    def nearest(
        self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.bool_]]:
        """What ``search`` gave, as near as the original confirms it.

        Returns images (n, c, h, w), the clean one where nothing is confirmed; the original's probabilities for them
        (n, k); and whether the search had found something (n,).
        """
        import numpy as np

        there = _checked(f"{self.meta.id}: search", self.search(classifier, batch, rng, norm), batch, {"norm": norm})
        delta = there - batch.pixels
        found: NDArray[np.bool_] = np.abs(delta).max(axis=(1, 2, 3)) > 0
        images, answers = batch.pixels.copy(), batch.probabilities.copy()
        inside, outside = np.zeros(len(batch)), np.zeros(len(batch))

        def ask(which: NDArray[np.int64], scale: NDArray[np.float64]) -> NDArray[np.bool_]:
            """Whether the original is wrong at ``scale`` times the perturbation; what is wrong is kept."""
            steps = delta[which] * scale.astype(np.float32).reshape(-1, 1, 1, 1)
            tried = (batch.pixels[which] + steps).clip(0, 1)
            probabilities = classifier.predict(tried)
            wrong: NDArray[np.bool_] = probabilities.argmax(axis=1) != batch.labels[which]
            hit = which[wrong]
            images[hit], answers[hit], outside[hit] = tried[wrong], probabilities[wrong], scale[wrong]
            inside[which[~wrong]] = scale[~wrong]
            return wrong

        left = np.flatnonzero(found)
        for scale in _FURTHER:
            if len(left):
                left = left[~ask(left, np.full(len(left), scale))]
        confirmed = np.flatnonzero(outside > 0)
        for _ in range(_HALVINGS if len(confirmed) else 0):
            ask(confirmed, (inside[confirmed] + outside[confirmed]) / 2)
        return images, answers, found

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """For each norm one row per image at epsilon 0, and one per attacked image at the distance that was found.

        The columns are those of ``Attack``; ``epsilon`` is the distance, NaN where the original confirmed nothing.
        ``copy_broken`` says that the search itself had found something, ``exact`` that a distance is one and no budget.
        """
        import numpy as np

        attacked = np.flatnonzero(batch.predictions == batch.labels)
        victims = batch.take(attacked)
        parts: list[dict[str, NDArray[Any]]] = []
        for norm in self.norms:
            nothing, exact = np.zeros(len(batch), dtype=bool), np.ones(len(batch), dtype=bool)
            parts.append(_untouched(batch, norm) | {"copy_broken": nothing, "exact": exact})
            if not len(victims):
                continue
            images, answers, found = self.nearest(classifier, victims, rng, norm)
            columns = _answers(answers, victims.labels)
            success = columns["perturbed_prediction"] != victims.labels
            sizes = _sizes(images, victims.pixels, _length(victims.pixels.reshape(len(victims), -1)))
            columns |= {name: np.where(success, values, np.nan) for name, values in sizes.items()}
            parts.append(
                columns
                | {"norm": np.full(len(victims), norm), "epsilon": columns[norm], "copy_broken": found}
                | {"row": attacked, "success": success, "exact": exact[attacked]}
            )
        return _joined(parts)

    def exhibits(self, records: Records) -> Sequence[Exhibit]:
        """The images that are nearest to an error in the headline's norm, from as many classes as possible."""
        frame = records.frame
        norm = self._shown()
        broken = frame[(frame["norm"] == norm) & frame["success"]]
        nearest = spread_over_classes(broken.sort_values("epsilon", kind="stable"))
        return [Exhibit(image_id=image, at={"norm": norm}) for image in nearest["image_id"]]

    def draw(self, classifier: Classifier, batch: Batch, rng: Randomness, exhibit: Exhibit) -> Mapping[str, Pixels]:
        """The images, what was added, and the results: so far beyond the border that 8 bits keep the error."""
        import numpy as np

        images, _, _ = self.nearest(classifier, batch, rng, str(exhibit.at["norm"]))
        delta = images - batch.pixels
        left = np.arange(len(batch))
        for scale in _DRAWN:
            tried = np.rint((batch.pixels[left] + np.float32(scale) * delta[left]).clip(0, 1) * 255) / np.float32(255)
            wrong = classifier.predict(tried).argmax(axis=1) != batch.labels[left]
            images[left[wrong]] = tried[wrong]
            left = left[~wrong]
            if not len(left):
                break
        return _pictures(batch.pixels, images)

    def conclude(self, records: Records) -> Conclusion:
        """Accuracy against epsilon for each norm, median distance and SNR, what was not confirmed, pictures."""
        metrics: list[Metric] = []
        findings: list[Finding] = []
        failures: list[str] = []
        for norm in dict.fromkeys(records.frame["norm"]):
            found, finding, failure = self._conclude_norm(records, str(norm))
            # the headline comes first
            metrics = found + metrics if norm == self._shown() else metrics + found
            findings.append(finding)
            failures += [failure] if failure else []
        if not failures:
            return Conclusion(metrics=metrics, findings=findings)
        why = (
            f"{'; '.join(failures)}, although any distance was allowed: there the attack failed, which is no robustness"
        )
        return Conclusion(metrics=metrics, findings=findings, inconclusive=why)

    def _shown(self) -> str:
        """The norm that stands for the probe."""
        wanted = str(self.headline["norm"])
        return wanted if wanted in self.norms else self.norms[0]

    def _conclude_norm(self, records: Records, norm: str) -> tuple[list[Metric], Finding, str]:
        """Metrics, the one that stands for the norm first; the finding; and why the search cannot be believed."""
        from auditor import stats

        frame, at = records.frame[records.frame["norm"] == norm], {"norm": norm}
        searched = frame[frame["epsilon"] != 0]
        broken, found = searched[searched["success"]], searched[searched["copy_broken"]]
        missed = len(searched) - len(found)
        distance = breaking_epsilon(frame)
        robust = [
            stats.proportion("robust_accuracy", distance > epsilon, at={"norm": norm, "epsilon": epsilon})
            for epsilon in (0.0, *_USUAL[norm])
        ]
        median = stats.median("distance_median", distance, unit=norm, at=at)
        # in other norms than the headline's, the usual epsilon that says most about this model
        wanted = number(self.headline)[1] if norm == self.headline["norm"] else median.value or 0.0
        chosen = min(robust[1:], key=lambda metric: abs(number(metric.at)[1] - min(wanted, _USUAL[norm][-1])))
        unconfirmed = stats.proportion("unconfirmed", ~found["success"], at=at)
        metrics = [
            median, stats.median("snr_median", broken["snr_db"], unit="dB", at=at), unconfirmed,
            stats.proportion("attack_success_rate", searched["success"], at=at),
        ]  # fmt: skip
        verb = records.accuracy_name
        statement = (
            f"{nearness(median, norm, records.kind)} At epsilon {size(norm, number(chosen.at)[1])} ({norm_name(norm)})"
            f" {verb} falls from {percent(robust[0])} to {percent(chosen)} (n = {chosen.n})."
        )
        caption = (
            f"The search broke {len(found)} of {len(searched)} {records.kind}; the deployed model did not confirm"
            f" {int((~found['success']).sum())} of them."
        )
        if missed:
            caption += f" On the other {missed} {self.nothing_found}."
        evidence: list[Evidence] = [
            distance_curve(distance, norm, verb, "from one search"),
            Table(
                title=f"By epsilon, {norm_name(norm)}",
                columns=["epsilon", "robust accuracy", "n"],
                formats=["n/255" if norm == "linf" else "number", "percent", "count"],
                rows=[[number(metric.at)[1], metric.cell(), metric.n] for metric in robust],
                caption=caption,
            ),
        ]
        if norm == self._shown():
            evidence += picture_rows(
                records, "The images that are nearest to an error",
                dict(zip(broken["image_id"], broken["epsilon"], strict=True)),
                " The epsilon is the distance found; the picture lies as far beyond it as 8 bits need.",
            )  # fmt: skip
        finding = Finding(
            id=f"{self.meta.id}/{norm}", title=f"{self.meta.title}, {norm_name(norm)}", statement=statement,
            metric=chosen, evidence=evidence,
        )  # fmt: skip
        failure = f"{self.nothing_found} on {missed} of {len(searched)} {records.kind} in {norm_name(norm)}"
        others = [metric for metric in robust if metric is not chosen]
        return [chosen, *metrics, *others], finding, failure if missed > _FAILED * len(searched) else ""


@dataclass(frozen=True, kw_only=True)
class Corruption(_Perturbation):
    """Images made worse by chance, not by an adversary: accuracy is what is expected at each level by itself."""

    metric: ClassVar[str] = "corruption_accuracy"
    headline: ClassVar[Level | None] = None
    """The level that stands for the probe; by default the mean over all levels does."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image and level."""
        import numpy as np

        signal = _length(batch.pixels.reshape(len(batch), -1))
        parts: list[dict[str, NDArray[Any]]] = []
        for level in self.levels():
            columns = self._columns(classifier, batch, self.perturbed(classifier, batch, rng, level), level, signal)
            parts.append({**columns, "row": np.arange(len(batch))})
        return _joined(parts)

    def exhibits(self, records: Records) -> Sequence[Exhibit]:
        """One image, the first that the clean model gets right, at the middle level of every line."""
        frame = records.frame
        right = frame[frame["prediction"] == frame["label"]]
        image = (right if len(right) else frame)["image_id"].iloc[0]
        return [
            Exhibit(image_id=image, at=levels[len(levels) // 2])
            for levels in list(self._lines().values())[:_SHOWN]
        ]  # fmt: skip

    def conclude(self, records: Records) -> Conclusion:
        """Accuracy at each level with Wilson's interval, one curve for each kind of number."""
        import numpy as np

        from auditor import stats

        frame = records.frame
        correct = (frame["perturbed_prediction"] == frame["label"]).to_numpy()
        once = frame.drop_duplicates("image_id")
        clean = stats.proportion("accuracy", once["prediction"] == once["label"])
        metrics: list[Metric] = []
        curves: dict[str, list[Series]] = {}
        rows: list[list[Any]] = []
        for line, levels in self._lines().items():
            points = []
            for level in levels:
                here = _matches(frame, level)
                metric = stats.proportion(self.metric, correct[here], at=level)
                metrics.append(metric)
                points.append(_point(metric))
                rows.append([line, level_name(level), metric.cell(),
                             float(np.median(frame["snr_db"].to_numpy()[here])), metric.n])  # fmt: skip
            curves.setdefault(number(levels[0])[0], []).append(Series(name=line, points=points))
        mean = stats.mean("mean_" + self.metric, frame.assign(ok=correct).groupby("image_id")["ok"].mean(),
                          unit="fraction")  # fmt: skip
        chosen = self._headline(metrics) or mean
        worst = min(metrics, key=lambda m: 1.0 if m.value is None else m.value)
        verb = records.accuracy_name
        plots = [
            Curve(
                title=f"Accuracy against {key.replace('_', ' ')}",
                caption=f"Bands are 95 % intervals. Clean: {percent(clean)}.",
                x=number_axis(key), y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
                series=series,
            )
            for key, series in curves.items()
        ]  # fmt: skip
        table = Table(
            title="By level", columns=["kind", "level", "accuracy", "median SNR (dB)", "n"],
            formats=["text", "text", "percent", "number", "count"], rows=rows,
        )  # fmt: skip
        finding = Finding(
            id=f"{self.meta.id}/levels",
            title=self.meta.title,
            statement=f"Over all levels {verb} is {percent(mean)} against {percent(clean)} on the clean {records.kind}"
            f" (n = {clean.n}); lowest at {line_name(worst.at)}, {level_name(worst.at)}: {percent(worst)}.",
            metric=chosen,
            evidence=[*plots, table, *picture_rows(records, "One image at the middle level of each kind")],
        )
        return Conclusion(metrics=[chosen, *[m for m in [*metrics, mean] if m is not chosen]], findings=[finding])

    def per_image(self, records: Records) -> Sequence[PerImage]:
        """Whether each image is right at each level, and at which share of the levels."""
        frame = records.frame
        correct = (frame["perturbed_prediction"] == frame["label"]).set_axis(frame["image_id"])
        each = [PerImage(name=self.metric, values=correct[_matches(frame, level)], at=level) for level in self.levels()]
        return [*each, PerImage(name="mean_" + self.metric, values=correct.groupby(level=0).mean())]

    def _lines(self) -> dict[str, list[Level]]:
        lines: dict[str, list[Level]] = {}
        for level in self.levels():
            lines.setdefault(line_name(level), []).append(level)
        return lines

    def _headline(self, metrics: Sequence[Metric]) -> Metric | None:
        if self.headline is None:
            return None
        return next((metric for metric in metrics if dict(metric.at) == dict(self.headline)), None)


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Parts below each other; what a part does not have is blank: "" among texts, False among flags, else NaN."""
    import numpy as np

    blank = {name: {"U": "", "b": False}.get(part[name].dtype.kind, np.nan) for part in parts for name in part}
    return {
        name: np.concatenate([
            part[name] if name in part else np.full(len(part["row"]), value) for part in parts
        ])
        for name, value in blank.items()
    }  # fmt: skip


def project(images: Pixels, clean: Pixels, norm: str, epsilon: float) -> Pixels:
    """The nearest images within the ``norm`` ball of radius ``epsilon`` around the clean ones.

    Clean and perturbed images lie in [0, 1], so shrinking towards the clean image stays there. L1 is scaled down, which
    is not the nearest point of the ball but within it. The ball of the norm "snr" has a radius of ``epsilon`` lengths
    of the image.
    """
    import numpy as np

    delta = (images - clean).reshape(len(images), -1)
    length = _length(delta, norm)
    radius = epsilon * _length(clean.reshape(len(clean), -1)) if norm == "snr" else np.full(len(images), epsilon)
    over = length > radius + _ROUNDING
    if not over.any():
        return images
    # the others stay as they are, to the last bit: an image must not depend on its neighbours in the batch
    result: Pixels = images.copy()
    if norm == "linf":
        size = np.float32(epsilon)
        result[over] = np.clip(images[over], clean[over] - size, clean[over] + size)
        return result
    scale = (radius[over] / length[over]).reshape(-1, *[1] * (images.ndim - 1))
    result[over] = clean[over] + (images[over] - clean[over]) * scale
    return result


def _checked(who: str, answer: Pixels, batch: Batch, level: Level) -> Pixels:
    """What an author returned, in [0, 1]; ValueError where it is no batch of images."""
    import numpy as np

    images = np.asarray(answer, dtype=np.float32)
    if images.shape != batch.pixels.shape:
        raise ValueError(f"{who} returned shape {images.shape}; expected {batch.pixels.shape}")
    if not np.isfinite(images).all():
        raise ValueError(f"{who} returned NaN or infinity at {dict(level)}")
    return images.clip(0, 1)


def _untouched(batch: Batch, norm: str) -> dict[str, NDArray[Any]]:
    """The rows at epsilon 0: every image as it is."""
    import numpy as np

    nothing = {name: np.zeros(len(batch)) for name in ("l1", "l2", "linf")}
    return (
        _answers(batch.probabilities, batch.labels)
        | nothing
        | {"snr_db": np.full(len(batch), np.inf), "norm": np.full(len(batch), norm), "epsilon": np.zeros(len(batch))}
        | {"row": np.arange(len(batch)), "success": np.zeros(len(batch), dtype=bool)}
    )


def _answers(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What the original said, (n, k), as columns."""
    import numpy as np

    return {
        "perturbed_prediction": probabilities.argmax(axis=1),
        "confidence": probabilities.max(axis=1),
        "confidence_label": probabilities[np.arange(len(labels)), labels],
    }


def _sizes(images: Pixels, clean: Pixels, signal: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """How large the perturbations are, as columns; ``signal`` (n,) is the Euclidean length of the clean images."""
    import numpy as np

    delta = (images - clean).reshape(len(images), -1)
    size = _length(delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr_db = 20 * np.log10(signal / size)
    return {"l1": _length(delta, "l1"), "l2": size, "linf": _length(delta, "linf"), "snr_db": snr_db}


def _pictures(clean: Pixels, perturbed: Pixels) -> dict[str, Pixels]:
    """Before, what was added (magnified, grey is nothing), after."""
    import numpy as np

    delta = perturbed - clean
    largest = np.abs(delta).max(axis=(1, 2, 3), keepdims=True)
    magnified = 0.5 + delta * (0.5 / np.where(largest > 0, largest, 1))
    return {"clean": clean, "perturbation": magnified.astype(np.float32), "perturbed": perturbed}


def _length(rows: NDArray[np.float32], norm: str = "l2") -> NDArray[np.float64]:
    """Length of each row in a norm, summed in double precision."""
    import numpy as np

    if norm == "linf":
        largest: NDArray[np.float64] = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
        return largest
    if norm == "l1":
        total: NDArray[np.float64] = np.abs(rows).sum(axis=1, dtype=np.float64)
        return total
    # not by torch, which were faster alone: its threads spin on when they are done and slow ONNX Runtime down
    wide = rows.astype(np.float64)
    length: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return length


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


def nearness(median: Metric, norm: str, kind: str = "images") -> str:
    """The median distance as a sentence."""
    if median.value is None:
        return f"No {kind[:-1]} was measured."
    if median.value == float("inf"):
        return f"More than half of the {kind} withstood the search (n = {median.n})."
    return f"The median {kind[:-1]} is at most {size(norm, median.value)} ({norm_name(norm)}) from an error."


def distance_curve(distance: NDArray[np.float64], norm: str, verb: str, of: str) -> Curve:
    """Accuracy against epsilon where the distance of every image is known (n,): exact at each of its points."""
    import numpy as np

    from auditor import stats

    broken = np.sort(distance[np.isfinite(distance) & (distance > 0)])
    # every distance where there are few, else forty of them
    shown = broken[np.unique(np.linspace(0, len(broken) - 1, 40).astype(int))] if len(broken) else broken
    points = []
    for epsilon in (0.0, *shown):
        value, low, high = stats.wilson(int((distance > epsilon + _ROUNDING).sum()), len(distance))
        points.append(Point(x=float(epsilon), y=value, low=low, high=high, n=len(distance)))
    return Curve(
        title=f"Accuracy against epsilon, {of}, {norm_name(norm)}",
        caption="An upper bound: a better attack can only lower the curve. The band is the 95 % interval.",
        x=epsilon_axis(norm),
        y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
        series=[Series(name=of, points=points)],
    )


def spread_over_classes(frame: pd.DataFrame) -> pd.DataFrame:
    """The first rows of a frame, each image once, taking turns among the classes."""
    first = frame.drop_duplicates("image_id")
    turns = first.assign(turn=first.groupby("label").cumcount())
    return turns.sort_values("turn", kind="stable").head(_SHOWN)


def epsilon_levels(
    linf: Sequence[float], l2: Sequence[float], l1: Sequence[float] = (), *, snrs: Sequence[float] = ()
) -> list[Level]:
    """Levels of an attack in up to three norms and by SNR in dB, weakest first."""
    by_norm = {"linf": linf, "l2": l2, "l1": l1, "snr": [10 ** (-snr / 20) for snr in snrs]}
    return [{"norm": norm, "epsilon": e} for norm, sizes in by_norm.items() for e in sorted(sizes)]


def picture_rows(
    records: Records, title: str, distances: Mapping[str, float] | None = None, note: str = ""
) -> list[Evidence]:
    """The exhibits of a perturbation as a grid; only what still succeeds from the stored 8-bit file is called so.

    ``distances`` by image id stand for the epsilon where the level of the exhibit has none.
    """
    rows: list[GridRow] = []
    dropped = 0
    for _, pictures in records.exhibits.groupby("exhibit", sort=True):
        by_name = {row.picture: row for row in pictures.itertuples()}
        clean, changed = by_name["clean"], by_name["perturbed"]
        level: Level = json.loads(changed.at)
        if distances is not None:
            level = {**level, "epsilon": distances[changed.image_id]}
        # an attack is shown for what it broke; what 8-bit rounding repaired is no evidence
        if "norm" in level and not changed.success:
            dropped += 1
            continue
        label = records.class_name(clean.label)
        rows.append(
            GridRow(
                label=f"{label}; {line_name(level)}, {level_name(level)}",
                cells=[
                    Picture(file=clean.file, caption=records.said(clean), alt=f"image of class {label}"),
                    Picture(file=by_name["perturbation"].file, caption="magnified; grey is no change",
                            alt="what was added, magnified"),
                    Picture(file=changed.file, caption=records.said(changed), alt=f"perturbed, class {label}"),
                ],
            )
        )  # fmt: skip
    caption = "Label in front; under each picture what the deployed model says to the stored 8-bit file." + note
    if dropped:
        caption += f" {dropped} more no longer succeeded after rounding to 8 bit and are not shown."
    grid = ImageGrid(title=title, columns=["clean", "perturbation", "perturbed"], rows=rows, caption=caption)
    return [grid] if rows else []


def number(level: Level) -> tuple[str, float]:
    """The one number of a level, with its name."""
    return next((key, float(value)) for key, value in level.items() if isinstance(value, int | float))


def line_name(level: Level) -> str:
    """The texts of a level, which name its line in a curve."""
    texts = [norm_name(str(v)) if k == "norm" else str(v) for k, v in level.items() if isinstance(v, str)]
    return " ".join(texts)


def level_name(level: Level) -> str:
    """The number of a level as text with its unit."""
    key, value = number(level)
    if key == "snr":
        return f"SNR {value:g} dB"
    if key == "epsilon":
        return f"epsilon {size(str(level.get('norm', 'linf')), value)}"
    if key == "sigma":
        return f"sigma {n_of_255(value)}"
    return f"{key.replace('_', ' ')} {value:g}"


def size(norm: str, epsilon: float) -> str:
    """An epsilon as text: n/255 for L-infinity, a plain number for the others."""
    return n_of_255(epsilon) if norm == "linf" else f"{epsilon:.3g}"


def epsilon_axis(norm: str) -> Axis:
    """The x axis of an accuracy-versus-epsilon curve."""
    return Axis(
        label=f"epsilon ({norm_name(norm)})", unit=norm, scale="symlog" if norm == "linf" else "linear",
        format="n/255" if norm == "linf" else "number", low=0,
    )  # fmt: skip


def number_axis(key: str) -> Axis:
    """The x axis for a level's number."""
    if key == "snr":
        return Axis(label="signal-to-noise ratio (dB)", unit="dB")
    if key in {"epsilon", "sigma"}:
        return Axis(label=key, unit="linf", format="n/255", low=0)
    return Axis(label=key.replace("_", " "))


def _accuracy_at(frame: pd.DataFrame, epsilon: float) -> float | None:
    """Share of all images that are still right at exactly this epsilon."""
    clean = frame[frame["epsilon"] == 0]
    here = frame[frame["epsilon"] == epsilon]
    right = (here["perturbed_prediction"] == here["label"]).sum()
    return float(right) / len(clean) if len(clean) else None


def _unconfirmed(frame: pd.DataFrame, at: Level) -> list[Metric]:
    """The share of the copy's wrong answers at a level that the original does not give; of attacks that record them."""
    from auditor import stats

    if "copy_broken" not in frame.columns:
        return []
    # a batch in which nothing was attacked has no such column, and blanks where others have
    claimed = frame[frame["copy_broken"].eq(True) & (frame["epsilon"] == at["epsilon"])]
    return [stats.proportion("unconfirmed", ~claimed["success"].astype(bool), at=at)]


def _point(metric: Metric) -> Point:
    return Point(x=number(metric.at)[1], y=metric.value, low=metric.low, high=metric.high, n=metric.n)


def _matches(frame: pd.DataFrame, level: Level) -> NDArray[np.bool_]:
    import numpy as np

    here = np.ones(len(frame), dtype=bool)
    for key, value in level.items():
        # settings that come back from audit.json have six digits
        same = frame[key] == value if isinstance(value, str) else np.isclose(frame[key], value, rtol=1e-5, atol=0)
        here &= np.asarray(same)
    return here
