"""Options shared by several commands."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from auditor.data.location import Uri, locate
from auditor.model.presets import PRESETS

GRADES = ("low", "medium", "high", "critical", "never")

_PATH = click.Path(path_type=Path)
_POSITIVE = click.IntRange(min=1)


def location(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Path | Uri | None:
    """Return the path on this machine or the URI that was given."""
    return None if value is None else locate(value)


def _budget(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | Literal["none"] | None:
    if value is None or value == "none":
        return "none" if value else None
    try:
        return _seconds(_ctx, _param, value)
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message}, or none") from None


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    from auditor.plugin.duration import seconds

    try:
        return seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([MGT]B)", value.strip())
    if not match or not float(match[1]):
        raise click.BadParameter(f"{value!r}; expected a size with its unit, such as 500MB or 8GB")
    return int(float(match[1]) * {"MB": 10**6, "GB": 10**9, "TB": 10**12}[match[2]])


def _batch_size(_ctx: click.Context, _param: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
        raise click.BadParameter(f"{value!r}; expected auto or a whole number of at least 1")
    return int(value)


def name_list(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str]:
    """Split a comma-separated option value."""
    return [item.strip() for item in (value or "").split(",") if item.strip()]


def _device(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", value):
        raise click.BadParameter(f"{value!r}; expected auto, cpu, cuda, cuda:N or mps")
    return value


DEVICE = click.option(
    "--device",
    default="auto",
    callback=_device,
    metavar="auto|cpu|cuda|cuda:N|mps",
    help="Device to compute on. [default: auto, which is CUDA if available]",
)

TRUST = click.option(
    "--trust-model",
    is_flag=True,
    help="Skip the sandbox and load the model directly; code embedded in the file may run.",
)

PAPER = click.option(
    "--paper", type=click.Choice(["a4", "letter"]), default="a4", show_default=True, help="Paper size of the PDF."
)

PDF = click.option(
    "--pdf",
    type=click.Choice(["short", "full"]),
    default="full",
    show_default=True,
    help="short: at most 12 pages for the decision; full: with the appendix.",
)


def _only_plugins(context: click.Context, _parameter: click.Parameter, value: bool | tuple[str, ...]) -> None:
    """Choose the third-party plugins for this process and those that it starts."""
    from auditor.plugin.registry import ONLY

    if not value:
        return
    if ONLY in context.meta:
        # click does not close a context of wrong arguments
        _set(ONLY, context.meta[ONLY])
        raise click.BadParameter("--no-plugins and --only-plugins exclude each other")
    context.meta[ONLY] = before = os.environ.get(ONLY)
    os.environ[ONLY] = ",".join(value) if isinstance(value, tuple) else ""
    context.call_on_close(lambda: _set(ONLY, before))


def _set(variable: str, value: str | None) -> None:
    """Set an environment variable; None removes it."""
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


PLUGINS: Sequence[Callable[[Any], Any]] = [
    click.option(
        "--no-plugins",
        is_flag=True,
        expose_value=False,
        callback=_only_plugins,
        help="Load no third-party plugin.",
    ),
    click.option(
        "--only-plugins",
        multiple=True,
        metavar="PACKAGE",
        expose_value=False,
        callback=_only_plugins,
        help="Load only this third-party plugin (repeatable).",
    ),
]

_AUDIT_OPTIONS: Sequence[Callable[[Any], Any]] = [
    click.option(
        "--suite",
        default=None,
        metavar="NAME|FILE.toml",
        help="quick, standard, full, a plugin's suite, or a file. [default: standard]",
    ),
    click.option("--out", type=_PATH, metavar="DIR", help="Run folder. [default: audits/<model>-<short hash>]"),
    click.option("--probe", "probes", multiple=True, metavar="GLOB", help="Run only these probes (repeatable)."),
    click.option("--skip", multiple=True, metavar="GLOB", help="Leave out these probes (repeatable)."),
    click.option(
        "--samples",
        type=_POSITIVE,
        metavar="N",
        help="Use at most N images, drawn at random with --seed. [default: that of the suite]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Seed of all random numbers.",
    ),
    DEVICE,
    click.option(
        "--surrogate",
        "surrogates",
        multiple=True,
        type=_PATH,
        metavar="MODEL",
        help="Another model for the same classes, for attacks.transfer (repeatable).",
    ),
    click.option(
        "--unknown",
        callback=location,
        metavar="DIR",
        help="Images that belong to no class, in any format of --data, for performance.unknown-inputs.",
    ),
    click.option(
        "--pixel-cache",
        type=_PATH,
        metavar="DIR",
        help="Keep decoded images here, for data that is larger than memory or far away.",
    ),
    click.option(
        "--batch-size",
        default="auto",
        callback=_batch_size,
        metavar="auto|N",
        help="Images per batch; findings do not depend on it. [default: auto]",
    ),
    click.option(
        "--budget",
        callback=_budget,
        metavar="TIME|none",
        help="Time limit: 90s, 10m, 2h. Probes that run out of time measure fewer images. [default: that of the suite]",
    ),
    click.option(
        "--queries",
        type=_POSITIVE,
        metavar="N",
        help="Send at most N images to an endpoint; the probes share them. [default: no limit]",
    ),
    click.option(
        "--probe-timeout",
        callback=_seconds,
        default="1h",
        show_default=True,
        metavar="TIME",
        help="Time limit for a step of a probe: its preparation, a batch of images, its conclusion.",
    ),
    click.option(
        "--probe-memory",
        callback=_bytes,
        metavar="SIZE",
        help="Memory limit for the process of the audit: 500MB, 8GB. [default: 95 % of the machine's]",
    ),
    click.option(
        "--policy",
        default="default",
        show_default=True,
        metavar="NAME|FILE.toml",
        help="Thresholds for pass and fail: default, ci, strict, or a file.",
    ),
    click.option(
        "--fail-on",
        type=click.Choice(GRADES),
        default="never",
        show_default=True,
        help="Exit with status 1 if a probe fails at this severity or above.",
    ),
    click.option(
        "--baseline",
        type=_PATH,
        metavar="RUN",
        help="Compare with this earlier run, image by image; written to DIR/comparison.",
    ),
    click.option(
        "--fail-on-regression",
        is_flag=True,
        help="Exit with status 1 if a metric is significantly worse than in --baseline.",
    ),
    click.option(
        "--format",
        "formats",
        default="html,pdf,json",
        show_default=True,
        callback=name_list,
        metavar="LIST",
        help="html, pdf, pdfa, json, sarif, junit, md, card, intoto, cyclonedx, eval-results, or a plugin's.",
    ),
    PAPER,
    PDF,
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Measure on this machine or with Ray (requires auditor[ray]).",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT|auto",
        help="Ray cluster for --engine ray. [default: RAY_ADDRESS; else one on this machine, for this audit]",
    ),
    click.option(
        "--workers",
        type=_POSITIVE,
        metavar="N",
        help="Number of processes that measure. [default: 1; with --engine ray one per core]",
    ),
    *PLUGINS,
    click.option(
        "--in-process",
        is_flag=True,
        envvar="AUDITOR_IN_PROCESS",
        help="Run without supervision, for debuggers: a probe that crashes ends the audit.",
    ),
    click.option("--fresh", is_flag=True, help="Discard earlier measurements in this run folder."),
    click.option("--wait", is_flag=True, help="Wait for another audit that writes to the same run folder."),
    click.option("-v", "--verbose", is_flag=True, help="Also print library warnings and tracebacks of broken probes."),
    click.option("-q", "--quiet", is_flag=True, help="Print the verdict only."),
]


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        return [float(item) for item in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected a number, or three separated by commas") from None


def _sides(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[x,](\d{1,5}))?", value)
    if not match:
        raise click.BadParameter(f"{value!r}; expected a side in pixels such as 224, or HEIGHTxWIDTH")
    return [int(match[1]), int(match[2] or match[1])]


def _range(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(f"{number}[-,:]{number}", value)
    if not match:
        raise click.BadParameter(f"{value!r}; expected the values of black and white, such as 0-255 or -1,1")
    return [float(match[1]), float(match[2])]


def _crop(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value == "none":
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected a share such as 0.875, pixels such as 256, or none") from None


def _classes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    from auditor.model.loading.metadata import class_file

    path = Path(value)
    names = class_file(path) if path.is_file() else [name.strip() for name in value.split(",")]
    if len(names) < 2 or not all(names):
        raise click.BadParameter(
            f"{value!r}; expected a file with one class name per line, a JSON file with a list or a map from index to"
            " name, or names separated by commas, in the order of the model's outputs"
        )
    return names


_INPUT_OPTIONS: Sequence[Callable[[Any], Any]] = [
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Named preprocessing: sets mean, std, range and channel order.",
    ),
    click.option("--mean", callback=_numbers, metavar="R,G,B", help="Mean, subtracted after scaling to --range."),
    click.option(
        "--std", callback=_numbers, metavar="R,G,B", help="Standard deviation, applied after subtracting --mean."
    ),
    click.option(
        "--range", callback=_range, metavar="LOW-HIGH", help="Input values of black and white pixels. [default: 0-1]"
    ),
    click.option("--channels", "order", type=click.Choice(["rgb", "bgr"]), help="Channel order."),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Axis order of the input."),
    click.option(
        "--size",
        "--input-size",
        "size",
        callback=_sides,
        metavar="N|HxW",
        help="Input size in pixels, if the file does not specify it.",
    ),
    click.option(
        "--output", metavar="NAME", help="Name of the model output with the class scores, if it has several outputs."
    ),
    click.option(
        "--classes",
        callback=_classes,
        metavar="FILE|A,B,C",
        help="Class names in the order of the model's outputs, or a file with them.",
    ),
    click.option(
        "--unit",
        metavar="COLUMN",
        help="Column of the data that names the unit of each image (patient, person, video). Intervals and tests are"
        " over units. [default: the column unit]",
    ),
    click.option(
        "--crop",
        callback=_crop,
        metavar="SHARE|N|none",
        help="Centre crop. SHARE: fraction of the shorter side to keep (0.875). N: scale the shorter side to N pixels"
        " first (256). none: no crop, stretch to the input size. [default: 1]",
    ),
]


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the model's input and output; the command gets them as one argument ``overrides``."""

    @functools.wraps(command)
    def collected(**options: Any) -> Any:
        names = ("preset", "mean", "std", "range", "order", "layout", "size")
        entries = {name: value for name in names if (value := options.pop(name)) is not None}
        crop = options.pop("crop")
        if crop is not None:
            entries |= {"resize": "stretch"} if crop == "none" else {"resize": "crop", "crop": crop}
        stated = {"name": options.pop("output"), "classes": options.pop("classes")}
        output = {name: value for name, value in stated.items() if value is not None}
        unit = options.pop("unit")
        tables = {"input": entries, "output": output, "data": {} if unit is None else {"unit": unit}}
        return command(overrides={name: table for name, table in tables.items() if table}, **options)

    for option in reversed(_INPUT_OPTIONS):
        collected = option(collected)
    return collected


def plugin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose the third-party plugins."""
    for option in reversed(PLUGINS):
        command = option(command)
    return command


def audit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all auditing commands share."""
    for option in reversed(_AUDIT_OPTIONS):
        command = option(command)
    return command
