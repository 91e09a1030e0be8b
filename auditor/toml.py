"""Read TOML into frozen dataclasses, and describe the same dataclasses as JSON Schema.

A dataclass is the only definition of a file: its fields are the keys, its type hints the types, ``Annotated`` with a
``Check`` the limits, and a ``ValueError`` from ``__post_init__`` a condition on several keys. Suites, policies,
sidecars and published numbers are read this way; so are the settings of probes (``typed``).
"""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import difflib
import inspect
import itertools
import math
import re
import textwrap
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from auditor.errors import BadInput

T = TypeVar("T")

_FRACTION = r"([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)"


_LARGEST = 2**63

_SHOWN = 120
"""Characters of a value in an error message."""


@dataclass(frozen=True, eq=False)
class Check:
    """A limit on a value beyond its type, written as ``Annotated[int, Check(...)]``."""

    expected: str
    """Completes the sentence "expected ..."."""
    holds: Callable[[Any], bool]
    schema: Mapping[str, Any] = field(default_factory=dict)
    """The same limit in JSON Schema keywords."""


Count = Annotated[int, Check("a whole number of at least 1", lambda value: value >= 1, {"minimum": 1})]
Text = Annotated[str, Check("a text that is not empty", lambda text: bool(text.strip()), {"minLength": 1})]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain values.

    Raises:
        BadInput: if the file is missing, not UTF-8 or not TOML; the message has line and column.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable: {error}") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML text as plain values; ``where`` names its source in the error.

    Raises:
        BadInput: if the text is not TOML.
    """
    try:
        content = tomllib.loads(text)
        _check_plain(content)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not readable as TOML: {error}") from None
    return content


def _check_plain(value: Any) -> None:
    """Raise ValueError for a whole number of more than 64 bits, which TOML excludes, RecursionError for deep nesting.

    Neither can be printed in an error message, or converted to what uses it.
    """
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise ValueError(f"a whole number of {value.bit_length()} bits; expected at most 64")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_plain(item)


def _shown(value: Any) -> str:
    """Return a value for an error message, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


_HINTS: dict[type[Any], Mapping[str, Any]] = {}
"""Types of the fields by dataclass; finding them out takes longer than reading a file."""


def field_types(kind: type[Any]) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields by name, with annotations."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind, include_extras=True)
    return _HINTS[kind]


def decode(kind: type[T], content: Any, where: str) -> T:
    """Make an instance of the dataclass ``kind`` from a TOML table.

    Args:
        kind: a dataclass; a field with ``metadata={"key": name}`` is called ``name`` in the file.
        content: the table.
        where: names the table in errors, for example ``policy.toml: rule 3``.

    Raises:
        BadInput: for an unknown or missing key, a value of another type, or a broken condition.
    """
    if not isinstance(content, Mapping):
        raise BadInput(f"{where} must be a table; found {_shown(content)}")
    keys = _keys(kind)
    refuse_unknown(content, keys, where)
    hints = field_types(kind)
    values = {}
    for key, entry in keys.items():
        if key in content:
            table = dataclasses.is_dataclass(hints[entry.name])
            place = f"{where} [{key}]" if table else f"{where}: {key}"
            values[entry.name] = typed(content[key], hints[entry.name], place)
        elif _required(entry):
            needed = ", ".join(name for name, each in keys.items() if _required(each))
            raise BadInput(f"{where}: has no {key}; required: {needed}")
    try:
        return kind(**values)
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None


def refuse_unknown(content: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise BadInput for the first key that is not among ``known``, with the nearest known key."""
    names = known if isinstance(known, tuple) else sorted(known)
    for key in content:
        if key not in known:
            hint = nearest(key, known)
            raise BadInput(f"{where}: unknown key {_shown(key)}{hint}; expected one of {', '.join(names)}")


def nearest(name: str, known: Collection[str]) -> str:
    """Suggest the known name closest to a misspelt one: `` (did you mean 'samples'?)``, or an empty text."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def typed(value: Any, hint: Any, where: str) -> Any:
    """Convert a plain value to the type ``hint``: lists become tuples, "8/255" becomes a number.

    Raises:
        BadInput: if the value has another type; ``where`` begins the sentence.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return _checked(value, arguments, where)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise BadInput(f"{where} is {_shown(value)}; expected {_choices(arguments)}")
    if origin in {types.UnionType, typing.Union}:
        return _first(value, arguments, where)
    if origin in {tuple, Sequence}:
        return _list(value, arguments, where)
    if origin is Mapping:
        return _mapping(value, arguments, where)
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, where)  # type: ignore[arg-type]
    if hint is float:
        return _number(value, where)
    plain = isinstance(hint, type) and isinstance(value, hint)
    if plain and not (hint is int and isinstance(value, bool)) and not (hint is dt.date and type(value) is not dt.date):
        return value
    raise BadInput(f"{where} is {_shown(value)}; expected {describe(hint)}")


def describe(hint: Any) -> str:
    """Name a type for people: "a whole number", "a list of texts"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return next((check.expected for check in arguments[1:] if isinstance(check, Check)), describe(arguments[0]))
    if origin is Literal:
        return _choices(arguments)
    if origin in {types.UnionType, typing.Union}:
        return " or ".join(describe(each) for each in arguments if each is not types.NoneType)
    if origin in {tuple, Sequence}:
        return "a list"
    if origin is Mapping or dataclasses.is_dataclass(hint):
        return "a table"
    names = {
        int: "a whole number",
        float: 'a number or a fraction such as "8/255"',
        str: "a text",
        bool: "true or false",
        dt.date: "a date such as 2030-01-31, without quotes",
    }
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """Describe the dataclass ``kind`` as a JSON Schema; the docstrings of its fields become descriptions."""
    keys, notes = _keys(kind), _field_docstrings(kind)
    hints = field_types(kind)
    properties = {}
    for key, entry in keys.items():
        properties[key] = type_schema(hints[entry.name])
        if note := notes.get(entry.name):
            properties[key] = {"description": note, **properties[key]}
    required = [key for key, entry in keys.items() if _required(entry)]
    return {
        "type": "object",
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": properties,
    }


def type_schema(hint: Any) -> dict[str, Any]:
    """Describe one type as a JSON Schema."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [check.schema for check in arguments[1:] if isinstance(check, Check)]
        return {**type_schema(arguments[0]), **{key: value for limit in limits for key, value in limit.items()}}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in {types.UnionType, typing.Union}:
        parts = [type_schema(each) for each in arguments if each is not types.NoneType]
        return parts[0] if len(parts) == 1 else {"anyOf": parts}
    if origin in {tuple, Sequence}:
        if origin is tuple and arguments[-1] is not Ellipsis:
            count = len(arguments)
            return {"type": "array", "items": type_schema(arguments[0]), "minItems": count, "maxItems": count}
        return {"type": "array", "items": type_schema(arguments[0])}
    if origin is Mapping:
        names = typing.get_args(arguments[0]) if typing.get_origin(arguments[0]) is Literal else ()
        value = type_schema(arguments[1])
        if names:
            return {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(names, value)}
        return {"type": "object", "additionalProperties": value}
    if dataclasses.is_dataclass(hint):
        return json_schema(hint)  # type: ignore[arg-type]
    plain: dict[Any, dict[str, Any]] = {
        int: {"type": "integer"},
        float: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_FRACTION}$"}]},
        str: {"type": "string"},
        bool: {"type": "boolean"},
        dt.date: {"type": "string", "format": "date"},
    }
    return plain.get(hint, {})


def _keys(kind: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass by their key in the file."""
    return {entry.metadata.get("key", entry.name): entry for entry in dataclasses.fields(kind) if entry.init}


def _required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _checked(value: Any, arguments: Sequence[Any], where: str) -> Any:
    """Convert the value of an ``Annotated`` type and apply its checks."""
    checks = [check for check in arguments[1:] if isinstance(check, Check)]
    try:
        result = typed(value, arguments[0], where)
        broken = next((check for check in checks if not check.holds(result)), None)
    except BadInput:
        if not checks:
            raise
        broken = checks[0]
    if broken is not None:
        raise BadInput(f"{where} is {_shown(value)}; expected {broken.expected}")
    return result


def _first(value: Any, hints: Sequence[Any], where: str) -> Any:
    """Convert to the first type of a union that fits."""
    failure = BadInput(where)
    for hint in hints:
        if hint is types.NoneType and value is None:
            return None
        try:
            return typed(value, hint, where)
        except BadInput as error:
            # the message of the last real type: None cannot be written in TOML
            failure = failure if hint is types.NoneType else error
    raise failure


def _list(value: Any, arguments: Sequence[Any], where: str) -> tuple[Any, ...]:
    tables = dataclasses.is_dataclass(arguments[0])
    if not isinstance(value, list | tuple):
        key = where.rpartition(": ")[2]
        raise BadInput(
            f"{where} is {_shown(value)}; expected {f'one table [[{key}]] per {key}' if tables else 'a list'}"
        )
    if arguments[-1] is Ellipsis or len(arguments) == 1:
        kinds = [arguments[0]] * len(value)
    elif len(value) != len(arguments):
        raise BadInput(f"{where} is {_shown(value)}; expected a list of {len(arguments)}")
    else:
        kinds = list(arguments)
    places = [f"{where} {i + 1}" if tables else where for i in range(len(value))]
    return tuple(typed(item, kind, place) for item, kind, place in zip(value, kinds, places, strict=True))


def _mapping(value: Any, arguments: Sequence[Any], where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} is {_shown(value)}; expected a table")
    names = typing.get_args(arguments[0]) if typing.get_origin(arguments[0]) is Literal else ()
    if names:
        refuse_unknown(value, names, where)
        value = {name: value[name] for name in names if name in value}
    return {key: typed(item, arguments[1], f"{where}.{key}") for key, item in value.items()}


def _number(value: Any, where: str) -> float:
    if isinstance(value, str) and (match := re.fullmatch(_FRACTION, value)) and float(match[2]):
        return float(match[1]) / float(match[2])
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise BadInput(f"{where} is {_shown(value)}; expected {describe(float)}")


def _choices(choices: Sequence[Any]) -> str:
    names = [str(choice) for choice in choices]
    return " or ".join(names) if len(names) <= 2 else f"one of {', '.join(names)}"


def _field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The string literal after each field of a class, in one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for entry, note in itertools.pairwise(body):
            named = isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
            if named and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
                found[entry.target.id] = " ".join(str(note.value.value).split())
    return found
