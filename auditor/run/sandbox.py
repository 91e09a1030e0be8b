"""A model file is untrusted input: before this process opens one, a child process does, with limits.

The child opens the file as the audit will, asks original and copy about two images and takes one gradient. Whatever a
malformed or hostile file does to it (a crash of a library, an endless loop, gigabytes from a few bytes, a file that
it would write) happens there, and ends here as one sentence. What this does not catch: docs/explanation/security.md.

Started as a program this module is the server: it imports the libraries once, forks for every file that it is told on
stdin, and answers on stdout, one line of JSON each. It starts before the audit imports the same libraries, so that the
two do it at the same time.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from auditor.errors import AuditorError, BadInput

SECONDS = 120.0
"""How long opening a file may take, per started gigabyte of it."""
MEMORY = 4 * 2**30
"""Bytes of memory that opening any file may take, and ``MEMORY_FACTOR`` times its own size on top."""
MEMORY_FACTOR = 10
"""The file itself, the runtime's and the copy's weights, and what both of them hold while they are being built."""
_LATER = "left to the audit"
_WAY_OUT = "if you trust the file, --trust-model opens it without limits"


class NoRehearsal:
    """For files that are trusted, and for what is no file."""

    def finish(self) -> None:
        """Nothing to wait for."""


def load_in_sandbox(
    path: Path, overrides: Mapping[str, Any] | None = None, *, trust: bool = False
) -> Sandbox | NoRehearsal:
    """Begin to try a model file in a child process; call ``finish`` before opening it here.

    ``stated`` is what the command line says about the model, in the tables of the sidecar.
    """
    possible = hasattr(os, "fork") and path.is_file() and path.stat().st_size > 0
    return Sandbox(path, overrides) if possible and not trust else NoRehearsal()


class Sandbox:
    """One file on its way through the child; ``finish`` waits for the outcome."""

    def __init__(
        self,
        path: Path,
        overrides: Mapping[str, Any] | None = None,
        *,
        seconds: float = SECONDS,
        memory: int = MEMORY,
    ) -> None:
        """Begin; returns at once."""
        size = _size(path)
        self._path = path
        self._seconds = seconds * (1 + size // 2**30)
        self._memory = memory + MEMORY_FACTOR * size
        self._answer = _server().send(
            {"path": str(path.absolute()), "as": str(path), "stated": dict(overrides or {}), "seconds": self._seconds,
             "memory": self._memory}
        )  # fmt: skip

    def finish(self) -> None:
        """Raise BadInput when this process should not touch the file."""
        answer = self._answer()
        if answer["refused"]:
            raise BadInput(answer["refused"])
        if answer["ended"] == "time":
            what = f"opening it took longer than {self._seconds:.0f} s"
        elif answer["ended"] == "memory":
            what = f"opening it takes more than {self._memory / 2**30:.1f} GiB of memory"
        elif answer["ended"]:
            what = f"opening it crashed the process that tried ({answer['ended']})"
        else:
            return
        raise BadInput(f"{self._path}: {what}; expected a sound model file ({_WAY_OUT})")


def _size(path: Path) -> int:
    """Bytes of the file and of what may be its weights beside it."""
    try:
        beside = path.parent.glob(path.stem + "*")
        return sum(file.stat().st_size for file in {path, *beside} if file.is_file())
    except OSError:
        return 0


class _Server:
    """The child that imports the libraries once. Files are asked about one after another."""

    def __init__(self) -> None:
        # -P: a torch.py in the folder that the user works in is not torch. A session of its own: Ctrl-C is for us
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "auditor.run.sandbox"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        self._waiting: dict[int, dict[str, Any]] = {}
        self._sent = 0

    def send(self, job: dict[str, Any]) -> Any:
        """Ask about a file; returns the function that waits for the answer."""
        number = self._sent
        self._sent += 1
        with contextlib.suppress(BrokenPipeError):
            _write(self.process.stdin, job)
        return lambda: self._receive(number)

    def _receive(self, number: int) -> dict[str, Any]:
        assert self.process.stdout is not None
        while number not in self._waiting:
            line = self.process.stdout.readline()
            if not line:
                self.close()
                raise BadInput(
                    "the child process in which model files are opened first could not be started, or was killed; see"
                    f" `auditor doctor` ({_WAY_OUT})"
                )
            answer: dict[str, Any] = json.loads(line)
            self._waiting[answer["number"]] = answer
        return self._waiting.pop(number)

    def close(self) -> None:
        """End the child."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        self.process.kill()
        self.process.wait()
        if self in _running:
            _running.remove(self)


_running: list[_Server] = []


def _server() -> _Server:
    """The running server, or a new one."""
    if _running and _running[0].process.poll() is not None:
        _running[0].close()
    if not _running:
        server = _Server()
        _running.append(server)
        atexit.register(server.close)
    return _running[0]


def _write(pipe: IO[str] | None, message: dict[str, Any]) -> None:
    assert pipe is not None
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()


# --- the server's side ------------------------------------------------------------------------------------------------


def _serve() -> None:
    """Answer until stdin ends. Nothing that a file prints may get between the answers."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from auditor.plugin import registry

    _import_libraries()
    plugins = registry.load()
    number = 0
    while line := sys.stdin.readline():
        _write(out, {"number": number, **_try(plugins, json.loads(line))})
        number += 1


def _import_libraries() -> None:
    import onnxruntime
    import torch

    import auditor.onnx.graph  # noqa: F401

    # it is found by writing to it, which a fork may not
    tempfile.gettempdir()
    torch.set_num_threads(1)
    onnxruntime.set_default_logger_severity(4)


def _try(plugins: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Rehearse in a fork, watched: what it said, or how it ended if it could not say anything."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reads)
            _limit(job["memory"])
            os.write(writes, json.dumps(_load(plugins, job)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writes)
    asker = os.getppid()
    deadline = time.monotonic() + job["seconds"]
    while not select.select([reads], [], [], 0.5)[0]:
        # whoever asked may be gone
        if time.monotonic() >= deadline or os.getppid() != asker:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reads)
            return {"refused": "", "ended": "time"}
    # less than a pipe holds, so it comes whole, or not at all when the child died
    said = os.read(reads, 65536)
    os.close(reads)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said:
        found: dict[str, Any] = json.loads(said)
        return found
    # the kernel's way to say that memory ran out
    ended = "memory" if code == -signal.SIGKILL else signal.Signals(-code).name if code < 0 else f"status {code}"
    return {"refused": "", "ended": ended}


def _limit(memory: int) -> None:
    """Less memory, no core dump, not a byte written to any file."""
    import resource

    # RLIMIT_DATA counts private memory only: libraries that are merely mapped cost nothing
    for what, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard),) * 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _load(plugins: Any, job: dict[str, Any]) -> dict[str, str]:
    """Open the file and use it as an audit does; what refuses it in so many words is passed on."""
    import numpy as np

    from auditor.errors import first_line, is_out_of_memory
    from auditor.model.loading import build, read_sidecar, wanted_output

    path, shown = Path(job["path"]), job["as"]
    refused, problem = "", ""
    try:
        output = wanted_output(path, job["stated"])
        artefact = plugins.first("auditor_open_model", path=path, device="cpu", trust=False, output=output)
        # once it is open, the audit comes to the same place, knows the images, and says it better
        refused = _LATER
        if artefact is None:
            # nobody's; or a plugin's that only the asking process knows; or its plugin broke, which is said there, too
            problem = " ".join(plugin.error or "" for plugin in plugins.broken)
        else:
            sidecar = read_sidecar(path, artefact.metadata, options=job["stated"], properties=artefact.properties)
            classifier = build(path, artefact, sidecar)
            images = np.linspace(0, 1, 2 * int(np.prod(classifier.shape)), dtype=np.float32)
            classifier.verify(images.reshape(2, *classifier.shape))
            problem = classifier.access_reason
    except (AuditorError, ArithmeticError) as error:
        refused, problem = refused or str(error), str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        refused = f"{shown}: not a sound model file: opening it raised {type(error).__name__}: {first_line(error)}"
    if is_out_of_memory(RuntimeError(problem)) or "MemoryError" in problem:
        return {"refused": "", "ended": "memory"}
    return {"refused": "" if refused == _LATER else refused.replace(str(path), shown)[:2000], "ended": ""}


if __name__ == "__main__":
    _serve()
