"""Transfer: adversarial images made on other models, shown to the audited one.

The attacker has no access to the audited model but has one of its own for the same task (Papernot, McDaniel and
Goodfellow 2016, arXiv:1605.07277). The images are made by the momentum iterative method, the usual one for transfer:
g is mu g + grad J / ||grad J||_1, the step alpha sign(g) with alpha = epsilon / steps and mu = 1 (Dong et al. 2018,
arXiv:1710.06081, algorithm 1). It goes on after the surrogate is fooled: what barely fools one model fools no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import (
    Attack,
    BadInput,
    Conclusion,
    HeatMap,
    Level,
    Meta,
    NotApplicable,
    Probe,
    Records,
    ThreatModel,
    hookimpl,
)
from auditor.findings.evidence import Table
from auditor.probes.attack import epsilon_levels
from auditor.probes.perturbation import PerturbationResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness, Run


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Every surrogate is tried on every image; one success is enough."""

    meta = Meta(
        id="attacks.transfer",
        title="Transfer from other models",
        area="attacks",
        why="Keeping the model secret does not help where another model's adversarial images work on it, too; and where"
        " they work better than its own, its gradients are masked.",
        references=("https://arxiv.org/abs/1605.07277", "https://arxiv.org/abs/1710.06081"),
    )
    accepts_surrogates: ClassVar[bool] = True

    surrogates: Sequence[str] = ()
    """Model files for the same classes: ``--surrogate`` of ``auditor run``."""
    epsilons: Sequence[float] = tuple(n / 255 for n in (4, 8, 16))
    """L-infinity sizes, as fractions of the pixel range."""
    snrs: Sequence[float] = ()
    """Signal-to-noise ratios in dB; the step is the L-inf one, of the size that gives the image this ratio."""
    iterations: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        if self.iterations < 1 or not self.epsilons:
            raise ValueError("iterations must be at least 1, epsilons name at least one")

    def threat_model(self) -> ThreatModel:
        """Models of the attacker's own."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="linf",
            budget=f"epsilon up to {max(self.epsilons) * 255:g}/255; {self.iterations} steps on each of"
            f" {len(self.surrogates)} surrogate(s), no question to the audited model",
        )

    def control_levels(self) -> Sequence[Level]:
        """None: it does not search on the audited model."""
        return ()

    def prepare(self, run: Run) -> Probe:
        """Open every surrogate, so that one that does not fit is refused before anything is measured."""
        if not self.surrogates:
            raise NotApplicable("no other model was given (--surrogate MODEL)")
        for path in self.surrogates:
            _check(path, _surrogate(path, _digest(path), run.classifier.device), run)
        return self

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """The surrogates' bytes."""
        del probes
        return [_digest(path) for path in self.surrogates]

    def levels(self) -> Sequence[Level]:
        """Every epsilon, every SNR."""
        return epsilon_levels(self.epsilons, (), snrs=self.snrs)

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> PerturbationResult:
        """Per image the first surrogate's that the audited model gets wrong, else the last one's.

        Records besides, for the matrix: ``right_j``, whether model j gets the clean image right, and ``fooled_i_j``,
        whether it gets the image wrong that was made on model i. Model 0 is the audited one.
        """
        del rng
        import numpy as np

        others = [_surrogate(path, _digest(path), classifier.device) for path in self.surrogates]
        for other in others:
            # their passes are this audit's, too
            other.calls = classifier.calls
        models = [classifier, *others]
        best, broken = batch.pixels, np.zeros(len(batch), dtype=bool)
        columns: dict[str, NDArray[Any]] = {
            f"right_{j}": model.predict(batch.pixels).argmax(axis=1) == batch.labels for j, model in enumerate(models)
        }
        for i, source in enumerate(models):
            if source.access == "black-box":
                continue
            images = self._made_on(source, batch, level)
            for j, model in enumerate(models):
                columns[f"fooled_{i}_{j}"] = model.predict(images).argmax(axis=1) != batch.labels
            if i:
                best = np.where(broken[:, None, None, None], best, images)
                broken = broken | columns[f"fooled_{i}_0"]
        return PerturbationResult(images=best, columns=columns)

    def _made_on(self, model: Classifier, batch: Batch, level: Level) -> Pixels:
        import torch

        from auditor.algorithms.balls import length
        from auditor.algorithms.losses import cross_entropy, per_image

        clean = model.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        epsilon = torch.full_like(clean[:, :1, :1, :1], float(level["epsilon"]))
        if level["norm"] == "snr":
            # the length of a step of epsilon everywhere is epsilon sqrt(d)
            epsilon = epsilon * per_image(length(clean, "l2")) / clean[0].numel() ** 0.5
        x, momentum = clean.clone(), torch.zeros_like(clean)
        for _ in range(self.iterations):
            x.requires_grad_()
            (slope,) = torch.autograd.grad(cross_entropy(model.logits(x), labels).sum(), x)
            momentum = momentum + slope / per_image(length(slope, "l1").clamp_min(1e-30))
            x = x.detach() + epsilon / self.iterations * momentum.sign()
            x = (clean + (x - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
        made: Pixels = x.cpu().numpy()
        return made

    def conclude(self, records: Records) -> Conclusion:
        """As every attack; and how well each model's images work on each model."""
        from dataclasses import replace

        conclusion = super().conclude(records)
        if not conclusion.findings:
            return conclusion
        chosen = conclusion.findings[0].metric
        assert chosen is not None
        frame = records.frame
        here = frame[(frame["norm"] == chosen.at["norm"]) & (frame["epsilon"] == chosen.at["epsilon"])]
        if not len(here):
            return conclusion
        names = ["audited model", *(Path(path).stem for path in self.surrogates)]
        first = replace(conclusion.findings[0], evidence=[
            *conclusion.findings[0].evidence, self._matrix(here, names), self._table(here, names),
        ])  # fmt: skip
        return replace(conclusion, findings=[first, *conclusion.findings[1:]])

    def _matrix(self, here: Any, names: Sequence[str]) -> HeatMap:
        values = [
            [float(here.loc[here[f"right_{j}"].astype(bool), f"fooled_{i}_{j}"].mean())
             if f"fooled_{i}_{j}" in here and here[f"right_{j}"].any() else None for j in range(len(names))]
            for i in range(len(names))
        ]  # fmt: skip
        return HeatMap(
            title="Whose adversarial images fool whom",
            values=values,
            row_labels=names,
            column_labels=names,
            row_title="made on",
            column_title="shown to",
            format="percent",
            caption="Share of the images that the model shown to gets right without an attack. An empty row: no copy to"
            " take gradients from.",
        )

    def _table(self, here: Any, names: Sequence[str]) -> Table:
        from auditor import statistics

        shares = [statistics.proportion("attack_success_rate", here[f"fooled_{i}_0"]) for i in range(1, len(names))]
        return Table(
            title="On the audited model, by surrogate",
            columns=["made on", "attack success", "n"],
            formats=["text", "percent", "count"],
            rows=[[name, share.cell(), share.n] for name, share in zip(names[1:], shares, strict=True)],
        )


def _digest(path: str) -> str:
    from auditor.files import file_sha256

    try:
        return file_sha256(Path(path))
    except OSError as error:
        raise BadInput(f"--surrogate {path}: cannot be read ({error.strerror}); expected a model file") from None


@cache
def _surrogate(path: str, digest: str, device: str) -> Classifier:
    """The model, opened once in a process; another digest is another file."""
    del digest
    from auditor.run.opening import open_model

    return open_model(Path(path), device)


def _check(path: str, other: Classifier, run: Run) -> None:
    ours = run.classifier
    if (other.shape, other.n_classes) != (ours.shape, ours.n_classes):
        raise BadInput(
            f"--surrogate {path}: takes {other.shape} and has {other.n_classes} classes; expected those of the audited"
            f" model, {ours.shape} and {ours.n_classes}"
        )
    names = other.named_classes, ours.named_classes
    if None not in names and set(other.classes) == set(ours.classes) and other.classes != ours.classes:
        raise BadInput(f"--surrogate {path}: has the audited model's classes in another order; expected the same order")
    other.verify(run.batch(run.ids[:8]).pixels)
    if other.access == "black-box":
        raise BadInput(f"--surrogate {path}: gives no gradients: {other.access_reason}")


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Transfer]
