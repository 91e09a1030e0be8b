"""Workers that may be lost: a backend in this process, whose workers are lost by script."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from auditor import Conclusion, Meta, Probe, Records
from auditor.errors import BadInput
from auditor.run import fleet as fleets
from auditor.run.casualties import Casualties
from auditor.run.fleet import FAILED_STARTS, Fleet, WorkerLost
from auditor.run.folder import Cost
from auditor.run.measuring import Measured
from auditor.run.watch import ProbeLost, Watch


class Nothing(Probe):
    meta = Meta(id="attacks.nothing", title="Nothing", area="attacks", why="For the tests.")

    def measure(self, *_: Any) -> dict[str, Any]:
        return {}

    def conclude(self, records: Records) -> Conclusion:
        del records
        return Conclusion()


@dataclass(eq=False)
class Process:
    number: int
    queue: deque[Answer] = field(default_factory=deque)
    dead: bool = False


@dataclass(eq=False)
class Answer:
    process: Process
    compute: Callable[[], Any]
    value: Any = None
    error: Exception | None = None
    ended: bool = False


class Hangs(Exception):
    """The worker measures this piece for ever."""


class Scripted:
    """Workers that measure in the order in which ``finished`` is called, each one piece at a time."""

    place_seconds = 0.3

    def __init__(
        self,
        measure: Callable[[Process, Sequence[str]], Measured] = lambda _, ids: rows(ids),
        opening: Callable[[Process], None] = lambda _: None,
        *,
        places: int = 100,
    ) -> None:
        """``measure`` and ``opening`` are done by the worker; ``Lost`` in them ends it."""
        self._measure, self._opening, self._places = measure, opening, places
        self.processes: list[Process] = []
        self.given: list[tuple[int, tuple[str, ...]]] = []
        self.deepest = 0
        self.companions = 0
        """Pieces that a worker already had when it was given one for the second time."""

    def start(self) -> tuple[Process, Answer]:
        process = Process(len(self.processes))
        self.processes.append(process)
        return process, self._queued(process, lambda: process.number)

    def open(self, process: Process) -> Answer:
        return self._queued(process, lambda: self._opening(process))

    def share(self, probe: Probe) -> Probe:
        return probe

    def measure(self, process: Process, probe: Probe, ids: Sequence[str]) -> Answer:
        assert isinstance(probe, Nothing)
        self.given.append((process.number, tuple(ids)))
        answer = self._queued(process, lambda: self._measure(process, ids))
        self.deepest = max(self.deepest, len(process.queue))
        if sum(ids[0] == given[0] and len(given) == len(ids) for _, given in self.given) > 1:
            self.companions += len(process.queue) - 1
        return answer

    def finished(self, tickets: Sequence[Answer], seconds: float) -> Sequence[Answer]:
        if seconds and not any(ticket.ended for ticket in tickets):
            for process in self.processes[: self._places]:
                self._step(process)
        return [ticket for ticket in tickets if ticket.ended]

    def result(self, ticket: Answer) -> Any:
        if ticket.error is not None:
            raise ticket.error
        return ticket.value

    def kill(self, process: Process) -> None:
        process.dead = True

    def dismiss(self, workers: Sequence[Process]) -> None:
        for process in workers:
            self.kill(process)

    def no_place(self) -> str:
        return "no place for a worker"

    def _queued(self, process: Process, compute: Callable[[], Any]) -> Answer:
        answer = Answer(process, compute)
        process.queue.append(answer)
        return answer

    def _step(self, process: Process) -> None:
        if process.dead or not process.queue:
            return
        answer = process.queue.popleft()
        try:
            answer.value = answer.compute()
        except WorkerLost as error:
            process.dead = True
            for each in (answer, *process.queue):
                each.error, each.ended = error, True
        except Hangs:
            process.queue.appendleft(answer)
            return
        except Exception as error:
            answer.error = error
        answer.ended = True


def rows(ids: Sequence[str]) -> Measured:
    return Measured(None, len(ids), Cost(), {}, dict.fromkeys(ids, "measured"))


def measured(fleet: Fleet, pieces: Iterator[Sequence[str]]) -> dict[str, str]:
    """Reason by image; an image that is measured twice is an error."""
    found: dict[str, str] = {}
    for each in fleet.measure(Nothing(), pieces):
        assert not found.keys() & each.left_out.keys()
        found |= each.left_out
    return found


PIECES: Sequence[Sequence[str]] = [[f"{piece}-{image}" for image in range(10)] for piece in range(6)]
ALL = dict.fromkeys((image for piece in PIECES for image in piece), "measured")


def test_every_worker_has_its_next_piece_at_hand() -> None:
    backend = Scripted()
    assert measured(Fleet(backend, 2, Watch()), iter(PIECES)) == ALL
    assert backend.deepest == fleets.IN_FLIGHT == 2
    assert {number for number, _ in backend.given} == {0, 1}
    # nothing is measured twice without a reason
    assert len(backend.given) == len(PIECES)


def test_lost_worker_is_replaced_and_its_pieces_are_measured_again() -> None:
    def measure(process: Process, ids: Sequence[str]) -> Measured:
        if process.number == 1:
            raise WorkerLost("the node is gone")
        return rows(ids)

    said: list[str] = []
    watch = Watch()
    backend = Scripted(measure)
    assert measured(Fleet(backend, 2, watch, said.append), iter(PIECES)) == ALL
    assert said == ["A worker was lost (the node is gone); another one replaces it."]
    # a machine that is lost is not the fault of an image
    assert watch.casualties == Casualties(workers=1)
    assert len(backend.processes) == 3


def test_image_that_ends_workers_is_found_named_and_left_out() -> None:
    def measure(_: Process, ids: Sequence[str]) -> Measured:
        if "3-7" in ids:
            crashed.append(len(ids))
            raise WorkerLost("it crashed")
        return rows(ids)

    crashed: list[int] = []
    watch = Watch()
    backend = Scripted(measure)
    found = measured(Fleet(backend, 2, watch), iter(PIECES))
    assert found == ALL | {"3-7": "the process lost one of its workers"}
    assert watch.casualties.images == {"attacks.nothing": {"3-7": "the process lost one of its workers"}}
    assert watch.casualties.restarts == 0
    # tried twice each: the piece, its part of two images, the image
    assert crashed == [10, 10, 2, 2, 1, 1]
    # after its first loss, the piece shares a worker with no other
    assert backend.companions == 0
    # no other probe needs to leave it out
    assert set(watch.casualties.probes) == set()


def test_probe_that_ends_workers_on_every_image_is_an_error() -> None:
    def measure(_: Process, ids: Sequence[str]) -> Measured:
        raise WorkerLost("it crashed")

    fleet = Fleet(Scripted(measure), 2, Watch())
    with pytest.raises(ProbeLost, match="lost one of its workers during the measurement; images: "):
        measured(fleet, iter(PIECES))


def test_exception_of_the_probe_is_raised_and_its_other_pieces_are_not_used() -> None:
    broken = True

    def measure(_: Process, ids: Sequence[str]) -> Measured:
        if broken and "1-0" in ids:
            raise ZeroDivisionError("by the probe")
        return rows(ids)

    fleet = Fleet(Scripted(measure), 2, Watch())
    with pytest.raises(ZeroDivisionError, match="by the probe"):
        measured(fleet, iter(PIECES))
    broken = False
    again = [[f"again-{image}"] for image in range(5)]
    assert set(measured(fleet, iter(again))) == {f"again-{image}" for image in range(5)}


def test_all_workers_lost_between_two_probes() -> None:
    backend = Scripted()
    fleet = Fleet(backend, 2, Watch())
    assert measured(fleet, iter(PIECES[:1])) == dict.fromkeys(PIECES[0], "measured")

    def lost() -> Any:
        raise WorkerLost("the network")

    # what they were given is lost with them, and no worker is open when the pieces begin
    for process in backend.processes:
        process.queue.append(Answer(process, lost))
    assert measured(fleet, iter(PIECES)) == ALL


def test_piece_that_takes_too_long_is_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(fleets.time, "monotonic", lambda: now)

    def measure(_: Process, ids: Sequence[str]) -> Measured:
        nonlocal now
        now += 1.0
        if "2-0" in ids and len(ids) > 1:
            raise Hangs
        return rows(ids)

    watch = Watch()
    watch.probe_timeout = 30.0
    backend = Scripted(measure)
    assert measured(Fleet(backend, 1, watch), iter([PIECES[0], PIECES[2]])) == dict.fromkeys(
        (*PIECES[0], *PIECES[2]), "measured"
    )
    # in parts of two images, then one by one: as in a single process, no other batch may take as long
    assert watch.casualties.largest_batch["attacks.nothing"] == {"": 1}
    assert watch.casualties.workers == 2


def test_worker_that_refuses_ends_the_start_if_it_is_the_last_one() -> None:
    def refuse(process: Process) -> None:
        raise BadInput(f"worker {process.number} has another version")

    with pytest.raises(BadInput, match="worker 1 has another version"):
        Fleet(Scripted(opening=refuse), 2, Watch())


def test_audit_continues_without_a_worker_that_refuses() -> None:
    def refuse(process: Process) -> None:
        if process.number == 0:
            raise BadInput("it has no data")

    said: list[str] = []
    fleet = Fleet(Scripted(opening=refuse), 2, Watch(), said.append)
    assert measured(fleet, iter(PIECES)) == ALL
    assert said == ["The audit continues without one worker: it has no data"]


def test_workers_that_end_while_they_open_are_not_started_for_ever() -> None:
    def crash(_: Process) -> None:
        raise WorkerLost("Worker exits unexpectedly")

    backend = Scripted(opening=crash)
    with pytest.raises(BadInput, match="ended while it opened the model and the data: Worker exits unexpectedly"):
        Fleet(backend, 2, Watch())
    assert len(backend.processes) == 2 + FAILED_STARTS - 1


def test_cluster_without_a_place_is_refused_after_a_time_limit() -> None:
    with pytest.raises(BadInput, match="no place for a worker"):
        Fleet(Scripted(places=0), 2, Watch())


def test_audit_begins_with_those_workers_that_have_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    fleet = Fleet(Scripted(places=1), 3, Watch(), said.append)
    assert measured(fleet, iter(PIECES)) == ALL
    assert said == []
    monkeypatch.setattr(Scripted, "place_seconds", -1.0)
    assert measured(fleet, iter(PIECES)) == ALL
    assert said == ["2 of 3 workers wait for a free place; the others measure meanwhile."]


def test_probe_is_an_error_if_no_worker_is_left() -> None:
    opened: list[int] = []

    def first_only(process: Process) -> None:
        if process.number:
            raise BadInput("the data is gone")
        opened.append(process.number)

    def measure(_: Process, ids: Sequence[str]) -> Measured:
        raise WorkerLost("the node is gone")

    fleet = Fleet(Scripted(measure, first_only), 1, Watch())
    for _ in range(2):
        with pytest.raises(ProbeLost, match="the data is gone"):
            measured(fleet, iter(PIECES))
    assert opened == [0]
