"""The protocols of endpoints: how images become a request, and an answer becomes scores.

KServe v2: Open Inference Protocol, https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol.
TorchServe: https://pytorch.org/serve/inference_api.html.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from auditor.errors import BadInput
from auditor.plugins.formats._endpoint_client import rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.plugins.formats.endpoint import EndpointTable

_TYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "UINT8": "uint8", "INT8": "int8", "INT64": "int64"}
"""Datatypes of KServe v2 and their numpy names."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What an endpoint states about its model."""

    runtime: str
    input_shape: tuple[int | None, ...] = ()
    input_dtype: str = "float32"


class Protocol:
    """JSON by template, and the base of the other protocols."""

    function: Callable[..., Any] | None = None

    def __init__(self, table: EndpointTable, headers: Mapping[str, str], classes: Sequence[str]) -> None:
        """``headers`` may hold secrets: they appear in requests only."""
        self._table, self._classes = table, list(classes)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        self._secrets = [value for name, value in headers.items() if table.headers[name] != value]
        self._path = urlsplit(table.url).path.rstrip("/")

    def about(self) -> Request | None:
        """Return the request for what the server knows of the model; None if the protocol has none."""
        return None

    def known(self, answer: Any) -> Known:
        """Return what the server states about the model."""
        del answer
        png = "$png" in json.dumps(self._table.body)
        return Known(
            runtime=f"{self._table.protocol} endpoint {self._table.address}", input_dtype="uint8" if png else "float32"
        )

    def request(self, inputs: NDArray[Any]) -> Request:
        """Return the request for a batch of inputs."""
        body = json.dumps(_filled(self._table.body, inputs)).encode()
        query = urlsplit(self._table.url).query
        path = urlsplit(self._table.url).path or "/"
        return Request(method="POST", path=f"{path}?{query}" if query else path, body=body, headers=self._headers)

    def read(self, content: bytes) -> Any:
        """Parse the content of an answer."""
        try:
            return json.loads(content)
        except ValueError as error:
            shown = self.without_secrets(content[:80].decode(errors="replace"))
            raise BadInput(f"the endpoint answered {shown!r}, which is not JSON: {error}") from None

    def rows(self, answer: Any, n: int) -> NDArray[np.float32]:
        """Return the scores (n, k), or labels (n, 1), of an answer."""
        found = _at(answer, self._table.answer.split(".") if self._table.answer else [])
        return rows_of([self._row(each) for each in found], n)

    def without_secrets(self, text: str) -> str:
        """Replace the values of credentials, which a server may repeat."""
        for secret in self._secrets:
            text = text.replace(secret, "***").replace(secret.rpartition(" ")[2], "***")
        return text

    def _row(self, answer: Any) -> Any:
        """Return one answer as numbers: a class name becomes its index, a score by name its place."""
        if isinstance(answer, str):
            if answer in self._classes:
                return self._classes.index(answer)
            if answer.isdigit():
                return int(answer)
            raise ValueError(f"it holds the class {answer!r}, which [output] classes does not list")
        if isinstance(answer, Mapping):
            unknown = [name for name in answer if name not in self._classes]
            if unknown:
                raise ValueError(f"it holds the class {unknown[0]!r}, which [output] classes does not list")
            return [float(answer.get(name, 0.0)) for name in self._classes]
        return answer


class Kserve(Protocol):
    """KServe v2 over HTTP with JSON."""

    _input = _output = ""
    _datatype = "FP32"

    def about(self) -> Request | None:
        """Return the request for the metadata of the model."""
        return Request(method="GET", path=self._model_path(), headers=self._headers)

    def known(self, answer: Any) -> Known:
        """Read names, shape and type of the tensors."""
        inputs, outputs = answer.get("inputs") or [], answer.get("outputs") or []
        given = _named(inputs, self._table.input, "input")
        self._input = str(given["name"]) if given else self._table.input
        self._datatype = str(given.get("datatype", "FP32")) if given else "FP32"
        chosen = _named(outputs, self._table.output, "output")
        self._output = str(chosen["name"]) if chosen else self._table.output
        if not self._input:
            raise BadInput(f"{self._table.address}: the server states no input of the model; state [endpoint] input")
        if self._datatype not in _TYPES:
            raise BadInput(f"{self._table.address}: the input is {self._datatype}; expected one of {', '.join(_TYPES)}")
        shape = tuple(side if side and side > 0 else None for side in (given or {}).get("shape") or ())
        version = self._table.version or ", ".join(map(str, answer.get("versions") or []))
        described = [answer.get("platform"), f"version {version}" if version else ""]
        suffix = "".join(f", {text}" for text in described if text)
        return Known(
            runtime=f"kserve-v2 endpoint {self._table.address}, model {self._table.model}{suffix}",
            # a fixed first side is the batch of an example, not a limit
            input_shape=(None, *shape[1:]) if len(shape) == 4 else (),
            input_dtype=_TYPES[self._datatype],
        )

    def request(self, inputs: NDArray[Any]) -> Request:
        """Return an inference request with the values in row-major order."""
        tensor = {
            "name": self._input,
            "shape": list(inputs.shape),
            "datatype": self._datatype,
            "data": inputs.reshape(-1).tolist(),
        }
        body: dict[str, Any] = {"inputs": [tensor]}
        if self._output:
            body["outputs"] = [{"name": self._output}]
        path = f"{self._model_path()}/infer"
        return Request(method="POST", path=path, body=json.dumps(body).encode(), headers=self._headers)

    def rows(self, answer: Any, n: int) -> NDArray[np.float32]:
        """Return the output tensor, (n, k)."""
        tensor = _named(answer["outputs"], self._output, "output")
        if tensor is None:
            raise ValueError("it has no output")
        values = np.asarray([self._row(each) for each in np.ravel(np.asarray(tensor["data"], dtype=object))])
        return rows_of(values.reshape(tensor["shape"]), n)

    def _model_path(self) -> str:
        version = f"/versions/{quote(self._table.version)}" if self._table.version else ""
        return f"{self._path}/v2/models/{quote(self._table.model)}{version}"


class TorchServe(Protocol):
    """TorchServe: one image, as a PNG file, in a request."""

    def known(self, answer: Any) -> Known:
        """Return the address; TorchServe states nothing about the input."""
        del answer
        return Known(
            runtime=f"torchserve endpoint {self._table.address}, model {self._table.model}", input_dtype="uint8"
        )

    def request(self, inputs: NDArray[Any]) -> Request:
        """Return a prediction request with the bytes of a PNG file."""
        version = f"/{quote(self._table.version)}" if self._table.version else ""
        headers = {**self._headers, "Content-Type": "image/png"}
        path = f"{self._path}/predictions/{quote(self._table.model)}{version}"
        return Request(method="POST", path=path, body=_png(inputs[0]), headers=headers)

    def rows(self, answer: Any, n: int) -> NDArray[np.float32]:
        """Return the scores of the one image, (1, k)."""
        found = _at(answer, self._table.answer.split(".") if self._table.answer else [])
        return rows_of([self._row(found)], n)


class Function(Protocol):
    """A Python function."""

    def known(self, answer: Any) -> Known:
        """Return the name of the function."""
        del answer
        return Known(runtime=f"Python function {self._table.address}")

    def rows(self, answer: Any, n: int) -> NDArray[np.float32]:
        """Return what the function returned, (n, k) or (n, 1)."""
        return rows_of([self._row(each) for each in answer], n)


def protocol(
    table: EndpointTable, headers: Mapping[str, str], classes: Sequence[str], function: Callable[..., Any] | None
) -> Protocol:
    """Return the protocol of a table. Raises BadInput for settings that it does not have."""
    kind = {"kserve-v2": Kserve, "torchserve": TorchServe, "json": Protocol, "python": Function}[table.protocol]
    if table.protocol == "torchserve" and table.batch != 1:
        raise BadInput(f"{table.address}: a request to TorchServe holds one image; state [endpoint] batch = 1")
    made = kind(table, headers, classes)
    made.function = function
    return made


def _filled(template: Any, inputs: NDArray[Any]) -> Any:
    """Replace the placeholders of a template: lists of all images, or the first image alone."""
    if isinstance(template, Mapping):
        return {key: _filled(value, inputs) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, inputs) for value in template]
    if template == "$images":
        return inputs.tolist()
    if template == "$image":
        return inputs[0].tolist()
    if template == "$png":
        return [base64.b64encode(_png(each)).decode() for each in inputs]
    return template


def _at(answer: Any, path: Sequence[str]) -> Any:
    """Return the part of an answer at a path of keys and indices; ``*`` is every element of a list."""
    for i, step in enumerate(path):
        if step == "*":
            return [_at(each, path[i + 1 :]) for each in answer]
        answer = answer[int(step)] if isinstance(answer, list) else answer[step]
    return answer


def _named(tensors: Sequence[Mapping[str, Any]], name: str, what: str) -> Mapping[str, Any] | None:
    """Return the tensor with this name, or the first one if none is stated."""
    if not name:
        return tensors[0] if tensors else None
    found = next((tensor for tensor in tensors if tensor["name"] == name), None)
    if found is None and tensors:
        names = ", ".join(str(tensor["name"]) for tensor in tensors)
        raise BadInput(f"the model of the endpoint has no {what} {name!r}; it has {names}")
    return found


def _png(image: NDArray[Any]) -> bytes:
    """Return an image (h, w, c) or (c, h, w) of values from 0 to 255 as a PNG file."""
    from PIL import Image

    pixels = image if image.shape[-1] in {1, 3} else image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.squeeze(pixels, axis=2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
