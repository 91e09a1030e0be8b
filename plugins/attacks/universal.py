"""Universal perturbation: one for all images, found on one half of them and judged on the other.

Moosavi-Dezfooli et al. 2017, arXiv:1610.08401; found by gradient steps on all training images together (Shafahi et al.
2020, arXiv:1811.11304, algorithm 1): delta goes along the sign of the summed gradients of the margins, images that are
broken already give none as long as others are not, and the delta that broke most is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor import Attack, Conclusion, Level, Meta, Probe, Records, Table, ThreatModel, hookimpl
from auditor.probes.attack import breaking_epsilon, epsilon_levels
from auditor.probes.levels import number

if TYPE_CHECKING:
    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness, Run


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    """One perturbation per epsilon; ``prepare`` finds it."""

    meta = Meta(
        id="attacks.universal",
        title="Universal perturbation",
        area="attacks",
        why="One pattern that can be printed on a filter and breaks images that it has never seen needs no computation"
        " at the time of the attack.",
        references=("https://arxiv.org/abs/1610.08401", "https://arxiv.org/abs/1811.11304"),
        needs=frozenset({"gradients"}),
    )
    epsilons: Sequence[float] = tuple(n / 255 for n in (4, 8, 16))
    """L-infinity sizes, as fractions of the pixel range."""
    training: int = 128
    """Images that it is found on, at most."""
    iterations: int = 20

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        if self.iterations < 1 or self.training < 1 or not self.epsilons:
            raise ValueError("iterations and training must be at least 1, epsilons name at least one")

    def threat_model(self) -> ThreatModel:
        """One perturbation, made beforehand."""
        return ThreatModel(
            goal="untargeted misclassification of many images by one perturbation",
            knowledge="white-box",
            norm="linf",
            budget=f"epsilon up to {max(self.epsilons) * 255:g}/255; {self.iterations} steps on at most"
            f" {self.training} images",
        )

    def levels(self) -> Sequence[Level]:
        """Every epsilon."""
        return epsilon_levels(self.epsilons, ())

    def control_levels(self) -> Sequence[Level]:
        """None: it does not search for each image."""
        return ()

    def prepare(self, run: Run) -> Probe:
        """Find the perturbations."""
        from auditor.probes.splits import training_images

        batch = training_images(run, self.training)
        found = {number(level)[1]: self._found_on(run.classifier, batch, number(level)[1]) for level in self.levels()}
        return _WithPerturbations(**vars(self), perturbations=found)

    def _found_on(self, classifier: Classifier, batch: Batch, epsilon: float) -> Pixels:
        """The perturbation (c, h, w) that breaks most of the batch."""
        import torch

        from auditor.algorithms.best_points import MARGIN_TOLERANCE
        from auditor.algorithms.losses import margin

        delta = best = classifier.tensor(batch.pixels[:1] * 0)
        most = (-1, 0.0)
        for iteration in range(self.iterations + 1):
            slope, broken, total = torch.zeros_like(delta), 0, 0.0
            # what has broken all of them can still be made to break others
            ceiling = MARGIN_TOLERANCE if most[0] < len(batch) else float("inf")
            for start in range(0, len(batch), classifier.batch_size):
                rows = slice(start, start + classifier.batch_size)
                x = (classifier.tensor(batch.pixels[rows]) + delta).clamp(0, 1).requires_grad_()
                margins = margin(classifier.logits(x), torch.from_numpy(batch.labels[rows]).to(x.device))
                (part,) = torch.autograd.grad(margins.clamp_max(ceiling).sum(), x)
                slope += part.sum(0, keepdim=True)
                broken, total = broken + int((margins > MARGIN_TOLERANCE).sum()), total + float(margins.detach().sum())
            if (broken, total) > most:
                best, most = delta, (broken, total)
            # from large steps to small ones
            step = 2.5 * epsilon / self.iterations * 2 * (1 - iteration / (self.iterations + 1))
            delta = (delta + step * slope.sign()).clamp(-epsilon, epsilon)
        result: Pixels = best[0].cpu().numpy()
        return result

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Nothing without a perturbation; ``prepare`` finds it."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """As every attack; ``held_out`` says that the perturbation was not found on this half of the images."""
        import numpy as np

        from auditor.probes.splits import in_training_half

        columns = dict(super().measure(classifier, batch, rng))
        held_out = np.array([not in_training_half(rng, image_id) for image_id in batch.ids], dtype=bool)
        return columns | {"held_out": held_out[np.asarray(columns["row"], dtype=int)]}

    def examples(self, records: Records) -> Sequence[Any]:
        """Of the images that it has not seen."""
        return super().examples(_unseen(records))

    def conclude(self, records: Records) -> Conclusion:
        """Judged on the half that it has not seen; the other half stands beside it."""
        from auditor import statistics

        if not len(records.frame) or not records.frame["held_out"].any():
            return Conclusion(inconclusive="no image was held out to judge the perturbation on")
        conclusion = super().conclude(_unseen(records))
        seen = records.frame[~records.frame["held_out"].astype(bool)]
        halves = {"not seen": _unseen(records).frame} | ({"found on, or their half": seen} if len(seen) else {})
        rows: list[list[Any]] = []
        for epsilon in sorted(self.epsilons):
            for name, frame in halves.items():
                smallest = breaking_epsilon(frame)
                share = statistics.proportion("attack_success_rate", smallest[smallest > 0] <= epsilon)
                rows.append([epsilon, name, share.cell(), share.n])
        table = Table(
            title="Images that it was found on, and others",
            columns=["epsilon", "images", "attack success", "n"],
            formats=["n/255", "text", "percent", "count"],
            rows=rows,
            caption="What works on unseen images as well as on its own is a property of the model, not of the images.",
        )
        first = conclusion.findings[0]
        first = replace(first, evidence=[*first.evidence, table])
        return replace(conclusion, findings=[first, *conclusion.findings[1:]])


@dataclass(frozen=True, kw_only=True)
class _WithPerturbations(Universal):
    """The probe that measures."""

    perturbations: Mapping[float, Pixels]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """The same for all."""
        del classifier, rng
        images: Pixels = batch.pixels + self.perturbations[number(level)[1]]
        return images


def _unseen(records: Records) -> Records:
    return replace(records, frame=records.frame[records.frame["held_out"].astype(bool)])


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Universal]
