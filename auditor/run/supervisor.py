"""Run an audit in a supervised process, so that no probe, plugin or model runtime can take it down.

The supervisor imports no heavy library. It starts the process (``supervised.py``), follows what it does, and kills it
when a step takes too long or too much memory. When the process ends without a result, what it was doing becomes a
casualty (``casualties.py``), and another process resumes the audit.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from auditor.errors import BadInput
from auditor.findings.record import ProbeRecord
from auditor.run import memory
from auditor.run.casualties import Casualties, Ending, Work, stopped_after
from auditor.run.channel import Receiver
from auditor.run.request import Interrupted, Outcome, Position, Progress, Request, Silent
from auditor.run.supervised import Job

_TICK_SECONDS = 0.2
"""Time between two looks at deadline and memory."""

_GRACE_SECONDS = 30.0
"""Time for a process to write its rows after a signal, before it is killed."""


_EXIT_SECONDS = 2.0
"""Time for a process to end after its result, before it is killed."""


class AuditorBug(Exception):
    """The audit ended with an exception that is not a probe's; the message is its traceback."""


def is_possible() -> bool:
    """Return whether this system can supervise an audit: it must be able to fork."""
    return hasattr(os, "fork")


def run(request: Request, progress: Progress | None = None, *, verbose: bool = False) -> Outcome:
    """Run an audit as ``auditor.run.session.run`` does, in a supervised process."""
    with Supervisor(verbose=verbose) as supervisor:
        return supervisor.run(request, progress)


class Supervisor:
    """Runs audits one after another; they share the process that imports the libraries."""

    def __init__(self, *, verbose: bool = False) -> None:
        """``verbose`` shows the warnings of libraries."""
        self._verbose = verbose
        self._server: _Server | None = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    def run(self, request: Request, progress: Progress | None = None) -> Outcome:
        """Run an audit; raise what ``auditor.run.session.run`` raises."""
        limit = _memory_limit(request)
        display = _Display(progress or Silent())
        casualties = Casualties()
        began = time.monotonic()
        while True:
            job = Job(
                request=display.rest_of(request),
                casualties=casualties,
                owner=os.getpid(),
                spent=time.monotonic() - began if casualties.restarts else 0.0,
                memory=limit,
                verbose=self._verbose,
            )
            result = _Attempt(self._running_server(), display, request.probe_timeout, limit).follow(job)
            if isinstance(result, Outcome):
                return result
            work = display.work
            casualties = replace(casualties, broken=display.broken).after(
                work, result, proven=work.subject in display.proven
            )
            if casualties.fatal:
                raise BadInput(f"{request.model}: {casualties.fatal}; see --verbose, or try another model or data")
            display.restarted(work, result)

    def _running_server(self) -> _Server:
        if self._server is not None and self._server.ended:
            self._server.close()
            self._server = None
        self._server = self._server or _Server()
        return self._server


def _memory_limit(request: Request) -> int | None:
    if request.probe_memory is not None and not memory.is_limitable():
        raise BadInput("--probe-memory: this system cannot limit the memory of a process; leave the option out")
    return request.probe_memory or memory.machine_share()


class _Display:
    """Passes the progress of all attempts on as that of one audit, and remembers what the process is doing."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._said: set[str] = set()
        self._ended: set[str] = set()
        self._current, self._fresh = "", False
        self.folder: Path | None = None
        self.work = Work(stage="open")
        self.since = time.monotonic()
        """When ``work`` began."""
        self.broken: dict[str, str] = {}
        """The probes that ended with an error, and the error."""
        self.proven: set[str] = set()
        """The probes that have measured an image, and "" for the model that has predicted one."""

    def rest_of(self, request: Request) -> Request:
        """Return the request for the next attempt: it keeps what was measured."""
        return request if self.folder is None else replace(request, fresh=False)

    def restarted(self, work: Work, ending: Ending) -> None:
        """Report that another process resumes the audit."""
        subject = f" ({work.subject})" if work.subject else ""
        self._progress.say(f"The process {ending.text} during {work.stage}{subject}; the audit resumes.")

    def handle(self, kind: str, content: Any) -> None:
        """Handle a message about work or progress."""
        if kind == "work":
            self._begin_work(*content)
        elif kind == "folder":
            self.folder = Path(content)
        elif kind == "say" and content not in self._said:
            self._said.add(content)
            self._progress.say(content)
        elif kind == "begin":
            self._current, self._fresh = content[0], False
            if self._current not in self._ended:
                self._progress.begin(content[0], content[1], Position(*content[2]))
        elif kind == "advance":
            self._advance(content)
        elif kind == "end":
            self._end(content)

    def _begin_work(self, stage: Any, subject: str, images: list[str]) -> None:
        if self.work.stage == "predict":
            self.proven.add(self.work.subject)
        self.work, self.since = Work(stage=stage, subject=subject, images=images), time.monotonic()

    def _advance(self, images: int) -> None:
        # the first number is that of images without a need to measure
        if self._fresh and images:
            self.proven.add(self._current)
        self._fresh = True
        if self._current not in self._ended:
            self._progress.advance(images)

    def _end(self, record: ProbeRecord) -> None:
        if record["id"] not in self._ended:
            self._ended.add(record["id"])
            if record["status"] == "error":
                self.broken[record["id"]] = record["reason"]
            self._progress.end(record)


class _Attempt:
    """One process and its limits."""

    def __init__(self, server: _Server, display: _Display, seconds: float, limit: int | None) -> None:
        self._server, self._display = server, display
        self._seconds, self._limit = seconds, limit
        self._pid = 0
        self._killed: Ending | None = None
        self._result: Outcome | Exception | None = None

    def follow(self, job: Job) -> Outcome | Ending:
        """Run a job; return its outcome, or how the process ended without one."""
        self._display.work, self._display.since = Work(stage="open"), time.monotonic()
        try:
            self._server.send(job)
            while True:
                result = self._step()
                if result is not None:
                    return result
        except KeyboardInterrupt:
            self._stop()
        finally:
            self._kill()

    def _step(self) -> Outcome | Ending | None:
        # asked before reading: what the server sent before it ended is in the pipe
        orphaned = self._server.ended
        messages = list(self._server.receiver.receive(_TICK_SECONDS))
        for message in messages:
            for kind, content in message.items():
                if kind == "started":
                    self._pid = content
                elif kind == "ended":
                    self._pid = 0
                    return self._ended(_ending(content))
                elif kind == "lost":
                    self._killed = Ending(content)
                elif kind == "interrupted":
                    self._killed = Ending("was stopped by a signal that the user did not send")
                elif kind in {"done", "refused", "failed", "bug"}:
                    self._result = self._read_result(kind, content)
                    self._display.since = time.monotonic()
                else:
                    self._display.handle(kind, content)
        if orphaned and not messages:
            return self._ended(Ending("lost the process that supervises it"))
        if self._pid and self._killed is None:
            self._killed = self._exceeded()
            if self._killed is not None:
                self._kill()
        return None

    def _exceeded(self) -> Ending | None:
        """Return which limit the process exceeds."""
        if self._result is not None:
            late = time.monotonic() - self._display.since > _EXIT_SECONDS
            return Ending("did not end") if late else None
        work = self._display.work
        if work.stage != "open" and time.monotonic() - self._display.since > self._seconds:
            return stopped_after(self._seconds)
        if self._limit is not None and memory.resident(self._pid) > self._limit:
            return Ending(f"was stopped at {self._limit / 1e9:.3g} GB of memory (--probe-memory)")
        return None

    def _ended(self, ending: Ending) -> Outcome | Ending:
        """Return the result of a process that has ended, or raise it; without any, how it ended."""
        if isinstance(self._result, Exception):
            raise self._result
        return self._result or self._killed or ending

    def _read_result(self, kind: str, content: Any) -> Outcome | Exception:
        if kind == "refused":
            return BadInput(content)
        if kind == "failed":
            return OSError(*content)
        if kind == "bug":
            return AuditorBug(content)
        assert self._display.folder is not None
        out = self._display.folder
        return Outcome(
            audit=json.loads((out / "audit.json").read_bytes()),
            out=out,
            files=[Path(file) for file in content["files"]],
            incomplete=content["incomplete"],
            problems=content["problems"],
        )

    def _stop(self) -> NoReturn:
        """Let the process write its rows and end; a second signal kills it at once."""
        with contextlib.suppress(KeyboardInterrupt):
            if self._pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGTERM)
            end = time.monotonic() + _GRACE_SECONDS
            while self._pid and time.monotonic() < end and not self._server.ended:
                kinds = {kind for message in self._server.receiver.receive(_TICK_SECONDS) for kind in message}
                if kinds & {"ended", "interrupted", "done"}:
                    break
        if self._display.folder is None:
            raise KeyboardInterrupt
        raise Interrupted(self._display.folder)

    def _kill(self) -> None:
        """Kill the process and everything that it started."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)


def _ending(code: int) -> Ending:
    if code >= 0:
        return Ending(f"ended itself with status {code}")
    name = signal.Signals(-code).name
    hint = ", probably because the memory was used up" if name == "SIGKILL" else ""
    return Ending(f"was ended by {name}{hint}")


class _Server:
    """The process that forks the processes of the audit."""

    def __init__(self) -> None:
        reads, writes = os.pipe()
        # -P: ignore a torch.py in the working folder. Own session: signals of the terminal reach the supervisor only
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "auditor.run.supervised", str(writes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[writes],
            start_new_session=True,
        )
        os.close(writes)
        self._reads = reads
        self.receiver = Receiver(reads)

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def send(self, job: Job) -> None:
        """Send a job."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(pickle.dumps(job))
            self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        os.close(self._reads)
