"""What an audit tells the process that supervises it, and what it learns from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from auditor.errors import AuditorError
from auditor.run.casualties import Casualties, Stage


class Stopped(KeyboardInterrupt):
    """A signal asked a supervised process to stop."""


class FolderLost(BaseException):
    """The run folder is gone, or cannot be written: the audit ends.

    Not an Exception, because it is no error of the probe that was measured; ``RunFolder`` turns it into BadInput.
    """


class ProbeLost(AuditorError):
    """The probe broke in an earlier process of this run, or ended it."""


class Watch:
    """An audit without a supervisor, as in a notebook: nothing listens, and nothing was lost.

    ``auditor.run.supervised`` derives the one of a supervised process.
    """

    supervised = False
    """Whether the audit may assume that it owns its process."""
    probe_memory: int | None = None
    """Memory limit in bytes."""
    probe_timeout: float | None = None
    """Time limit for a step of a probe in seconds."""

    spent = 0.0
    """Seconds of the time limit that earlier processes of this run used."""

    def __init__(self, casualties: Casualties | None = None) -> None:
        """``casualties`` is what earlier processes of this run lost."""
        self.casualties = casualties or Casualties()
        self._now: tuple[Stage, str, Sequence[str]] = ("open", "", ())
        self.owner = os.getpid()
        """The process that the user started."""

    def doing(self, stage: Stage, subject: str = "", images: Sequence[str] = ()) -> None:
        """Say what the process is about to do."""
        self._now = (stage, subject, images)

    @contextmanager
    def during(self, stage: Stage, subject: str = "", images: Sequence[str] = ()) -> Iterator[None]:
        """Say what the process is about to do, and at the end of the context that it goes on with what it did."""
        before = self._now
        self.doing(stage, subject, images)
        yield
        self.doing(*before)

    def opened(self, folder: Path, lock: int) -> None:
        """Say which run folder the process writes to, and the descriptor of its lock."""

    def lock_of(self, path: Path) -> int | None:
        """Return the descriptor of the lock at ``path`` if an earlier process of this run holds it."""
        del path
        return None

    def lose(self, what: str) -> None:
        """End the work on the probe, because the process ``what``, for example "lost one of its workers"."""
        raise ProbeLost(f"the process {what}")

    def check(self, probe_id: str) -> None:
        """Raise ProbeLost if the probe broke in an earlier process of this run, or ended it."""
        if reason := self.casualties.probes.get(probe_id) or self.casualties.broken.get(probe_id):
            raise ProbeLost(reason)

    def ends_audit(self, error: BaseException) -> bool:
        """Return whether an exception that left a probe ends the whole audit: a signal, or the loss of the run folder.

        In a supervised process, signals raise ``Stopped``, so any other KeyboardInterrupt is the probe's own.
        """
        return isinstance(error, FolderLost | (Stopped if self.supervised else KeyboardInterrupt))
