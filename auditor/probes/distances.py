"""The smallest perturbation that any attack of an audit found, per image.

It is an upper bound of the adversarial distance, not a guarantee: a better attack can only lower it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from auditor.probes.base import Columns, Probe, Randomness
from auditor.probes.perturbation import ATTACK_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier


class AttackSummary(Probe):
    """Base class of probes that conclude from the records of the attacks and make no model call."""

    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return nothing: the records of other probes suffice."""
        del classifier, batch, rng
        return {}


def attack_records(others: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Select the records with ``ATTACK_COLUMNS`` by probe id."""
    return {name: frame for name, frame in others.items() if set(frame.columns) >= ATTACK_COLUMNS}


def norms_of(attacks: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the attacked norms in the order of the attacks, without budgets by SNR."""
    norms = dict.fromkeys(str(norm) for frame in attacks.values() for norm in frame["norm"].unique())
    return [norm for norm in norms if norm != "snr"]


_ROUNDED = 1e-5
"""Relative difference of two distances that is due to rounding."""


def smallest(attacks: Mapping[str, pd.DataFrame], norm: str) -> pd.DataFrame:
    """Return the smallest successful perturbation of each attacked image in a norm.

    Returns:
        Indexed by image id: ``distance``, 0 if the image is misclassified without an attack and infinite if no attack
        succeeded; ``snr_db`` and ``attack`` of that perturbation; ``searched``, whether any attack searched for the
        least distance instead of trying given budgets; ``unit`` if the data states units.
    """
    import numpy as np
    import pandas as pd

    frames = [frame[frame["norm"] == norm].assign(attack=name) for name, frame in attacks.items()]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        index = pd.Index([], name="image_id")
        return pd.DataFrame({"distance": [], "snr_db": [], "attack": [], "searched": []}, index=index)
    rows = pd.concat(frames, ignore_index=True)
    clean = rows[rows["epsilon"] == 0].drop_duplicates("image_id").set_index("image_id")
    hits = rows[rows["success"]].sort_values(norm, kind="stable").drop_duplicates("image_id").set_index("image_id")
    # attacks that continue from one point differ by rounding: name the first of them in any batch
    least = rows["image_id"].map(hits[norm])
    equal = rows[rows["success"] & (rows[norm] <= least * (1 + _ROUNDED))].drop_duplicates("image_id")
    columns = {"distance": hits[norm], "snr_db": hits["snr_db"], "attack": equal.set_index("image_id")["attack"]}
    result = pd.DataFrame(columns).reindex(clean.index)
    result["distance"] = result["distance"].fillna(np.inf)
    result["searched"] = result.index.isin(rows["image_id"][rows["searched"].astype(bool)])
    result["attack"] = result["attack"].fillna("")
    wrong = (clean["prediction"] != clean["label"]).to_numpy()
    result.loc[wrong, ["distance", "snr_db"]] = [0.0, np.nan]
    if "unit" in clean:
        result["unit"] = clean["unit"]
    return result
