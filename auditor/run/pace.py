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
        clock: Callable[[], float] | None = None,
        guess: float = 0.0,
        cut: Callable[[Sequence[str], int], Sequence[str]] | None = None,
    ) -> None:
        """Divide ``ids``; ``batch_size`` is called for every batch, because it falls when memory runs out.

        ``seconds`` is the time of all batches by ``clock``, None for no limit; ``guess`` the expected one for an image.
        ``cut`` returns the first images of a batch that may be measured together.
        """
        self._ids = ids
        self._batch_size = batch_size
        self._cut = cut or (lambda ids, _: ids)
        self._seconds = seconds
        self._clock = clock or time.monotonic
        self._begun = self._clock()
        self._done = self._start = 0
        self._size = len(ids) if seconds is None or guess <= 0 else max(1, int(seconds / guess))

    @property
    def cost(self) -> float:
        """Seconds for an image so far; 0 before the first batch has ended."""
        return (self._clock() - self._begun) / self._done if self._done else 0.0

    @property
    def deadline(self) -> float | None:
        """The time, by the clock, at which a batch is abandoned; None for never."""
        if self._seconds is None:
            return None
        # a batch that should have ended in time may take longer; before the first one, nothing is known
        return self._begun + self._seconds * (1 + _SLACK if self._done else 1)

    @property
    def upcoming(self) -> Sequence[str]:
        """The images that the next batch will probably have."""
        return self._ids[self._start : self._start + min(self._size, self._batch_size())]

    def __iter__(self) -> Iterator[Sequence[str]]:
        while self._start < len(self._ids):
            size = min(self._size, self._batch_size())
            if size < 1:
                return
            piece = self._cut(self._ids[self._start : self._start + size], size)
            self._start += len(piece)
            yield piece

    def finished(self, images: int) -> None:
        """Choose the size of the next batch from the cost of all images so far."""
        self._done += images
        if self._seconds is None or not self._done:
            return
        left = self._seconds - (self._clock() - self._begun)
        fits = int(left / self.cost + 1e-9) if self.cost > 0 else len(self._ids)
        self._size = min(GROWTH * self._size, fits)


def first_guess(price: Price) -> float:
    """Return the seconds for an image of a probe that has not measured any."""
    return _GUESSED_PASSES * sum(price)
