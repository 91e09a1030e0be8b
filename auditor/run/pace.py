"""Divide the images of a probe into batches: of the fastest size without a time limit, else such that they end in time.

Within a limit the first batch is small, because nothing is known about the cost of an image: attacks take between one
pass and ten thousand. Every batch tells the cost of the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from auditor.model.deployed import Price

GROWTH = 4
"""Factor by which a batch may exceed the previous one."""

_GUESSED_PASSES = 1000
"""Passes for an image, predictions and gradients, that the first batch assumes: those of an expensive probe."""

_SLACK = 0.25
"""Share of the time of a probe by which a batch that should have ended in time may exceed it."""


class Pace:
    """The batches of one probe, one after the other."""

    def __init__(
        self,
        ids: Sequence[str],
        batch_size: Callable[[], int],
        *,
        seconds: float | None = None,
        price: Price | None = None,
    ) -> None:
        """Divide ``ids``; ``batch_size`` is called for every batch, because it falls when memory runs out.

        ``seconds`` is the time of all batches, None for no limit; ``price`` is the model's, None if it is unknown.
        """
        self._ids = ids
        self._batch_size = batch_size
        self._seconds = seconds
        self._stop = None if seconds is None else time.monotonic() + seconds
        guess = _GUESSED_PASSES * sum(price or ())
        self._size = len(ids) if not seconds or not guess else max(1, min(len(ids), int(seconds / guess)))
        self._begun = time.monotonic()
        self._done = 0

    @property
    def deadline(self) -> float | None:
        """The time, by ``time.monotonic``, at which a batch is abandoned; None for never."""
        if self._stop is None or self._seconds is None:
            return None
        # before the first batch has ended, another setting or another probe may still use the rest
        return self._stop + (_SLACK * self._seconds if self._done else 0.0)

    def __iter__(self) -> Iterator[Sequence[str]]:
        start = 0
        while start < len(self._ids):
            size = min(self._size, self._batch_size())
            if size < 1 or (self._stop is not None and start and time.monotonic() >= self._stop):
                return
            piece = self._ids[start : start + size]
            start += len(piece)
            yield piece

    def finished(self, images: int) -> None:
        """Learn the cost of an image from all batches so far."""
        self._done += images
        if self._stop is None or not images:
            return
        now = time.monotonic()
        cost = (now - self._begun) / self._done
        fits = len(self._ids) if cost <= 0 else int((self._stop - now) / cost + 1e-9)
        self._size = min(GROWTH * max(self._size, 1), fits)
