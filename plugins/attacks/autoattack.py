"""AutoAttack: four attacks without parameters to tune, each run on the images that are still classified correctly.

Croce and Hein 2020, arXiv:2003.01690, section 5, standard version: APGD on the cross-entropy; targeted APGD on the
difference of logits ratio and targeted FAB, against the classes next in score; Square. Cross-entropy is replaced by a
loss with the same direction and order that does not saturate. In L1, APGD is that of Croce and Hein 2021,
arXiv:2103.01208. ART's class of this name is a different ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from auditor import (
    Attack,
    Conclusion,
    Level,
    Meta,
    PerturbationResult,
    Records,
    Table,
    Text,
    ThreatModel,
)
from auditor.algorithms.balls import Ball
from auditor.algorithms.best_points import BestPoints
from auditor.plugins.attacks._autoattack_components import COMPONENTS, Components, Effort

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Batch, Classifier, Evidence, Randomness
    from auditor.findings.evidence import Cell

_NORMS = {"linf": "L-inf", "l2": "L2", "l1": "L1"}
_STANDARD = Effort(iterations=100, targets=9, queries=5000)


@dataclass(frozen=True, kw_only=True)
class Autoattack(Attack):
    """The ensemble by which the literature compares robust models."""

    meta = Meta(
        id="attacks.autoattack",
        title="AutoAttack",
        area="attacks",
        why="The standard for comparing robust models: gradient attacks on two losses, one that minimises the distance"
        " and one without gradients. Masking one of them does not help.",
        references=(
            "https://arxiv.org/abs/2003.01690",
            "https://arxiv.org/abs/1907.02044",
            "https://arxiv.org/abs/1912.00049",
            "https://arxiv.org/abs/2103.01208",
        ),
        needs=frozenset({"gradients"}),
        version=3,
    )
    reports_surrogate: ClassVar[bool] = True
    epsilon: float = 8 / 255
    """Size, in pixels from 0 to 1."""
    norm: str = "linf"
    """"linf", "l2" or "l1"."""
    iterations: int = 100
    """Iterations of APGD and of FAB, for each target; 100 in the standard version."""
    targets: int = 9
    """Target classes of the targeted attacks, best score first; 9 in the standard version."""
    queries: int = 5000
    """Queries of Square; 5,000 in the standard version."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.norm not in _NORMS:
            raise ValueError(f"norm must be {', '.join(map(repr, _NORMS))}; got {self.norm!r}")
        if min(self._effort()) < 1:
            raise ValueError("iterations, targets and queries must be at least 1")

    def _effort(self) -> Effort:
        return Effort(self.iterations, self.targets, self.queries)

    def threat_model(self) -> ThreatModel:
        """Return full knowledge of the model, and the budgets of all four attacks."""
        size = f"{self.epsilon * 255:g}/255" if self.norm == "linf" else f"{self.epsilon:g}"
        version = "the standard version"
        if self._effort() != _STANDARD:
            version = f"less than {version}: {', '.join(map(str, _STANDARD))}"
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm=self.norm,
            budget=f"epsilon {size} in {_NORMS[self.norm]}; APGD-CE, APGD-T, FAB-T with {self.iterations} iterations"
            f" and up to {self.targets} targets, Square with {self.queries} queries; 1 start each ({version})",
        )

    def levels(self) -> Sequence[Level]:
        """Return the one epsilon."""
        return [{"norm": self.norm, "epsilon": self.epsilon}]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        """Return the point with the largest margin of each image, and the component that found it."""
        import numpy as np
        import torch

        clean = classifier.tensor(batch.pixels)
        components = Components(
            classifier,
            self._effort(),
            clean=clean,
            labels=torch.from_numpy(batch.labels).to(clean.device),
            ball=Ball(str(level["norm"]), float(level["epsilon"])),
            draw=lambda row, name: rng(batch.ids[row], name),
        )
        best = BestPoints(clean)
        component = np.full(len(batch), "", dtype=f"U{max(map(len, COMPONENTS))}")
        for name, rows in components.run(best):
            component[rows.cpu().numpy()] = name
        return PerturbationResult(
            images=best.images.cpu().numpy(),
            surrogate_misclassified=best.broken.cpu().numpy(),
            component=component,
        )

    def conclude(self, records: Records) -> Conclusion:
        """Conclude as every attack, with the successes of each component."""
        conclusion = super().conclude(records)
        evidence = [_component_table(records.frame), *_few_classes_text(len(records.classes))]
        first, *others = conclusion.findings
        return replace(conclusion, findings=[replace(first, evidence=[*evidence, *first.evidence]), *others])


def _component_table(frame: pd.DataFrame) -> Table:
    attacked = frame[frame["epsilon"] > 0]
    left = len(attacked)
    rows: list[Sequence[Cell]] = []
    for name in COMPONENTS:
        successes = attacked[attacked["component"] == name]
        rows.append([name, left, len(successes), int(successes["success"].sum())])
        left -= len(successes)
    return Table(
        title="Successes by component",
        columns=["component, in order", "images attacked", "surrogate misclassified", "deployed model misclassified"],
        formats=["text", "count", "count", "count"],
        rows=rows,
        caption="Each component attacks only the images on which the earlier ones failed on the differentiable copy.",
    )


def _few_classes_text(classes: int) -> list[Evidence]:
    """Explain the differences from the published ensemble below four classes."""
    if classes >= 4:
        return []
    replacement = (
        "the denominator of the untargeted ratio, the best less the third logit, replaces its denominator"
        if classes == 3
        else "the difference of the two logits is used without a denominator"
    )
    text = (
        f"The targeted difference of logits ratio requires four classes and the model has {classes}: {replacement}."
        f" The targeted attacks use all {classes - 1} other classes."
    )
    return [Text(title="Fewer than four classes", text=text)]
