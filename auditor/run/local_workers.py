"""Measure in several processes on this machine (``--workers N``); the records are the same as those of one process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from auditor.model.device import limit_threads
from auditor.probes.base import Probe
from auditor.run.measuring import Measured, Measurer
from auditor.run.request import Request
from auditor.run.watch import Watch
from auditor.run.worker import Worker

_worker: list[Worker] = []
"""The worker of this process, if it is one of the pool."""


class LocalWorkers:
    """A pool of processes, each with its own model and images; all of them use the device of the audit."""

    def __init__(self, request: Request, measurer: Measurer, count: int, watch: Watch) -> None:
        """Start ``count`` processes and wait until the first has opened the model."""
        classifier = measurer.classifier
        drop_copy = "" if classifier.access == "white-box" else classifier.access_reason
        self._count = count
        self._watch = watch
        looks = measurer.images.looks.to_parquet()
        self._arguments = (count, request, classifier.device, classifier.batch_size, drop_copy, looks)
        self._pool = self._started()

    def measure(self, probe: Probe, pieces: Iterator[Sequence[str]]) -> Iterator[Measured]:
        """Yield the rows of every piece, in the order of completion.

        A piece with a suspect of an earlier process is measured alone, so that it is known which one ends the process.
        """
        running: dict[Future[Measured], Sequence[str]] = {}
        try:
            for piece in pieces:
                alone = self._watch.casualties.is_suspect(probe.meta.id, piece)
                yield from self._finished(running, at_most=0 if alone else self._count - 1)
                running[self._pool.submit(_measure, probe, list(piece))] = piece
                self._announce(probe, running)
                yield from self._finished(running, at_most=0 if alone else self._count)
            yield from self._finished(running, at_most=0)
        except BrokenProcessPool:
            self._pool = self._started()
            self._watch.lose("lost one of its workers")

    def close(self) -> None:
        """Stop the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _finished(self, running: dict[Future[Measured], Sequence[str]], at_most: int) -> Iterator[Measured]:
        """Yield results until at most this many pieces are running."""
        while len(running) > at_most:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                yield future.result()

    def _announce(self, probe: Probe, running: dict[Future[Measured], Sequence[str]]) -> None:
        self._watch.doing("measure", probe.meta.id, [image_id for piece in running.values() for image_id in piece])

    def _started(self) -> ProcessPoolExecutor:
        # not forked: the libraries have started threads, which a fork would lack
        pool = ProcessPoolExecutor(
            self._count, multiprocessing.get_context("spawn"), initializer=_open, initargs=self._arguments
        )
        # the pool starts a thread with its first task; no probe must be blamed for it
        pool.submit(os.getpid).result()
        return pool


def _open(count: int, *settings: Any) -> None:
    """Open model and images in a process of the pool; ``settings`` are the arguments of ``Worker``."""
    limit_threads(max(1, (os.cpu_count() or 1) // count))
    _worker.append(Worker(*settings))


def _measure(probe: Probe, ids: Sequence[str]) -> Measured:
    return _worker[0].measure(probe, ids)
