"""A model server on loopback for tests: plain JSON, KServe v2 and TorchServe, with faults on request."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Scores = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Server:
    """Serves ``scores``, from pixels (n, c, h, w) in [0, 1] to probabilities (n, k)."""

    def __init__(self, scores: Scores, shape: tuple[int, ...]) -> None:
        self.scores, self.shape = scores, shape
        self.requests = 0
        self.images = 0
        self.seen: list[dict[str, str]] = []
        self.fail_every = 0
        """Answer every n-th request with status 503."""
        self.stall_every = 0
        """Answer every n-th request after the client's patience."""
        self.labels = False
        self.down = False
        self.refuse = ""
        """Answer with status 401 and this text."""
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.describe(self)

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def describe(self, handler: BaseHTTPRequestHandler) -> None:
        tensor = {"name": "image", "datatype": "FP32", "shape": [-1, *self.shape]}
        output = {"name": "scores", "datatype": "FP32", "shape": [-1, -1]}
        known = {"name": "digits", "versions": ["7"], "platform": "test", "inputs": [tensor], "outputs": [output]}
        send(handler, 200, known)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._lock:
            self.requests += 1
            number = self.requests
            self.seen.append(dict(handler.headers))
        if self.refuse:
            return send(handler, 401, {"error": self.refuse})
        if self.down or (self.fail_every and number % self.fail_every == 0):
            return send(handler, 503, {"error": "overloaded"})
        if self.stall_every and number % self.stall_every == 0:
            time.sleep(0.4)
        if "/infer" in handler.path:
            tensor = json.loads(content)["inputs"][0]
            found = self._answers(np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"]))
            output = {"name": "scores", "shape": list(found.shape), "datatype": "FP32", "data": found.ravel().tolist()}
            return send(handler, 200, {"model_name": "digits", "outputs": [output]})
        if handler.path.startswith("/predictions/"):
            pixels = np.asarray(Image.open(io.BytesIO(content)), dtype=np.float32) / 255
            image = pixels.reshape(*self.shape[1:], -1).transpose(2, 0, 1)
            return send(handler, 200, self._answers(image[None])[0].tolist())
        images = np.array(json.loads(content)["instances"], dtype=np.float32)
        return send(handler, 200, {"result": {"predictions": self._answers(images).tolist()}})

    def _answers(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        with self._lock:
            self.images += len(pixels)
            found = self.scores(pixels)
        return found.argmax(axis=1) if self.labels else found


def send(handler: BaseHTTPRequestHandler, status: int, content: Any) -> None:
    body = json.dumps(content).encode()
    try:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
    except OSError:
        # the client has given up
        handler.close_connection = True
