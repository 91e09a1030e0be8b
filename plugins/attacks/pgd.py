"""Projected gradient descent: many small steps, each projected back into the epsilon ball, from a random start.

x_{t+1} = Proj(x_t + alpha sign(g_t)) for L-inf; for L2 the step is alpha g_t / ||g_t||_2, for L1 it is shared among the
largest slopes (Tramer and Boneh 2019, arXiv:1904.13000, section 4.1). Madry et al. 2018, arXiv:1706.06083, section 2.1.
g_t is the gradient, or with momentum mu the sum g_t = mu g_{t-1} + grad / ||grad||_1 (Dong et al. 2018,
arXiv:1710.06081, equation 6). The loss is cross-entropy, written as the logarithm of the odds of an error: the
direction of its gradient is the same and does not vanish where the softmax saturates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from auditor import Attack, Conclusion, Level, Meta, PerturbationResult, Probe, Records, ThreatModel, hookimpl
from auditor.algorithms.balls import Ball
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.pgd import pgd, usual_step
from auditor.probes.attack import breaking_epsilon, epsilon_levels

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


@dataclass(frozen=True, kw_only=True)
class Pgd(Attack):
    """The standard first-order attack, on the device from the first step to the last."""

    meta = Meta(
        id="attacks.pgd",
        title="Projected gradient descent",
        area="attacks",
        why="The attack by which the field judges: robustness that it does not break may be real, if the checks of the"
        " attack hold.",
        references=(
            "https://arxiv.org/abs/1706.06083",
            "https://arxiv.org/abs/1710.06081",
            "https://arxiv.org/abs/1904.13000",
        ),
        needs=frozenset({"gradients"}),
        version=3,
        input_kinds=frozenset({"images", "rows"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.fgsm",)
    epsilons: Sequence[float] = tuple(n / 255 for n in (1, 2, 4, 8, 16))
    """L-infinity sizes, as fractions of the pixel range."""
    l2_epsilons: Sequence[float] = (0.25, 0.5, 1.0)
    """L2 sizes."""
    l1_epsilons: Sequence[float] = (3.0, 6.0, 12.0)
    """L1 sizes, the sum over all pixels."""
    iterations: int = 20
    restarts: int = 1
    """Independent random starts; an image that is broken is not started again."""
    momentum: float = 0.0
    """What remains of the earlier steps' gradients in a step; 1 in Dong et al. 2018, 0 in Madry et al. 2018."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        if self.iterations < 1 or self.restarts < 1:
            raise ValueError("iterations and restarts must be at least 1")
        if self.momentum < 0:
            raise ValueError(f"momentum must not be negative; got {self.momentum:g}")

    def threat_model(self) -> ThreatModel:
        """Many gradient steps."""
        momentum = f" with momentum {self.momentum:g}" if self.momentum else ""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm="linf, l2 and l1",
            budget=f"epsilon up to {max(self.epsilons, default=0) * 255:g}/255 in L-inf,"
            f" {max(self.l2_epsilons, default=0):g} in L2, {max(self.l1_epsilons, default=0):g} in L1;"
            f" {self.iterations} steps{momentum}, {self.restarts} start(s)",
        )

    def levels(self) -> Sequence[Level]:
        """Every epsilon of the three norms."""
        return epsilon_levels(self.epsilons, self.l2_epsilons, self.l1_epsilons)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        """Per image the iterate that is furthest on the wrong side, over all restarts."""
        import numpy as np
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        ball = Ball(str(level["norm"]), float(level["epsilon"]))
        hits = BestPoints(clean)
        for restart in range(self.restarts):
            left = (~hits.broken).nonzero()[:, 0]
            if not len(left):
                break
            noise = np.stack([
                rng(batch.ids[i], f"start {restart}").uniform(-1, 1, batch.pixels.shape[1:]) for i in left.tolist()
            ])  # fmt: skip
            start = torch.from_numpy(noise.astype(np.float32)).to(clean.device)
            found = pgd(
                classifier.logits, clean[left], labels[left], ball=ball, start=ball.inside(start),
                iterations=self.iterations, step=usual_step(ball.epsilon, self.iterations), momentum=self.momentum,
            )  # fmt: skip
            hits.see(left, found.images, found.margin)
        return PerturbationResult(
            images=hits.images.cpu().numpy(), columns={"surrogate_misclassified": hits.broken.cpu().numpy()}
        )

    def conclude(self, records: Records) -> Conclusion:
        """As every attack; and inconclusive where one step does what many cannot (Athalye et al. 2018, section 3.1)."""
        conclusion = super().conclude(records)
        fgsm = records.others.get("attacks.fgsm")
        if fgsm is None or not len(fgsm):
            return conclusion
        norm, epsilon = "linf", max(self.epsilons, default=0.0)
        common = set(fgsm["image_id"]) & set(records.frame["image_id"])
        one_step, many = (
            breaking_epsilon(frame[(frame["norm"] == norm) & frame["image_id"].isin(common)])
            for frame in (fgsm[fgsm["epsilon"] <= epsilon], records.frame)
        )
        missed = int(((one_step <= epsilon) & (many > epsilon)).sum())
        if missed <= 0.02 * max(1, len(many)):
            return conclusion
        why = (
            f"one gradient step broke {missed} of {len(many)} {records.kind} that {self.iterations} steps did not:"
            " the gradients mislead (masking), so this attack's figures may not be believed"
        )
        return replace(conclusion, inconclusive=why)


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Pgd]
