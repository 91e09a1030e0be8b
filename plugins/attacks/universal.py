"""Universal perturbation: one for all images, found on one half of them and tested on the other.

Moosavi-Dezfooli et al. 2017, arXiv:1610.08401; found by gradient steps on all training images together (Shafahi et al.
2020, arXiv:1811.11304, algorithm 1): delta moves along the sign of the summed gradients of the margins. Misclassified
images are excluded as long as others are left, and the delta that misclassifies most images is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor import Attack, Conclusion, Level, Meta, Probe, Records, Table, ThreatModel
from auditor.probes.attack import breaking_epsilon, clean_units
from auditor.probes.levels import budget_text, epsilon_levels, number
from auditor.probes.metric_tables import metric_table
from auditor.probes.splits import held_out_images, training_images

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Pixels, Randomness
    from auditor.probes.base import RunContext


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    """Find one perturbation per epsilon, in ``prepare``."""

    meta = Meta(
        id="attacks.universal",
        title="Universal perturbation",
        area="attacks",
        why="One pattern, for example printed on a filter, causes errors on unseen images. The attack needs no"
        " computation when it is used.",
        references=("https://arxiv.org/abs/1610.08401", "https://arxiv.org/abs/1811.11304"),
        needs=frozenset({"gradients"}),
        version=2,
    )
    epsilons: Sequence[float] = tuple(n / 255 for n in (4, 8, 16))
    """L-infinity sizes, as fractions of the pixel range."""
    training: int = 128
    """Largest number of training images."""
    iterations: int = 20

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.iterations < 1 or self.training < 1 or not self.epsilons:
            raise ValueError("iterations and training must be at least 1, epsilons name at least one")

    def threat_model(self) -> ThreatModel:
        """Return one precomputed perturbation."""
        return ThreatModel(
            goal="untargeted misclassification of many images by one perturbation",
            knowledge="white-box",
            norm="linf",
            budget=f"{budget_text(self.epsilons)}; {self.iterations} steps on at most {self.training} images",
        )

    def levels(self) -> Sequence[Level]:
        """Return every epsilon."""
        return epsilon_levels(self.epsilons, ())

    def control_levels(self) -> Sequence[Level]:
        """Return none: the attack does not search for each image."""
        return ()

    def prepare(self, run: RunContext) -> Probe:
        """Find the perturbations."""
        batch = training_images(run, self.training)
        sizes = [number(level)[1] for level in self.levels()]
        found = {epsilon: self._train(run.classifier, batch, epsilon) for epsilon in sizes}
        return _Trained(**vars(self), perturbations=found, held_out=held_out_images(run))

    def _train(self, classifier: Classifier, batch: Batch, epsilon: float) -> Pixels:
        """Return the perturbation (c, h, w) that misclassifies most of the batch."""
        import torch

        from auditor.algorithms.best_points import MARGIN_TOLERANCE
        from auditor.algorithms.losses import margin

        delta = best = classifier.tensor(batch.pixels[:1] * 0)
        most = (-1, 0.0)
        for iteration in range(self.iterations + 1):
            gradient, wrong, total = torch.zeros_like(delta), 0, 0.0
            # include misclassified images only if all of them are
            ceiling = MARGIN_TOLERANCE if most[0] < len(batch) else float("inf")
            for start in range(0, len(batch), classifier.batch_size):
                rows = slice(start, start + classifier.batch_size)
                x = (classifier.tensor(batch.pixels[rows]) + delta).clamp(0, 1).requires_grad_()
                margins = margin(classifier.scaled_logits(x), torch.from_numpy(batch.labels[rows]).to(x.device))
                (part,) = torch.autograd.grad(margins.clamp_max(ceiling).sum(), x)
                # an image for which the model returns NaN must not decide for all others
                margins, part = margins.nan_to_num(-torch.inf), part.nan_to_num(0, 0, 0)
                gradient += part.sum(0, keepdim=True)
                wrong, total = wrong + int((margins > MARGIN_TOLERANCE).sum()), total + float(margins.detach().sum())
            if (wrong, total) > most:
                best, most = delta, (wrong, total)
            # the steps decrease linearly
            step = 2.5 * epsilon / self.iterations * 2 * (1 - iteration / (self.iterations + 1))
            delta = (delta + step * gradient.sign()).clamp(-epsilon, epsilon)
        result: Pixels = best[0].cpu().numpy()
        return result

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Refuse to perturb without a perturbation; ``prepare`` finds it."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def examples(self, records: Records) -> Sequence[Any]:
        """Request held-out images only."""
        return super().examples(_held_out(records))

    def conclude(self, records: Records) -> Conclusion:
        """Conclude from the held-out half; a table compares it with the training half."""
        if not len(records.frame) or not records.frame["held_out"].any():
            return Conclusion(inconclusive="no image was held out to test the perturbation on")
        conclusion = super().conclude(_held_out(records))
        first, *others = conclusion.findings
        evidence = [*first.evidence, self._halves_table(records)]
        return replace(conclusion, findings=[replace(first, evidence=evidence), *others])

    def _halves_table(self, records: Records) -> Table:
        from auditor import statistics

        training = records.frame[~records.frame["held_out"].astype(bool)]
        halves = {"held out": _held_out(records).frame} | ({"training half": training} if len(training) else {})
        rows = []
        for epsilon in sorted(self.epsilons):
            for name, frame in halves.items():
                smallest = breaking_epsilon(frame)
                correct = smallest > 0
                units = statistics.keep(clean_units(frame), correct)
                rate = statistics.proportion("attack_success_rate", smallest[correct] <= epsilon, units=units)
                rows.append(((epsilon, name), (rate,)))
        return metric_table(
            "Success on training and held-out images",
            {"epsilon": "n/255", "images": "text"},
            {"attack success": "percent"},
            rows,
            caption="Equal success on both halves is a property of the model, not of the training images.",
        )


@dataclass(frozen=True, kw_only=True)
class _Trained(Universal):
    """The probe with perturbations."""

    perturbations: Mapping[float, Pixels]
    held_out: frozenset[str]
    """Images that the perturbations were not trained on."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Measure as every attack; ``held_out`` is True for images of the half that was not used for training."""
        import numpy as np

        columns = dict(super().measure(classifier, batch, rng))
        held_out = np.array([image_id in self.held_out for image_id in batch.ids], dtype=bool)
        return columns | {"held_out": held_out[np.asarray(columns["row"], dtype=int)]}

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Add the same perturbation to all images."""
        del classifier, rng
        images: Pixels = batch.pixels + self.perturbations[number(level)[1]]
        return images


def _held_out(records: Records) -> Records:
    return replace(records, frame=records.frame[records.frame["held_out"].astype(bool)])
