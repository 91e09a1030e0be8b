"""Adaptive attack on models that the other attacks misjudge: randomised ones, and ones without usable gradients.

It selects its method from the model. If ``sanity.determinism`` found answers that change, it is AutoAttack's version
"rand" (Croce and Hein 2020, arXiv:2003.01690, section 6.4): APGD on the cross-entropy and on the targeted difference of
logits ratio, each gradient the mean over ``repeats`` passes (expectation over transformation, Athalye et al. 2018,
arXiv:1707.07397). If gradients are missing, zero or worse than random directions (masked, or activations that are flat
almost everywhere), slopes are estimated from scores of the deployed model (SPSA, Uesato et al. 2018, arXiv:1802.05666).
Success is the share of repeated answers that are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Level, Meta, MetricSpec, NotApplicable, Probe, Records, RunContext, ThreatModel
from auditor.findings.formatting import percent
from auditor.plugins.attacks._adaptive_search import (
    by_expectation,
    by_scores,
    gradients_mislead,
    is_random,
    wrong_share,
)

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness

_CHECKED = 16
"""Images on which the gradients are checked."""


@dataclass(frozen=True, kw_only=True)
class Adaptive(Probe):
    """Attack by averaged gradients or by estimated slopes, whichever the model requires."""

    meta = Meta(
        id="attacks.adaptive",
        title="Adaptive attack",
        area="attacks",
        why="Random answers and useless gradients make standard attacks fail without making a model robust.",
        references=(
            "https://arxiv.org/abs/1707.07397",
            "https://arxiv.org/abs/2003.01690",
            "https://arxiv.org/abs/1802.05666",
        ),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="adaptive_success_share", label="Wrong answers under the adaptive attack", better="lower"),
        MetricSpec(name="clean_error_share", label="Wrong answers without an attack", better="lower"),
    )
    depends_on: ClassVar[Sequence[str]] = ("sanity.determinism",)
    waits: ClassVar[bool] = True
    samples: int = 32
    epsilon: float = 8 / 255
    """L-infinity size."""
    iterations: int = 40
    repeats: int = 20
    """Passes for one gradient of a randomised model; 20 in AutoAttack's "rand" version."""
    targets: int = 3
    """Target classes of the targeted attack."""
    pairs: int = 32
    """Pairs of queries for one estimated slope."""
    answers: int = 20
    """Repeated answers to each image of a randomised model."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if min(self.iterations, self.repeats, self.targets, self.pairs, self.answers) < 1 or not 0 < self.epsilon <= 1:
            raise ValueError("epsilon must be above 0 and at most 1, all other settings at least 1")

    def threat_model(self) -> ThreatModel:
        """Return an attacker who adapts to the model."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box",
            norm="linf",
            budget=f"epsilon {self.epsilon * 255:g}/255; {self.iterations} steps of gradients averaged over"
            f" {self.repeats} passes, or of slopes from {2 * self.pairs} queries",
        )

    def prepare(self, run: RunContext) -> Probe:
        """Select the method. Raises NotApplicable for a deterministic model with usable gradients."""
        ids = run.ids[:_CHECKED]
        random = is_random(run.records.get("sanity.determinism"))
        blind = run.classifier.access == "black-box" or gradients_mislead(
            run.classifier, run.batch(ids), run.rng, self.epsilon
        )
        if not random and not blind:
            raise NotApplicable("the model is deterministic and its gradients are usable: the other attacks apply")
        return _Selected(**vars(self), random=random, blind=blind)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Raise an error: only the prepared probe measures."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def conclude(self, records: Records) -> Conclusion:
        """Report the share of wrong answers with and without the attack."""
        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive="no image was measured")
        units = frame.get("unit")
        at: Level = {"norm": "linf", "epsilon": self.epsilon}
        shares = frame["wrong_share"], frame["clean_share"]
        success = statistics.mean("adaptive_success_share", shares[0], unit="fraction", at=at, units=units)
        clean = statistics.mean("clean_error_share", shares[1], unit="fraction", units=units)
        finding = Finding(
            id=f"{self.meta.id}/linf",
            title="Answers under the adaptive attack",
            statement=f"{percent(success)} of the answers are wrong under the attack at epsilon"
            f" {self.epsilon * 255:g}/255 (L∞), {percent(clean)} without it (n = {len(frame)} images,"
            f" {int(frame['answers'].iloc[0])} answers each). Method: {frame['method'].iloc[0]}.",
            metric=success,
        )
        return Conclusion(metrics=[success, clean], findings=[finding])


@dataclass(frozen=True, kw_only=True)
class _Selected(Adaptive):
    """The probe with its method."""

    random: bool
    blind: bool

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image: wrong shares of the answers with and without the attack, and the method."""
        import numpy as np

        answers = self.answers if self.random else 1
        clean = wrong_share(classifier, batch.pixels, batch.labels, answers)
        images, wrong = batch.pixels, clean
        methods = [name for name, used in (("averaged gradients", not self.blind), ("estimated slopes", True)) if used]
        for name in methods:
            search = by_expectation if name == "averaged gradients" else by_scores
            images = search(classifier, batch, rng, self)
            # the worse of the methods, each judged by new answers
            wrong = np.maximum(wrong, wrong_share(classifier, images, batch.labels, answers))
        return {
            "wrong_share": wrong,
            "clean_share": clean,
            "answers": np.full(len(batch), answers),
            "method": np.full(len(batch), " and ".join(methods)),
        }
