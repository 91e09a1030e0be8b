"""Certified radius: no perturbation up to this size changes the answer, proven by linear bound propagation.

A lower bound of the true distance to the nearest error, of the audited model itself, for the images it was computed on
(CROWN, Zhang et al. 2018, arXiv:1811.00866). It is seldom large: a network that was not trained to be certified has
bounds that are far from tight, so a small radius says little about the model, a large one much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, Point, Probe, Records, Series, Table, hookimpl
from auditor.findings.evidence import Evidence
from auditor.findings.formatting import norm_name
from auditor.findings.metric import percent
from auditor.probes.levels import epsilon_axis, size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_SMALLEST, _LARGEST = -14, 2
"""Radii are looked for between 2^-14 and 2^2."""

_SLACK = 1e-5
"""A margin must be proven larger than this part of the largest logit: what the deployed model's float32 rounds off."""


@dataclass(frozen=True, kw_only=True)
class Certified(Probe):
    """The largest radius, found by bisection, within which the label is proven to win."""

    meta = Meta(
        id="metrics.certified",
        title="Certified radius",
        area="metrics",
        why="No attack, known or unknown, can change these answers within the radius: the one kind of number that a"
        " better attack cannot lower.",
        references=("https://arxiv.org/abs/1811.00866", "https://arxiv.org/abs/2002.12920"),
        needs=frozenset({"gradients"}),
    )
    norms: tuple[str, ...] = ("linf", "l2")
    """Some of "linf", "l2"."""
    epsilons: tuple[float, ...] = (0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
    """L-infinity sizes whose certified accuracy is reported."""
    l2_epsilons: tuple[float, ...] = (0.01, 0.03, 0.1, 0.25)
    iterations: int = 10
    """Steps of the bisection over 16 octaves: ten find the radius to 1 %."""
    refine: int = 256
    """Activations with at most so many neurons are bounded by linear bounds, larger ones by interval arithmetic:
    tighter and slower the larger this is."""

    def __post_init__(self) -> None:
        if not set(self.norms) <= {"linf", "l2"} or not self.norms:
            raise ValueError(f"norms {list(self.norms)}: expected some of linf, l2")
        if self.iterations < 1 or self.refine < 0:
            raise ValueError("expected at least one iteration and refine not below 0")
        if min([*self.epsilons, *self.l2_epsilons], default=1) <= 0:
            raise ValueError("every epsilon must be above 0")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image and norm. Raises NotApplicable with the operator that cannot be bounded."""
        import numpy as np

        del rng
        return {
            "row": np.tile(np.arange(len(batch)), len(self.norms)),
            "norm": np.repeat(self.norms, len(batch)),
            "radius": np.concatenate([self._radii(classifier, batch, norm) for norm in self.norms]),
        }

    def _radii(self, classifier: Classifier, batch: Batch, norm: str) -> NDArray[np.float64]:
        """The largest certified radius of each image, (n,); 0 for one that is wrong or not certified at all."""
        import numpy as np
        import torch

        from auditor.algorithms.bound_propagation import Bounder

        bounder = Bounder(classifier, refine=self.refine)
        right = np.flatnonzero(batch.predictions == batch.labels)
        radii = np.zeros(len(batch))
        pixels, labels = torch.from_numpy(batch.pixels[right]), torch.from_numpy(batch.labels[right])
        # also where there is nothing to certify: whether the graph can be followed must not depend on the images
        logits = bounder.logits(torch.from_numpy(batch.pixels))[torch.from_numpy(right)].cpu()
        if not len(right):
            return radii
        slack = _SLACK * logits.abs().amax(1).clamp_min(1)
        low = torch.full((len(right),), float(_SMALLEST), dtype=torch.float64)
        high = torch.full((len(right),), float(_LARGEST), dtype=torch.float64)
        certified = torch.zeros(len(right), dtype=torch.float64)
        for _ in range(self.iterations):
            middle = (low + high) / 2
            proven = bounder.margins(pixels, labels, 2**middle, norm) > slack
            certified = torch.where(proven, 2**middle, certified)
            low, high = torch.where(proven, middle, low), torch.where(proven, high, middle)
        radii[right] = certified.numpy()
        return radii

    def conclude(self, records: Records) -> Conclusion:
        """Certified accuracy by epsilon and the median radius, for each norm."""
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for norm in self.norms:
            rows = records.frame[records.frame["norm"] == norm] if len(records.frame) else records.frame
            if len(rows):
                found, finding = self._conclude_norm(rows["radius"].to_numpy(), norm, records.accuracy_name)
                metrics += found
                findings.append(finding)
        return Conclusion(metrics=metrics, findings=findings, inconclusive="" if findings else "no image was measured")

    def _conclude_norm(self, radius: Any, norm: str, verb: str) -> tuple[list[Metric], Finding]:
        import numpy as np

        from auditor import statistics

        epsilons = sorted(self.epsilons if norm == "linf" else self.l2_epsilons)
        accuracy = [
            statistics.proportion("certified_accuracy", radius >= e, at={"norm": norm, "epsilon": e}) for e in epsilons
        ]
        median = statistics.median("certified_radius_median", radius, unit=norm, at={"norm": norm})
        first = (
            accuracy[0]
            if accuracy
            else statistics.proportion("certified_accuracy", radius > 0, at={"norm": norm, "epsilon": 0})
        )
        points = [
            Point(x=float(e), y=value, low=low, high=high, n=len(radius))
            for e in np.unique(np.quantile(radius, np.linspace(0, 1, 30)))
            for value, low, high in [statistics.wilson(int((radius >= e).sum()), len(radius))]
        ]
        statement = (
            f"Of {len(radius)} images {percent(first)} are proven right at every perturbation up to"
            f" {size(norm, float(first.at['epsilon'] or 0))} ({norm_name(norm)}); the median image up to"
            f" {size(norm, float(median.value or 0))}."
        )
        evidence: list[Evidence] = [
            Curve(
                title=f"Certified {verb} against epsilon, {norm_name(norm)}",
                caption="A lower bound: no attack can get below it. Bands are 95 % intervals over images.",
                x=epsilon_axis(norm),
                y=Axis(label=f"certified {verb}", format="percent", low=0, high=1, unit="fraction"),
                series=[Series(name="certified", points=points)],
            ),
            Table(
                title=f"By epsilon, {norm_name(norm)}", columns=["epsilon", f"certified {verb}", "n"],
                formats=["n/255" if norm == "linf" else "number", "percent", "count"],
                rows=[[m.at["epsilon"], m.cell(), m.n] for m in accuracy],
            ),
        ]  # fmt: skip
        finding = Finding(
            id=f"{self.meta.id}/{norm}", title=f"Certified radius, {norm_name(norm)}", statement=statement,
            metric=first, evidence=evidence,
        )  # fmt: skip
        return [*accuracy, median], finding


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Certified]
