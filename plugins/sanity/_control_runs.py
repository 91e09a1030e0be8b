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


def plant_errors(
    classifier: Classifier, batch: Batch, rng: Randomness, level: Level, *, candidates: int
) -> tuple[Any, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the model, the images (n,) with a planted point, and those on which noise of its size succeeds."""
    from auditor.algorithms.balls import Ball
    from auditor.algorithms.planted_control import plant, random_point

    norm, epsilon = str(level["norm"]), number(level)[1]
    model, planted = plant(classifier, batch, rng, norm=norm, epsilon=epsilon, candidates=candidates)
    noise = random_point(classifier, batch, rng, Ball(norm, epsilon), "noise").cpu().numpy()
    return model, planted, model.misclassified(noise)


def run_attack(attack: SearchAttack, level: Level, batch: Batch, rng: Randomness, model: Any) -> dict[str, Any]:
    """Return the columns of one attack at one level; ``model`` is the result of ``plant_errors``."""
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


def untried(rows: NDArray[np.int64]) -> dict[str, Any]:
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


def is_query_based(attack: SearchAttack) -> bool:
    """Return whether the attack only queries the model."""
    threat = attack.threat_model()
    return threat is not None and threat.knowledge == "black-box"
