"""Measure in processes that may be lost at any time: with the machine, with the network, or because of an image.

A lost worker is replaced and its pieces are measured again. A piece that loses several workers is divided, down to the
image that ends them, which is left out as by a single process (``casualties.py``). What starts the processes and
carries the pieces is a ``Backend``.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from auditor.errors import AuditorError, BadInput
from auditor.probes.base import Probe
from auditor.run.casualties import Ending, Work, stopped_after
from auditor.run.folder import Cost
from auditor.run.measuring import Measured
from auditor.run.watch import ProbeLost, Watch

IN_FLIGHT = 2
"""Pieces that a worker has at a time: one that it measures, and the next, so that it does not wait for this process."""

TRIES = 2
"""Workers that a piece may lose before it is blamed: a worker may also be lost with its machine."""

FAILED_STARTS = 4
"""Workers in a row that end before they are open, after which no further one is started."""

TICK_SECONDS = 1.0
"""Longest time between two looks at deadlines."""

Ticket = Any
"""Stands for an answer that is on its way."""


class WorkerLost(Exception):
    """The process that was to answer is gone; the message says what is known about it."""


class Backend(Protocol):
    """What starts workers and carries requests and answers."""

    place_seconds: float
    """How long a worker may wait for a place before that is reported, or, if no worker has one, the audit refused."""

    def start(self) -> tuple[Any, Ticket]:
        """Start a worker; return it, and the ticket that ends when its process runs."""

    def open(self, worker: Any) -> Ticket:
        """Let a worker open model and data; the result raises BadInput if the worker refuses."""

    def share(self, probe: Probe) -> Any:
        """Return what stands for a probe in ``measure``, so that it is sent to each machine once."""

    def measure(self, worker: Any, probe: Any, ids: Sequence[str]) -> Ticket:
        """Let a worker measure images after those that it was given before."""

    def finished(self, tickets: Sequence[Ticket], seconds: float) -> Sequence[Ticket]:
        """Return the tickets that have ended, after the first has or ``seconds`` are over."""

    def result(self, ticket: Ticket) -> Any:
        """Return the answer to a ticket that has ended. Raises WorkerLost, or what the worker raised."""

    def kill(self, worker: Any) -> None:
        """End the process of a worker that does not answer."""

    def dismiss(self, workers: Sequence[Any]) -> None:
        """Let workers remove their files, and end them."""

    def no_place(self) -> str:
        """Say why no worker has found a place, in one sentence for the user."""


Stage = Literal["placing", "opening", "open"]


@dataclass
class _Piece:
    """Images that a worker has been given."""

    run: int
    """The call of ``measure`` that they belong to; the answer to an earlier one is not needed any more."""
    ids: Sequence[str]
    ticket: Ticket
    suspect: bool
    """Whether a worker was lost with it."""


@dataclass(eq=False)
class _Worker:
    handle: Any
    ticket: Ticket
    """Of its start or its opening."""
    stage: Stage = "placing"
    since: float = field(default_factory=time.monotonic)
    """When it began what it does now."""
    pieces: deque[_Piece] = field(default_factory=deque)
    """The first is being measured, the others wait."""

    @property
    def takes_another(self) -> bool:
        """Whether the worker may be given another piece."""
        return self.stage == "open" and len(self.pieces) < IN_FLIGHT and not any(each.suspect for each in self.pieces)

    def next_piece(self) -> None:
        """Go on to the next piece."""
        self.pieces.popleft()
        self.since = time.monotonic()

    @property
    def waits_for(self) -> Ticket | None:
        """The ticket that ends next; None if the worker is idle."""
        if self.stage != "open":
            return self.ticket
        return self.pieces[0].ticket if self.pieces else None


class Fleet:
    """Workers that are replaced when they are lost."""

    def __init__(self, backend: Backend, size: int, watch: Watch, say: Callable[[str], None] = lambda _: None) -> None:
        """Start ``size`` workers and wait until the first is open. Raises BadInput if none opens.

        ``say`` reports an event in one line.
        """
        self._backend = backend
        self._watch = watch
        self._say = say
        self._run = 0
        self._waiting: deque[Sequence[str]] = deque()
        """Pieces of this run that are to be measured again, or in parts."""
        self._losses: Counter[tuple[str, ...]] = Counter()
        """By piece of this run: the workers that it has lost."""
        self._proven: set[str] = set()
        """Probes that have measured an image."""
        self._told = False
        """Whether it was reported that workers wait for a place."""
        self._failed_starts = 0
        self._problem = ""
        """Why the last worker that did not open did not."""
        self._workers = [self._started() for _ in range(size)]
        try:
            with watch.during("open"):
                self._open_first()
        except BaseException:
            self.close()
            raise

    def measure(self, probe: Probe, pieces: Iterator[Sequence[str]]) -> Iterator[Measured]:
        """Yield the rows of every piece, in the order of completion.

        Raises what the probe raises, and ProbeLost if it ends too many workers or none is left.
        """
        self._run += 1
        self._waiting.clear()
        self._losses.clear()
        shared = self._backend.share(probe)
        while True:
            self._distribute(probe.meta.id, shared, pieces)
            if not self._is_measuring:
                # all pieces are measured, or no worker is open to take one
                piece = next(pieces, None)
                if piece is None:
                    return
                self._waiting.append(piece)
            for measured in self._attend(probe.meta.id):
                if measured.images:
                    self._proven.add(probe.meta.id)
                yield measured

    def _open_first(self) -> None:
        while not any(worker.stage == "open" for worker in self._workers):
            self._attend()
            if not self._workers:
                raise BadInput(self._problem)

    def close(self) -> None:
        """End all workers."""
        self._backend.dismiss([worker.handle for worker in self._workers])
        self._workers.clear()

    @property
    def _is_measuring(self) -> bool:
        """Whether pieces of this run are under way, or will be once a worker is open."""
        return bool(self._waiting) or any(piece.run == self._run for worker in self._workers for piece in worker.pieces)

    def _distribute(self, probe_id: str, shared: Any, pieces: Iterator[Sequence[str]]) -> None:
        """Give every open worker as many pieces as it may have, the idle ones first.

        A suspect is given to an idle worker and is its only piece: no other piece can be blamed for it.
        """
        while worker := self._least_busy():
            piece = self._waiting.popleft() if self._waiting else next(pieces, None)
            if piece is None:
                return
            part = self._watch.casualties.piece(probe_id, piece, len(piece))
            suspect = tuple(part) in self._losses or self._watch.casualties.is_suspect(probe_id, part)
            if suspect and worker.pieces:
                self._waiting.appendleft(piece)
                return
            if len(part) < len(piece):
                self._waiting.appendleft(piece[len(part) :])
            if not worker.pieces:
                worker.since = time.monotonic()
            ticket = self._backend.measure(worker.handle, shared, part)
            worker.pieces.append(_Piece(self._run, part, ticket, suspect))

    def _least_busy(self) -> _Worker | None:
        free = [worker for worker in self._workers if worker.takes_another]
        return min(free, key=lambda worker: len(worker.pieces), default=None)

    def _attend(self, probe_id: str = "") -> list[Measured]:
        """Wait for an event, and handle all that have happened; return the rows that arrived."""
        if not self._workers:
            raise ProbeLost(self._problem)
        self._announce(probe_id)
        self._backend.finished([ticket for worker in self._workers if (ticket := worker.waits_for)], TICK_SECONDS)
        arrived: list[Measured] = []
        for worker in list(self._workers):
            try:
                if worker.stage == "open":
                    self._collect(worker, arrived)
                else:
                    self._advance(worker)
            except WorkerLost as error:
                arrived += self._replaced(worker, Ending("lost one of its workers"), str(error), probe_id)
        self._check_places()
        return arrived + self._timed_out(probe_id)

    def _announce(self, probe_id: str) -> None:
        """Tell the supervisor what is measured, also as a sign of life: the limit for a piece is kept here."""
        ids = [name for worker in self._workers for piece in worker.pieces for name in piece.ids]
        if ids and probe_id:
            self._watch.doing("measure", probe_id, ids)

    def _collect(self, worker: _Worker, arrived: list[Measured]) -> None:
        """Take the pieces that a worker has measured. Raises what the probe raised."""
        while worker.pieces and self._backend.finished([worker.pieces[0].ticket], 0):
            piece = worker.pieces[0]
            try:
                measured = self._backend.result(piece.ticket)
            except WorkerLost:
                raise
            except Exception:
                worker.next_piece()
                if piece.run == self._run:
                    raise
            else:
                worker.next_piece()
                if piece.run == self._run:
                    arrived.append(measured)

    def _advance(self, worker: _Worker) -> None:
        """Let a worker whose process has started open model and data; dismiss one that refuses."""
        if not self._backend.finished([worker.ticket], 0):
            return
        try:
            self._backend.result(worker.ticket)
        except AuditorError as error:
            self._problem = str(error)
            self._workers.remove(worker)
            self._backend.dismiss([worker.handle])
            if self._workers:
                self._say(f"The audit continues without one worker: {self._problem}")
            return
        worker.since = time.monotonic()
        if worker.stage == "placing":
            worker.stage, worker.ticket = "opening", self._backend.open(worker.handle)
        else:
            worker.stage, self._failed_starts = "open", 0

    def _check_places(self) -> None:
        """Report workers that find no place; dismiss all if none does."""
        now = time.monotonic()
        late = [
            each for each in self._workers if each.stage == "placing" and now - each.since > self._backend.place_seconds
        ]
        if late and len(late) == len(self._workers):
            self._problem = self._backend.no_place()
            self.close()
        elif late and not self._told:
            self._told = True
            self._say(
                f"{len(late)} of {len(self._workers)} workers wait for a free place; the others measure meanwhile."
            )

    def _timed_out(self, probe_id: str) -> list[Measured]:
        """Replace workers whose piece takes too long."""
        now, limit = time.monotonic(), self._watch.probe_timeout
        if limit is None:
            return []
        arrived: list[Measured] = []
        for worker in [each for each in self._workers if each.pieces and now - each.since > limit]:
            self._backend.kill(worker.handle)
            ending = stopped_after(limit)
            arrived += self._replaced(worker, ending, f"it {ending.text}", probe_id)
        return arrived

    def _replaced(self, worker: _Worker, ending: Ending, why: str, probe_id: str) -> list[Measured]:
        """Start another worker for a lost one; return the images that its piece, if it is to blame, leaves out."""
        self._workers.remove(worker)
        if worker.stage == "open":
            self._watch.casualties = replace(self._watch.casualties, workers=self._watch.casualties.workers + 1)
            self._say(f"A worker was lost ({why}); another one replaces it.")
        else:
            self._failed_starts += 1
            self._problem = f"a worker ended while it {_DOING[worker.stage]}: {why}"
        if self._failed_starts < FAILED_STARTS:
            self._workers.append(self._started())
        if not worker.pieces:
            return []
        blamed, *others = worker.pieces
        self._waiting.extendleft(piece.ids for piece in reversed(others) if piece.run == self._run)
        return self._blamed(probe_id, blamed.ids, ending) if blamed.run == self._run else []

    def _blamed(self, probe_id: str, ids: Sequence[str], ending: Ending) -> list[Measured]:
        """Let a piece be measured again that a worker was lost with, or find the image in it that ends workers."""
        self._losses[tuple(ids)] += 1
        if self._losses[tuple(ids)] < TRIES and not ending.timed_out:
            self._waiting.appendleft(ids)
            return []
        before = self._watch.casualties
        after = before.after(
            Work(stage="measure", subject=probe_id, images=ids), ending, proven=probe_id in self._proven
        )
        # it was not the process of the audit that was started again
        self._watch.casualties = replace(after, restarts=before.restarts)
        self._watch.check(probe_id)
        left_out = after.images.get(probe_id, {})
        if ids[0] in left_out:
            return [Measured(None, 1, Cost(), {}, {ids[0]: left_out[ids[0]]})]
        self._waiting.appendleft(ids)
        return []

    def _started(self) -> _Worker:
        return _Worker(*self._backend.start())


_DOING = {"placing": "started", "opening": "opened the model and the data"}
