"""A limit for measuring, in seconds or queries: every probe gets an equal share; the rest goes to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from auditor.model import deployed
from auditor.plugin.duration import spoken

MEASURING = 0.8
"""Share of the limit for measuring; the rest is for the pictures, the conclusions and the reports."""


class Budget:
    """A time limit and the time that is left; or, with another clock, a number of queries."""

    kind, in_queries = "time limit", False

    def __init__(self, seconds: float, source: str, spent: float = 0.0) -> None:
        """Start the clock; ``source`` says where the limit was stated, for example "--budget".

        ``spent`` seconds are over: an earlier process of the same run used them.
        """
        self.seconds = seconds
        self.name = f"the {self.kind} ({spoken(seconds)}, {source})"
        self._clock: Callable[[], float] = deployed.seconds
        self._start = self._clock() - spent

    @property
    def left(self) -> float:
        """Seconds that are left for measuring, negative after the end."""
        return self._start + MEASURING * self.seconds - self._clock()

    @property
    def left_for_pictures(self) -> float:
        """Seconds that are left for measuring and drawing, negative after the end."""
        return self._start + (1 + MEASURING) / 2 * self.seconds - self._clock()


class QueryBudget(Budget):
    """A number of queries, and those that are left."""

    kind, in_queries = "query budget", True

    def __init__(self, queries: int, count: Callable[[], float]) -> None:
        """``count`` returns the queries so far."""
        super().__init__(queries, "--queries")
        self.name = f"the {self.kind} ({queries:,} queries, --queries)"
        self._clock, self._start = count, 0.0


class Progressed(NamedTuple):
    """What a probe measured in its share of the time."""

    images: int
    left: int
    """Images that are still to be measured."""


Advance = Callable[[str, float, int, int], Progressed]
"""Measure the probe with this id for so many seconds, as probe number ... of ..."""


def measure_in_sweeps(
    budget: Budget, probes: Sequence[str], *, n_later: int, advance: Advance
) -> dict[str, Exception | SystemExit]:
    """Measure probes one after the other, each for an equal share, and again while time and images are left.

    ``n_later`` probes measure after these and get an equal share of the time. A probe whose share was too short for one
    image waits until its share is twice as long. Returns the exceptions of the probes that broke.
    """
    broken: dict[str, Exception | SystemExit] = {}
    unfinished = list(probes)
    reserved = budget.left * n_later / max(1, n_later + len(unfinished))
    too_short: dict[str, float] = {}
    progressed = True
    while unfinished and progressed and budget.left > reserved:
        progressed = False
        # equal within a sweep: who comes later must not have more time
        share = (budget.left - reserved) / len(unfinished)
        sweep = list(unfinished)
        for number, probe_id in enumerate(sweep):
            seconds = min(share, budget.left - reserved)
            if seconds <= 0 or seconds < 2 * too_short.get(probe_id, 0.0):
                continue
            try:
                measured = advance(probe_id, seconds, number, len(sweep))
            except (Exception, SystemExit) as error:
                broken[probe_id] = error
                unfinished.remove(probe_id)
                continue
            if not measured.left:
                unfinished.remove(probe_id)
            if measured.images:
                progressed = True
            elif measured.left:
                too_short[probe_id] = seconds
    return broken
