"""Positive control: whether the attacks of this audit find an adversarial example that is known to exist.

Zimmermann, Brendel, Tramer and Carlini 2022, arXiv:2206.13991. For each image the model gets a readout under which a
known point within epsilon is misclassified (``auditor/algorithms/planted_control.py``). Each attack of the run that
searches per image is run on it with its settings: by gradients, scores or labels. If an attack misses the planted
point, its failure on the model itself is not evidence of robustness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, Level, Meta, Metric, MetricSpec, NotApplicable, Probe, Records, Table, hookimpl
from auditor.findings.formatting import norm_name
from auditor.findings.metric import percent
from auditor.probes.attack import Attack
from auditor.probes.levels import number, size
from auditor.probes.minimum_norm import MinimumNorm

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.findings.evidence import Cell
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness, Run

SearchAttack = Attack | MinimumNorm


@dataclass(frozen=True, kw_only=True)
class PositiveControl(Probe):
    """Run every attack on a model with a planted adversarial example."""

    meta = Meta(
        id="sanity.positive-control",
        title="Positive control of the attacks",
        area="sanity",
        why="An attack that misses a planted adversarial example does not work on this model. Its failure on the model"
        " itself is not evidence of robustness.",
        references=("https://arxiv.org/abs/2206.13991",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    metrics = (
        MetricSpec(name="control_success", label="Planted adversarial examples found", better="neither"),
        MetricSpec(name="control_noise", label="Planted adversarial examples found by noise", better="neither"),
    )
    samples: int = 48
    query_samples: int = 36
    """Images for query-based attacks, which need thousands of queries per image and run in one norm each. With fewer
    than 35 images the interval of a perfect result starts below 90 %."""
    candidates: int = 16
    """Random points, of which the one with the largest change of the logits is planted."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        if min(self.candidates, self.query_samples) < 1:
            raise ValueError("candidates and query_samples must be at least 1")

    def prepare(self, run: Run) -> Probe:
        """Return the probe with the attacks of the run."""
        attacks = _search_attacks(run.probes)
        if not attacks:
            raise NotApplicable("no attack that searches for each image is part of this run")
        # a random order, so that the selection does not depend on the order of the images
        ordered = sorted(run.ids, key=lambda image_id: run.rng(image_id, "asked").random())
        return _WithAttacks(**vars(self), attacks=attacks, query_ids=frozenset(ordered[: self.query_samples]))

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return the attacks with their settings."""
        return [[attack.meta.id, attack.meta.version, asdict(attack)] for attack in _search_attacks(probes)]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Raise an error: only the prepared probe measures."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def conclude(self, records: Records) -> Conclusion:
        """Report the success of each attack and level, and of noise of equal size."""
        frame = records.frame[records.frame["attack"] != ""] if len(records.frame) else records.frame
        if not len(frame):
            return Conclusion(inconclusive="no images were measured")
        tried = _tried(frame)
        # of equally bad results, the one with the most images
        worst = min((result[0] for result in tried), key=lambda metric: (metric.value or 0.0, -metric.n))
        finding = Finding(
            id=f"{self.meta.id}/attacks",
            title="Planted adversarial examples found by the attacks",
            statement=_statement(frame, tried, worst),
            metric=worst,
            evidence=[_table(tried)],
        )
        metrics = [metric for success, noise, _ in tried for metric in (success, noise)]
        return Conclusion(metrics=[worst, *(metric for metric in metrics if metric is not worst)], findings=[finding])


def _tried(frame: pd.DataFrame) -> list[tuple[Metric, Metric, int]]:
    """Return success of the attack, success of noise and the number of planted points, by attack and level."""
    from auditor import statistics

    found = []
    for (attack, norm, epsilon), part in frame.groupby(["attack", "norm", "epsilon"], sort=False):
        at: Level = {"attack": str(attack), "norm": str(norm), "epsilon": float(epsilon)}
        success = statistics.proportion("control_success", part["success"], at=at)
        noise = statistics.proportion("control_noise", part["noise"], at=at)
        found.append((success, noise, int(part["planted"].sum())))
    return found


def _statement(frame: pd.DataFrame, tried: Sequence[tuple[Metric, Metric, int]], worst: Metric) -> str:
    attacks = len({success.at["attack"] for success, *_ in tried})
    if worst.value == 1:
        statement = (
            f"All {attacks} attacks find the planted adversarial example on every image: {percent(worst)}"
            f" (n = {worst.n})."
        )
    else:
        statement = (
            f"Of {attacks} attacks, {worst.at['attack']} finds the planted adversarial example least often:"
            f" {percent(worst)} of the images (n = {worst.n})."
        )
    without = int((~frame["planted"].astype(bool)).groupby(frame["image_id"]).any().sum())
    if without:
        statement += f" On {without} images no random point changes the logits, so nothing was planted."
    return statement


def _table(tried: Sequence[tuple[Metric, Metric, int]]) -> Table:
    rows: list[list[Cell]] = [
        [
            success.at["attack"],
            f"{norm_name(str(success.at['norm']))} {size(str(success.at['norm']), float(success.at['epsilon'] or 0))}",
            success.cell(),
            noise.cell(),
            planted,
            success.n,
        ]
        for success, noise, planted in tried
    ]
    return Table(
        title="Success by attack",
        columns=["attack", "budget", "success", "success of noise", "planted", "n"],
        formats=["text", "text", "percent", "percent", "count", "count"],
        rows=rows,
        caption="Each attack with its settings of this run. If noise of equal size succeeds, the control tests"
        " nothing.",
    )


@dataclass(frozen=True, kw_only=True)
class _WithAttacks(PositiveControl):
    """The probe with the attacks of the run."""

    attacks: Sequence[SearchAttack]
    query_ids: frozenset[str]
    """Images for query-based attacks."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image, attack and level."""
        import numpy as np

        chunks: list[dict[str, Any]] = []
        models: dict[tuple[str, float], Any] = {}
        query_rows = [row for row, image_id in enumerate(batch.ids) if image_id in self.query_ids]
        for attack in self.attacks:
            if _is_query_based(attack):
                chunks += self._by_queries(attack, classifier, batch, rng, query_rows)
                continue
            for level in attack.control_levels():
                at = str(level["norm"]), number(level)[1]
                if at not in models:
                    models[at] = self._planted(classifier, batch, rng, *at)
                chunks.append({"row": np.arange(len(batch)), **_run_attack(attack, level, batch, rng, models[at])})
        if len(query_rows) < len(batch) and not models:
            chunks.append(_untried(np.setdiff1d(np.arange(len(batch)), query_rows)))
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _by_queries(
        self, attack: SearchAttack, classifier: Classifier, batch: Batch, rng: Randomness, rows: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Run a query-based attack at its first level, on single images.

        In a batch, such an attack may start closer to another image than to its own.
        """
        import numpy as np

        chunks = []
        for level in attack.control_levels()[:1]:
            for row in rows:
                single = batch.take([row])
                model = self._planted(classifier, single, rng, str(level["norm"]), number(level)[1])
                chunks.append({"row": np.array([row]), **_run_attack(attack, level, single, rng, model)})
        return chunks

    def _planted(
        self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str, epsilon: float
    ) -> tuple[Any, NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the model, the images (n,) with a planted point, and those on which noise of its size succeeds."""
        from auditor.algorithms.balls import Ball
        from auditor.algorithms.planted_control import plant, random_point

        model, planted = plant(classifier, batch, rng, norm=norm, epsilon=epsilon, candidates=self.candidates)
        noise = random_point(classifier, batch, rng, Ball(norm, epsilon), "noise").cpu().numpy()
        return model, planted, model.misclassified(noise)


def _run_attack(attack: SearchAttack, level: Level, batch: Batch, rng: Randomness, model: Any) -> dict[str, Any]:
    """Return the columns of one attack at one level; ``model`` is the result of ``_planted``."""
    import numpy as np

    control, planted, noise_succeeds = model
    victims = type(batch)(
        ids=batch.ids,
        pixels=batch.pixels,
        labels=np.zeros(len(batch), dtype=np.int64),
        probabilities=control.predict(batch.pixels),
    )
    images = attack.perturbed(control, victims, rng, level)
    return {
        "attack": np.full(len(batch), attack.meta.id),
        "norm": np.full(len(batch), str(level["norm"])),
        "epsilon": np.full(len(batch), number(level)[1]),
        "planted": planted,
        "noise": noise_succeeds,
        "success": control.misclassified(images),
    }


def _untried(rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return rows for images without any attack, so that they are not measured again."""
    import numpy as np

    nothing = np.zeros(len(rows), dtype=bool)
    empty = np.full(len(rows), "")
    return {
        "row": rows,
        "attack": empty,
        "norm": empty,
        "epsilon": np.zeros(len(rows)),
        "planted": nothing,
        "noise": nothing,
        "success": nothing,
    }


def _search_attacks(probes: Sequence[Probe]) -> list[SearchAttack]:
    """Return the attacks that search for each image separately."""
    attacks = [probe for probe in probes if isinstance(probe, Attack | MinimumNorm)]
    return [
        attack
        for attack in attacks
        if (threat := attack.threat_model()) and threat.knowledge != "none" and attack.control_levels()
    ]


def _is_query_based(attack: SearchAttack) -> bool:
    threat = attack.threat_model()
    return threat is not None and threat.knowledge == "black-box"


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [PositiveControl]
