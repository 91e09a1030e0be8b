"""The processes of a supervised audit: a server that imports the libraries once, and forks a child for each attempt.

The child runs the audit. If it ends without a result, the server forks another one within milliseconds, which resumes
from the records on disk. As a program, this module is the server: it reads jobs from stdin, one pickle each, and both
send messages to the descriptor that is its argument (``channel.py``).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from auditor.errors import AuditorError
from auditor.findings.record import ProbeRecord
from auditor.plugin.registry import GROUP
from auditor.run.casualties import Casualties, Stage
from auditor.run.channel import Sender
from auditor.run.library_warnings import hide_library_warnings
from auditor.run.memory import limit_allocations
from auditor.run.names import check_names
from auditor.run.request import Interrupted, Position, Request
from auditor.run.sandbox import load_in_sandbox
from auditor.run.watch import Stopped, Watch
from auditor.schemas import import_jsonschema

_POLL_SECONDS = 0.05

_FINISHED = 70
"""Exit status of a process that has sent its result: the run folder is free again."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt to run an audit."""

    request: Request
    casualties: Casualties
    owner: int
    """The process that the user started."""
    spent: float
    """Seconds of the time limit that earlier attempts used."""
    memory: int | None
    """Memory limit in bytes."""
    verbose: bool
    """Show the warnings of libraries."""


class Supervised(Watch):
    """The watch of a supervised process: what it does goes to the supervisor."""

    supervised = True

    def __init__(self, job: Job, sender: Sender, locks: socket.socket, lock: int | None) -> None:
        """``lock`` is the lock of the run folder that an earlier process left to the server."""
        super().__init__(job.casualties)
        self.owner = job.owner
        self.spent = job.spent
        self.probe_memory = job.memory
        self.probe_timeout = job.request.probe_timeout
        self._sender, self._locks, self._lock = sender, locks, lock

    def doing(self, stage: Stage, subject: str = "", images: Sequence[str] = ()) -> None:
        """Send what the process is about to do."""
        super().doing(stage, subject, images)
        self._sender.send("work", [stage, subject, list(images)])

    def lose(self, what: str) -> None:
        """End this process, so that the supervisor finds the images that are to blame."""
        self._sender.send("lost", what)
        os._exit(0)

    def opened(self, folder: Path, lock: int) -> None:
        """Send the run folder, and leave its lock to the server: it outlives this process."""
        self._sender.send("folder", str(folder))
        socket.send_fds(self._locks, [b"lock"], [lock])

    def lock_of(self, path: Path) -> int | None:
        """Return the descriptor of the lock at ``path`` if an earlier process of this run holds it."""
        same = self._lock is not None and path.exists() and os.path.samestat(os.fstat(self._lock), path.stat())
        return self._lock if same else None


class _Progress:
    """A progress that sends everything to the supervisor."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def say(self, message: str) -> None:
        """Send the event."""
        self._sender.send("say", message)

    def begin(self, probe_id: str, images: int, position: Position) -> None:
        """Send the event."""
        self._sender.send("begin", [probe_id, images, position])

    def advance(self, images: int) -> None:
        """Send the event."""
        self._sender.send("advance", images)

    def end(self, record: ProbeRecord) -> None:
        """Send the event."""
        self._sender.send("end", record)


def _serve(sender: Sender) -> None:
    """Run jobs until stdin ends. The model file is tried in the sandbox once, while the libraries are imported."""
    warnings.simplefilter("ignore")
    jobs = os.fdopen(0, "rb")
    # to a terminal, output of libraries is a log; the results go to the supervisor
    os.dup2(2, 1)
    job: Job = pickle.load(jobs)
    _check_names(job, sender)
    try:
        sandbox = load_in_sandbox(job.request.model, job.request.overrides, trust=job.request.trust_model)
        _import_libraries()
        sandbox.finish()
    except AuditorError as error:
        sender.send("refused", str(error))
        return
    lock: int | None = None
    while True:
        lock = _attempt(job, sender, lock)
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        import_jsonschema()
        for module in _LATER_LIBRARIES:
            import_module(module)


def _check_names(job: Job, sender: Sender) -> None:
    """Check the names of the request in a fork, while the libraries are imported; for a wrong one, end this process."""
    if os.fork():
        return
    # a plugin may crash or hang: that is found, and reported, where the audit loads it
    signal.alarm(_CHECK_SECONDS)
    try:
        check_names(job.request)
    except AuditorError as error:
        sender.send("refused", str(error))
        os.kill(os.getppid(), signal.SIGKILL)
    except BaseException:
        os._exit(1)
    os._exit(0)


_CHECK_SECONDS = 30

_LIBRARIES = ("onnxruntime", "pandas", "pyarrow.parquet", "torch", "auditor.onnx.graph", "auditor.run.session")
_LATER_LIBRARIES = ("scipy.stats", "sklearn.metrics")
"""Imported for the second process: the first one imports what it needs, and only that."""


def _import_libraries() -> None:
    """Import what every audit needs, the built-in plugins among it; other plugins may end the process."""
    for module in _LIBRARIES:
        import_module(module)
    for entry in entry_points(group=GROUP):
        if entry.dist is not None and entry.dist.name == "auditor":
            entry.load()


def _attempt(job: Job, sender: Sender, lock: int | None) -> int | None:
    """Run a job in a fork; return the lock of the run folder."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _run(job, sender, theirs, lock)
    theirs.close()
    code = None
    while code is None:
        if os.getppid() != job.owner:
            # the supervisor was killed
            _kill_group(child)
            os._exit(1)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        found = _received_lock(ours)
        if found is not None:
            _close(lock)
            lock = found
    # threads and processes that it left behind
    _kill_group(child)
    ours.close()
    if code == _FINISHED:
        _close(lock)
        lock = None
    sender.send("ended", code)
    return lock


def _received_lock(receiver: socket.socket) -> int | None:
    """Return the descriptor that arrives within a moment, if one does."""
    if not select.select([receiver], [], [], _POLL_SECONDS)[0]:
        return None
    _, descriptors, _, _ = socket.recv_fds(receiver, 16, 1)
    if not descriptors:
        # the other end is closed
        time.sleep(_POLL_SECONDS)
    return descriptors[0] if descriptors else None


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _run(job: Job, sender: Sender, locks: socket.socket, lock: int | None) -> NoReturn:
    """Run the audit in this fork and send its result. Exit handlers are those of the server, so none runs."""
    os.setsid()
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    sender.send("started", os.getpid())
    watch = Supervised(job, sender, locks, lock)
    status = 0
    try:
        with contextlib.nullcontext() if job.verbose else hide_library_warnings():
            status = _send_result(job, sender, watch)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


def _stop(_signal: int, _frame: object) -> None:
    raise Stopped


def _send_result(job: Job, sender: Sender, watch: Watch) -> int:
    """Run the audit, send its result and return the exit status."""
    from auditor.model.device import keep_memory, pick_device
    from auditor.run.session import run

    keep_memory()
    try:
        if job.memory is not None and pick_device(job.request.device) == "cpu" and job.request.engine == "local":
            limit_allocations(job.memory)
        outcome = run(job.request, _Progress(sender), watch)
    except AuditorError as error:
        sender.send("refused", str(error))
    except (Interrupted, KeyboardInterrupt):
        sender.send("interrupted")
        return 0
    except OSError as error:
        sender.send("failed", [error.errno, error.strerror, None if error.filename is None else str(error.filename)])
    except Exception:
        sender.send("bug", traceback.format_exc())
    else:
        files = [str(file) for file in outcome.files]
        sender.send("done", {"files": files, "incomplete": outcome.incomplete, "problems": outcome.problems})
    return _FINISHED


if __name__ == "__main__":
    _serve(Sender(int(sys.argv[1])))
