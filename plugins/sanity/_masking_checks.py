"""The checks of ``sanity.gradient-masking`` with their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from auditor import Metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from auditor.statistics import Units

FACTOR = 10.0
"""The rise along the gradient may differ from its first-order prediction by this factor."""

Verdict = Literal["masked", "no sign", "undecided", "not measured"]


class Check(NamedTuple):
    """One sign of masked gradients."""

    id: str
    text: str
    """The condition under which an image counts."""
    limit: float
    """Maximum share of images expected without masking; conventions of this project."""


OWN_CHECKS: Sequence[Check] = (
    Check("zero-gradient", "the gradient of the margin is zero at more than 99 % of the inputs", 0.02),
    Check("tiny-gradient", "the gradient is too small to change the prediction even across the pixel range", 0.05),
    Check("random-step", "a small step along the gradient raises the loss no more than a random step", 0.1),
    Check("first-order", f"the rise differs from its first-order prediction by more than a factor {FACTOR:g}", 0.2),
    Check("unbounded", "the attack fails even at epsilon 1, where every image is allowed", 0.05),
    Check("rising-loss", "a larger epsilon gives a smaller loss", 0.05),
    Check("random-start", "the attack succeeds from one random start and fails from another", 0.1),
    Check("convergence", "the attack succeeds with four times as many steps only", 0.05),
    Check("step-size", "PGD succeeds with a quarter or four times its step size and fails with the usual one", 0.05),
    Check("unfinished", "the attack fails and its loss still rises in its last quarter", 0.1),
    Check("unstable", "random steps around the attack's result change the loss as much as the attack", 0.1),
    Check("noise", "random noise of the same size succeeds and the attack fails", 0.02),
    Check("softmax", "the copy's logits are non-negative and sum to 1, so they are probabilities", 0.5),
)
SQUARE = Check("square", "Square alone of AutoAttack's components succeeds, which uses no gradients", 0.02)
BLACK_BOX = Check("black-box", "an attack without gradients succeeds and all with gradients fail", 0.02)
ONE_STEP = Check("one-step", "a single gradient step succeeds and all attacks of many steps fail", 0.02)
LARGER_EPSILON = Check("larger-epsilon", "{attack} succeeds at one epsilon and fails at a larger one", 0.05)


class CheckResult(NamedTuple):
    """The share of images for which a check's condition holds."""

    check: str
    text: str
    share: Metric
    limit: float

    @property
    def verdict(self) -> Verdict:
        """Judge the interval against the limit."""
        value, low = self.share.value, self.share.low
        if value is None or low is None:
            return "not measured"
        if low > self.limit:
            return "masked"
        return "no sign" if value <= self.limit else "undecided"


def judge(check: Check, flags: ArrayLike, attack: str = "", *, units: Units) -> CheckResult:
    """Return the result of a check; ``flags`` (n,) is True for images with the sign, ``units`` (n,) their units."""
    from auditor import statistics

    at = {"check": check.id} | ({"attack": attack} if attack else {})
    share = statistics.proportion("masking_share", flags, at=at, units=units)
    return CheckResult(check.id, check.text.format(attack=attack), share, check.limit)
