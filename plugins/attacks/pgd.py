"""Projected gradient descent: many steps from a random start, each projected back into the epsilon ball.

x_{t+1} = Proj(x_t + alpha sign(g_t)) for L-inf; for L2 the step is alpha g_t / ||g_t||_2, for L1 it is shared among the
largest slopes (Tramer and Boneh 2019, arXiv:1904.13000, section 4.1). Madry et al. 2018, arXiv:1706.06083, section 2.1.
g_t is the gradient, or with momentum mu the sum g_t = mu g_{t-1} + grad / ||grad||_1 (Dong et al. 2018,
arXiv:1710.06081, equation 6). The loss is cross-entropy, written as the logarithm of the odds of an error: its gradient
has the same direction and does not vanish when the softmax saturates. A fifth of the steps aims at the likeliest other
class, the step alpha shrinks along a cosine, and 40 % of the steps start from the clean image
(``auditor.algorithms.staged_pgd``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from auditor import Attack, Conclusion, Level, Meta, PerturbationResult, Records, ThreatModel
from auditor.algorithms.balls import Ball
from auditor.algorithms.best_points import BestPoints
from auditor.algorithms.staged_pgd import staged_pgd
from auditor.probes.attack import breaking_epsilon
from auditor.probes.levels import budget_text, epsilon_levels
from auditor.probes.perturbation import start_noise

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Randomness

_MASKING_SHARE = 0.02
"""Share of images on which one step succeeds and many steps fail, above which the gradients count as masked."""


@dataclass(frozen=True, kw_only=True)
class Pgd(Attack):
    """The standard first-order attack."""

    meta = Meta(
        id="attacks.pgd",
        title="Projected gradient descent",
        area="attacks",
        why="The standard attack of the field. Robustness against it may be real if the checks of the gradients pass.",
        references=(
            "https://arxiv.org/abs/1706.06083",
            "https://arxiv.org/abs/1710.06081",
            "https://arxiv.org/abs/1904.13000",
        ),
        needs=frozenset({"gradients"}),
        version=5,
        input_kinds=frozenset({"images", "rows"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.fgsm",)
    reports_surrogate: ClassVar[bool] = True
    epsilons: Sequence[float] = tuple(n / 255 for n in (1, 2, 4, 8, 16))
    """L-infinity sizes, as fractions of the pixel range."""
    l2_epsilons: Sequence[float] = (0.25, 0.5, 1.0)
    """L2 sizes."""
    l1_epsilons: Sequence[float] = (3.0, 6.0, 12.0)
    """L1 sizes, the sum over all pixels."""
    iterations: int = 20
    """Gradient steps of each start, in three stages."""
    restarts: int = 1
    """Independent random starts; a misclassified image is not started again."""
    momentum: float = 0.0
    """Weight of the earlier gradients in a step; 1 in Dong et al. 2018, 0 in Madry et al. 2018."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.iterations < 1 or self.restarts < 1:
            raise ValueError("iterations and restarts must be at least 1")
        if self.momentum < 0:
            raise ValueError(f"momentum must not be negative; got {self.momentum:g}")

    def threat_model(self) -> ThreatModel:
        """Return many gradient steps."""
        momentum = f" with momentum {self.momentum:g}" if self.momentum else ""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm="linf, l2 and l1",
            budget=f"{budget_text(self.epsilons, self.l2_epsilons, self.l1_epsilons)}; {self.iterations}"
            f" steps{momentum}, {self.restarts} start(s)",
        )

    def levels(self) -> Sequence[Level]:
        """Return every epsilon of the three norms."""
        return epsilon_levels(self.epsilons, self.l2_epsilons, self.l1_epsilons)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        """Return the iterate with the largest margin of each image, over all restarts."""
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        ball = Ball(str(level["norm"]), float(level["epsilon"]))
        best = BestPoints(clean)
        for restart in range(self.restarts):
            left = (~best.broken).nonzero()[:, 0]
            if not len(left):
                break
            ids = [batch.ids[i] for i in left.tolist()]
            noise = start_noise(rng, ids, f"start {restart}", batch.pixels.shape[1:])
            start = ball.outermost(torch.from_numpy(noise).to(clean.device))
            found = staged_pgd(
                classifier.scaled_logits,
                clean[left],
                labels[left],
                ball=ball,
                start=start,
                other=-start if restart else torch.zeros_like(start),
                iterations=self.iterations,
                momentum=self.momentum,
            )
            best.see(left, found.images, found.margin)
        return PerturbationResult(images=best.images.cpu().numpy(), surrogate_misclassified=best.broken.cpu().numpy())

    def conclude(self, records: Records) -> Conclusion:
        """Conclude as every attack; inconclusive if FGSM succeeds and PGD fails (Athalye et al. 2018, section 3.1)."""
        conclusion = super().conclude(records)
        fgsm = records.others.get("attacks.fgsm")
        if fgsm is None or not len(fgsm):
            return conclusion
        epsilon = max(self.epsilons, default=0.0)
        common = set(fgsm["image_id"]) & set(records.frame["image_id"])
        one_step, many_steps = (
            breaking_epsilon(frame[(frame["norm"] == "linf") & frame["image_id"].isin(common)])
            for frame in (fgsm[fgsm["epsilon"] <= epsilon], records.frame)
        )
        missed = int(((one_step <= epsilon) & (many_steps > epsilon)).sum())
        if missed <= _MASKING_SHARE * max(1, len(many_steps)):
            return conclusion
        reason = (
            f"one gradient step succeeded on {missed} of {len(many_steps)} {records.kind} on which {self.iterations}"
            " steps failed: the gradients are masked, so the results of this attack are not reliable"
        )
        return replace(conclusion, inconclusive=reason)
