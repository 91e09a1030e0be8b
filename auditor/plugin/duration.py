"""Times as people write them: 90s, 10m, 2h."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """Return the seconds of a time with its unit. Raises ValueError for anything else, and for no time at all."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smh])", text.strip())
    if not match or not float(match[1]):
        raise ValueError(f"{text!r}; expected a time with its unit, such as 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def spoken(duration: float) -> str:
    """Format seconds to the precision of a forecast: "40 s", "7 min", "3.5 h"."""
    if duration < 90:
        return f"{max(1, round(duration))} s"
    return f"{round(duration / 60)} min" if duration < 5400 else f"{duration / 3600:.1f} h"
