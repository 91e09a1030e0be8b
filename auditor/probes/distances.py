"""The smallest perturbation that any attack of an audit found, per image: what several metrics are compared with.

An upper bound of the true distance to the nearest error, never a guarantee: a better attack can only lower it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def attack_records(others: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Those of other probes' records that come from attacks within a norm, by probe id."""
    return {name: frame for name, frame in others.items() if {"norm", "success"} <= set(frame.columns)}


def norms_of(attacks: Mapping[str, pd.DataFrame]) -> list[str]:
    """The norms in which anything was attacked, in the order of the attacks; a budget by SNR is none."""
    norms = dict.fromkeys(str(norm) for frame in attacks.values() for norm in frame["norm"].unique())
    return [norm for norm in norms if norm != "snr"]


def smallest(attacks: Mapping[str, pd.DataFrame], norm: str) -> pd.DataFrame:
    """Per attacked image (the index) the least ``distance`` at which any attack succeeded, its ``snr_db`` and which
    ``attack`` it was; ``searched`` says that an attack looked for the least distance instead of trying some epsilons.

    An image that is wrong without an attack has distance 0, one that nothing broke has infinity and the attack "".
    """
    import numpy as np
    import pandas as pd

    frames = [frame[frame["norm"] == norm].assign(attack=name) for name, frame in attacks.items()]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        nothing = pd.Index([], name="image_id")
        return pd.DataFrame({"distance": [], "snr_db": [], "attack": [], "searched": []}, index=nothing)
    rows = pd.concat(frames, ignore_index=True)
    clean = rows[rows["epsilon"] == 0].drop_duplicates("image_id").set_index("image_id")
    hits = rows[rows["success"]].sort_values(norm, kind="stable").drop_duplicates("image_id").set_index("image_id")
    result = pd.DataFrame(
        {"distance": hits[norm], "snr_db": hits["snr_db"], "attack": hits["attack"]}
    ).reindex(clean.index)  # fmt: skip
    result["distance"] = result["distance"].fillna(np.inf)
    searched = rows["image_id"][rows["exact"].eq(True)] if "exact" in rows.columns else []
    result["searched"] = result.index.isin(searched)
    result["attack"] = result["attack"].fillna("")
    wrong = (clean["prediction"] != clean["label"]).to_numpy()
    result.loc[wrong, ["distance", "snr_db"]] = [0.0, np.nan]
    return result
