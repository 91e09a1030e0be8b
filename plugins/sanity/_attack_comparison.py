"""Compare the attacks of a run with each other and with noise, for ``sanity.gradient-masking``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from auditor import Records, Table
from auditor.findings.formatting import norm_name
from auditor.plugins.sanity._masking_checks import (
    BLACK_BOX,
    LARGER_EPSILON,
    ONE_STEP,
    SQUARE,
    CheckResult,
    judge,
)
from auditor.probes.levels import size
from auditor.probes.units import units_by_image

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell

    Frames = Mapping[str, pd.DataFrame]

_SINGLE_STEP = "attacks.fgsm"

_SHARED_PERTURBATION = {"attacks.universal"}
"""Attacks with one perturbation for all images: a larger one may fail on images where a smaller one succeeds."""


def compare_attacks(records: Records, epsilon: float) -> list[CheckResult]:
    """Return the checks that compare attacks with each other, as far as there are two to compare."""
    from auditor.probes.distances import attack_records

    attacks = attack_records(records.others)
    white = _with_knowledge(records, attacks, "white-box")
    black = _with_knowledge(records, attacks, "black-box")
    single = {name: frame for name, frame in white.items() if name == _SINGLE_STEP}
    many = {name: frame for name, frame in white.items() if name != _SINGLE_STEP}
    found = []
    for check, weak, strong in ((BLACK_BOX, black, white), (ONE_STEP, single, many)):
        flags = _only_weak_succeeds(weak, strong, epsilon)
        if flags is not None:
            found.append(judge(check, flags, units=_units(weak, flags)))
    found += _square_alone(attacks)
    for name, frame in many.items():
        flags = None if name in _SHARED_PERTURBATION else _fails_at_larger(frame)
        if flags is not None:
            found.append(judge(LARGER_EPSILON, flags, name, units=units_by_image(frame, flags.index)))
    return found


def _with_knowledge(records: Records, attacks: Frames, knowledge: str) -> dict[str, pd.DataFrame]:
    return {
        name: frame
        for name, frame in attacks.items()
        if name in records.threats and records.threats[name].knowledge == knowledge
    }


def _square_alone(attacks: Frames) -> list[CheckResult]:
    """Check whether Square is the only component of AutoAttack that succeeds."""
    frame = attacks.get("attacks.autoattack")
    if frame is None:
        return []
    attacked = frame[frame["epsilon"] > 0]
    alone = (attacked["component"] == "Square") & attacked["success"].astype(bool)
    return [judge(SQUARE, alone, units=attacked.get("unit"))] if len(attacked) else []


def _units(attacks: Frames, flags: pd.Series[bool]) -> NDArray[np.object_] | None:
    """Return the unit of each image of ``flags``; None if the data states no units."""
    import pandas as pd

    return units_by_image(pd.concat(attacks.values()), flags.index)


def _only_weak_succeeds(weak: Frames, strong: Frames, epsilon: float) -> pd.Series[bool] | None:
    """Return by image whether only the weak attacks succeed, for common images; None without common images.

    Both are compared at the largest size up to ``epsilon`` that the strong attacks tried.
    """
    from auditor.probes.distances import smallest

    tried = [e for frame in strong.values() for e in frame.loc[frame["norm"] == "linf", "epsilon"].unique()]
    # a minimum-norm search has no budget
    tried += [epsilon for frame in strong.values() if _is_search(frame)]
    limit = max((e for e in tried if e <= epsilon * 1.001), default=0.0)
    weakest, strongest = (smallest(attacks, "linf")["distance"] for attacks in (weak, strong))
    common = weakest.index.intersection(strongest.index)
    weakest, strongest = weakest[common], strongest[common]
    attacked = strongest > 0
    if not limit or not attacked.any():
        return None
    within = limit + 1e-6
    return ((weakest <= within) & (strongest > within))[attacked]


def _is_search(frame: pd.DataFrame) -> bool:
    """Return whether the records are those of a minimum-norm search."""
    return bool(frame["searched"].any())


def _fails_at_larger(frame: pd.DataFrame) -> pd.Series[bool] | None:
    """Return by attacked image whether the attack fails at a larger L-infinity budget than one that succeeds.

    None for fewer than two budgets.
    """
    attacked = frame[(frame["norm"] == "linf") & (frame["epsilon"] > 0)]
    if attacked["epsilon"].nunique() < 2:
        return None
    first_success = attacked[attacked["success"]].groupby("image_id")["epsilon"].min()
    last_failure = attacked[~attacked["success"].astype(bool)].groupby("image_id")["epsilon"].max()
    ids = attacked["image_id"].unique()
    return last_failure.reindex(ids).fillna(0.0) > first_success.reindex(ids).fillna(float("inf"))


def noise_comparison(records: Records, sizes: Mapping[str, float]) -> list[Table]:
    """Tabulate the success of every attack and of noise of equal size on the same images; ``sizes`` by norm."""
    from auditor.probes.distances import attack_records, norms_of

    rows = [
        row
        for name, frame in attack_records(records.others).items()
        for norm in norms_of({name: frame})
        if (row := _noise_row(records, name, frame, norm, sizes[norm])) is not None
    ]
    table = Table(
        title="Attacks compared with random noise of equal size",
        columns=["attack", "size", "success of the attack", "success of noise", "n"],
        formats=["text", "text", "percent", "percent", "count"],
        rows=rows,
        caption="On images that are classified correctly without an attack. An attack that is no better than noise is"
        " not evidence of robustness.",
    )
    return [table] if rows else []


def _noise_row(records: Records, name: str, frame: pd.DataFrame, norm: str, epsilon: float) -> list[Cell] | None:
    """Compare one attack with noise; None without common images or if the attack's budgets are smaller."""
    from auditor import statistics
    from auditor.probes.distances import smallest

    tried = frame[frame["norm"] == norm]
    distance = smallest({name: frame}, norm)["distance"]
    noise = records.frame.set_index("image_id")
    common = distance.index[distance > 0].intersection(noise.index)
    if not len(common) or not (_is_search(tried) or tried["epsilon"].max() >= epsilon * 0.999):
        return None
    units = units_by_image(frame, common)
    attack = statistics.proportion("attack_success_rate", distance[common] <= epsilon + 1e-6, units=units)
    random = statistics.proportion("attack_success_rate", noise.loc[common, f"noise_{norm}"], units=units)
    return [name, f"{norm_name(norm)} {size(norm, epsilon)}", attack.cell(), random.cell(), len(common)]
