"""Base class of minimum-norm attacks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.findings.evidence import Axis, Curve, Evidence, Point, Series, Table
from auditor.findings.finding import Conclusion, Finding
from auditor.findings.formatting import norm_name
from auditor.findings.metric import Metric, percent
from auditor.probes.base import Columns, Example, Probe, Randomness, Records

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
from auditor.probes.attack import breaking_epsilon
from auditor.probes.levels import Level, epsilon_axis, number, size
from auditor.probes.perturbation import (
    ROUNDING,
    answer_columns,
    check_images,
    clean_rows,
    example_pictures,
    join_columns,
    picture_rows,
    size_columns,
    spread_over_classes,
    vector_length,
)

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
        far = vector_length((images - batch.pixels).reshape(len(batch), -1), norm) > epsilon + ROUNDING
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

        there = check_images(
            f"{self.meta.id}: search", self.search(classifier, batch, rng, norm), batch, {"norm": norm}
        )
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
        ``surrogate_misclassified`` marks images for which the search itself found something; ``exact`` marks
        distances, as opposed to budgets.
        """
        import numpy as np

        attacked = np.flatnonzero(batch.predictions == batch.labels)
        victims = batch.take(attacked)
        parts: list[dict[str, NDArray[Any]]] = []
        for norm in self.norms:
            nothing, exact = np.zeros(len(batch), dtype=bool), np.ones(len(batch), dtype=bool)
            parts.append(clean_rows(batch, norm) | {"surrogate_misclassified": nothing, "exact": exact})
            if not len(victims):
                continue
            images, answers, found = self.nearest(classifier, victims, rng, norm)
            columns = answer_columns(answers, victims.labels)
            success = columns["perturbed_prediction"] != victims.labels
            sizes = size_columns(images, victims.pixels, vector_length(victims.pixels.reshape(len(victims), -1)))
            columns |= {name: np.where(success, values, np.nan) for name, values in sizes.items()}
            parts.append(
                columns
                | {"norm": np.full(len(victims), norm), "epsilon": columns[norm], "surrogate_misclassified": found}
                | {"row": attacked, "success": success, "exact": exact[attacked]}
            )
        return join_columns(parts)

    def examples(self, records: Records) -> Sequence[Example]:
        """The images that are nearest to an error in the headline's norm, from as many classes as possible."""
        frame = records.frame
        norm = self._shown()
        broken = frame[(frame["norm"] == norm) & frame["success"]]
        nearest = spread_over_classes(broken.sort_values("epsilon", kind="stable"))
        return [Example(image_id=image, at={"norm": norm}) for image in nearest["image_id"]]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """The images, what was added, and the results: so far beyond the border that 8 bits keep the error."""
        import numpy as np

        images, _, _ = self.nearest(classifier, batch, rng, str(example.at["norm"]))
        delta = images - batch.pixels
        left = np.arange(len(batch))
        for scale in _DRAWN:
            inside = (batch.pixels[left] + np.float32(scale) * delta[left]).clip(0, 1)
            # float32 already; the stubs of NumPy 2.5 do not know it
            tried = (np.rint(inside * 255) / np.float32(255)).astype(np.float32, copy=False)
            wrong = classifier.predict(tried).argmax(axis=1) != batch.labels[left]
            images[left[wrong]] = tried[wrong]
            left = left[~wrong]
            if not len(left):
                break
        return example_pictures(batch.pixels, images)

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
        from auditor import statistics

        frame, at = records.frame[records.frame["norm"] == norm], {"norm": norm}
        searched = frame[frame["epsilon"] != 0]
        broken, found = searched[searched["success"]], searched[searched["surrogate_misclassified"]]
        missed = len(searched) - len(found)
        distance = breaking_epsilon(frame)
        robust = [
            statistics.proportion("robust_accuracy", distance > epsilon, at={"norm": norm, "epsilon": epsilon})
            for epsilon in (0.0, *_USUAL[norm])
        ]
        median = statistics.median("distance_median", distance, unit=norm, at=at)
        # in other norms than the headline's, the usual epsilon that says most about this model
        wanted = number(self.headline)[1] if norm == self.headline["norm"] else median.value or 0.0
        chosen = min(robust[1:], key=lambda metric: abs(number(metric.at)[1] - min(wanted, _USUAL[norm][-1])))
        unconfirmed = statistics.proportion("unconfirmed", ~found["success"], at=at)
        metrics = [
            median, statistics.median("snr_median", broken["snr_db"], unit="dB", at=at), unconfirmed,
            statistics.proportion("attack_success_rate", searched["success"], at=at),
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

    from auditor import statistics

    broken = np.sort(distance[np.isfinite(distance) & (distance > 0)])
    # every distance where there are few, else forty of them
    shown = broken[np.unique(np.linspace(0, len(broken) - 1, 40).astype(int))] if len(broken) else broken
    points = []
    for epsilon in (0.0, *shown):
        value, low, high = statistics.wilson(int((distance > epsilon + ROUNDING).sum()), len(distance))
        points.append(Point(x=float(epsilon), y=value, low=low, high=high, n=len(distance)))
    return Curve(
        title=f"Accuracy against epsilon, {of}, {norm_name(norm)}",
        caption="An upper bound: a better attack can only lower the curve. The band is the 95 % interval.",
        x=epsilon_axis(norm),
        y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
        series=[Series(name=of, points=points)],
    )
