"""AutoAttack: four attacks without parameters to tune, one after the other, each on what the others left.

Croce and Hein 2020, arXiv:2003.01690, section 5, standard version: APGD on the cross-entropy; targeted APGD on the
difference of logits ratio and targeted FAB, against the classes next in score; Square. For cross-entropy stands what
has its direction and order and does not saturate. ART's class of this name is another ensemble.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor import Attack, Conclusion, Found, Level, Meta, Probe, Records, Table, Text, ThreatModel, hookimpl
from auditor.attacks import Ball, Hits, apgd, fab, margin, soft_margin, square, targeted_dlr

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from auditor.classifier import Classifier
    from auditor.finding import Cell, Evidence
    from auditor.images import Batch
    from auditor.probe import Randomness

_COMPONENTS = ("APGD-CE", "APGD-T", "FAB-T", "Square")


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
        ),
        needs=frozenset({"gradients"}),
    )
    epsilon: float = 8 / 255
    """The size, in pixels from 0 to 1."""
    norm: str = "linf"
    """"linf" or "l2"."""
    iterations: int = 100
    """Of APGD and of FAB, for each target; 100 in the standard version."""
    targets: int = 9
    """Classes that the targeted attacks aim at, best score first; 9 in the standard version."""
    queries: int = 5000
    """Of Square; 5,000 in the standard version."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        if self.norm not in {"linf", "l2"}:
            raise ValueError(f"norm must be 'linf' or 'l2'; got {self.norm!r}")
        if min(self.iterations, self.targets, self.queries) < 1:
            raise ValueError("iterations, targets and queries must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Everything that is known of the model, and the budgets of all four."""
        size = f"{self.epsilon * 255:g}/255 in L-inf" if self.norm == "linf" else f"{self.epsilon:g} in L2"
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

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Found:
        """Per image the point that is furthest on the wrong side, and which component found it."""
        import numpy as np
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        ball = Ball(str(level["norm"]), float(level["epsilon"]))
        hits = Hits(clean)
        component = np.full(len(batch), "", dtype=f"U{max(map(len, _COMPONENTS))}")
        for name, search in self._searches(classifier, clean, labels, ball):
            rows = (~hits.broken).nonzero()[:, 0]
            if not len(rows):
                break

            def draw(row: int, purpose: str, ids: Sequence[str] = [batch.ids[i] for i in rows.tolist()]) -> Any:
                return rng(ids[row], purpose)

            found = search(rows, draw)
            hits.see(rows, found.images, found.margin)
            component[rows[found.broken].cpu().numpy()] = name
        return Found(
            images=hits.images.cpu().numpy(),
            columns={"component": component, "copy_broken": hits.broken.cpu().numpy()},
        )

    def _searches(
        self, classifier: Classifier, clean: torch.Tensor, labels: torch.Tensor, ball: Ball
    ) -> Iterator[tuple[str, Any]]:
        """Names and searches of images number ``rows``, in the order of the standard version."""
        import numpy as np
        import torch

        def start(rows: torch.Tensor, draw: Any, purpose: str) -> torch.Tensor:
            noise = [draw(i, purpose).uniform(-1, 1, clean.shape[1:]).astype(np.float32) for i in range(len(rows))]
            return ball.surface(torch.from_numpy(np.stack(noise)).to(clean.device))

        def on_cross_entropy(rows: torch.Tensor, draw: Any) -> Hits:
            y = labels[rows]
            return apgd(
                classifier.logits, clean[rows], y, ball=ball, start=start(rows, draw, "APGD-CE"),
                iterations=self.iterations, objective=lambda z, some: soft_margin(z, y[some]),
            )  # fmt: skip

        yield "APGD-CE", on_cross_entropy

        with torch.no_grad():
            others = classifier.logits(clean).scatter(1, labels[:, None], -torch.inf)
        ranked = others.argsort(dim=1, descending=True)[:, : min(self.targets, classifier.n_classes - 1)]
        for k, target in enumerate(ranked.unbind(1)):

            def on_ratio(rows: torch.Tensor, draw: Any, k: int = k, target: torch.Tensor = target) -> Hits:
                y, t = labels[rows], target[rows]
                return apgd(
                    classifier.logits, clean[rows], y, ball=ball, start=start(rows, draw, f"APGD-T {k}"),
                    iterations=self.iterations, objective=lambda z, some: targeted_dlr(z, y[some], t[some]),
                )  # fmt: skip

            yield "APGD-T", on_ratio

        for target in ranked.unbind(1):

            def on_distance(rows: torch.Tensor, draw: Any, target: torch.Tensor = target) -> Hits:
                del draw
                return fab(
                    classifier.logits, clean[rows], labels[rows], target[rows], ball=ball, iterations=self.iterations
                )

            yield "FAB-T", on_distance

        def on_scores(rows: torch.Tensor, draw: Any) -> Hits:
            y = labels[rows]

            def margins(images: torch.Tensor, some: torch.Tensor) -> torch.Tensor:
                with torch.no_grad():
                    return margin(classifier.logits(images), y[some])

            return square(margins, clean[rows], ball, self.queries, draw)

        yield "Square", on_scores

    def conclude(self, records: Records) -> Conclusion:
        """As every attack, and which component broke how many."""
        conclusion = super().conclude(records)
        evidence = [_by_component(records.frame), *_few_classes(len(records.classes))]
        first, *others = conclusion.findings
        more = replace(first, evidence=[*evidence, *first.evidence])
        return replace(conclusion, findings=[more, *others])


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
