"""Read TOML files and check their keys and value types."""

from __future__ import annotations

import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from auditor.errors import BadInput

_FRACTION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file; BadInput with line and column when it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: not readable as TOML: {error}") from None


def refuse_unknown(content: Mapping[str, Any], known: set[str], where: str) -> None:
    """BadInput for the first key that nobody knows."""
    for key in content:
        if key not in known:
            raise BadInput(f"{where}: unknown key {key!r}; expected one of {', '.join(sorted(known))}")


def typed(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the setting's type; lists become tuples, "8/255" becomes a number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise BadInput(f"{where} is {value!r}; expected one of {', '.join(map(str, arguments))}")
    if origin in {types.UnionType, typing.Union}:
        return _first(value, arguments, where)
    if origin is tuple or origin is Sequence:
        if not isinstance(value, list | tuple):
            raise BadInput(f"{where} is {value!r}; expected a list")
        return tuple(typed(item, arguments[0], where) for item in value)
    if hint is float:
        if isinstance(value, str) and (match := _FRACTION.fullmatch(value)) and float(match[2]):
            return float(match[1]) / float(match[2])
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise BadInput(f'{where} is {value!r}; expected a number or a fraction such as "8/255"')
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise BadInput(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")


def _first(value: Any, hints: Sequence[Any], where: str) -> Any:
    attempts: list[Callable[[], Any]] = [lambda hint=hint: typed(value, hint, where) for hint in hints]  # type: ignore[misc]
    failure: BadInput | None = None
    for attempt in attempts:
        try:
            return attempt()
        except BadInput as error:
            failure = error
    raise failure or BadInput(where)
