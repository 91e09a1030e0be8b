"""Levels: perturbation strengths and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from auditor.findings.formatting import norm_name
from auditor.findings.metric import n_of_255

Level = Mapping[str, Any]
"""Perturbation strength: any number of texts and exactly one number, for example
``{"norm": "linf", "epsilon": 0.03}`` or ``{"noise": "gaussian", "snr": 20.0}``. The texts name the line of a curve, the
number is its x coordinate."""


def number(level: Level) -> tuple[str, float]:
    """Return the name and the value of a level's number."""
    return next((key, float(value)) for key, value in level.items() if isinstance(value, int | float))


def line_name(level: Level) -> str:
    """Join the texts of a level into the name of its line."""
    texts = [norm_name(str(v)) if k == "norm" else str(v) for k, v in level.items() if isinstance(v, str)]
    return " ".join(texts)


def level_name(level: Level) -> str:
    """Format the number of a level with its unit."""
    key, value = number(level)
    if key == "snr":
        return f"SNR {value:g} dB"
    if key == "epsilon":
        return f"epsilon {size(str(level.get('norm', 'linf')), value)}"
    if key == "sigma":
        return f"sigma {n_of_255(value)}"
    return f"{key.replace('_', ' ')} {value:g}"


def size(norm: str, epsilon: float) -> str:
    """Format an epsilon: n/255 for L-infinity, a plain number for other norms."""
    return n_of_255(epsilon) if norm == "linf" else f"{epsilon:.3g}"


def size_format(norm: str) -> Literal["n/255", "number"]:
    """Return the number format of epsilons in a norm, for axes and table columns."""
    return "n/255" if norm == "linf" else "number"


def epsilon_levels(
    linf: Sequence[float], l2: Sequence[float], l1: Sequence[float] = (), *, snrs: Sequence[float] = ()
) -> list[Level]:
    """Build the levels of an attack in up to three norms and by SNR in dB, weakest first within each."""
    by_norm = {"linf": linf, "l2": l2, "l1": l1, "snr": [10 ** (-snr / 20) for snr in snrs]}
    return [{"norm": norm, "epsilon": e} for norm, sizes in by_norm.items() for e in sorted(sizes)]


def budget_text(linf: Sequence[float], l2: Sequence[float] = (), l1: Sequence[float] = ()) -> str:
    """Describe the largest epsilon in each attacked norm, for threat models."""
    parts = [f"{max(linf) * 255:g}/255 in L-inf"] if linf else []
    parts += [f"{max(sizes):g} in {name}" for name, sizes in (("L2", l2), ("L1", l1)) if sizes]
    return f"epsilon up to {', '.join(parts)}" if parts else "no budget"
