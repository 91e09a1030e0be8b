"""Plant adversarial examples and run attacks on them, for ``sanity.positive-control``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auditor import Level, Probe
from auditor.probes.attack import Attack
from auditor.probes.levels import number
from auditor.probes.minimum_norm import MinimumNorm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness

SearchAttack = Attack | MinimumNorm


def run_attacks(
    attacks: Sequence[SearchAttack],
    classifier: Classifier,
    batch: Batch,
    rng: Randomness,
    *,
    candidates: int,
    query_rows: Sequence[int],
) -> dict[str, NDArray[Any]]:
    """Run every attack on models with planted errors; return one row per image, attack and level.

    Args:
        attacks: The attacks with the settings of the run.
        classifier: The audited model.
        batch: The clean images.
        rng: Source of the planted points.
        candidates: Random points, of which the one with the largest change of the logits is planted.
        query_rows: Rows of the images for query-based attacks, which run at their first level only.
    """
    import numpy as np

    chunks: list[dict[str, Any]] = []
    models: dict[tuple[str, float], Any] = {}
    for attack in attacks:
        if _is_query_based(attack):
            chunks += _by_queries(attack, classifier, batch, rng, candidates=candidates, rows=query_rows)
            continue
        for level in attack.control_levels():
            at = str(level["norm"]), number(level)[1]
            if at not in models:
                models[at] = _plant_errors(classifier, batch, rng, level, candidates=candidates)
            chunks.append({"row": np.arange(len(batch)), **_run_attack(attack, level, batch, rng, models[at])})
    if len(query_rows) < len(batch) and not models:
        chunks.append(_untried(np.setdiff1d(np.arange(len(batch)), query_rows)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _by_queries(
    attack: SearchAttack, classifier: Classifier, batch: Batch, rng: Randomness, *, candidates: int, rows: Sequence[int]
) -> list[dict[str, Any]]:
    """Run a query-based attack at its first level, on single images.

    In a batch, such an attack may start closer to another image than to its own.
    """
    import numpy as np

    chunks = []
    for level in attack.control_levels()[:1]:
        for row in rows:
            single = batch.take([row])
            model = _plant_errors(classifier, single, rng, level, candidates=candidates)
            chunks.append({"row": np.array([row]), **_run_attack(attack, level, single, rng, model)})
    return chunks


def _plant_errors(
    classifier: Classifier, batch: Batch, rng: Randomness, level: Level, *, candidates: int
) -> tuple[Any, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the model, the images (n,) with a planted point, and those on which noise of its size succeeds."""
    from auditor.algorithms.balls import Ball
    from auditor.algorithms.planted_control import plant, random_point

    norm, epsilon = str(level["norm"]), number(level)[1]
    model, planted = plant(classifier, batch, rng, norm=norm, epsilon=epsilon, candidates=candidates)
    noise = random_point(classifier, batch, rng, Ball(norm, epsilon), "noise").cpu().numpy()
    return model, planted, model.misclassified(noise)


def _run_attack(attack: SearchAttack, level: Level, batch: Batch, rng: Randomness, model: Any) -> dict[str, Any]:
    """Return the columns of one attack at one level; ``model`` is the result of ``_plant_errors``."""
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


def search_attacks(probes: Sequence[Probe]) -> list[SearchAttack]:
    """Return the attacks that search for each image separately."""
    attacks = [probe for probe in probes if isinstance(probe, Attack | MinimumNorm)]
    return [
        attack
        for attack in attacks
        if (threat := attack.threat_model()) and threat.knowledge != "none" and attack.control_levels()
    ]


def _is_query_based(attack: SearchAttack) -> bool:
    """Return whether the attack only queries the model."""
    threat = attack.threat_model()
    return threat is not None and threat.knowledge == "black-box"
