"""AutoAttack: four attacks without parameters to tune, one after the other, each on what the others left.

Croce and Hein 2020, arXiv:2003.01690, section 5, standard version: APGD on the cross-entropy; targeted APGD on the
difference of logits ratio and targeted FAB, against the classes next in score; Square. For cross-entropy stands what
has its direction and order and does not saturate. In L1 APGD is that of Croce and Hein 2021, arXiv:2103.01208. ART's
class of this name is another ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import (
    Attack,
    Conclusion,
    Level,
    Meta,
    PerturbationResult,
    Probe,
    Records,
    Table,
    Text,
    ThreatModel,
    hookimpl,
)
from auditor.algorithms.apgd import apgd, sparse_apgd
from auditor.algorithms.balls import Ball
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.fab import fab
from auditor.algorithms.losses import margin, soft_margin, targeted_dlr
from auditor.algorithms.square import square

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from auditor.algorithms.balls import Draw
    from auditor.data.dataset import Batch
    from auditor.findings.evidence import Cell, Evidence
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness

_COMPONENTS = ("APGD-CE", "APGD-T", "FAB-T", "Square")
_NORMS = {"linf": "L-inf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True)
class Autoattack(Attack):
    """The ensemble by which robustness is compared in the literature."""

    meta = Meta(
        id="attacks.autoattack",
        title="AutoAttack",
        area="attacks",
        why="The standard by which the field compares robust models: gradient attacks on two losses, one that minimises"
        " the distance and one without gradients, so that masking one of them does not help.",
        references=(
            "https://arxiv.org/abs/2003.01690",
            "https://arxiv.org/abs/1907.02044",
            "https://arxiv.org/abs/1912.00049",
            "https://arxiv.org/abs/2103.01208",
        ),
        needs=frozenset({"gradients"}),
        version=2,
    )
    epsilon: float = 8 / 255
    """The size, in pixels from 0 to 1."""
    norm: str = "linf"
    """"linf", "l2" or "l1"."""
    iterations: int = 100
    """Of APGD and of FAB, for each target; 100 in the standard version."""
    targets: int = 9
    """Classes that the targeted attacks aim at, best score first; 9 in the standard version."""
    queries: int = 5000
    """Of Square; 5,000 in the standard version."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        if self.norm not in _NORMS:
            raise ValueError(f"norm must be {', '.join(map(repr, _NORMS))}; got {self.norm!r}")
        if min(self.iterations, self.targets, self.queries) < 1:
            raise ValueError("iterations, targets and queries must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Everything that is known of the model, and the budgets of all four."""
        size = (
            f"{self.epsilon * 255:g}/255" if self.norm == "linf" else f"{self.epsilon:g}"
        ) + f" in {_NORMS[self.norm]}"
        standard = (self.iterations, self.targets, self.queries) == (100, 9, 5000)
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm=self.norm,
            budget=f"epsilon {size}; APGD-CE, APGD-T, FAB-T with {self.iterations} iterations and up to"
            f" {self.targets} targets, Square with {self.queries} queries; 1 start each"
            f" ({'the standard version' if standard else 'less than the standard version: 100, 9, 5000'})",
        )

    def levels(self) -> Sequence[Level]:
        """The one epsilon."""
        return [{"norm": self.norm, "epsilon": self.epsilon}]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        """Per image the point that is furthest on the wrong side, and which component found it."""
        import numpy as np
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        ball = Ball(str(level["norm"]), float(level["epsilon"]))
        hits = BestPoints(clean)
        component = np.full(len(batch), "", dtype=f"U{max(map(len, _COMPONENTS))}")
        search = _Search(
            self,
            classifier,
            clean=clean,
            labels=labels,
            ball=ball,
            draw=lambda row, name: rng(batch.ids[row], name),
        )
        for name, find in (
            ("APGD-CE", search.on_cross_entropy),
            ("APGD-T", search.on_ratio),
            ("FAB-T", search.on_distance),
            ("Square", search.on_scores),
        ):
            done = 0
            while done < (self.targets if name.endswith("-T") else 1) and len(rows := (~hits.broken).nonzero()[:, 0]):
                # as many targets side by side as one pass holds; what each finds does not depend on it
                attempts = search.targets(done, len(rows)) if name.endswith("-T") else 1
                if not attempts:
                    break
                found = find(rows, done, attempts)
                hits.see(rows, found.images, found.margin)
                component[rows[found.broken].cpu().numpy()] = name
                done += attempts
        return PerturbationResult(
            images=hits.images.cpu().numpy(),
            columns={"component": component, "surrogate_misclassified": hits.broken.cpu().numpy()},
        )

    def conclude(self, records: Records) -> Conclusion:
        """As every attack, and which component broke how many."""
        conclusion = super().conclude(records)
        evidence = [_by_component(records.frame), *_few_classes(len(records.classes))]
        first, *others = conclusion.findings
        more = replace(first, evidence=[*evidence, *first.evidence])
        return replace(conclusion, findings=[more, *others])


class _Search:
    """The four components on a batch, each as a function of the rows that are left; all in the order of the paper."""

    def __init__(
        self,
        probe: Autoattack,
        classifier: Classifier,
        *,
        clean: torch.Tensor,
        labels: torch.Tensor,
        ball: Ball,
        draw: Draw,
    ) -> None:
        import torch

        self.probe, self.classifier, self.ball, self.draw = probe, classifier, ball, draw
        self.clean, self.labels = clean, labels
        self.apgd = sparse_apgd if ball.norm == "l1" else apgd
        with torch.no_grad():
            others = classifier.logits(clean).scatter(1, labels[:, None], -torch.inf)
        ranked = others.argsort(dim=1, descending=True)
        self.ranked = ranked[:, : min(probe.targets, classifier.n_classes - 1)]

    def targets(self, done: int, rows: int) -> int:
        """How many of the classes that are left to aim at fit into one pass."""
        return min(self.ranked.shape[1] - done, max(1, self.classifier.batch_size // rows))

    def on_cross_entropy(self, rows: torch.Tensor, done: int, attempts: int) -> BestPoints:
        """APGD on the cross-entropy."""
        y = self.labels[rows]
        return self.apgd(
            self.classifier.logits, self.clean[rows], y, ball=self.ball, start=self._start(rows, "APGD-CE"),
            iterations=self.probe.iterations, objective=lambda z, some: soft_margin(z, y[some]),
        )  # fmt: skip

    def on_ratio(self, rows: torch.Tensor, done: int, attempts: int) -> BestPoints:
        """APGD on the ratio, for ``attempts`` targets from number ``done`` on."""
        import torch

        y, t = self._aims(rows, done, attempts)
        start = torch.cat([self._start(rows, f"APGD-T {k}") for k in range(done, done + attempts)])
        return self.apgd(
            self.classifier.logits, self._repeated(rows, attempts), y, ball=self.ball, start=start,
            iterations=self.probe.iterations, objective=lambda z, some: targeted_dlr(z, y[some], t[some]),
            attempts=attempts,
        ).first()  # fmt: skip

    def on_distance(self, rows: torch.Tensor, done: int, attempts: int) -> BestPoints:
        """FAB, for ``attempts`` targets from number ``done`` on."""
        y, t = self._aims(rows, done, attempts)
        return fab(
            self.classifier.logits, self._repeated(rows, attempts), y, t, ball=self.ball,
            iterations=self.probe.iterations, attempts=attempts,
        ).first()  # fmt: skip

    def on_scores(self, rows: torch.Tensor, done: int, attempts: int) -> BestPoints:
        """Square."""
        import torch

        y = self.labels[rows]

        def margins(images: torch.Tensor, some: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return margin(self.classifier.logits(images), y[some])

        names = rows.tolist()
        return square(
            margins, self.clean[rows], self.ball, queries=self.probe.queries,
            draw=lambda row, purpose: self.draw(names[row], purpose), ahead=self.classifier.batch_size,
        )  # fmt: skip

    def _aims(self, rows: torch.Tensor, done: int, attempts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels and targets, (attempts * n,)."""
        return self.labels[rows].repeat(attempts), self.ranked[rows, done : done + attempts].T.flatten()

    def _repeated(self, rows: torch.Tensor, attempts: int) -> torch.Tensor:
        return self.clean[rows].repeat(attempts, 1, 1, 1)

    def _start(self, rows: torch.Tensor, purpose: str) -> torch.Tensor:
        import numpy as np
        import torch

        shape = self.clean.shape[1:]
        noise = [self.draw(row, purpose).uniform(-1, 1, shape).astype(np.float32) for row in rows.tolist()]
        return self.ball.surface(torch.from_numpy(np.stack(noise)).to(self.clean.device))


def _by_component(frame: pd.DataFrame) -> Table:
    attacked = frame[frame["epsilon"] > 0]
    left = len(attacked)
    rows: list[Sequence[Cell]] = []
    for name in _COMPONENTS:
        its = attacked[attacked["component"] == name] if left else attacked
        rows.append([name, left, len(its), int(its["success"].sum())])
        left -= len(its)
    return Table(
        title="Which component broke how many",
        columns=["component, in this order", "images left to it", "broken on the copy", "confirmed by the original"],
        formats=["text", "count", "count", "count"],
        rows=rows,
        caption="An image that one component broke on the copy is not attacked by those after it.",
    )


def _few_classes(classes: int) -> list[Evidence]:
    """What below four classes differs from the published ensemble."""
    if classes >= 4:
        return []
    instead = (
        "the denominator of the untargeted ratio, the best less the third logit, stands in its place"
        if classes == 3
        else "the difference of the two logits is taken without a denominator"
    )
    text = (
        f"The targeted difference of logits ratio needs four classes and the model has {classes}: {instead}. The"
        f" targeted attacks aim at {classes - 1} of the other classes, which are all there are."
    )
    return [Text(title="Fewer than four classes", text=text)]


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Autoattack]
