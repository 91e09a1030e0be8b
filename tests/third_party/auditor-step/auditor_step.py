"""Step: one step of each size against the sign of the margin's gradient.

Describe what the probe does, with its formula and its source (paper, section). `auditor probes` shows this text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from auditor import Attack, Batch, Classifier, Level, Meta, Pixels, Randomness, ThreatModel

AUDITOR_API = "1.0"


@dataclass(frozen=True, kw_only=True)
class Step(Attack):
    """A step on the differentiable copy; the deployed model decides whether it succeeded."""

    meta = Meta(
        id="attacks.step",
        area="attacks",
        title="Step",
        why="State what a bad result means: an attacker with the model file needs one gradient.",
        needs=frozenset({"gradients"}),
    )
    epsilons: Sequence[float] = (2 / 255, 4 / 255, 8 / 255)
    """L-infinity sizes, as fractions of the pixel range."""

    def threat_model(self) -> ThreatModel:
        """Return the attacker's goal, knowledge and budget."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm="linf",
            budget=f"epsilon up to {max(self.epsilons) * 255:g}/255",
        )

    def levels(self) -> Sequence[Level]:
        """Return all budgets, smallest first."""
        return [{"norm": "linf", "epsilon": epsilon} for epsilon in self.epsilons]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Return the attacked batch, (n, c, h, w); the base class clips it to the budget and to [0, 1]."""
        del rng
        import numpy as np

        # the margin is the largest logit less the second largest; all images of the batch are classified correctly
        gradient = classifier.gradient(batch.pixels).cpu().numpy()
        attacked: Pixels = batch.pixels - np.float32(level["epsilon"]) * np.sign(gradient)
        return attacked
