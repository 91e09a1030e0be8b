"""Positive control: would the attacks of this audit find an adversarial example where there is one for certain?

Zimmermann, Brendel, Tramer and Carlini 2022, arXiv:2206.13991. For each image the model gets a readout under which a
known point within epsilon is an error (``auditor/control.py``); each white-box attack of the run is let loose on it,
with the settings that it has in the run. What an attack that misses it did not find on the model itself shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, Level, Meta, Metric, NotApplicable, Probe, Records, Table, hookimpl
from auditor.families import Attack, MinimumNorm, number, size
from auditor.finding import percent
from auditor.numbers import norm_name

if TYPE_CHECKING:
    from auditor.classifier import Classifier
    from auditor.images import Batch
    from auditor.probe import Columns, Randomness, Run


@dataclass(frozen=True, kw_only=True)
class PositiveControl(Probe):
    """Every white-box attack of the run on a model in which an adversarial example was planted."""

    meta = Meta(
        id="sanity.positive-control",
        title="Attacks on a model that can be broken",
        area="sanity",
        why="An attack that finds nothing where an adversarial example was planted is broken, or blinded by this model;"
        " that it finds nothing on the model itself shows nothing.",
        references=("https://arxiv.org/abs/2206.13991",),
        needs=frozenset({"gradients"}),
    )
    samples: int = 48
    candidates: int = 16
    """Random points of which the one that moves the logits most is planted."""

    def __post_init__(self) -> None:
        """Refuse what plants nothing."""
        if self.candidates < 1:
            raise ValueError("candidates must be at least 1")

    def prepare(self, run: Run) -> Probe:
        """The probe that knows the attacks of the run."""
        attacks = _controlled(run.probes)
        if not attacks:
            raise NotApplicable("no white-box attack that searches for each image is part of this run")
        return _WithAttacks(**vars(self), attacks=attacks)

    def depends_on(self, probes: Sequence[Probe]) -> Any:
        """The attacks and their settings."""
        return [[attack.meta.id, attack.meta.version, asdict(attack)] for attack in _controlled(probes)]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing without attacks; ``prepare`` knows them."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def conclude(self, records: Records) -> Conclusion:
        """By attack and level how often it finds the planted error, and how often noise of equal size does."""
        from auditor import stats

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive="no image was measured")
        found: list[Metric] = []
        rows: list[list[Any]] = []
        for (attack, norm, epsilon), some in frame.groupby(["attack", "norm", "epsilon"], sort=False):
            at: Level = {"attack": str(attack), "norm": str(norm), "epsilon": float(epsilon)}
            success = stats.proportion("control_success", some["success"], at=at)
            chance = stats.proportion("control_noise", some["noise"], at=at)
            found += [success, chance]
            where = f"{norm_name(str(norm))} {size(str(norm), float(epsilon))}"
            rows.append([attack, where, success.cell(), chance.cell(), int(some["planted"].sum()), success.n])
        successes = [metric for metric in found if metric.name == "control_success"]
        worst = min(successes, key=lambda metric: metric.value or 0.0)
        blank = int((~frame["planted"].astype(bool)).groupby(frame["image_id"]).any().sum())
        tried = len({metric.at["attack"] for metric in successes})
        statement = f"{tried} attacks were tried on a model in which an adversarial example was planted; "
        if worst.value == 1:
            statement += f"all of them find it on every image: {percent(worst)} (n = {worst.n})."
        else:
            statement += (
                f"the one that finds it least often, {worst.at['attack']}, does so on {percent(worst)} of the images"
                f" (n = {worst.n})."
            )
        if blank:
            statement += f" On {blank} images no random point moves the logits at all, so nothing could be found there."
        finding = Finding(
            id=f"{self.meta.id}/attacks",
            title="What the attacks find where there is something to find",
            statement=statement,
            metric=worst,
            evidence=[
                Table(
                    title="By attack",
                    columns=["attack", "budget", "finds it", "noise of equal size finds it", "images with it", "n"],
                    formats=["text", "text", "percent", "percent", "count", "count"],
                    rows=rows,
                    caption="Each attack with its settings of this run. Where noise finds it, too, it is no test.",
                )
            ],
        )
        return Conclusion(metrics=[worst, *(metric for metric in found if metric is not worst)], findings=[finding])


@dataclass(frozen=True, kw_only=True)
class _WithAttacks(PositiveControl):
    """The probe that measures."""

    attacks: Sequence[Attack | MinimumNorm]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image, attack and level."""
        import numpy as np

        from auditor.attacks import Ball
        from auditor.control import plant, random_point

        rows = np.arange(len(batch))
        parts: list[dict[str, Any]] = []
        models: dict[tuple[str, float], Any] = {}
        for attack in self.attacks:
            for level in attack.control_levels():
                norm, epsilon = str(level["norm"]), number(level)[1]
                if (norm, epsilon) not in models:
                    model, planted = plant(
                        classifier, batch, rng, norm=norm, epsilon=epsilon, candidates=self.candidates
                    )
                    noise = random_point(classifier, batch, rng, Ball(norm, epsilon), "noise").cpu().numpy()
                    models[norm, epsilon] = model, planted, model.predict(noise).argmax(axis=1) == 1
                model, planted, by_chance = models[norm, epsilon]
                victims = type(batch)(
                    ids=batch.ids, pixels=batch.pixels, labels=np.zeros(len(batch), dtype=np.int64),
                    probabilities=model.predict(batch.pixels),
                )  # fmt: skip
                images = attack.perturbed(model, victims, rng, level)
                parts.append(
                    {
                        "row": rows,
                        "attack": np.full(len(batch), attack.meta.id),
                        "norm": np.full(len(batch), norm),
                        "epsilon": np.full(len(batch), epsilon),
                        "planted": planted,
                        "noise": by_chance,
                        "success": model.predict(images).argmax(axis=1) == 1,
                    }
                )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _controlled(probes: Sequence[Probe]) -> list[Attack | MinimumNorm]:
    """The attacks that can be tried: white-box, each image by itself."""
    attacks = [probe for probe in probes if isinstance(probe, Attack | MinimumNorm)]
    return [a for a in attacks if (t := a.threat_model()) and t.knowledge == "white-box" and a.control_levels()]


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [PositiveControl]
