"""Options shared by several commands."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from auditor.model.presets import PRESETS

GRADES = ("low", "medium", "high", "critical", "never")


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", value.strip())
    if not match or not float(match[1]):
        raise click.BadParameter(f"{value!r}; expected a time such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _batch(_ctx: click.Context, _param: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
        raise click.BadParameter(f"{value!r}; expected auto or a whole number of at least 1")
    return int(value)


def name_list(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str]:
    """Split a comma-separated option value."""
    return [item.strip() for item in (value or "").split(",") if item.strip()]


def check_device(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Validate ``--device``."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", value):
        raise click.BadParameter(f"{value!r}; expected auto, cpu, cuda, cuda:N or mps")
    return value


TRUST = click.option(
    "--trust-model", is_flag=True,
    help="Open the model file at once: no child process with limits first, and whatever code is in it may run.",
)  # fmt: skip

PAPER = click.option("--paper", type=click.Choice(["a4", "letter"]), default="a4", show_default=True,
                      help="What the PDF is laid out for.")  # fmt: skip

_AUDIT_OPTIONS: Sequence[Callable[[Any], Any]] = [
    click.option("--suite", default=None, metavar="NAME|FILE.toml",
                 help="quick, standard, full, a plugin's suite, or your own file. [default: standard; full for demo]"),
    click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
                 help="Run folder. [default: audits/<model>-<short hash>]"),
    click.option("--probe", "probes", multiple=True, metavar="GLOB", help="Only these probes (repeatable)."),
    click.option("--skip", multiple=True, metavar="GLOB", help="Leave out these probes (repeatable)."),
    click.option("--samples", type=click.IntRange(min=1), metavar="N",
                 help="At most N images, drawn by the seed. [default: what the suite says]"),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                 help="All randomness comes from it."),
    click.option("--device", default="auto", callback=check_device, metavar="auto|cpu|cuda|cuda:N|mps",
                 help="Where to compute. [default: auto, CUDA where there is one]"),
    click.option("--surrogate", "surrogates", multiple=True, type=click.Path(path_type=Path), metavar="MODEL",
                 help="Another model for the same classes, for attacks.transfer (repeatable)."),
    click.option("--batch-size", default="auto", callback=_batch, metavar="auto|N",
                 help="Images at a time; findings do not depend on it. [default: auto]"),
    click.option("--budget", callback=_seconds, metavar="TIME", help="Measure for at most this long: 90s, 10m, 2h."),
    click.option("--policy", default="default", show_default=True, metavar="NAME|FILE.toml",
                 help="Thresholds to judge by."),
    click.option("--fail-on", type=click.Choice(GRADES), default="never", show_default=True,
                 help="Exit with status 1 when a probe fails at this severity or above."),
    click.option("--baseline", type=click.Path(path_type=Path), metavar="RUN",
                 help="Compare with this earlier run, image by image; written into DIR/comparison."),
    click.option("--fail-on-regression", is_flag=True,
                 help="Exit with status 1 when anything is significantly worse than in --baseline."),
    click.option("--format", "formats", default="html,pdf,json", show_default=True, callback=name_list, metavar="LIST",
                 help="html, pdf, pdfa, json, sarif, junit, md, card, or a plugin's."),
    PAPER,
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                 help="Where to measure; ray needs auditor[ray]."),
    click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers of --engine ray."),
    click.option("--fresh", is_flag=True, help="Forget what this run folder has measured before."),
    click.option("-v", "--verbose", is_flag=True, help="Say more: warnings of libraries, tracebacks of broken probes."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but the verdict."),
]  # fmt: skip


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        return [float(item) for item in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected a number, or three with commas between") from None


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
        raise click.BadParameter(f"{value!r}; expected what black and white become, such as 0-255 or -1,1")
    return [float(match[1]), float(match[2])]


def _crop(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value == "none":
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected a share such as 0.875, pixels such as 256, or none") from None


_INPUT_OPTIONS: Sequence[Callable[[Any], Any]] = [
    click.option("--preset", type=click.Choice(list(PRESETS)), help="A usual preprocessing of pixels."),
    click.option("--mean", callback=_numbers, metavar="R,G,B", help="Subtracted after scaling to --range."),
    click.option("--std", callback=_numbers, metavar="R,G,B", help="Divided by after --mean."),
    click.option("--range", callback=_range, metavar="LOW-HIGH", help="What black and white become. [default: 0-1]"),
    click.option("--channels", "order", type=click.Choice(["rgb", "bgr"]), help="Order of the channels."),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the input's axes."),
    click.option("--size", "--input-size", "size", callback=_sides, metavar="N|HxW",
                 help="Input size in pixels, where the file leaves it open."),
    click.option("--output", metavar="NAME", help="Which output holds the class scores, where there are several."),
    click.option("--crop", callback=_crop, metavar="SHARE|N|none",
                 help="Scale so that the cut keeps this share of the shorter side, or the shorter side to N pixels;"
                 " none stretches. [default: 1]"),
]  # fmt: skip


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the model wants, where the command line is to say it; comes as one argument ``stated``."""

    @functools.wraps(command)
    def collected(**options: Any) -> Any:
        given = {name: options.pop(name) for name in ("preset", "mean", "std", "range", "order", "layout", "size")}
        output = options.pop("output")
        crop = options.pop("crop")
        if crop is not None:
            given |= {"resize": "stretch"} if crop == "none" else {"resize": "crop", "crop": crop}
        entries = {name: value for name, value in given.items() if value is not None}
        overrides = {"input": entries} if entries else {}
        return command(overrides=overrides | ({"output": {"name": output}} if output else {}), **options)

    for option in reversed(_INPUT_OPTIONS):
        collected = option(collected)
    return collected


def audit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all auditing commands share."""
    for option in reversed(_AUDIT_OPTIONS):
        command = option(command)
    return command
