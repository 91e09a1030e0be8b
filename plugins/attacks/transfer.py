"""Transfer: adversarial images made on other models, tested on the audited one.

The attacker has no access to the audited model but to another one for the same task (Papernot, McDaniel and Goodfellow
2016, arXiv:1605.07277). Images are made by the momentum iterative method, which is common for transfer: g is
mu g + grad J / ||grad J||_1, the step alpha sign(g) with alpha = epsilon / steps and mu = 1 (Dong et al. 2018,
arXiv:1710.06081, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Attack, Conclusion, Level, Meta, NotApplicable, PerturbationResult, Probe, Records, ThreatModel
from auditor.plugins.attacks._transfer_evidence import surrogate_table, transfer_matrix
from auditor.plugins.attacks._transfer_surrogates import (
    check_surrogate,
    momentum_attack,
    open_surrogate,
    surrogate_digest,
)
from auditor.probes.levels import budget_text, epsilon_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness
    from auditor.model.deployed import DeployedModel
    from auditor.probes.base import RunContext


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Try every surrogate on every image; one success is enough."""

    meta = Meta(
        id="attacks.transfer",
        title="Transfer from other models",
        area="attacks",
        why="A secret model is not protected if another model's adversarial images work on it, too. If they work better"
        " than its own, its gradients are masked.",
        references=("https://arxiv.org/abs/1605.07277", "https://arxiv.org/abs/1710.06081"),
        version=2,
    )
    accepts_surrogates: ClassVar[bool] = True

    surrogates: Sequence[str] = ()
    """Model files for the same classes: ``--surrogate`` of ``auditor run``."""
    epsilons: Sequence[float] = tuple(n / 255 for n in (4, 8, 16))
    """L-infinity sizes, as fractions of the pixel range."""
    snrs: Sequence[float] = ()
    """Signal-to-noise ratios in dB; the step is the L-inf one of the size that gives the image this ratio."""
    iterations: int = 10

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.iterations < 1 or not self.epsilons:
            raise ValueError("iterations must be at least 1, epsilons name at least one")

    def threat_model(self) -> ThreatModel:
        """Return access to other models."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="linf",
            budget=f"{budget_text(self.epsilons)}; {self.iterations} steps on each of {len(self.surrogates)}"
            " surrogate(s), no query to the audited model",
        )

    def control_levels(self) -> Sequence[Level]:
        """Return none: the attack does not search on the audited model."""
        return ()

    def prepare(self, run: RunContext) -> Probe:
        """Open and check every surrogate before anything is measured."""
        if not self.surrogates:
            raise NotApplicable("no other model was given (--surrogate MODEL)")
        for path in self.surrogates:
            check_surrogate(path, run)
        return _Opened(**vars(self), digests=tuple(map(surrogate_digest, self.surrogates)))

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return the digests of the surrogates."""
        del probes
        return [surrogate_digest(path) for path in self.surrogates]

    def levels(self) -> Sequence[Level]:
        """Return every epsilon and every SNR."""
        return epsilon_levels(self.epsilons, (), snrs=self.snrs)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        """Return the images of the first surrogate that succeeds on the audited model, else of the last one.

        Further columns, for the matrix: ``correct_j``, whether model j classifies the clean image correctly, and
        ``misclassified_i_j``, whether it misclassifies the image made on model i. Model 0 is the audited one.
        """
        del rng
        import numpy as np

        surrogates = self._open(classifier.device)
        for surrogate in surrogates:
            # count their passes in this audit
            surrogate.calls = classifier.calls
        models = [classifier, *surrogates]
        best, success = batch.pixels, np.zeros(len(batch), dtype=bool)
        columns: dict[str, NDArray[Any]] = {
            f"correct_{j}": model.predict(batch.pixels).argmax(axis=1) == batch.labels for j, model in enumerate(models)
        }
        for i, source in enumerate(models):
            if source.access == "black-box":
                continue
            images = momentum_attack(source, batch, level, self.iterations)
            for j, model in enumerate(models):
                columns[f"misclassified_{i}_{j}"] = model.predict(images).argmax(axis=1) != batch.labels
            if i:
                best = np.where(success[:, None, None, None], best, images)
                success = success | columns[f"misclassified_{i}_0"]
        return PerturbationResult(images=best, columns=columns)

    def _open(self, device: str) -> list[DeployedModel]:
        return [open_surrogate(path, surrogate_digest(path), device) for path in self.surrogates]

    def conclude(self, records: Records) -> Conclusion:
        """Conclude as every attack, with the success rate for every pair of models."""
        conclusion = super().conclude(records)
        if not conclusion.findings:
            return conclusion
        first, *others = conclusion.findings
        assert first.metric is not None
        at, frame = first.metric.at, records.frame
        rows = frame[(frame["norm"] == at["norm"]) & (frame["epsilon"] == at["epsilon"])]
        if not len(rows):
            return conclusion
        names = ["audited model", *(Path(path).stem for path in self.surrogates)]
        evidence = [*first.evidence, transfer_matrix(rows, names), surrogate_table(rows, names)]
        return replace(conclusion, findings=[replace(first, evidence=evidence), *others])


@dataclass(frozen=True, kw_only=True)
class _Opened(Transfer):
    """The probe with the digests of its surrogates, so that no batch reads their files again."""

    digests: tuple[str, ...]

    def _open(self, device: str) -> list[DeployedModel]:
        return [
            open_surrogate(path, digest, device) for path, digest in zip(self.surrogates, self.digests, strict=True)
        ]
