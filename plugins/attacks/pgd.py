"""Projected gradient descent: many small steps, each projected back into the epsilon ball, from a random start.

x_{t+1} = Proj(x_t + alpha sign(grad L(x_t, y))) for L-inf; for L2 the step is alpha grad / ||grad||_2. Madry et al.
2018, arXiv:1706.06083, section 2.1. The loss is the margin of the logits, max_{j != y} z_j - z_y, which does not vanish
where the softmax saturates (Carlini and Wagner 2017, arXiv:1608.04644, f_6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from auditor import Attack, Conclusion, Level, Meta, Probe, Records, ThreatModel, hookimpl
from auditor.families import breaking_epsilon, epsilon_levels

if TYPE_CHECKING:
    import torch

    from auditor.classifier import Classifier
    from auditor.images import Batch, Pixels
    from auditor.probe import Randomness

_SURE = 1e-3
"""The search goes on until the copy's margin is this wide: a tie on the copy need not be an error of the original."""


@dataclass(frozen=True, kw_only=True)
class Pgd(Attack):
    """The standard first-order attack, on the device from the first step to the last."""

    meta = Meta(
        id="attacks.pgd",
        title="Projected gradient descent",
        area="attacks",
        why="The attack by which the field judges: robustness that it does not break may be real, if the checks of the"
        " attack hold.",
        references=("https://arxiv.org/abs/1706.06083",),
        needs=frozenset({"gradients"}),
    )
    uses: ClassVar[Sequence[str]] = ("attacks.fgsm",)
    epsilons: Sequence[float] = tuple(n / 255 for n in (1, 2, 4, 8, 16))
    """L-infinity sizes, as fractions of the pixel range."""
    l2_epsilons: Sequence[float] = (0.25, 0.5, 1.0)
    """L2 sizes."""
    iterations: int = 20
    restarts: int = 1
    """Independent random starts; the first that succeeds is kept."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        if self.iterations < 1 or self.restarts < 1:
            raise ValueError("iterations and restarts must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Many gradient steps."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm="linf and l2",
            budget=f"epsilon up to {max(self.epsilons, default=0) * 255:g}/255 in L-inf,"
            f" {max(self.l2_epsilons, default=0):g} in L2; {self.iterations} steps, {self.restarts} start(s)",
        )

    def levels(self) -> Sequence[Level]:
        """Every epsilon of both norms."""
        return epsilon_levels(self.epsilons, self.l2_epsilons)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Per image the first iterate that the copy gets wrong, over all restarts; else the last one."""
        import numpy as np
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        best = clean.clone()
        left = torch.arange(len(batch), device=clean.device)
        for restart in range(self.restarts):
            if not len(left):
                break
            noise = np.stack([
                rng(batch.ids[int(i)], f"start {restart}").uniform(-1, 1, batch.pixels.shape[1:]) for i in left
            ])  # fmt: skip
            start = torch.from_numpy(noise.astype(np.float32)).to(clean.device)
            found, broken = self._search(classifier, clean[left], labels[left], start, level)
            best[left] = found
            # images that are broken leave the batch
            left = left[~broken]
        result: Pixels = best.cpu().numpy()
        return result

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
            f"one gradient step broke {missed} of {len(many)} images that {self.iterations} steps did not:"
            " the gradients mislead (masking), so this attack's figures may not be believed"
        )
        return replace(conclusion, inconclusive=why)

    def _search(
        self, classifier: Classifier, clean: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor, level: Level
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        ball = _Ball(str(level["norm"]), float(level["epsilon"]))
        # 2.5 epsilon / steps lets an iterate cross the ball (Madry et al. 2018, appendix)
        step = 2.5 * ball.epsilon / self.iterations
        x = ball.project(clean + ball.inside(noise), clean)
        result, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for iteration in range(self.iterations + 1):
            current = x[active].requires_grad_()
            loss = margin(classifier.logits(current), labels[active])
            wrong = loss.detach() > _SURE
            result[active] = current.detach()
            broken[active] = wrong
            if iteration == self.iterations or bool(wrong.all()):
                break
            (slope,) = torch.autograd.grad(loss.sum(), current)
            keep = ~wrong
            x[active] = ball.project(current.detach() + step * ball.direction(slope), clean[active])
            active = active[keep]
        return result, broken


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Largest other logit less that of the label, (n,); positive where the answer is wrong."""
    own: torch.Tensor = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - own


class _Ball:
    """The epsilon ball of a norm, and the steepest direction in it."""

    def __init__(self, norm: str, epsilon: float) -> None:
        self.norm, self.epsilon = norm, epsilon

    def inside(self, noise: torch.Tensor) -> torch.Tensor:
        """A random step within the ball, from noise uniform in [-1, 1]."""
        if self.norm == "linf":
            return noise * self.epsilon
        return self.direction(noise) * self.epsilon * noise.flatten(1)[:, :1].abs().view(-1, 1, 1, 1)

    def direction(self, slope: torch.Tensor) -> torch.Tensor:
        """The step of length 1 that raises the loss most."""
        if self.norm == "linf":
            return slope.sign()
        length: torch.Tensor = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return slope / length.clamp_min(1e-30)

    def project(self, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Back into the ball and into [0, 1]."""
        delta = x - clean
        if self.norm == "linf":
            delta = delta.clamp(-self.epsilon, self.epsilon)
        else:
            length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = delta * (self.epsilon / length.clamp_min(1e-30)).clamp_max(1)
        return (clean + delta).clamp(0, 1)


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Pgd]
