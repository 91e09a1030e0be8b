"""The sidecar file ``MODEL.audit.toml``: everything that the model file does not specify itself.

    [input]
    size = [32, 32]            # height, width
    channels = 3
    layout = "nchw"            # or "nhwc"
    preset = "imagenet"        # a preset of auditor/model/presets.py; or state the following one by one:
    range = [0, 1]             # what the model expects for black and for white
    mean = [0.5, 0.5, 0.5]     # subtracted after scaling to the range
    std = [0.5, 0.5, 0.5]
    order = "rgb"              # or "bgr"
    resize = "crop"            # or "stretch"
    crop = 0.875               # fraction of the shorter side to keep; above 1: its length in pixels before cropping
    white = 4095               # value of white in images of more than 8 bits; 65535 by default
    interpolation = "bilinear" # or nearest, bicubic, lanczos, box, hamming
    [output]
    name = "probabilities"     # which output to read, if there are several
    classes = ["cat", "dog"]
    kind = "logits"            # or "probabilities"
    [data]
    path = "images"            # relative to this file
    label = "income"           # tabular data: the label column; by default the column called label,
    groups = ["sex"]           # the group columns; by default the columns that hold text,
    features = ["age", "sex"]  # the feature columns; by default all others, in the order of the table
    benchmark = "org/dataset"  # what the data is on the Hugging Face Hub, for --format eval-results
    [review]                   # printed on page one of the report
    owner = "Team Vision"
    intended_use = "Sorting of returned parcels"

The same text may be stored inside the model file (ONNX metadata, or a TorchScript extra file ``auditor.toml``).
Precedence: command line, sidecar, metadata in the model file, ``preprocessor_config.json`` and ``config.json`` next to
the model, a guess. Keys that belong together are taken from one source: range, mean and std; resize, crop and
interpolation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from auditor.data.labels import normal
from auditor.data.resizing import Interpolation, Resize
from auditor.errors import BadInput
from auditor.findings.review import Review
from auditor.model.loading import metadata
from auditor.model.presets import PRESETS
from auditor.toml import Check, Text, decode, parse_toml

METADATA_KEY = "auditor.toml"

_TOGETHER = (("range", "mean", "std"), ("resize", "crop", "interpolation"))
"""A mean is in the units of its range, and a crop is one step of resizing: these keys are not mixed between sources."""

Size = Annotated[
    tuple[int, int],
    Check(
        "a list of 2 positive whole numbers", lambda pair: min(pair) > 0, {"items": {"type": "integer", "minimum": 1}}
    ),
]
Range = Annotated[
    tuple[float, float], Check("a list of 2 different numbers", lambda pair: pair[0] != pair[1], {"uniqueItems": True})
]
Means = Annotated[
    tuple[float, ...], Check("a list of 1 or 3 numbers", lambda numbers: len(numbers) > 0, {"minItems": 1})
]
Deviations = Annotated[
    tuple[float, ...],
    Check("a list of 1 or 3 positive numbers", lambda numbers: bool(numbers) and min(numbers) > 0, {"minItems": 1}),
]
Crop = Annotated[
    float,
    Check(
        "the fraction of the shorter side to keep, 0 to 1, or its length in pixels before cropping",
        lambda crop: 0 < crop < 1e5,
        {"exclusiveMinimum": 0},
    ),
]


def _names(least: int) -> Check:
    """Expect a list of at least ``least`` different texts; names that only differ in Unicode form are equal."""
    return Check(
        f"a list of at least {least} different texts, none of them empty",
        lambda names: len(names) >= least and len({normal(name) for name in names} - {""}) == len(names),
        {"minItems": least, "uniqueItems": True},
    )


@dataclass(frozen=True, kw_only=True)
class InputTable:
    """The table ``[input]``."""

    size: Size | None = None
    """Height and width in pixels; only if the model file leaves them open."""
    channels: Literal[1, 3] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    preset: Literal[tuple(PRESETS)] | None = None  # type: ignore[valid-type]
    """Preprocessing by name; keys stated next to it replace its values."""
    range: Range | None = None
    """What the model expects for black and for white."""
    mean: Means | None = None
    """Subtracted after scaling to the range; one number, or one per channel."""
    std: Deviations | None = None
    """Divided by after subtracting the mean; one number, or one per channel."""
    order: Literal["rgb", "bgr"] | None = None
    resize: Resize | None = None
    crop: Crop | None = None
    """Fraction of the shorter side to keep; above 1: its length in pixels before cropping."""
    interpolation: Interpolation | None = None
    white: Annotated[float, Check("a number above 0", lambda white: white > 0, {"exclusiveMinimum": 0})] | None = None
    """Value of white in images of more than 8 bits, for example 4095 for a 12-bit sensor; 65535 by default."""


@dataclass(frozen=True, kw_only=True)
class OutputTable:
    """The table ``[output]``."""

    name: str | None = None
    """Which output to read, if there are several."""
    classes: Annotated[tuple[str, ...], _names(2)] | None = None
    """Class names in the order of the scores."""
    kind: Literal["logits", "probabilities"] | None = None


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """The table ``[data]``."""

    path: str | None = None
    """Images or table, relative to this file."""
    label: str | None = None
    """Tabular data: the label column."""
    unit: str | None = None
    """The column that names the unit of each image or row: patient, person, video. By default the column unit."""
    groups: Annotated[tuple[str, ...], _names(0)] | None = None
    """Tabular data: the group columns."""
    features: Annotated[tuple[str, ...], _names(1)] | None = None
    """Tabular data: the feature columns, in the order of the model's input."""
    benchmark: Text | None = None
    """The id of the data on the Hugging Face Hub, organisation/dataset, for ``--format eval-results``."""
    task: Text | None = None
    """The task of the benchmark, as its eval.yaml names it; "default" by default."""


@dataclass(frozen=True, kw_only=True)
class SidecarFile:
    """What a sidecar may contain."""

    input: InputTable = field(default_factory=InputTable)
    """How images are prepared for the model."""
    output: OutputTable = field(default_factory=OutputTable)
    """How the model's output is read."""
    data: DataTable = field(default_factory=DataTable)
    """What to audit the model on."""
    review: Review | None = None
    """Owner, reviewer, intended use and signatures, for page one of the report."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What is stated about a model; None for what is not."""

    origin: str = ""
    """Where it was read, for messages; empty if nowhere."""
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
    white: float | None = None
    output: str | None = None
    classes: tuple[str, ...] | None = None
    kind: Literal["logits", "probabilities"] | None = None
    data: Path | None = None
    label: str | None = None
    unit: str | None = None
    groups: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    benchmark: str | None = None
    task: str | None = None
    review: Review | None = None

    def where(self, key: str) -> str:
        """Where a key was read."""
        return self.origins.get(key, self.origin)


def sidecar_path(model: Path) -> Path:
    """The path of the sidecar of ``model``, whether or not it exists."""
    return model.with_name(model.name + ".audit.toml")


def read_sidecar(
    model: Path,
    embedded: str = "",
    *,
    options: metadata.Tables | None = None,
    properties: Mapping[str, str] | None = None,
) -> Sidecar:
    """Read everything that is stated about ``model``, best source first.

    Args:
        model: the model file.
        embedded: a sidecar stored inside the model file.
        options: the command line, in the tables of the sidecar.
        properties: the model file's own metadata.

    Raises:
        BadInput: for unknown keys and unusable values.
    """
    layers = [from_tables(options, "command line", Path())] if options else []
    path = sidecar_path(model)
    if path.is_file():
        try:
            layers.append(parse(path.read_text(encoding="utf-8"), str(path), model.parent))
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: not readable: {error}") from None
    inside = f"{model} (its own metadata)"
    if embedded:
        layers.append(parse(embedded, inside, model.parent))
    for found in (metadata.onnx_image(properties or {}), metadata.class_names(properties or {})):
        if found:
            layers.append(from_tables(found, inside, model.parent))
    layers += [from_tables(tables, origin, model.parent) for origin, tables in metadata.metadata_files(model)]
    return merge(layers)


def wanted_output(model: Path, options: metadata.Tables) -> str:
    """The output to read, by command line or sidecar; empty if not stated.

    It must be known before the model file is opened, so the metadata inside the file cannot state it.
    """
    return read_sidecar(model, options=options).output or ""


def merge(layers: Sequence[Sidecar]) -> Sidecar:
    """Merge sidecars, best first: each key, or group of keys, comes from the first that states it."""
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
    """Read a sidecar from its text; ``folder`` is what its data path is relative to.

    Raises:
        BadInput: for text that is not TOML, and for unknown keys and unusable values.
    """
    return from_tables(parse_toml(text, origin), origin, folder)


def from_tables(content: Mapping[str, Any], origin: str, folder: Path) -> Sidecar:
    """Make a sidecar from tables already read, for example from the command line."""
    file = decode(SidecarFile, content, origin)
    given, output, data = file.input, file.output, file.data
    preset = PRESETS[given.preset] if given.preset else None
    if preset and None not in (given.range, given.mean, given.std, given.order):
        raise BadInput(
            f"{origin}: preset {given.preset} has no effect, because range, mean, std and channel order are stated;"
            " leave it out"
        )
    return Sidecar(
        origin=origin,
        size=given.size,
        channels=given.channels,
        layout=given.layout,
        range=given.range or (preset.range if preset else None),
        mean=given.mean or (preset.mean if preset else None),
        std=given.std or (preset.std if preset else None),
        order=given.order or (preset.order if preset else None),
        resize=given.resize,
        crop=given.crop,
        interpolation=given.interpolation,
        white=given.white,
        output=output.name,
        classes=output.classes,
        kind=output.kind,
        data=None if data.path is None else folder / data.path,
        label=data.label,
        unit=data.unit,
        groups=data.groups,
        features=data.features,
        benchmark=data.benchmark,
        task=data.task,
        review=file.review,
    )
