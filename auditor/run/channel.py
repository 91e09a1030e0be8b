"""Messages between the supervisor of an audit and its processes: one line of JSON each, over a pipe.

The process that runs the audit sends its work and its progress; the server that forks it sends how it ended.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]
"""One key, the kind, and its content."""

_CLOSED = 71
"""Exit status of a process that lost the pipe."""


class Sender:
    """The end of the pipe in the processes of an audit."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, kind: str, content: Any = None) -> None:
        """Send a message; end the process if it has no receiver."""
        # a newline first: an earlier process may have ended within a message
        data = f"\n{json.dumps({kind: content})}\n".encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            os._exit(_CLOSED)


class Receiver:
    """The end of the pipe in the supervisor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.closed = False
        """Whether all senders have ended."""

    def receive(self, seconds: float) -> Iterator[Message]:
        """Yield the messages that arrive within ``seconds``; return at once after the first ones."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return
        data = os.read(self._descriptor, 1 << 16)
        self.closed = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                # the rest of a message of a process that ended, or an empty line
                continue
            if isinstance(message, dict):
                yield message
