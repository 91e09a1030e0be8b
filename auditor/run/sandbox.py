"""Load a model file in a child process with limits before this process does: the file is untrusted input.

The child loads the file as the audit does, classifies two images with the deployed model and the differentiable copy,
and computes one gradient. A crash, an endless loop, excessive memory or a write by a malformed or hostile file affects
only the child; the audit reports it in one sentence. docs/security.md lists what the sandbox does not prevent.

As a program, this module is the server: it imports the libraries once and forks for each file. It reads jobs from stdin
and writes answers to stdout, each one line of JSON. It starts before the audit imports the same libraries, so that both
import them at the same time.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from auditor.errors import AuditorError, BadInput
from auditor.printable import printable_text

SECONDS = 120.0
"""Time limit for loading a file, per started gigabyte."""
MEMORY = 4 * 2**30
"""Memory limit for loading a file in bytes, in addition to ``MEMORY_FACTOR`` times its size."""
MEMORY_FACTOR = 10
"""Covers the file, the weights of runtime and copy, and their temporary memory while they are built."""
_DEFERRED = "left to the audit"
_ADVICE = "if you trust the file, --trust-model loads it without limits"


class NoSandbox:
    """Stands for the sandbox of a trusted file, and of a path that is not a file."""

    def finish(self) -> None:
        """Return at once."""


def load_in_sandbox(
    path: Path, overrides: Mapping[str, Any] | None = None, *, trust: bool = False
) -> Sandbox | NoSandbox:
    """Start to load a model file in a child process; call ``finish`` before loading it in this process.

    ``overrides`` are properties of the model from the command line, in the tables of the sidecar.
    """
    if printable_text(str(path)) != str(path):
        raise BadInput(
            f"{path}: the path of the model holds characters that are not UTF-8 or not printable, which runtimes cannot"
            " open; rename it (images may have any name)"
        )
    # the description of an endpoint holds no code, and a child would query the endpoint twice
    possible = hasattr(os, "fork") and path.suffix != ".toml" and path.is_file() and path.stat().st_size > 0
    return Sandbox(path, overrides) if possible and not trust else NoSandbox()


class Sandbox:
    """The loading of one file in the child; ``finish`` waits for the outcome."""

    def __init__(
        self,
        path: Path,
        overrides: Mapping[str, Any] | None = None,
        *,
        seconds: float = SECONDS,
        memory: int = MEMORY,
    ) -> None:
        """Start loading; return at once. Limits: ``seconds``, and ``memory`` in bytes."""
        size = _size(path)
        self._path = path
        self._seconds = seconds * (1 + size // 2**30)
        self._memory = memory + MEMORY_FACTOR * size
        self._answer = _server().send(
            {
                "path": str(path.absolute()),
                "as": str(path),
                "overrides": dict(overrides or {}),
                "seconds": self._seconds,
                "memory": self._memory,
            }
        )

    def finish(self) -> None:
        """Wait for the child. Raises BadInput if this process should not load the file."""
        answer = self._answer()
        if answer["refused"]:
            raise BadInput(answer["refused"])
        if answer["ended"] == "time":
            what = f"loading it took longer than {self._seconds:.0f} s"
        elif answer["ended"] == "memory":
            what = f"loading it takes more than {self._memory / 2**30:.1f} GiB of memory"
        elif answer["ended"]:
            what = f"loading it crashed the child process ({answer['ended']})"
        else:
            return
        raise BadInput(f"{self._path}: {what}; expected a valid model file ({_ADVICE})")


def _size(path: Path) -> int:
    """Return the bytes of the file and of the files next to it that may hold its weights."""
    try:
        siblings = path.parent.glob(path.stem + "*")
        return sum(file.stat().st_size for file in {path, *siblings} if file.is_file())
    except OSError:
        return 0


class _Server:
    """The child that imports the libraries once; it loads one file after another."""

    def __init__(self) -> None:
        # -P: ignore a torch.py in the working folder. Own session: Ctrl-C must reach the audit only
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "auditor.run.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        self._waiting: dict[int, dict[str, Any]] = {}
        self._sent = 0

    def send(self, job: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        """Send a job; return the function that waits for the answer."""
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
                    "the child process that loads model files first could not be started, or was killed; see"
                    f" `auditor doctor` ({_ADVICE})"
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
    """Return the running server, or start one."""
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


def _serve() -> None:
    """Answer until stdin ends. Output of a file must not mix with the answers."""
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

    # otherwise every fork imports them
    import auditor.model.deployed
    import auditor.model.loading
    import auditor.onnx.graph  # noqa: F401

    # the first call writes a file, which a fork may not
    tempfile.gettempdir()
    torch.set_num_threads(1)
    onnxruntime.set_default_logger_severity(4)


def _try(plugins: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Load a file in a watched fork; return its answer, or how it ended without one."""
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
    parent = os.getppid()
    deadline = time.monotonic() + job["seconds"]
    while not select.select([reads], [], [], 0.5)[0]:
        # stop also if the audit has ended
        if time.monotonic() >= deadline or os.getppid() != parent:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reads)
            return {"refused": "", "ended": "time"}
    # an answer is smaller than a pipe's buffer: it arrives whole, or not at all if the child died
    answer = os.read(reads, 65536)
    os.close(reads)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if answer:
        outcome: dict[str, Any] = json.loads(answer)
        return outcome
    # the kernel kills a process that runs out of memory
    ended = "memory" if code == -signal.SIGKILL else signal.Signals(-code).name if code < 0 else f"status {code}"
    return {"refused": "", "ended": ended}


def _limit(memory: int) -> None:
    """Limit the memory; forbid core dumps and writing to files."""
    import resource

    # RLIMIT_DATA counts private memory only, not mapped libraries
    for what, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard),) * 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _load(plugins: Any, job: dict[str, Any]) -> dict[str, str]:
    """Load the file and use it as an audit does; return why it is refused."""
    import numpy as np

    from auditor.errors import first_line, is_out_of_memory
    from auditor.model.loading import build, read_sidecar, wanted_output

    path, given = Path(job["path"]), job["as"]
    refused, problem = "", ""
    try:
        output = wanted_output(path, job["overrides"])
        artefact = plugins.first("auditor_open_model", path=path, device="cpu", trust=False, output=output)
        # later errors are left to the audit, which knows the images and reports them better
        refused = _DEFERRED
        if artefact is None:
            # unknown format, or a plugin loaded only in the parent; the parent reports the error
            problem = " ".join(plugin.error or "" for plugin in plugins.broken)
        else:
            sidecar = read_sidecar(path, artefact.metadata, options=job["overrides"], properties=artefact.properties)
            classifier = build(path, artefact, sidecar)
            images = np.linspace(0, 1, 2 * int(np.prod(classifier.shape)), dtype=np.float32)
            classifier.verify(images.reshape(2, *classifier.shape))
            problem = classifier.access_reason
    except (AuditorError, ArithmeticError) as error:
        refused, problem = refused or str(error), str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        refused = f"{given}: not a valid model file: loading it raised {type(error).__name__}: {first_line(error)}"
    if is_out_of_memory(RuntimeError(problem)) or "MemoryError" in problem:
        return {"refused": "", "ended": "memory"}
    return {"refused": "" if refused == _DEFERRED else refused.replace(str(path), given)[:2000], "ended": ""}


if __name__ == "__main__":
    _serve()
