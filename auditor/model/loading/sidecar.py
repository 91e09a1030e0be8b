"""The sidecar ``MODEL.audit.toml``: what the model file does not say about itself.

    [input]
    size = [32, 32]            # height, width
    channels = 3
    layout = "nchw"            # or "nhwc"
    preset = "imagenet"        # of auditor/presets.py; or, one by one:
    range = [0, 1]             # what the model wants for black and for white
    mean = [0.5, 0.5, 0.5]     # subtracted after scaling to the range
    std = [0.5, 0.5, 0.5]
    order = "rgb"              # or "bgr"
    resize = "crop"            # or "stretch"
    crop = 0.875               # share of the shorter side that is kept; or, above 1, its length before the cut
    interpolation = "bilinear" # or nearest, bicubic, lanczos, box, hamming
    [output]
    name = "probabilities"     # which output, where there are several
    classes = ["cat", "dog"]
    kind = "logits"            # or "probabilities"
    [data]
    path = "images"            # relative to this file
    label = "income"           # of a table of features: its columns (see auditor/rows.py); without these,
    groups = ["sex"]           # the column called label, the columns that hold text,
    features = ["age", "sex"]  # and all the others, in the table's order

The same text may be carried inside the artefact (ONNX metadata or TorchScript extra file ``auditor.toml``). A key is
taken from the first that states it, in this order: command line, sidecar, metadata in the artefact,
``preprocessor_config.json`` and ``config.json`` beside the model, a guess. What belongs together is taken together,
from the first that states any of it: range, mean and std; resize, crop and interpolation.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from auditor.data.resizing import Interpolation, Resize
from auditor.errors import BadInput
from auditor.model.loading import metadata
from auditor.model.presets import PRESETS
from auditor.toml import refuse_unknown

METADATA_KEY = "auditor.toml"

KEYS: Mapping[str, frozenset[str]] = {
    "input": frozenset({"size", "channels", "layout", "preset", "range", "mean", "std", "order", "resize", "crop",
                        "interpolation"}),
    "output": frozenset({"name", "classes", "kind"}),
    "data": frozenset({"path", "label", "groups", "features"}),
}  # fmt: skip

_TOGETHER = (("range", "mean", "std"), ("resize", "crop", "interpolation"))
"""A mean is in the units of its range, and a crop part of its way to resize: no mixing of sources."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What a sidecar says; None where it is silent."""

    origin: str = ""
    """Where this was read, for messages; empty when there was none."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each key was read, after merging."""
    size: tuple[int, int] | None = None
    channels: int | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: Literal["rgb", "bgr"] | None = None
    resize: Resize | None = None
    crop: float | None = None
    interpolation: Interpolation | None = None
    output: str | None = None
    classes: tuple[str, ...] | None = None
    kind: Literal["logits", "probabilities"] | None = None
    data: Path | None = None
    label: str | None = None
    groups: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None

    def where(self, key: str) -> str:
        """Where a key was read."""
        return self.origins.get(key, self.origin)


def sidecar_path(model: Path) -> Path:
    """Where the sidecar of ``model`` would be."""
    return model.with_name(model.name + ".audit.toml")


def read_sidecar(
    model: Path,
    embedded: str = "",
    *,
    options: metadata.Tables | None = None,
    properties: Mapping[str, str] | None = None,
) -> Sidecar:
    """All that is stated about ``model``, best source first; ``options`` is the command line, in the sidecar's tables,
    ``embedded`` and ``properties`` are the artefact's own metadata.

    Raises BadInput for what cannot be used.
    """
    layers = [_stated(options, "command line", Path())] if options else []
    path = sidecar_path(model)
    if path.is_file():
        try:
            layers.append(parse(path.read_text(encoding="utf-8"), str(path), model.parent))
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: not readable: {error}") from None
    inside = f"{model} (its own metadata)"
    if embedded:
        layers.append(parse(embedded, inside, model.parent))
    if found := metadata.onnx_image(properties or {}):
        layers.append(_stated(found, inside, model.parent))
    layers += [_stated(tables, origin, model.parent) for origin, tables in metadata.beside(model)]
    return merge(layers)


def wanted_output(model: Path, options: metadata.Tables) -> str:
    """Which output is to be read, by command line or sidecar, or an empty text. It must be known before the file is
    opened, so what stands in the file itself would come too late."""
    return read_sidecar(model, options=options).output or ""


def merge(layers: Sequence[Sidecar]) -> Sidecar:
    """One sidecar of several, best first: each key, or group of keys, from the first that states it."""
    together = {name for names in _TOGETHER for name in names}
    keys = {f.name for f in fields(Sidecar)} - {"origin", "origins"}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for names in (*_TOGETHER, *((name,) for name in sorted(keys - together))):
        for layer in layers:
            if any(getattr(layer, name) is not None for name in names):
                values |= {name: getattr(layer, name) for name in names}
                origins |= dict.fromkeys(names, layer.origin)
                break
    return Sidecar(origin=layers[0].origin if layers else "", origins=origins, **values)


def parse(text: str, origin: str, folder: Path) -> Sidecar:
    """A sidecar from its text; every key is known, every value of the right kind."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{origin}: not readable as TOML: {error}") from None
    return _stated(content, origin, folder)


def _stated(content: Mapping[str, Any], origin: str, folder: Path) -> Sidecar:
    refuse_unknown(content, set(KEYS), origin)
    given: dict[str, Any] = {}
    for section, known in KEYS.items():
        entries = content.get(section, {})
        if not isinstance(entries, dict):
            raise BadInput(f"{origin}: [{section}] must be a table")
        refuse_unknown(entries, set(known), f"{origin} [{section}]")
        given |= entries
    where = f"{origin}:"
    preset = _choice(given, "preset", tuple(PRESETS), where)
    if preset is not None:
        usual = PRESETS[preset]
        spelled = {"range": usual.range, "mean": usual.mean, "std": usual.std}
        given = {name: list(value) for name, value in spelled.items()} | {"order": usual.order} | given
    scale = _numbers(given, "range", where, count=2)
    if scale is not None and scale[0] == scale[1]:
        raise BadInput(f"{where} range is {given['range']!r}; expected two different numbers")
    for key in ("path", "name", "label"):
        if given.get(key) is not None and not isinstance(given[key], str):
            raise BadInput(f"{where} {key} is {given[key]!r}; expected a text")
    crop = given.get("crop")
    if crop is not None and not (isinstance(crop, int | float) and type(crop) is not bool and 0 < crop < 1e5):
        raise BadInput(
            f"{where} crop is {crop!r}; expected the share of the shorter side that is kept, 0 to 1, or its length in"
            " pixels before the cut"
        )
    path = given.get("path")
    return Sidecar(
        origin=origin,
        size=cast("tuple[int, int] | None", _numbers(given, "size", where, count=2, whole=True)),
        channels=_choice(given, "channels", (1, 3), where),
        layout=_choice(given, "layout", ("nchw", "nhwc"), where),
        range=cast("tuple[float, float] | None", scale),
        mean=_numbers(given, "mean", where),
        std=_numbers(given, "std", where, positive=True),
        order=_choice(given, "order", ("rgb", "bgr"), where),
        resize=_choice(given, "resize", get_args(Resize), where),
        crop=crop,
        interpolation=_choice(given, "interpolation", get_args(Interpolation), where),
        output=given.get("name"),
        classes=_names(given, "classes", where),
        kind=_choice(given, "kind", ("logits", "probabilities"), where),
        data=None if path is None else folder / path,
        label=given.get("label"),
        groups=_names(given, "groups", where, least=0),
        features=_names(given, "features", where, least=1),
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


def _names(given: dict[str, Any], key: str, where: str, least: int = 2) -> tuple[str, ...] | None:
    value = given.get(key)
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) >= least and all(isinstance(v, str) for v in value)):
        raise BadInput(f"{where} {key} must be a list of at least {least} texts")
    if len(set(value)) != len(value):
        raise BadInput(f"{where} {key} names one twice")
    return tuple(value)
