"""Positive control: would the attacks of this audit find an adversarial example where there is one for certain?

Zimmermann, Brendel, Tramer and Carlini 2022, arXiv:2206.13991. For each image the model gets a readout under which a
known point within epsilon is an error (``auditor/control.py``); each attack of the run that searches for each image is
let loose on it, with the settings that it has in the run: along gradients, by scores, by labels alone. What an attack
that misses it did not find on the model itself shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, Level, Meta, Metric, NotApplicable, Probe, Records, Table, hookimpl
from auditor.findings.formatting import norm_name
from auditor.findings.metric import percent
from auditor.probes.attack import Attack
from auditor.probes.levels import number, size
from auditor.probes.minimum_norm import MinimumNorm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness, Run


@dataclass(frozen=True, kw_only=True)
class PositiveControl(Probe):
    """Every attack of the run on a model in which an adversarial example was planted."""

    meta = Meta(
        id="sanity.positive-control",
        title="Attacks on a model that can be broken",
        area="sanity",
        why="An attack that finds nothing where an adversarial example was planted is broken, or blinded by this model;"
        " that it finds nothing on the model itself shows nothing.",
        references=("https://arxiv.org/abs/2206.13991",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    samples: int = 48
    query_samples: int = 36
    """Images on which attacks that only ask questions are tried, thousands for each image, and in one norm each. With
    fewer than 35 even an attack that misses none stays below 90 % with its interval."""
    candidates: int = 16
    """Random points of which the one that moves the logits most is planted."""

    def __post_init__(self) -> None:
        """Refuse what plants nothing."""
        if min(self.candidates, self.query_samples) < 1:
            raise ValueError("candidates and query_samples must be at least 1")

    def prepare(self, run: Run) -> Probe:
        """The probe that knows the attacks of the run."""
        attacks = _controlled(run.probes)
        if not attacks:
            raise NotApplicable("no attack that searches for each image is part of this run")
        # which images these are must not depend on the order in which they come
        asked = sorted(run.ids, key=lambda image_id: run.rng(image_id, "asked").random())[: self.query_samples]
        return _WithAttacks(**vars(self), attacks=attacks, asked=frozenset(asked))

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """The attacks and their settings."""
        return [[attack.meta.id, attack.meta.version, asdict(attack)] for attack in _controlled(probes)]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing without attacks; ``prepare`` knows them."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def conclude(self, records: Records) -> Conclusion:
        """By attack and level how often it finds the planted error, and how often noise of equal size does."""
        from auditor import statistics

        frame = records.frame[records.frame["attack"] != ""] if len(records.frame) else records.frame
        if not len(frame):
            return Conclusion(inconclusive="no image was measured")
        found: list[Metric] = []
        rows: list[list[Any]] = []
        for (attack, norm, epsilon), some in frame.groupby(["attack", "norm", "epsilon"], sort=False):
            at: Level = {"attack": str(attack), "norm": str(norm), "epsilon": float(epsilon)}
            success = statistics.proportion("control_success", some["success"], at=at)
            chance = statistics.proportion("control_noise", some["noise"], at=at)
            found += [success, chance]
            where = f"{norm_name(str(norm))} {size(str(norm), float(epsilon))}"
            rows.append([attack, where, success.cell(), chance.cell(), int(some["planted"].sum()), success.n])
        successes = [metric for metric in found if metric.name == "control_success"]
        # of several that are as bad, the one that is known best
        worst = min(successes, key=lambda metric: (metric.value or 0.0, -metric.n))
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
    asked: frozenset[str]
    """Images on which attacks by questions are tried."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image, attack and level."""
        import numpy as np

        parts: list[dict[str, Any]] = []
        models: dict[tuple[str, float], Any] = {}
        asked = [row for row, image_id in enumerate(batch.ids) if image_id in self.asked]
        for attack in self.attacks:
            for level in attack.control_levels():
                at = str(level["norm"]), number(level)[1]
                if not _by_questions(attack):
                    if at not in models:
                        models[at] = self._planted(classifier, batch, rng, *at)
                    parts.append({"row": np.arange(len(batch)), **_tried(attack, level, batch, rng, models[at])})
                    continue
                for row in asked:
                    # each by itself: such an attack may begin nearer to another image than to its own
                    one = batch.take([row])
                    model = self._planted(classifier, one, rng, *at)
                    parts.append({"row": np.array([row]), **_tried(attack, level, one, rng, model)})
                break
        if len(asked) < len(batch) and not models:
            # an image on which nothing was tried has a row that says so, and is not measured again
            rest = np.setdiff1d(np.arange(len(batch)), asked)
            nothing = np.zeros(len(rest), dtype=bool)
            parts.append(
                {"row": rest, "attack": np.full(len(rest), ""), "norm": np.full(len(rest), ""),
                 "epsilon": np.zeros(len(rest)), "planted": nothing, "noise": nothing, "success": nothing}
            )  # fmt: skip
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _planted(
        self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str, epsilon: float
    ) -> tuple[Any, NDArray[np.bool_], NDArray[np.bool_]]:
        """The model, for which images (n,) a point is planted, and for which noise of its size finds it."""
        from auditor.algorithms.balls import Ball
        from auditor.algorithms.planted_control import plant, random_point

        model, planted = plant(classifier, batch, rng, norm=norm, epsilon=epsilon, candidates=self.candidates)
        noise = random_point(classifier, batch, rng, Ball(norm, epsilon), "noise").cpu().numpy()
        return model, planted, model.misclassified(noise)


def _tried(attack: Attack | MinimumNorm, level: Level, batch: Batch, rng: Randomness, planted: Any) -> dict[str, Any]:
    """The columns of one attack at one level."""
    import numpy as np

    model, there, by_chance = planted
    victims = type(batch)(
        ids=batch.ids, pixels=batch.pixels, labels=np.zeros(len(batch), dtype=np.int64),
        probabilities=model.predict(batch.pixels),
    )  # fmt: skip
    images = attack.perturbed(model, victims, rng, level)
    return {
        "attack": np.full(len(batch), attack.meta.id),
        "norm": np.full(len(batch), str(level["norm"])),
        "epsilon": np.full(len(batch), number(level)[1]),
        "planted": there,
        "noise": by_chance,
        "success": model.misclassified(images),
    }


def _controlled(probes: Sequence[Probe]) -> list[Attack | MinimumNorm]:
    """The attacks that can be tried: those that search, each image by itself."""
    attacks = [probe for probe in probes if isinstance(probe, Attack | MinimumNorm)]
    return [a for a in attacks if (t := a.threat_model()) and t.knowledge != "none" and a.control_levels()]


def _by_questions(attack: Attack | MinimumNorm) -> bool:
    threat = attack.threat_model()
    return threat is not None and threat.knowledge == "black-box"


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [PositiveControl]
