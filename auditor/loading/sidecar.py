"""The sidecar ``MODEL.audit.toml``: what the model file does not say about itself.

    [input]
    size = [32, 32]            # height, width
    channels = 3
    layout = "nchw"            # or "nhwc"
    range = [0, 1]             # what the model wants for black and for white
    mean = [0.5, 0.5, 0.5]     # subtracted after scaling to the range
    std = [0.5, 0.5, 0.5]
    order = "rgb"              # or "bgr"
    resize = "crop"            # or "stretch"
    [output]
    classes = ["cat", "dog"]
    kind = "logits"            # or "probabilities"
    [data]
    path = "images"            # relative to this file

The same text may be carried inside the artefact (ONNX metadata or TorchScript extra file ``auditor.toml``).
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from auditor.errors import BadInput
from auditor.registry import refuse_unknown

METADATA_KEY = "auditor.toml"


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What a sidecar says; None where it is silent."""

    origin: str = ""
    """Where this was read, for messages; empty when there was none."""
    size: tuple[int, int] | None = None
    channels: int | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: Literal["rgb", "bgr"] = "rgb"
    resize: Literal["crop", "stretch"] = "crop"
    classes: tuple[str, ...] | None = None
    kind: Literal["logits", "probabilities"] | None = None
    data: Path | None = None


def sidecar_path(model: Path) -> Path:
    """Where the sidecar of ``model`` would be."""
    return model.with_name(model.name + ".audit.toml")


def read_sidecar(model: Path, embedded: str = "") -> Sidecar:
    """The sidecar beside the model or, failing that, the one inside it; data are looked for in both.

    Raises BadInput for what cannot be used.
    """
    path = sidecar_path(model)
    if not path.is_file():
        return parse(embedded, f"{model} (its own metadata)", model.parent) if embedded else Sidecar()
    try:
        beside = parse(path.read_text(encoding="utf-8"), str(path), model.parent)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable: {error}") from None
    if beside.data is None and embedded:
        return replace(beside, data=parse(embedded, f"{model} (its own metadata)", model.parent).data)
    return beside


def parse(text: str, origin: str, folder: Path) -> Sidecar:
    """A sidecar from its text; every key is known, every value of the right kind."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{origin}: not readable as TOML: {error}") from None
    refuse_unknown(content, {"input", "output", "data"}, origin)
    given: dict[str, Any] = {}
    for section, known in (
        ("input", {"size", "channels", "layout", "range", "mean", "std", "order", "resize"}),
        ("output", {"classes", "kind"}),
        ("data", {"path"}),
    ):
        entries = content.get(section, {})
        if not isinstance(entries, dict):
            raise BadInput(f"{origin}: [{section}] must be a table")
        refuse_unknown(entries, known, f"{origin} [{section}]")
        given |= entries
    where = f"{origin}:"
    scale = _numbers(given, "range", where, count=2)
    if scale is not None and scale[0] == scale[1]:
        raise BadInput(f"{where} range is {given['range']!r}; expected two different numbers")
    path = given.get("path")
    if path is not None and not isinstance(path, str):
        raise BadInput(f"{where} [data] path is {path!r}; expected a text")
    return Sidecar(
        origin=origin,
        size=cast("tuple[int, int] | None", _numbers(given, "size", where, count=2, whole=True)),
        channels=_choice(given, "channels", (1, 3), where),
        layout=_choice(given, "layout", ("nchw", "nhwc"), where),
        range=cast("tuple[float, float] | None", scale),
        mean=_numbers(given, "mean", where),
        std=_numbers(given, "std", where, positive=True),
        order=_choice(given, "order", ("rgb", "bgr"), where) or "rgb",
        resize=_choice(given, "resize", ("crop", "stretch"), where) or "crop",
        classes=_names(given, "classes", where),
        kind=_choice(given, "kind", ("logits", "probabilities"), where),
        data=None if path is None else folder / path,
    )


def _choice(given: dict[str, Any], key: str, allowed: tuple[Any, ...], where: str) -> Any:
    value = given.get(key)
    if value is not None and not any(value == choice and type(value) is type(choice) for choice in allowed):
        raise BadInput(f"{where} {key} is {value!r}; expected {' or '.join(map(str, allowed))}")
    return value


def _numbers(
    given: dict[str, Any],
    key: str,
    where: str,
    *,
    count: int | None = None,
    whole: bool = False,
    positive: bool = False,
) -> tuple[float, ...] | None:
    value = given.get(key)
    if value is None:
        return None
    kinds = (int,) if whole else (int, float)
    fine = isinstance(value, list) and value and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
    fine = fine and all(map(math.isfinite, value))
    if not fine or (count and len(value) != count) or ((whole or positive) and min(value) <= 0):
        sign = "positive " if whole or positive else ""
        wanted = f"a list of {count or '1 or 3'} {sign}{'whole ' if whole else ''}numbers"
        raise BadInput(f"{where} {key} is {value!r}; expected {wanted}")
    return tuple(value) if whole else tuple(float(v) for v in value)


def _names(given: dict[str, Any], key: str, where: str) -> tuple[str, ...] | None:
    value = given.get(key)
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) >= 2 and all(isinstance(v, str) for v in value)):
        raise BadInput(f"{where} {key} must be a list of at least two texts")
    if len(set(value)) != len(value):
        raise BadInput(f"{where} {key} names a class twice")
    return tuple(value)
