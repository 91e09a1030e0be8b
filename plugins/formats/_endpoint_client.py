"""Send images to an endpoint: in batches, several requests at a time, repeated if they fail, each image once."""

from __future__ import annotations

import http.client
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from auditor.errors import AuditorError, BadInput, NotFinite, OutOfTime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.plugins.formats._endpoint_protocols import Known, Protocol, Request
    from auditor.plugins.formats.endpoint import EndpointTable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
"""Seconds before a request is repeated: 0.2, 0.4, 0.8, ..."""

_CACHE_BYTES = 256 << 20
"""Memory for answers; further answers are asked for again."""

_GIVE_UP = 3
"""Requests, one after the other, that failed with all repetitions: then the endpoint counts as down."""

_MAY_SUCCEED = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may succeed."""


class EndpointDown(AuditorError):
    """The endpoint does not answer any more: probes that were not measured end as errors."""


class NoAnswer(NotFinite):
    """The endpoint did not answer a request, however often it was repeated."""


class _Failed(Exception):
    """One attempt failed, and another one may succeed; the server may state the pause before it."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class Client:
    """Send queries to one endpoint and count them; one caller at a time."""

    def __init__(self, spoken: Protocol, table: EndpointTable, *, where: str) -> None:
        """``where`` names the file in errors."""
        self._spoken, self._table, self._where = spoken, table, where
        self._pool = ThreadPoolExecutor(table.concurrency, "endpoint")
        # start every thread now: a probe must not appear to leave one behind
        together = threading.Barrier(table.concurrency)
        for started in [self._pool.submit(together.wait) for _ in range(table.concurrency)]:
            started.result()
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close, self._connections, self._pool)
        self._lock = threading.Lock()
        self._next_start = 0.0
        self._cache: dict[bytes, NDArray[np.float32]] = {}
        self._cached_bytes = 0
        self._fresh = False
        self._failures = 0
        self._answered = False
        self.limit: int | None = None
        """Largest number of queries; a request beyond it raises OutOfTime."""
        self.queries = 0
        """Images sent, those of repeated requests included."""
        self.requests = self.retries = self.cached = self.unanswered = 0

    @property
    def batch_size(self) -> int:
        """Images that are sent together."""
        return self._table.batch * self._table.concurrency

    @property
    def returns_labels(self) -> bool:
        """Whether the answers are labels without scores."""
        return self._table.returns == "labels"

    def counts(self) -> dict[str, Any]:
        """Return what the record states about the endpoint; nothing of it is secret."""
        return {
            "protocol": self._table.protocol,
            "url": self._table.address,
            "model": self._table.model,
            "returns": self._table.returns,
            "queries": self.queries,
            "requests": self.requests,
            "retries": self.retries,
            "cached": self.cached,
            "unanswered": self.unanswered,
        }

    def describe(self) -> Known:
        """Return what the server states about the model. Raises BadInput if it does not answer."""
        request = self._spoken.about()
        return self._spoken.known(None if request is None else self._spoken.read(self._repeated(request, 0)))

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Query the endpoint also for images that it has answered before, while the context lasts."""
        self._fresh = True
        try:
            yield
        finally:
            self._fresh = False

    def scores(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return one row of answers for each input, (n, ...).

        Raises:
            NoAnswer: if a request fails with all repetitions.
            EndpointDown: if several do, one after the other.
            OutOfTime: if the queries exceed the limit.
        """
        keys = [blake2b(np.ascontiguousarray(each).tobytes(), digest_size=16).digest() for each in inputs]
        known = {} if self._fresh else {key: self._cache[key] for key in keys if key in self._cache}
        self.cached += len([key for key in keys if key in known])
        # with `fresh`, equal images are also sent as often as they are given
        first = range(len(keys)) if self._fresh else {key: i for i, key in reversed(list(enumerate(keys)))}.values()
        todo = sorted(i for i in first if keys[i] not in known)
        if self.limit is not None and self.queries + len(todo) > self.limit:
            raise OutOfTime
        pieces = [todo[i : i + self._table.batch] for i in range(0, len(todo), self._table.batch)]
        rows: dict[int, NDArray[np.float32]] = {}
        futures = [self._pool.submit(self._ask, inputs[piece]) for piece in pieces]
        try:
            for piece, future in zip(pieces, futures, strict=True):
                rows |= dict(zip(piece, future.result(), strict=True))
        finally:
            for future in futures:
                future.cancel()
            for i, row in rows.items():
                self._keep(keys[i], row)
        known |= {keys[i]: row for i, row in rows.items()}
        return np.stack([rows[i] if i in rows else known[keys[i]] for i in range(len(keys))])

    def _keep(self, key: bytes, row: NDArray[np.float32]) -> None:
        if key not in self._cache and self._cached_bytes < _CACHE_BYTES:
            self._cache[key] = row
            self._cached_bytes += row.nbytes + len(key)

    def _ask(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Send one request and return its answers, (n, k)."""
        if self._spoken.function is not None:
            with self._lock:
                self.queries += len(inputs)
                self.requests += 1
            answer: Any = self._spoken.function(inputs)
        else:
            answer = self._spoken.read(self._repeated(self._spoken.request(inputs), len(inputs)))
        try:
            return self._spoken.rows(answer, len(inputs))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise BadInput(f"{self._where}: the answer of the endpoint cannot be read: {error}") from None

    def _repeated(self, request: Request, images: int) -> bytes:
        """Send a request until it is answered."""
        pause, reason = _FIRST_PAUSE, ""
        for attempt in range(self._table.retries + 1):
            if self._failures >= _GIVE_UP:
                raise EndpointDown(f"{self._where}: the endpoint does not answer any more")
            self._wait_for_turn()
            with self._lock:
                self.queries += images
                self.requests += 1
                self.retries += attempt > 0
            try:
                answer = self._once(request)
            except _Failed as failed:
                reason = self._spoken.without_secrets(str(failed))
                if attempt < self._table.retries:
                    time.sleep(min(_LONGEST_PAUSE, max(pause, failed.pause)))
                pause *= 2
                continue
            self._failures, self._answered = 0, True
            return answer
        text = f"the endpoint did not answer {self._table.retries + 1} times: {reason}"
        if not self._answered:
            raise BadInput(f"{self._where}: {text}; is the server running?")
        with self._lock:
            self._failures += 1
            self.unanswered += images
        raise NoAnswer(text)

    def _wait_for_turn(self) -> None:
        """Keep the rate limit."""
        if self._table.rate is None:
            return
        with self._lock:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 1 / self._table.rate
        time.sleep(max(0.0, start - time.monotonic()))

    def _once(self, request: Request) -> bytes:
        """Send a request once. Raises _Failed if another attempt may succeed, BadInput if not."""
        try:
            connection = self._connection()
            connection.request(request.method, request.path, request.body, dict(request.headers))
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._disconnect()
            what = f"no answer within {self._table.timeout:g} s" if isinstance(error, TimeoutError) else repr(error)
            raise _Failed(what) from None
        if 200 <= answer.status < 300:
            return content
        said = self._spoken.without_secrets(" ".join(content.decode(errors="replace").split())[:200])
        text = f"HTTP status {answer.status}{': ' if said else ''}{said}"
        if answer.status >= 500 or answer.status in _MAY_SUCCEED:
            raise _Failed(text, _seconds(answer.headers))
        raise BadInput(f"{self._where}: the endpoint refuses {request.method} {request.path.partition('?')[0]}: {text}")

    def _connection(self) -> http.client.HTTPConnection:
        """Return the connection of this thread."""
        if getattr(self._local, "connection", None) is None:
            parts = urlsplit(self._table.url)
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            assert parts.hostname is not None
            self._local.connection = kind(parts.hostname, parts.port, timeout=self._table.timeout)
            self._connections.append(self._local.connection)
        connection: http.client.HTTPConnection = self._local.connection
        return connection

    def _disconnect(self) -> None:
        if getattr(self._local, "connection", None) is not None:
            self._local.connection.close()
            self._connections.remove(self._local.connection)
            self._local.connection = None


def _close(connections: Sequence[http.client.HTTPConnection], pool: ThreadPoolExecutor) -> None:
    """Close the connections and end the threads of a client."""
    pool.shutdown(wait=False)
    for connection in connections:
        connection.close()


def _seconds(headers: http.client.HTTPMessage) -> float:
    """Return the pause that the server asks for in seconds; 0 if none."""
    stated = headers.get("Retry-After", "")
    return float(stated) if stated.isdigit() else 0.0


def rows_of(values: Any, n: int) -> NDArray[np.float32]:
    """Return n rows of numbers, (n, k). Raises ValueError for another number of rows."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim == 0 or len(array) != n:
        raise ValueError(f"it holds {len(array) if array.ndim else 'one number'}; expected a list of {n} answers")
    return array.reshape(n, -1)
