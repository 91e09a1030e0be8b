"""``--budget``: divide the time among the probes by the measured cost of an image.

Every probe first measures one image. The remaining time is then shared equally; time that a cheap probe does not need
goes to the others. Costs are updated as more images are measured, because one image alone costs more than each of many.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

PILOT = 1
"""Images that every probe measures regardless of the budget, to estimate the cost of an image.

One only, because an image can take the most expensive attacks minutes.
"""

GROWTH = 4
"""Factor by which a round may exceed the images of the previous one before costs are updated."""


class Budget:
    """The remaining time, and the cost of an image of each probe."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self._end = time.monotonic() + seconds
        self._spent: dict[str, tuple[float, int]] = {}

    @property
    def left(self) -> float:
        """Remaining seconds, negative after the end."""
        return self._end - time.monotonic()

    def charge(self, probe_id: str, seconds: float, images: int) -> None:
        """Record the cost of the latest images; it replaces the previous cost."""
        if images:
            self._spent[probe_id] = (seconds, images)

    def cost(self, probe_id: str) -> float:
        """Return the latest seconds per image, 0 for a probe without a measurement."""
        seconds, images = self._spent.get(probe_id, (0.0, 1))
        return seconds / images

    def plan(self, wanted: Mapping[str, int], done: Mapping[str, int], seconds: float) -> dict[str, int]:
        """Return how many images each probe should have measured after ``seconds``; at least those ``done``."""
        need = {probe_id: (count - done[probe_id]) * self.cost(probe_id) for probe_id, count in wanted.items()}
        share, left = 0.0, seconds
        # the cheapest first: time that they do not need raises the share of the others
        for number, price in enumerate(sorted(need.values())):
            share = max(share, left / (len(need) - number))
            left -= min(price, share)
        return {
            probe_id: count
            if need[probe_id] <= share
            else done[probe_id] + int(max(share, 0.0) / self.cost(probe_id) + 1e-9)
            for probe_id, count in wanted.items()
        }
