"""``--budget``: how many images each probe gets, from what an image of each was measured to cost.

Every probe first measures an image. What is left of the time is then shared evenly, and what a cheap probe does not
need of its share goes to the others: the cheap ones are done with all of their images, and no expensive one starves.
Costs are measured again as more images are, because one image costs more than each of many does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

PILOT = 1
"""Images that every probe measures whatever the budget is, and that say what an image costs.

One, because there are networks on which an image takes the dearest attacks minutes.
"""

GROWTH = 4
"""By so much may a probe measure more in a round than before, until its cost is measured again."""


class Budget:
    """The time that is left, and what an image of each probe costs."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` from now on."""
        self._end = time.monotonic() + seconds
        self._spent: dict[str, tuple[float, int]] = {}

    @property
    def left(self) -> float:
        """Seconds, negative when the time is over."""
        return self._end - time.monotonic()

    def charge(self, probe_id: str, seconds: float, images: int) -> None:
        """A probe took so long for so many images; what it cost before does not count any more."""
        if images:
            self._spent[probe_id] = (seconds, images)

    def cost(self, probe_id: str) -> float:
        """Seconds for an image, as last measured; 0 for a probe that was not."""
        seconds, images = self._spent.get(probe_id, (0.0, 1))
        return seconds / images

    def plan(self, wanted: Mapping[str, int], done: Mapping[str, int], seconds: float) -> dict[str, int]:
        """How many images each probe should have measured once ``seconds`` more are spent; at least those ``done``."""
        need = {probe_id: (count - done[probe_id]) * self.cost(probe_id) for probe_id, count in wanted.items()}
        share, left = 0.0, seconds
        # whoever needs least is served first, so that what it leaves is known
        for number, price in enumerate(sorted(need.values())):
            share = max(share, left / (len(need) - number))
            left -= min(price, share)
        return {
            probe_id: count
            if need[probe_id] <= share
            else done[probe_id] + int(max(share, 0.0) / self.cost(probe_id) + 1e-9)
            for probe_id, count in wanted.items()
        }
