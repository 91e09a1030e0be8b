"""A model behind an endpoint, described by a TOML file with a table ``[endpoint]``: a black box that answers queries.

Protocols: KServe v2 over HTTP (also Triton, MLServer, OpenVINO Model Server), TorchServe, JSON by template, and a
Python function. docs/how-to/endpoints.md describes the file.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from auditor import BadInput, hookimpl
from auditor.toml import Check, Count, decode, read_toml

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.model.artefact import Artefact
    from auditor.plugins.formats._endpoint_client import Client
    from auditor.plugins.formats._endpoint_protocols import Protocol

Positive = Annotated[float, Check("a number above 0", lambda value: value > 0, {"exclusiveMinimum": 0})]


@dataclass(frozen=True, kw_only=True)
class EndpointTable:
    """The table ``[endpoint]``."""

    protocol: Literal["kserve-v2", "torchserve", "json", "python"]
    url: str = ""
    """Address of the server; for ``json`` that of the request itself."""
    model: str = ""
    """Name of the model on the server, for kserve-v2 and torchserve."""
    version: str = ""
    """Version of the model on the server; the server's choice by default."""
    input: str = ""
    """Name of the input tensor, for kserve-v2; by default what the server states."""
    output: str = ""
    """Name of the output tensor, for kserve-v2; by default what the server states."""
    body: Any = None
    """Template of the request, for json: "$images" is replaced with the images, "$png" with PNG files in base64."""
    answer: str = ""
    """Where the scores are in the answer, for json and torchserve: "predictions", "outputs.0.scores"; by default the
    answer itself. ``*`` stands for every element of a list."""
    function: str = ""
    """For python: ``module:function``, from pixels (n, ...) to scores (n, classes) or labels (n,)."""
    returns: Literal["probabilities", "logits", "labels"] = "probabilities"
    """What the answers hold; "labels" are class indices, or names listed in ``[output] classes``."""
    n_classes: Count | None = None
    """Number of classes, if the endpoint returns labels and no class names are stated."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of every request; ``${NAME}`` is replaced with the environment variable NAME."""
    batch: Count = 32
    """Images in a request."""
    concurrency: Count = 4
    """Requests at the same time."""
    rate: Positive | None = None
    """Requests in a second; no limit by default."""
    timeout: Positive = 30.0
    """Seconds until a request without an answer is repeated."""
    retries: Annotated[int, Check("a whole number of at least 0", lambda value: value >= 0, {"minimum": 0})] = 5
    """Repetitions of a request that fails, each after twice the pause of the one before."""

    @property
    def address(self) -> str:
        """What records and reports show: the address without its query, which may hold a key; or the function."""
        return self.url.partition("?")[0] or self.function

    def __post_init__(self) -> None:
        """Refuse tables that lack what their protocol requires."""
        required = {
            "kserve-v2": ("url", "model"),
            "torchserve": ("url", "model"),
            "json": ("url", "body"),
            "python": ("function",),
        }[self.protocol]
        for name in required:
            if not getattr(self, name):
                raise ValueError(f"protocol {self.protocol} requires {name}")
        if self.protocol != "python":
            parts = urlsplit(self.url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"url is {self.url!r}; expected an address that begins with http:// or https://")
            if parts.username or parts.password:
                raise ValueError('url holds a password; state it as headers.Authorization = "Basic ${NAME}"')
        elif not re.fullmatch(r"[\w.]+:[\w.]+", self.function):
            raise ValueError(f"function is {self.function!r}; expected module:function")


@dataclass(frozen=True, kw_only=True)
class EndpointFile:
    """A file that describes an endpoint."""

    endpoint: EndpointTable
    input: Mapping[str, Any] = field(default_factory=dict)
    """As in a sidecar: size, channels, range, mean, std, layout."""
    output: Mapping[str, Any] = field(default_factory=dict)
    """As in a sidecar: classes."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """As in a sidecar: path."""


@hookimpl
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open ``*.toml``."""
    del device
    if path.suffix.lower() != ".toml":
        return None
    content = read_toml(path)
    if "endpoint" not in content:
        raise BadInput(f"{path}: has no table [endpoint]; expected a model file, or a TOML file about an endpoint")
    if output:
        raise BadInput(f"{path}: --output and [output] name have no effect on an endpoint; state [endpoint] output")
    return _open(path, decode(EndpointFile, content, str(path)), trust=trust)


def _open(path: Path, file: EndpointFile, *, trust: bool) -> Artefact:
    from auditor.model.artefact import Artefact
    from auditor.plugins.formats._endpoint_client import Client
    from auditor.plugins.formats._endpoint_protocols import protocol

    table = file.endpoint
    classes = file.output.get("classes") or ()
    function = _function(path, table.function, trust=trust) if table.protocol == "python" else None
    spoken: Protocol = protocol(table, _headers(path, table.headers), classes, function)
    client = Client(spoken, table, where=str(path))
    known = client.describe()
    return Artefact(
        format="endpoint",
        runtime=known.runtime,
        input_shape=known.input_shape or _shape(file.input),
        input_dtype=known.input_dtype,
        scores=_labelled(client, table, classes, path) if table.returns == "labels" else client.scores,
        outputs="logits" if table.returns == "logits" else "probabilities",
        copy_reason="an endpoint shows its answers only",
        classes=tuple(classes) or None,
        metadata=_as_toml({"input": file.input, "output": file.output, "data": file.data}),
        details={"protocol": table.protocol, "url": table.address, "model": table.model},
        endpoint=client,
    )


def _headers(path: Path, headers: Mapping[str, str]) -> dict[str, str]:
    """Fill in the environment variables. Raises BadInput, without any value, for one that is not set."""
    filled = {}
    for name, text in headers.items():
        missing = [each for each in re.findall(r"\$\{(\w+)\}", text) if not os.environ.get(each)]
        if missing:
            raise BadInput(f"{path}: [endpoint] headers.{name} needs the environment variable {missing[0]}; set it")
        filled[name] = re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], text)
        if not filled[name].isprintable():
            raise BadInput(f"{path}: [endpoint] headers.{name} holds a line break or another control character")
    return filled


def _function(path: Path, name: str, *, trust: bool) -> Callable[..., Any]:
    """Import the function, from the folder of the file or what is installed."""
    if not trust:
        raise BadInput(f"{path}: runs the Python function {name}; if you trust it, pass --trust-model")
    module, _, attribute = name.partition(":")
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"{path}: function {name} cannot be imported: {error}; expected module:function") from None
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise BadInput(f"{path}: {name} is not a function; expected one from pixels (n, ...) to scores (n, classes)")
    return found  # type: ignore[no-any-return]


def _labelled(
    client: Client, table: EndpointTable, classes: Sequence[str], path: Path
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the scores of an endpoint that answers labels: 1 for the label, 0 for the other classes."""
    n_classes = len(classes) or table.n_classes
    if not n_classes or n_classes < 2:
        raise BadInput(
            f"{path}: the endpoint returns labels, so the number of classes is unknown; state [output] classes, or"
            " [endpoint] n_classes"
        )
    count = n_classes

    def scores(inputs: NDArray[Any]) -> NDArray[np.float32]:
        import numpy as np

        labels = client.scores(inputs).reshape(-1).astype(np.int64)
        if len(labels) and not (labels.min() >= 0 and labels.max() < count):
            raise BadInput(f"{path}: the endpoint returned the label {labels.max()}; expected 0 to {count - 1}")
        return np.eye(count, dtype=np.float32)[labels]

    return scores


def _shape(stated: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return the shape of the input as the file states it; empty if it does not state size and channels."""
    size, channels = stated.get("size"), stated.get("channels", 3)
    if not isinstance(size, list) or len(size) != 2:
        return ()
    nhwc = stated.get("layout") == "nhwc"
    return (None, *size, channels) if nhwc else (None, channels, *size)


def _as_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Write tables of plain values as TOML, of which JSON values are a part."""
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines)
