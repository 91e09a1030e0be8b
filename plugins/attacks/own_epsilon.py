"""Robustness at each image's own epsilon, for data whose images have different radii.

The data states an L-infinity epsilon for every image (manifest column ``epsilon``, array ``epsilons`` of an .npz file),
as the properties of the verification competition VNN-COMP do (Brix et al. 2023, arXiv:2301.05815). Projected gradient
descent attacks each image within it. The result also counts what any other attack of the run found within it, and the
certificates of ``metrics.certified``, which tests these epsilons, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import (
    Conclusion,
    Finding,
    Meta,
    Metric,
    MetricSpec,
    NotApplicable,
    Probe,
    Records,
    Table,
    ThreatModel,
)
from auditor.algorithms.norms import image_norms
from auditor.findings.formatting import percent
from auditor.plugins.attacks.pgd import Pgd
from auditor.probes.distances import attack_records, smallest
from auditor.probes.levels import size_format
from auditor.probes.perturbation import ROUNDING

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Batch, Classifier, Columns, Randomness

_MAX_ROWS = 40
"""Images in the table; the records hold all of them."""


@dataclass(frozen=True, kw_only=True)
class OwnEpsilon(Probe):
    """Attack every image within the epsilon that the data states for it."""

    meta = Meta(
        id="attacks.own-epsilon",
        title="Robustness at each image's own epsilon",
        area="attacks",
        why="A requirement may differ from image to image. Each is proven, refuted or open.",
        references=("https://arxiv.org/abs/2301.05815", "https://arxiv.org/abs/1706.06083"),
        needs=frozenset({"gradients", "epsilons"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="own_robust_accuracy", label="Robust accuracy at each image's own epsilon", better="higher"),
        MetricSpec(
            name="own_certified_accuracy",
            label="Certified accuracy at each image's own epsilon",
            better="higher",
            bound="lower",
        ),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*", "metrics.certified")
    iterations: int = 50
    restarts: int = 5

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if min(self.iterations, self.restarts) < 1:
            raise ValueError("iterations and restarts must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Return many gradient steps within the epsilon of the image."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm="linf",
            budget=f"the epsilon that the data states for each image; {self.iterations} steps, {self.restarts} starts",
        )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image: its epsilon, and the distance at which the deployed model errs, else infinity."""
        import numpy as np

        if batch.epsilons is None:
            raise NotApplicable("requires an epsilon for each image (column epsilon); the data has none")
        attack = Pgd(iterations=self.iterations, restarts=self.restarts)
        distance = np.where(batch.predictions == batch.labels, np.inf, 0.0)
        for epsilon in np.unique(batch.epsilons):
            rows = np.flatnonzero((batch.epsilons == epsilon) & np.isinf(distance))
            if len(rows):
                victims = batch.take(rows)
                images = attack.perturbed(classifier, victims, rng, {"norm": "linf", "epsilon": float(epsilon)})
                wrong = classifier.predict(images).argmax(axis=1) != victims.labels
                distance[rows] = np.where(wrong, image_norms(images - victims.pixels, "linf"), np.inf)
        return {"own_epsilon": batch.epsilons, "distance": distance}

    def conclude(self, records: Records) -> Conclusion:
        """Count the images that are proven, refuted and open, and show each."""
        from auditor import statistics

        if not len(records.frame):
            return Conclusion(inconclusive="no image was measured")
        rows = _judged(records)
        units = rows.get("unit")
        robust = statistics.proportion("own_robust_accuracy", ~rows["refuted"], units=units)
        known = rows[rows["radius"].notna()]
        certified = statistics.proportion("own_certified_accuracy", known["proven"], units=known.get("unit"))
        n_proven, n_refuted = int(rows["proven"].sum()), int(rows["refuted"].sum())
        crossed = rows[rows["proven"] & rows["refuted"]]
        finding = Finding(
            id=f"{self.meta.id}/images",
            title="Robustness within the epsilon of each image",
            statement=_error(crossed)
            + f"Of {len(rows)} {records.kind}, {n_proven} are proven robust within their own epsilon, {n_refuted} are"
            f" misclassified within it, and {len(rows) - n_proven - n_refuted + len(crossed)} are open."
            f" {records.accuracy_name.capitalize()} under attack is {percent(robust)}.",
            metric=robust,
            evidence=[_table(rows)],
        )
        metrics: list[Metric] = [robust, *([certified] if len(known) else [])]
        return Conclusion(metrics=metrics, findings=[finding])


def _error(crossed: pd.DataFrame) -> str:
    if not len(crossed):
        return ""
    return f"AUDIT ERROR: {len(crossed)} are both proven and misclassified ({', '.join(crossed['image_id'][:5])}). "


def _judged(records: Records) -> pd.DataFrame:
    """Return the rows with the nearest error of any attack, the certified radius, and what follows."""
    import numpy as np
    import pandas as pd

    rows = records.frame
    found = smallest(attack_records(records.others), "linf")["distance"].reindex(rows["image_id"]).fillna(np.inf)
    nearest = np.minimum(rows["distance"].to_numpy(), found.to_numpy(dtype=np.float64))
    radius = pd.Series(np.nan, index=rows.index)
    certificates = records.others.get("metrics.certified")
    if certificates is not None and len(certificates):
        linf = certificates[certificates["norm"] == "linf"].set_index("image_id")["radius"]
        radius = linf.reindex(rows["image_id"]).set_axis(rows.index)
    own = rows["own_epsilon"]
    return rows.assign(
        nearest=nearest, radius=radius, refuted=nearest <= own + ROUNDING, proven=(radius >= own) & radius.notna()
    )


def _table(rows: pd.DataFrame) -> Table:
    """Tabulate the images, refuted ones first."""
    import numpy as np

    shown = rows.sort_values(["refuted", "proven"], ascending=[False, True], kind="stable").head(_MAX_ROWS)
    unit = size_format("linf")
    return Table(
        title="Result by image",
        columns=["image", "own epsilon", "nearest error", "certified radius", "result"],
        formats=["text", unit, unit, unit, "text"],
        rows=[
            [
                str(row.image_id),
                float(row.own_epsilon),
                float(row.nearest) if np.isfinite(row.nearest) else None,
                float(row.radius) if np.isfinite(row.radius) else None,
                "misclassified" if row.refuted else "proven" if row.proven else "open",
            ]
            for row in shown.itertuples()
        ],
        caption=f"{len(shown)} of {len(rows)} images. A dash: no error found, or no certificate.",
    )
